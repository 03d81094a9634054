"""Two plain folders become a data set, or nothing at all and every reason at once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from headed_files import metaimage
from refusal import Refusal, codes, refused
from toys import SHAPE, label_map, ramp, save

from pcl_auto.data.dataset import write_dataset
from pcl_auto.data.dataset.decathlon import read_task
from pcl_auto.data.dataset.label_names import parse_labels
from pcl_auto.data.dataset.plain_cases import Sources
from pcl_auto.data.dataset.plain_folders import NewDataset, default_target, make_dataset
from pcl_auto.errors import DataError, Problem, UsageError
from pcl_auto.workspace.files import file_digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make three images (a, b, c) and the mask of a."""
    for number, name in enumerate("abc"):
        save(tmp_path / "images" / f"{name}.nii.gz", ramp() + number)
    save(tmp_path / "masks" / "a.nii.gz", label_map())
    return tmp_path


def make(folder: Path, target: str = "Task_Toy", *, tests: str = "", **options: Any) -> NewDataset:
    test_images = folder / tests if tests else None
    return make_dataset(Sources(folder / "images", folder / "masks", test_images), folder / target, **options)


def refusal(kind: type[Any], folder: Path, code: str, *more: str, **options: Any) -> Refusal:
    """Make a data set, which is refused and leaves no trace."""
    before = contents(folder)
    with refused(kind, code, *more) as found:
        make(folder, **options)
    assert contents(folder) == before
    assert all(problem.what and problem.where and problem.fix for problem in found.problems)
    return found


def contents(folder: Path) -> dict[str, object]:
    return {
        str(path.relative_to(folder)): (file_digest(path), path.stat().st_mtime_ns) if path.is_file() else None
        for path in folder.rglob("*")
    }


def roles(root: Path) -> dict[str, bool]:
    task, problems = read_task(root)
    assert problems == [], [str(problem) for problem in problems]
    assert task is not None
    return {case.id: case.label is not None for case in task.cases}


def test_images_without_a_mask_are_unlabeled(folder: Path) -> None:
    before = contents(folder)
    made = make(folder, labels="1=core,2=rim")
    assert (made.labeled, made.unlabeled, made.channels) == (("a",), ("b", "c"), ("MRI",))
    root = folder / "Task_Toy"
    assert roles(root) == {"a": True, "b": False, "c": False}
    content = json.loads((root / "dataset.json").read_text())
    assert content["labels"] == {"0": "background", "1": "core", "2": "rim"}
    assert content["modality"] == {"0": "MRI"}
    assert [entry["label"] for entry in content["training"]] == ["./labelsTr/a.nii.gz"]
    assert {name: state for name, state in contents(folder).items() if name in before} == before
    assert not (folder / ".tmp").exists()


def test_files_are_hard_links_or_copies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = folder / "images" / "a.nii.gz"
    linked = make(folder, "linked").written
    assert linked is not None
    assert (linked.linked, linked.copied, linked.bytes_written) == (4, 0, 0)
    assert (folder / "linked" / "imagesTr" / "a.nii.gz").samefile(image)
    copied = make(folder, "copied", copy=True).written
    assert copied is not None
    assert (copied.linked, copied.copied) == (0, 4)
    assert copied.bytes_written == sum(file.stat().st_size for file in (folder / "copied").glob("*/*"))

    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    where_links_are_refused = make(folder, "refused").written
    assert where_links_are_refused is not None
    assert where_links_are_refused.copied == 4


def test_a_link_to_an_image_becomes_the_image(folder: Path) -> None:
    (folder / "archive").mkdir()
    image = folder / "images" / "b.nii.gz"
    image.rename(folder / "archive" / "scan.nii.gz")
    image.symlink_to("../archive/scan.nii.gz")
    make(folder)
    assert not (folder / "Task_Toy" / "imagesTr" / "b.nii.gz").is_symlink()
    assert roles(folder / "Task_Toy")["b"] is False


def test_a_dry_run_writes_nothing(folder: Path) -> None:
    before = contents(folder)
    assert make(folder, dry_run=True).written is None
    assert contents(folder) == before


