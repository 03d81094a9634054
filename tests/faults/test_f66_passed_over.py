"""F66: endings in capitals are read by all commands; what is passed over in a folder is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from refusal import codes
from refusals import image, label, refusal, small_task
from scanner import volume, write_series
from tiny_model import make_model, make_scan
from toys import SHAPE, label_map, ramp, save, write_description

from pcl_auto.benchmark.test_cases import find_held_out
from pcl_auto.data.case import Case
from pcl_auto.data.checks.check_dataset import diagnose
from pcl_auto.data.checks.check_files import check_cases
from pcl_auto.data.dataset.decathlon import read_task
from pcl_auto.data.formats.scans import list_scans
from pcl_auto.data.formats.suffixes import find_nifti
from pcl_auto.errors import UsageError
from pcl_auto.evaluation.metrics import evaluate
from pcl_auto.inference.predict import Prediction, predict
from pcl_auto.nnunet.data.images import read_image, read_label
from pcl_auto.planning.ground_truth import copy_of, keep_ground_truth, require_ground_truth
from pcl_auto.planning.make_plan import plan_task
from pcl_auto.planning.plan import PlanSettings, read_plan
from pcl_auto.workspace.files import file_digest
from pcl_auto.workspace.folders import DatasetFolder, Workspace

ENDINGS = [".NII.GZ", ".Nii.gz", ".nii.GZ", ".NII", ".Nii"]
OTHERS = [".NRRD", ".Nrrd", ".MHA", ".Mha"]


def renamed(file: Path, ending: str) -> Path:
    """Give a volume another ending, and the content that belongs to it."""
    stem = file.name.removesuffix(".nii.gz")
    if ending.lower() == ".nii":
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(file)), str(file.with_name(f"{stem}.nii")))
        file.unlink()
        file = file.with_name(f"{stem}.nii")
    return file.rename(file.with_name(stem + ending))


def segment(inputs: list[Path], output: Path, model: Path) -> list[Prediction]:
    return predict(inputs, output, model, device="cpu", mirroring=False, listener=lambda _event, _values: None)


@pytest.mark.parametrize("ending", ENDINGS)
def test_f66_a_data_set_is_read_whatever_its_endings(tmp_path: Path, ending: str) -> None:
    task = small_task(tmp_path, labeled=2, unlabeled=2, test=1)
    before = {case.id: read_image(case.files)[0] for case in _cases(task)}
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        for file in sorted((task / folder).iterdir()):
            renamed(file, ending)
    # One that is listed, one that is found.
    (task / "imagesUn").mkdir()
    description = json.loads((task / "dataset.json").read_text())
    last = description["training"].pop()
    description["numTraining"] -= 1
    (task / "dataset.json").write_text(json.dumps(description))
    name = Path(last["image"]).name.removesuffix(".nii.gz") + ending
    (task / "imagesTr" / name).rename(task / "imagesUn" / name)
    found, problems = read_task(task)
    assert found is not None
    assert (problems, found.passed_over) == ([], ())
    assert (len(found.labeled), len(found.unlabeled), len(found.test)) == (2, 2, 1)
    assert check_cases(found, threads=1).problems == []
    for case in found.cases:
        np.testing.assert_array_equal(read_image(case.files)[0], before[case.id])
        if case.label is not None:
            assert read_label(case.label).any()


def _cases(task: Path) -> list[Case]:
    found, problems = read_task(task)
    assert found is not None
    assert problems == []
    return list(found.cases)


def test_f66_a_plan_of_such_a_data_set_stores_every_case(tmp_path: Path) -> None:
    task = small_task(tmp_path, labeled=2, unlabeled=2, test=0)
    for number, ending in enumerate(ENDINGS[:4], start=1):
        renamed(image(task, number), ending)
    for number in (1, 2):
        renamed(label(task, number), ENDINGS[-number])
    workspace = Workspace.at(tmp_path / "work", "test")
    outcome = plan_task(task, workspace, PlanSettings())
    assert sorted(read_plan(outcome.data).cases) == [f"phantom_{number:03d}" for number in (1, 2, 3, 4)]


def test_f66_such_labels_are_kept_for_the_validation(tmp_path: Path) -> None:
    names = {ending: save(tmp_path / "labels" / f"{index}.nii.gz", label_map()) for index, ending in enumerate(ENDINGS)}
    labels = {str(index): renamed(file, ending) for index, (ending, file) in enumerate(names.items())}
    data = DatasetFolder(tmp_path / "Dataset001_A")
    data.pclauto_dir.mkdir(parents=True)
    keep_ground_truth(data, labels)
    require_ground_truth(data, {case: file_digest(label) for case, label in labels.items()})
    for case in labels:
        copy = copy_of(data, case)
        assert copy.name == f"{case}.nii.gz"
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(copy))), label_map().T)


@pytest.mark.parametrize("ending", [*ENDINGS, *OTHERS])
def test_f66_such_a_scan_is_segmented(tmp_path: Path, ending: str) -> None:
    model = make_model(tmp_path / "model")
    scan = make_scan(tmp_path / "plain" / "a.nii.gz")
    (expected,) = segment([scan], tmp_path / "expected", model)
    (tmp_path / "scans").mkdir()
    if ending in ENDINGS:
        file = renamed(Path(shutil.copy(scan, tmp_path / "scans" / "a.nii.gz")), ending)
    else:
        file = tmp_path / "scans" / f"a{ending.lower()}"
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(scan)), str(file))
        file = file.rename(file.with_name(f"a{ending}"))
    for inputs in ([tmp_path / "scans"], [file]):
        (result,) = segment(inputs, tmp_path / "out", model)
        assert result.id == "a"
        assert result.error is None
    masks = [SimpleITK.ReadImage(str(result.output)) for result in (result, expected)]
    np.testing.assert_array_equal(*map(SimpleITK.GetArrayFromImage, masks))


@pytest.mark.parametrize("ending", ENDINGS)
def test_f66_such_labels_are_scored_and_test_cases_found(tmp_path: Path, ending: str) -> None:
    renamed(save(tmp_path / "labels" / "a.nii.gz", label_map()), ending)
    save(tmp_path / "masks" / "a.nii.gz", label_map())
    found = evaluate(tmp_path / "masks", tmp_path / "labels")
    assert [(case.id, case.dice) for case in found.cases] == [("a", {"1": 1.0, "2": 1.0})]
    assert find_nifti(tmp_path / "labels", "a").is_file()


def test_f66_test_cases_of_a_benchmark(tmp_path: Path, planned_once: Path) -> None:
    (data,) = [folder for folder in (planned_once / "nnUNet_preprocessed").iterdir() if folder.is_dir()]
    plan = read_plan(Workspace.at(planned_once, "test").dataset(data.name))
    for name in ("a", "b"):
        renamed(make_scan(tmp_path / "images" / f"{name}.nii.gz"), ".NII.GZ")
        renamed(save(tmp_path / "labels" / f"{name}.nii.gz", label_map()), ".NII")
    held_out, problems = find_held_out(tmp_path / "images", tmp_path / "labels", plan)
    assert problems == []
    assert held_out is not None
    assert [scan.id for scan in held_out.scans] == ["a", "b"]
    assert held_out.digest()


# --- what is passed over ------------------------------------------------------------------------------------------


def test_f66_what_a_data_set_holds_beside_its_cases_is_named(tmp_path: Path) -> None:
    task = small_task(tmp_path, labeled=2, unlabeled=1, test=1)
    (task / "imagesUn" / "patient").mkdir(parents=True)
    for name in ("imagesTr/notes.txt", "imagesTs/a.nii.gz.part", "imagesUn/b.jpg", "imagesTr/.hidden", "other.txt"):
        (task / name).touch()
    shutil.copy(label(task, 1), task / "labelsTr" / "nobody.nii.gz")
    found, problems = read_task(task)
    assert found is not None
    assert problems == []
    (warning,) = [each for each in check_cases(found, threads=1).warnings if each.code == "data.passed-over"]
    assert warning.found.startswith("5: ")
    for name in ("imagesTr/notes.txt", "imagesTs/a.nii.gz.part", "imagesUn/b.jpg", "imagesUn/patient",
                 "labelsTr/nobody.nii.gz"):  # fmt: skip
        assert name in warning.found
    assert "data.passed-over" in codes(diagnose(task, threads=1).warnings)
    outcome = plan_task(task, Workspace.at(tmp_path / "work", "test"), PlanSettings(), dry_run=True)
    assert "data.passed-over" in codes(outcome.warnings)


def test_f66_two_files_of_one_label_are_refused(tmp_path: Path) -> None:
    task = small_task(tmp_path)
    shutil.copy(label(task, 1), label(task, 1).with_name("phantom_001.NII.GZ"))
    (problem,) = refusal(task)
    assert problem.code == "data.file-twice"
    assert {"phantom_001.nii.gz", "phantom_001.NII.GZ"} == set(problem.found.split(", "))


def test_f66_what_predict_passes_over_is_named(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    for name in ("a.nii.gz", "sub/b.nii.gz", "out/c.nii.gz"):
        make_scan(scans / name)
    for name in ("notes.txt", "d.mgz", ".hidden.txt", "lone.raw", "out/predictions.json", "e.seg.nrrd"):
        (scans / name).touch()
    results = segment([scans], tmp_path / "out", make_model(tmp_path / "model"))
    assert [(result.status, result.exit_code) for result in results] == [("done", 0), ("skipped", 0)]
    (problem,) = results[1].problems
    assert problem.code == "predict.passed-over"
    assert problem.found == "d.mgz, e.seg.nrrd, lone.raw, notes.txt, sub/b.nii.gz"


def test_f66_folders_behind_links_are_named(tmp_path: Path) -> None:
    write_series(tmp_path / "elsewhere", volume())
    write_series(tmp_path / "scans" / "a", volume())
    (tmp_path / "scans" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    scan, note = list_scans([tmp_path / "scans"], 1)
    assert scan.id == "a"
    assert note.problem is not None
    assert (note.problem.code, note.problem.found) == ("predict.passed-over", "linked")


def test_f66_a_folder_without_a_scan_says_what_it_holds(tmp_path: Path) -> None:
    make_scan(tmp_path / "scans" / "sub" / "a.nii.gz")
    (tmp_path / "scans" / "b.mgz").touch()
    with pytest.raises(UsageError) as caught:
        list_scans([tmp_path / "scans"], 1)
    assert [(each.code, each.found) for each in caught.value.problems] == [("predict.no-scan", "b.mgz, sub/a.nii.gz")]


# --- nnU-Net's raw format -------------------------------------------------------------------------------------------


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    root = tmp_path / "Dataset016_List"
    for case in "abc":
        save(root / "imagesTr" / f"{case}_0000.nii.gz", ramp())
    for case in "ab":
        save(root / "labelsTr" / f"{case}.nii.gz", label_map())
    return root


SOUND: dict[str, Any] = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "shell": 1, "core": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_f66_nnunets_raw_format(raw: Path, ending: str) -> None:
    write_description(raw, SOUND)
    for folder in ("imagesTr", "labelsTr"):
        for file in sorted((raw / folder).iterdir()):
            renamed(file, ending)
    found, problems = read_task(raw)
    assert found is not None
    assert (problems, found.passed_over) == ([], ())
    assert ([case.id for case in found.labeled], [case.id for case in found.unlabeled]) == (["a", "b"], ["c"])
    checks = check_cases(found, threads=1)
    assert checks.problems == []
    assert {case: volume.shape for case, volume in checks.images.items()} == dict.fromkeys("abc", SHAPE)


def test_f66_files_of_one_channel_or_label_in_the_raw_format(raw: Path) -> None:
    write_description(raw, SOUND)
    shutil.copy(raw / "imagesTr" / "a_0000.nii.gz", raw / "imagesTr" / "a_0000.NII.GZ")
    shutil.copy(raw / "labelsTr" / "b.nii.gz", raw / "labelsTr" / "b.Nii.gz")
    (raw / "labelsTr" / "c.nrrd").touch()
    (raw / "imagesTr" / "d_0000.mha").touch()
    (raw / "imagesTr" / "notes.txt").touch()
    found, problems = read_task(raw)
    assert found is not None
    assert sorted(codes(problems)) == ["data.file-twice"] * 2 + ["data.not-named-nifti"] * 2
    assert [path.name for path in found.passed_over] == ["notes.txt"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"channel_names": ["MRI"]}, set()),
        ({"channel_names": "MRI"}, set()),
        ({"channel_names": None, "modality": {"0": "MRI"}}, set()),
        ({"training": []}, set()),
        ({"training": None}, set()),
        ({"labels": {"0": "background", "1": "shell", "2": "core"}}, set()),
        ({"labels": {"background": "0", "shell": "1", "core": "2"}}, set()),
        ({"file_ending": ".NII.GZ"}, set()),
        ({"file_ending": None}, {"dataset-json.no-file-ending"}),
        ({"file_ending": 3}, {"dataset-json.file-ending"}),
        ({"channel_names": None}, {"dataset-json.no-channels"}),
        ({"channel_names": None, "file_ending": None}, {"dataset-json.no-channels"}),
        ({"channel_names": 3}, {"dataset-json.bad-channels"}),
        ({"labels": None}, {"dataset-json.no-classes"}),
        ({"labels": ["background", "shell"]}, {"dataset-json.no-classes"}),
    ],
)
def test_f22_nnunets_raw_format_is_never_told_to_list_cases(
    raw: Path, change: dict[str, Any], expected: set[str]
) -> None:
    described = {**SOUND, **change}
    write_description(raw, {key: value for key, value in described.items() if value is not None or key == "training"})
    found, problems = read_task(raw)
    assert set(codes(problems)) == expected
    assert not any("training" in problem.fix for problem in problems)
    if not expected:
        assert found is not None
        assert (found.channels, len(found.labeled), len(found.unlabeled)) == (("MRI",), 2, 1)


def test_f22_a_list_of_cases_beside_raw_names_is_the_fault(raw: Path) -> None:
    entries = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in "ab"]
    write_description(raw, {**SOUND, "training": entries})
    problems = read_task(raw)[1]
    assert "data.raw-names" in codes(problems)
    assert "data.image-missing" not in codes(problems)


def test_f22_a_raw_label_that_is_named_like_its_image(raw: Path) -> None:
    write_description(raw, SOUND)
    (raw / "labelsTr" / "b.nii.gz").rename(raw / "labelsTr" / "b_0000.nii.gz")
    (problem,) = read_task(raw)[1]
    assert problem.code == "data.label-without-image"
    assert "call it b" in problem.fix
