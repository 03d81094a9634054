"""Checks over a whole task: what is refused, what is only mentioned, and what is not read twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from refusal import codes
from toys import label_map, ramp, save

from pcl_auto.data.checks import check_files as checks
from pcl_auto.data.checks.check_files import Checks, check_cases, image_stats
from pcl_auto.data.dataset.decathlon import read_task
from pcl_auto.data.formats.nifti import probe_channels, probe_label

MakeTask = Callable[..., Path]


def check(root: Path, **options: Any) -> Checks:
    task, problems = read_task(root)
    assert task is not None
    assert problems == []
    return check_cases(task, threads=2, **options)


def image(root: Path, case: str) -> Path:
    return root / "imagesTr" / f"{case}.nii.gz"


def label(root: Path, case: str) -> Path:
    return root / "labelsTr" / f"{case}.nii.gz"


def test_all_problems_of_all_files_are_listed(make_task: MakeTask) -> None:
    root = make_task(labeled=3)
    image(root, "l0").write_bytes(image(root, "l0").read_bytes()[:-9])
    save(label(root, "l1"), label_map() * 3)
    image(root, "u0").write_bytes(b"")
    result = check(root)
    assert [Path(problem.where) for problem in result.problems] == [
        image(root, "l0"),
        label(root, "l1"),
        image(root, "u0"),
    ]
    assert list(result.images) == ["l1", "l2"]


def test_scans_that_state_two_places_are_told_once(make_task: MakeTask) -> None:
    root = make_task()
    for case in ("l0", "u0"):
        scan = nib.Nifti1Image(ramp((5, 6, 7)), np.diag([1.0, 1, 2, 1]))
        scan.set_qform(np.diag([1.0, 1, 2, 1]) + 7 * np.eye(4, k=3), 1)
        scan.set_sform(np.diag([1.0, 1, 2, 1]), 2)
        nib.save(scan, image(root, case))
    result = check(root)
    assert result.problems == []
    assert codes(result.warnings) == ["nifti.two-places"]
    assert result.warnings[0].found == "2 of 3 images: l0, u0"


def test_wrong_number_of_channels(make_task: MakeTask) -> None:
    root = make_task(modality=["T2", "ADC"])
    for case in ("l0", "u0"):
        save(image(root, case), ramp((5, 6, 7, 2)))
    (problem,) = check(root).problems
    assert (problem.code, problem.expected, problem.found) == ("data.channel-count", "2, as in dataset.json", "1")


@pytest.mark.parametrize(("case", "kind"), [("l1", "a labeled"), ("u0", "an unlabeled")])
def test_constant_image(make_task: MakeTask, case: str, kind: str) -> None:
    root = make_task()
    save(image(root, case), np.zeros((5, 6, 7), dtype=np.int16))
    (problem,) = check(root).problems
    assert problem.code == "data.constant"
    assert problem.what == f"image of {kind} case is constant"


def test_constant_channel(make_task: MakeTask) -> None:
    root = make_task(modality=["T2", "ADC"])
    values = ramp((5, 6, 7, 2))
    for case in ("l0", "l1", "u0"):
        save(image(root, case), values)
    values[..., 1] = 4
    save(image(root, "u0"), values)
    (problem,) = check(root).problems
    assert problem.code == "data.constant"
    assert problem.what == "image of an unlabeled case is constant in channel 1"


def test_label_on_another_grid(make_task: MakeTask) -> None:
    root = make_task()
    save(label(root, "l0"), label_map((5, 6, 8)))
    save(label(root, "l1"), label_map(), [[1, 0, 0, 100], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    assert codes(check(root).problems) == ["label.other-shape", "label.apart"]


def test_empty_labels_are_mentioned_once(make_task: MakeTask) -> None:
    root = make_task(labeled=4)
    for case in ("l0", "l2"):
        save(label(root, case), label_map() * 0)
    result = check(root)
    assert result.problems == []
    (warning,) = result.warnings
    assert (warning.code, warning.found) == ("label.empty", "2 of 4: l0, l2")


def test_only_empty_labels_are_a_problem(make_task: MakeTask) -> None:
    root = make_task()
    for case in ("l0", "l1"):
        save(label(root, case), label_map() * 0)
    result = check(root)
    assert codes(result.problems) == ["label.all-empty"]
    assert result.warnings == []


def test_class_without_voxels_is_mentioned(make_task: MakeTask) -> None:
    root = make_task()
    for number, case in enumerate(("l0", "l1")):
        save(label(root, case), np.roll(label_map() // 2, number, axis=2))
    result = check(root)
    assert result.problems == []
    (warning,) = result.warnings
    assert (warning.code, warning.what) == ("label.class-absent", "no label holds class 2 (rim)")


def test_a_sound_task(make_task: MakeTask) -> None:
    ticks: list[int] = []
    result = check(make_task(), progress=lambda: ticks.append(1))
    assert result.problems == []
    assert result.warnings == []
    assert list(result.images) == ["l0", "l1", "u0"]
    assert len(ticks) == 5  # three images, two labels
    assert all(volume.label_values is None for volume in result.images.values())


def test_image_facts_do_not_depend_on_labels(make_task: MakeTask) -> None:
    """Whatever happens to the labels, the image part is the same to the last byte."""
    root = make_task(labeled=3)
    before = check(root)
    for number, values in enumerate((label_map() * 0, label_map() * 7)):
        save(label(root, f"l{number}"), values)
    label(root, "l2").write_bytes(b"")
    after = check(root)
    assert after.problems != before.problems
    assert after.images == before.images
    assert json.dumps(after.as_dict()["images"]) == json.dumps(before.as_dict()["images"])
    assert "label" not in json.dumps(after.as_dict()["images"])


def test_unchanged_files_are_not_read_again(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_task(labeled=3)
    save(label(root, "l0"), label_map() * 3)  # findings are remembered as well
    first = check(root)
    known = json.loads(json.dumps(first.as_dict()))
    read: list[Path] = []

    def channels_on_record(files: Sequence[Path]) -> Any:
        read.extend(files)
        return probe_channels(files)

    def label_on_record(path: Path, allowed: Sequence[int]) -> Any:
        read.append(path)
        return probe_label(path, allowed)

    monkeypatch.setattr(checks, "probe_channels", channels_on_record)
    monkeypatch.setattr(checks, "probe_label", label_on_record)
    again = check(root, known=known)
    assert again == first
    assert read == []
    save(label(root, "l0"), label_map())
    os.utime(image(root, "u0"), ns=(1, 1))
    assert check(root, known=known).problems == []
    assert read == [label(root, "l0")]


def test_a_file_that_is_written_while_it_is_read(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_task(labeled=2)

    def slow_probe(path: Path, allowed: Sequence[int]) -> Any:
        found = probe_label(path, allowed)
        save(path, label_map())
        return found

    monkeypatch.setattr(checks, "probe_label", slow_probe)
    assert {problem.code for problem in check(root).problems} == {"data.changed-meanwhile"}


def test_other_classes_make_labels_be_read_again(make_task: MakeTask) -> None:
    root = make_task()
    known = check(root).as_dict()
    content = json.loads((root / "dataset.json").read_text())
    del content["labels"]["2"]
    (root / "dataset.json").write_text(json.dumps(content))
    assert len(check(root, known=known).problems) == 2


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"schema": 0},
        {"schema": 1, "images": [], "labels": 3},
        {"schema": 1, "images": {"l0": {}, "l1": 3, "u0": None}, "labels": {}},
    ],
)
def test_a_memory_that_makes_no_sense_is_passed_over(make_task: MakeTask, known: Any) -> None:
    assert check(make_task(), known=known).problems == []


def test_damaged_records_are_passed_over(make_task: MakeTask) -> None:
    root = make_task()
    first = check(root)
    for key in ("volume", "problems", "size", "path"):
        known = json.loads(json.dumps(first.as_dict()))
        known["images"]["l0"][key] = {"shape": 3}
        assert check(root, known=known) == first


def test_an_interrupt_stops_the_rest(make_task: MakeTask) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(make_task(), progress=interrupt)


def test_image_stats(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", ramp())
    os.utime(path, ns=(5, 7))
    assert image_stats(path) == {"size": path.stat().st_size, "mtime_ns": 7}
    with pytest.raises(FileNotFoundError):
        image_stats(tmp_path / "b.nii.gz")


def test_real_hippocampus_is_clean() -> None:
    data = Path(os.environ.get("PCLAUTO_TEST_DATA", "../shared/data")) / "Task04_Hippocampus"
    if not data.is_dir():
        pytest.skip(f"no real data at {data}")
    task, problems = read_task(data, use_test_images=True)
    assert problems == []
    assert task is not None
    assert (len(task.labeled), len(task.unlabeled), len(task.test)) == (120, 60, 60)
    result = check_cases(task, threads=2)
    assert result.problems == []
    assert result.warnings == []
    assert len(result.images) == 180


def test_values_of_regions_and_ignored_voxels_are_allowed(make_task: MakeTask) -> None:
    regions = {"background": 0, "whole": [1, 2], "core": 2}
    root = make_task(labels=regions, regions_class_order=[1, 2])
    assert check(root).problems == []
    for case in ("l0", "l1"):
        save(label(root, case), label_map() * 3)
    assert {problem.where for problem in check(root).problems} == {str(label(root, case)) for case in ("l0", "l1")}
    root = make_task(labels={"background": 0, "a": 1, "b": 2, "ignore": 3}, folder="Task08_Toy")
    save(label(root, "l0"), label_map() // 2 * 3)
    result = check(root)
    assert result.problems == []
    assert [(warning.code, warning.found) for warning in result.warnings] == [("label.empty", "1 of 2: l0")]


def test_a_region_without_voxels_is_mentioned(make_task: MakeTask) -> None:
    regions = {"background": 0, "whole": [1, 2, 3, 4], "core": [3, 4], "rest": 4}
    result = check(make_task(labels=regions, regions_class_order=[1, 3, 4]))
    assert codes(result.warnings) == ["label.class-absent"] * 2
    assert [warning.what for warning in result.warnings] == [
        "no label holds class 3+4 (core)",
        "no label holds class 4 (rest)",
    ]