def test_endings_in_capitals_and_both_kinds(folder: Path) -> None:
    (folder / "images" / "a.nii.gz").rename(folder / "images" / "a.NII.GZ")
    save(folder / "images" / "d.nii", ramp() + 9).rename(folder / "images" / "d.Nii")
    make(folder)
    names = sorted(file.name for file in (folder / "Task_Toy" / "imagesTr").iterdir())
    assert names == ["a.nii.gz", "b.nii.gz", "c.nii.gz", "d.nii"]


def test_metaimage_and_nrrd_are_converted(folder: Path) -> None:
    for file in (folder / "masks").iterdir():
        SimpleITK.WriteImage(SimpleITK.ReadImage(file), folder / "masks" / "b_seg.nrrd", useCompression=True)
    SimpleITK.WriteImage(SimpleITK.ReadImage(folder / "images" / "b.nii.gz"), folder / "images" / "d.mha")
    made = make(folder)
    assert made.converted == 2
    assert made.written is not None
    assert (made.written.linked, made.written.copied) == (4, 0)
    assert made.written.bytes_written > 0
    assert roles(folder / "Task_Toy") == {"a": True, "b": True, "c": False, "d": False}
    new = folder / "Task_Toy" / "imagesTr"
    one, other = (nib.load(new / name) for name in ("b.nii.gz", "d.nii.gz"))
    assert np.array_equal(np.asanyarray(one.dataobj), np.asanyarray(other.dataobj))
    assert np.allclose(one.affine, other.affine)


def test_a_file_per_channel_makes_raw_data(folder: Path) -> None:
    for name in "abc":
        (folder / "images" / f"{name}.nii.gz").rename(folder / "images" / f"{name}_0000.nii.gz")
        save(folder / "images" / f"{name}_0001.nii.gz", ramp()[::-1] * 2 + ord(name))
    save(folder / "tests" / "t_0000.nii.gz", ramp() + 20)
    save(folder / "tests" / "t_0001.nii.gz", ramp() * 3)
    made = make(folder, channels=("T2", "ADC"), labels="core,rim", tests="tests")
    assert made.channels == ("T2", "ADC")
    assert made.test == ("t",)
    task, problems = read_task(folder / "Task_Toy")
    assert problems == []
    assert task is not None
    assert task.channels == ("T2", "ADC")
    assert [len(case.files) for case in (*task.cases, *task.test)] == [2, 2, 2, 2]
    assert [case.id for case in task.labeled] == ["a"]


def test_channels_in_the_fourth_dimension(folder: Path) -> None:
    for number, name in enumerate("abc"):
        save(folder / "images" / f"{name}.nii.gz", np.stack([ramp() + number, ramp() * 2 + number], axis=3))
    assert codes(refusal(DataError, folder, "init.channels").problems) == ["init.channels"]
    make(folder, channels=("T2", "ADC"))
    content = json.loads((folder / "Task_Toy" / "dataset.json").read_text())
    assert (content["tensorImageSize"], content["modality"]) == ("4D", {"0": "T2", "1": "ADC"})
    save(folder / "images" / "c.nii.gz", ramp())
    found = refusal(DataError, folder, "init.mixed-channels", channels=("T2", "ADC"), target="other").problem
    assert "1 in 1: c" in found.found


def test_test_images(folder: Path) -> None:
    save(folder / "tests" / "t.nii.gz", ramp() * 2)
    assert make(folder, tests="tests").test == ("t",)
    task, _ = read_task(folder / "Task_Toy")
    assert task is not None
    assert [case.id for case in task.test] == ["t"]
    os.link(folder / "images" / "b.nii.gz", folder / "tests" / "u.nii.gz")
    save(folder / "tests" / "v.nii.gz", np.ones(SHAPE, np.int16))
    refusal(DataError, folder, "data.train-and-test", "data.constant", tests="tests", target="other")


# What images may be


