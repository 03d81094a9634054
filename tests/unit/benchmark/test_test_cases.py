"""Find test cases: pairs of scan and label, none of them trained on."""

from __future__ import annotations

import json
import os
from pathlib import Path

from refusal import codes

from pcl_auto.benchmark.test_cases import find_held_out, hold_out
from pcl_auto.planning.plan import Plan, read_plan
from pcl_auto.workspace.folders import Workspace


def plan_of(workspace: Workspace) -> Plan:
    return read_plan(workspace.dataset(None))


def test_scans_with_labels_are_the_test_cases(task: Path, workspace: Workspace) -> None:
    found, problems = find_held_out(task / "imagesTs", task / "labelsTs", plan_of(workspace))
    assert problems == []
    assert found is not None
    assert [scan.id for scan in found.scans] == ["x", "y"]


def test_another_label_is_another_test(task: Path, workspace: Workspace) -> None:
    found, _ = find_held_out(task / "imagesTs", task / "labelsTs", plan_of(workspace))
    assert found is not None
    before = found.digest()
    assert found.digest() == before
    (task / "labelsTs" / "x.nii.gz").write_bytes(b"!")
    assert found.digest() != before


def test_folders_that_are_not_there(task: Path, workspace: Workspace) -> None:
    found, problems = find_held_out(task / "nope", task / "neither", plan_of(workspace))
    assert found is None
    assert codes(problems) == ["benchmark.test-folder-missing"] * 2
    assert [Path(problem.where).name for problem in problems] == ["nope", "neither"]
    assert ["--test-images" in problem.fix for problem in problems] == [True, False]
    assert "--test" in problems[1].fix


def test_two_labels_of_one_test_case(task: Path, workspace: Workspace) -> None:
    file = next(file for file in (task / "labelsTs").iterdir() if file.name.endswith(".nii.gz"))
    file.with_name(file.name.replace(".nii.gz", ".NII.GZ")).write_bytes(file.read_bytes())
    problems = find_held_out(task / "imagesTs", task / "labelsTs", plan_of(workspace))[1]
    assert codes(problems) == ["benchmark.test-label-twice"]


def test_every_problem_is_listed(task: Path, workspace: Workspace) -> None:
    (task / "labelsTs" / "w.nii.gz").write_bytes(b"")
    (task / "labelsTs" / "._x.nii.gz").write_bytes(b"")
    (task / "imagesTs" / "y.nii.gz").unlink()
    (task / "imagesTs" / "y.nii.gz").symlink_to(task / "imagesTr" / "a.nii.gz")
    problems = find_held_out(task / "imagesTs", task / "labelsTs", plan_of(workspace))[1]
    assert [(problem.code, problem.what.split("'")[1]) for problem in problems] == [
        ("benchmark.test-label-without-scan", "w"),
        ("benchmark.test-scan-trained-on", "y"),
    ]


def test_no_label_at_all(task: Path, workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    problems = find_held_out(task / "imagesTs", tmp_path / "empty", plan_of(workspace))[1]
    assert codes(problems) == ["benchmark.no-test-label"]
    problems = find_held_out(tmp_path / "empty", task / "labelsTs", plan_of(workspace))[1]
    assert codes(problems) == ["predict.no-scan"]


def test_cases_of_the_pool_are_held_out_always_the_same_ones(task: Path, workspace: Workspace) -> None:
    plan = plan_of(workspace)
    chosen = []
    for number in (1, 2, 3):
        found, problems = hold_out(plan, number)
        assert problems == []
        assert found is not None
        assert (found.of_pool, found.labels) == (True, task / "labelsTr")
        chosen.append({scan.id for scan in found.scans})
        assert len(chosen[-1]) == number
        assert all(scan.paths == (task / "imagesTr" / f"{scan.id}.nii.gz",) for scan in found.scans)
    assert chosen[0] < chosen[1] < chosen[2] < set("abcd")
    found, problems = hold_out(plan, 4)
    assert found is None
    assert [(problem.code, problem.expected, problem.found) for problem in problems] == [
        ("benchmark.too-few-labeled", "1 to 3", "4")
    ]


def test_no_label_of_the_pool_is_opened_before_it_is_scored_by(task: Path, workspace: Workspace) -> None:
    found, _ = hold_out(plan_of(workspace), 2)
    assert found is not None
    before = found.digest()
    label = task / "labelsTr" / f"{found.scans[0].id}.nii.gz"
    stats = label.stat()
    label.write_bytes(b"?" * stats.st_size)
    os.utime(label, ns=(stats.st_atime_ns, stats.st_mtime_ns))
    assert found.digest() == before
    label.write_bytes(b"another label")
    assert found.digest() != before


def test_labels_of_the_pool_that_are_not_called_like_their_scans(task: Path, workspace: Workspace) -> None:
    for case in "abcd":
        (task / "labelsTr" / f"{case}.nii.gz").rename(task / "labelsTr" / f"{case}_seg.nii.gz")
    file = workspace.dataset(None).plan_file
    content = json.loads(file.read_text())
    for case, entry in content["cases"].items():
        if entry["label"]:
            entry["label"] = f"labelsTr/{case}_seg.nii.gz"
    file.write_text(json.dumps(content))
    found, problems = hold_out(plan_of(workspace), 2)
    assert found is None
    assert codes(problems) == ["benchmark.labels-elsewhere"]
