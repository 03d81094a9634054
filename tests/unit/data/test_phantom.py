import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from refusal import refused

from pcl_auto.data.phantom import make_phantom
from pcl_auto.errors import UsageError


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom(tmp_path_factory.mktemp("phantom"), labeled=2, unlabeled=3, test=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Refusals.


@pytest.mark.parametrize(
    "wrong", [{"labeled": 0}, {"unlabeled": -1}, {"test": -1}, {"seed": -1}], ids=lambda wrong: next(iter(wrong))
)
def test_counts_out_of_range(tmp_path: Path, wrong: dict[str, int]) -> None:
    with refused(UsageError, "data.phantom-size") as refusal:
        make_phantom(tmp_path, **wrong)
    assert refusal.problem.what.startswith(next(iter(wrong)))


def test_another_task_is_never_overwritten(tmp_path: Path) -> None:
    task = make_phantom(tmp_path, labeled=1, unlabeled=0, test=0)
    before = contents(tmp_path)
    with refused(UsageError, "data.place-taken"):
        make_phantom(tmp_path, seed=1, labeled=1, unlabeled=0, test=0)
    (task / "dataset.json").unlink()
    with refused(UsageError, "data.place-taken"):
        make_phantom(tmp_path, labeled=1, unlabeled=0, test=0)
    assert contents(tmp_path).keys() == before.keys() - {"Task99_Phantom/dataset.json"}


# The phantom.


def test_listed_files_are_the_files(task: Path) -> None:
    description = json.loads((task / "dataset.json").read_text())
    labeled = [entry for entry in description["training"] if "label" in entry]
    listed = [path for entry in description["training"] for path in entry.values()] + description["test"]
    test_labels = [path.replace("images", "labels") for path in description["test"]]
    on_disk = {f"./{path.relative_to(task)}" for path in task.rglob("*.nii.gz")}
    assert on_disk == {*listed, *test_labels}
    assert len(labeled) == 2
    assert description["numTraining"] == len(description["training"]) == 5
    assert description["numTest"] == len(description["test"]) == 2


def test_unlabeled_cases_have_no_label_anywhere(task: Path) -> None:
    assert sorted(path.name for path in task.parent.rglob("*") if path.is_file()) == sorted(
        ["dataset.json"]
        + [f"phantom_{number:03d}.nii.gz" for number in range(1, 8)]  # images
        + [f"phantom_{number:03d}.nii.gz" for number in (1, 2, 6, 7)]  # labels: the labeled and the test cases
    )


def test_images_and_labels_share_a_scanner_like_grid(task: Path) -> None:
    shapes, spacings_mm = set(), set()
    for path in [*(task / "labelsTr").iterdir(), *(task / "labelsTs").iterdir()]:
        label = nib.load(path)
        image = nib.load(task / path.parent.name.replace("labels", "images") / path.name)
        assert image.shape == (*label.shape, 2)
        assert image.get_data_dtype() == np.int16
        np.testing.assert_array_equal(image.affine, label.affine)
        assert image.affine[0, 0] < 0 < image.affine[2, 2]
        assert image.header["qform_code"] == image.header["sform_code"] == 1
        assert set(np.unique(label.dataobj)) == {0, 1, 2, 3}
        np.testing.assert_allclose(label.header.get_zooms(), (1, 1, 3), rtol=0.08)
        shapes.add(label.shape)
        spacings_mm.add(label.header.get_zooms())
    assert len(shapes) > 1
    assert len(spacings_mm) > 1


def test_same_seed_same_bytes(task: Path, tmp_path: Path) -> None:
    again = make_phantom(tmp_path / "again", labeled=2, unlabeled=3, test=2)
    assert contents(again) == contents(task)
    other = make_phantom(tmp_path / "other", seed=1, labeled=2, unlabeled=3, test=2)
    image = "imagesTr/phantom_001.nii.gz"
    assert contents(other)[image] != contents(task)[image]


def test_gzip_header_names_no_time_and_no_file(task: Path) -> None:
    head = (task / "imagesTr" / "phantom_001.nii.gz").read_bytes()[:10]
    assert head[:2] == b"\x1f\x8b"
    assert head[3] == 0
    assert head[4:8] == bytes(4)


def test_more_cases_leave_the_others_as_they_are(task: Path, tmp_path: Path) -> None:
    larger = contents(make_phantom(tmp_path, labeled=3, unlabeled=3, test=2))
    smaller = contents(task)
    kept = [name for name in smaller if "Tr/" in name]
    assert all(larger[name] == smaller[name] for name in kept)
    assert larger["imagesTs/phantom_007.nii.gz"] == smaller["imagesTs/phantom_006.nii.gz"]


def test_a_second_call_returns_what_is_there(tmp_path: Path) -> None:
    task = make_phantom(tmp_path, labeled=1, unlabeled=0, test=0)
    stamp = (task / "dataset.json").stat().st_mtime_ns
    assert make_phantom(tmp_path, labeled=1, unlabeled=0, test=0) == task
    assert (task / "dataset.json").stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.iterdir()] == ["Task99_Phantom"]


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of two samples that their common histogram cannot tell apart, from 0 to 1."""
    edges = np.histogram_bin_edges(np.concatenate([first, second]), bins=30)
    shares = [np.histogram(sample, edges)[0] / len(sample) for sample in (first, second)]
    return float(np.minimum(*shares).sum())


def test_intensities_do_not_tell_classes_apart(task: Path) -> None:
    shared: dict[str, list[float]] = {
        "shell and horns": [],
        "core and background": [],
        "shell and brightest background": [],
    }
    for path in (task / "labelsTr").iterdir():
        label = np.asarray(nib.load(path).dataobj)
        for channel in np.moveaxis(nib.load(task / "imagesTr" / path.name).get_fdata(), 3, 0):
            background, shell, core, horns = (channel[label == value] for value in range(4))
            shared["shell and horns"].append(overlap(shell, horns))
            shared["core and background"].append(overlap(core, background[background > np.percentile(core, 1)]))
            # Background voxels brighter than half of the shell, per voxel of the shell.
            shared["shell and brightest background"].append((background > np.median(shell)).sum() / len(shell))
    assert np.mean(shared["shell and horns"]) > 0.6
    assert np.mean(shared["core and background"]) > 0.5
    assert np.mean(shared["shell and brightest background"]) > 0.25


def test_classes_have_a_size_worth_learning(task: Path) -> None:
    for path in [*(task / "labelsTr").iterdir(), *(task / "labelsTs").iterdir()]:
        counts = np.bincount(np.asarray(nib.load(path).dataobj).ravel(), minlength=4)
        assert counts[1:].min() > 50
        assert counts[0] > 0.8 * counts.sum()