def test_images_that_may_be_ct_need_a_word(folder: Path) -> None:
    for name in "ab":
        save(folder / "images" / f"{name}.nii.gz", ramp() - 1000)
    refusal(DataError, folder, "init.modality")
    assert make(folder, "ct", modality="CT").channels == ("CT",)
    assert make(folder, "mri", modality="MRI").warnings == ()
    assert "init.like-ct" in codes(make(folder, "named", channels=("PET",)).warnings)


def test_ct_without_air_is_worth_a_look(folder: Path) -> None:
    assert codes(make(folder, modality="CT").warnings) == ["init.unlike-ct"]


# Classes


def test_values_without_names(folder: Path) -> None:
    assert make(folder).labels == {"background": 0, "class_1": 1, "class_2": 2}


@pytest.mark.parametrize("values", [(1, 3), (255,), (-1, 1), (2,)])
def test_values_with_a_gap(folder: Path, values: tuple[int, ...]) -> None:
    mask = np.zeros(SHAPE, np.int16)
    mask.flat[: len(values)] = values
    save(folder / "masks" / "a.nii.gz", mask)
    assert "a.nii.gz" in refusal(DataError, folder, "init.values").problem.found


def test_folders_the_wrong_way_round(folder: Path) -> None:
    (folder / "images").rename(folder / "other")
    (folder / "masks").rename(folder / "images")
    (folder / "other").rename(folder / "masks")
    found = refusal(DataError, folder, "init.values", "init.mask-alone")
    assert any("swap" in problem.fix for problem in found.problems)


def test_values_that_have_no_name(folder: Path) -> None:
    assert "--labels" in refusal(DataError, folder, "label.undeclared-values", labels="core").problem.what


def test_a_class_that_no_mask_shows_is_worth_a_look(folder: Path) -> None:
    assert codes(make(folder, labels="core,rim,gap").warnings) == ["label.class-absent"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("liver", {"liver": 1}),
        (" liver , tumor ", {"liver": 1, "tumor": 2}),
        ("2=tumor,1=liver", {"liver": 1, "tumor": 2}),
        ("0=background,1=liver", {"liver": 1}),
        ("left lung,right lung,Ignore", {"left lung": 1, "right lung": 2, "ignore": 3}),
        ("3rd ventricle,left-lung", {"3rd ventricle": 1, "left-lung": 2}),
    ],
)
def test_names_of_classes(text: str, expected: dict[str, int]) -> None:
    assert parse_labels(text) == ({"background": 0, **expected}, [])


@pytest.mark.parametrize(
    "text",
    [
        "", ",", "liver,", "1=", "=liver", "1=liver,tumor", "liver,liver", "liver,Liver", "1=liver,1=tumor",
        "1=liver,3=tumor", "2=liver", "0=liver", "0=liver,1=tumor", "background,liver", "1=background", "x=liver",
        "-1=liver", "1.0=liver", "99999=liver", "1=ignore,2=liver", "li\x1b[31mver", "0=background", "١=liver",
        "1=a=b", "1=liver;2=tumor", "1:liver,2:tumor", "1 liver,2 tumor", "1,2",
    ],
)  # fmt: skip
def test_bad_names_of_classes(folder: Path, text: str) -> None:
    problems = parse_labels(text)[1]
    assert problems
    assert {*codes(problems)} == {"init.labels"}
    assert all("\x1b" not in str(problem) for problem in problems)


# What is refused


def test_everything_is_said_at_once(folder: Path) -> None:
    save(folder / "masks" / "b.nii.gz", label_map() / 2)
    save(folder / "masks" / "c.nii.gz", label_map(), np.diag([1.0, 1.0, 3.0, 1.0]))
    save(folder / "masks" / "z.nii.gz", label_map())
    save(folder / "images" / "b.nii", ramp())
    (folder / "images" / "d.nii.gz").write_bytes(b"no volume")
    (folder / "images" / "e.dcm").write_bytes(b"")
    refusal(
        DataError, folder, "label.fractional", "label.apart", "init.mask-alone", "data.file-twice",
        "nifti.not-nifti", "init.format", "init.labels", labels="core,core",
    )  # fmt: skip


def test_many_masks_without_an_image_are_one_finding_and_wrong_grids_one_each(folder: Path) -> None:
    for number in range(12):
        save(folder / "images" / f"n{number:02}.nii.gz", ramp() + number + 5)
        save(folder / "masks" / f"n{number:02}.nii.gz", label_map((4, 6, 7)))
        save(folder / "masks" / f"alone{number:02}.nii.gz", label_map())
    found = refusal(DataError, folder, "label.other-shape", "init.mask-alone").problems
    assert [problem.code for problem in found] == ["init.mask-alone", *["label.other-shape"] * 12]
    assert "12 of 25: alone00.nii.gz, alone01.nii.gz" in str(found[0])


def test_the_paths_of_files_that_were_converted_are_those_of_the_user(folder: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((3, 4, 5), np.uint8)), folder / "masks" / "b.mha")
    found = refusal(DataError, folder, "label.other-shape").problem
    assert found.where == str(folder / "masks" / "b.mha")
    assert ".tmp" not in str(found)
    metaimage(folder / "images" / "e.mha", data=b"cut")
    found_damage = refusal(DataError, folder, "label.other-shape", "data.truncated")
    assert str(folder / "images" / "e.mha") in {problem.where for problem in found_damage.problems}


def empty_masks(folder: Path) -> None:
    save(folder / "masks" / "a.nii.gz", np.zeros(SHAPE, np.uint8))


def no_masks(folder: Path) -> None:
    (folder / "masks" / "a.nii.gz").unlink()


def no_images(folder: Path) -> None:
    for file in (folder / "images").iterdir():
        file.rename(file.with_suffix(".png"))


def only_pictures_as_masks(folder: Path) -> None:
    (folder / "masks" / "a.nii.gz").rename(folder / "masks" / "a.png")


def a_mask_for_an_image(folder: Path) -> None:
    save(folder / "images" / "b.nii.gz", label_map())


def the_same_file(folder: Path) -> None:
    (folder / "images" / "b.nii.gz").unlink()
    os.link(folder / "masks" / "a.nii.gz", folder / "images" / "b.nii.gz")


def one_mask_twice(folder: Path) -> None:
    os.link(folder / "masks" / "a.nii.gz", folder / "masks" / "b.nii.gz")


def one_image_twice(folder: Path) -> None:
    os.link(folder / "images" / "b.nii.gz", folder / "images" / "d.nii.gz")


def names_that_differ_in_capitals(folder: Path) -> None:
    save(folder / "images" / "B.nii.gz", ramp() + 7)


def a_space_in_a_name(folder: Path) -> None:
    (folder / "images" / "b.nii.gz").rename(folder / "images" / "patient b.nii.gz")


def a_link_to_nowhere(folder: Path) -> None:
    (folder / "images" / "d.nii.gz").symlink_to("nowhere.nii.gz")


def a_folder_as_an_image(folder: Path) -> None:
    (folder / "images" / "d.nii.gz").mkdir()


def a_pipe_as_a_mask(folder: Path) -> None:
    os.mkfifo(folder / "masks" / "b.nii.gz")


def a_time_series_as_a_mask(folder: Path) -> None:
    save(folder / "masks" / "b.nii.gz", np.stack([label_map()] * 2, axis=3))


def nan(folder: Path) -> None:
    save(folder / "images" / "b.nii.gz", np.where(ramp() > 9, ramp(), np.nan).astype(np.float32))


def a_mirrored_mask(folder: Path) -> None:
    save(folder / "masks" / "a.nii.gz", label_map(), np.diag([-1.0, 1.0, 2.0, 1.0]))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (empty_masks, ["label.all-empty"]),
        (no_masks, ["init.no-mask"]),
        (no_images, ["init.no-image"]),
        (only_pictures_as_masks, ["init.no-mask"]),
        (a_mask_for_an_image, ["data.image-is-label"]),
        (the_same_file, ["data.image-is-label"]),
        (one_mask_twice, ["label.of-two-cases"]),
        (one_image_twice, ["data.image-twice"]),
        (names_that_differ_in_capitals, ["data.case-twice"]),
        (a_space_in_a_name, ["data.case-name"]),
        (a_link_to_nowhere, ["data.missing"]),
        (a_folder_as_an_image, ["data.not-a-file"]),
        (a_pipe_as_a_mask, ["data.not-a-file"]),
        (a_time_series_as_a_mask, ["label.not-3d"]),
        (nan, ["data.not-finite"]),
        (a_mirrored_mask, ["label.apart"]),
    ],
)
def test_f104_folders_that_make_no_data_set(folder: Path, spoil: Callable[[Path], None], expected: list[str]) -> None:
    spoil(folder)
    problems: list[Problem] = [*refusal(DataError, folder, *expected).problems]
    assert all(str(folder) in problem.where for problem in problems)


# Folders


def test_f104_places_that_no_data_set_is_made_from_or_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal(UsageError, folder, "init.target-in-source", target="images/Task_Toy")
    refusal(UsageError, folder, "init.target-in-source", target="masks")
    refusal(UsageError, folder, "init.target-taken", target=".")
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder / "empty")
    refusal(UsageError, folder, "init.target-taken", target="empty")
    refusal(UsageError, folder, "output.input-folder", target="nnUNet_raw")
    (folder / "file").touch()
    refusal(UsageError, folder, "output.no-folder", target="file")
    refusal(UsageError, folder, "init.no-folder", tests="nowhere")
    refusal(UsageError, folder, "init.same-folder", tests="images")
    refusal(UsageError, folder, "init.no-folder", "init.labels", "init.channels", tests="x", labels="", channels=("",))
    refusal(UsageError, folder, "init.channels", channels=("T2",), modality="CT")
    refusal(DataError, folder, "init.channels", channels=("T2", "ADC"))
    with refused(UsageError, "init.same-folder"):
        make_dataset(Sources(folder / "images", folder / "images"), folder / "Task_Toy")
    make(folder)
    refusal(UsageError, folder, "init.target-taken")
    refusal(UsageError, folder, "output.input-folder", target="Task_Toy/imagesTr/Task_New")
    with refused(UsageError, "init.is-dataset"):
        make_dataset(Sources(folder / "Task_Toy", folder / "masks"), folder / "other")


def test_an_empty_folder_and_a_link_to_one_are_taken(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("empty")
    make(folder, "link")
    assert (folder / "empty" / "dataset.json").is_file()
    assert make(folder, "new/deep/Task_Toy").labeled == ("a",)


def test_a_target_that_appears_meanwhile_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def appear(*arguments: Any) -> Any:
        (folder / "Task_Toy").mkdir()
        (folder / "Task_Toy" / "work.txt").write_text("of somebody")
        return read_task(*arguments)

    monkeypatch.setattr(write_dataset, "read_task", appear)
    with refused(UsageError, "init.target-taken"):
        make(folder)
    assert [file.name for file in (folder / "Task_Toy").iterdir()] == ["work.txt"]


def test_what_is_no_volume_is_named(folder: Path) -> None:
    (folder / "images" / "notes.txt").write_text("")
    (folder / "images" / ".DS_Store").write_text("")
    (folder / "images" / "patient").mkdir()
    (warning,) = make(folder).warnings
    assert warning.code == "data.passed-over"
    assert warning.found == "2: notes.txt, patient/"


def test_masks_in_a_folder_of_the_images(folder: Path) -> None:
    (folder / "masks").rename(folder / "images" / "masks")
    made = make_dataset(Sources(folder / "images", folder / "images" / "masks"), folder / "Task_Toy")
    assert (made.labeled, made.warnings) == (("a",), ())


@pytest.mark.parametrize(("parent", "name"), [("liver", "Task_liver"), ("my study (ä)", "Task_my_study____")])
def test_the_default_target(tmp_path: Path, parent: str, name: str) -> None:
    assert default_target(tmp_path / parent / "images") == Path(name)
