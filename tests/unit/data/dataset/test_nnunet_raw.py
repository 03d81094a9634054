"""Data sets in nnU-Net's raw format: a file per channel, labels for some cases or all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusal import codes
from toys import SHAPE, label_map, ramp, save, write_description

from pcl_auto.data.case import Task
from pcl_auto.data.checks.check_files import check_cases
from pcl_auto.data.dataset.decathlon import find_task, read_task
from pcl_auto.errors import Problem

DESCRIPTION: dict[str, Any] = {
    "channel_names": {"0": "T2", "1": "ADC"},
    "labels": {"background": 0, "PZ": 1, "TZ": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two labeled cases, one without a label, one of imagesUn, one test case; two channels each."""
    root = tmp_path / "nnUNet_raw" / "Dataset005_Prostate"
    write_description(root, DESCRIPTION)
    for folder, case in (("Tr", "a"), ("Tr", "b"), ("Tr", "c"), ("Un", "u"), ("Ts", "t")):
        for channel in (0, 1):
            save(root / f"images{folder}" / f"{case}_{channel:04d}.nii.gz", ramp() + channel)
    for case in ("a", "b"):
        save(root / "labelsTr" / f"{case}.nii.gz", label_map())
    return root


def read(root: Path, **options: Any) -> tuple[Task, list[Problem]]:
    task, problems = read_task(root, **options)
    assert task is not None, problems
    return task, problems


def test_labels_for_some_cases_are_enough(raw: Path) -> None:
    task, problems = read(raw)
    assert problems == []
    assert (task.name, task.number, task.channels) == ("Prostate", 5, ("T2", "ADC"))
    assert [case.id for case in task.labeled] == ["a", "b"]
    assert [case.id for case in task.unlabeled] == ["c", "u"]
    assert [case.id for case in task.test] == ["t"]
    assert [file.name for file in task.cases[0].files] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    more, _ = read(raw, use_test_images=True)
    assert [case.id for case in more.unlabeled] == ["c", "t", "u"]


def test_channels_in_files_of_their_own_are_one_image(raw: Path) -> None:
    task, _ = read(raw)
    checks = check_cases(task, threads=1)
    assert checks.problems == []
    image = checks.images["a"]
    assert (image.shape, image.channels, image.constant_channels) == (SHAPE, 2, ())
    again = check_cases(task, threads=1, known=checks.as_dict())
    assert again.images == checks.images


def test_f102_a_channel_that_stands_for_two(raw: Path) -> None:
    images = raw / "imagesTr"
    for number, case in enumerate("abc", start=1):
        for channel in (0, 1):
            save(images / f"{case}_{channel:04d}.nii.gz", ramp() + 10 * number + channel)

    def found() -> list[str]:
        checks = check_cases(read(raw)[0], threads=1)
        assert checks.problems == []
        return [problem.found for problem in checks.warnings if problem.code == "data.channel-twice"]

    assert found() == []
    shutil.copy(images / "a_0000.nii.gz", images / "a_0001.nii.gz")
    assert found() == ["channel 0 of a = channel 1 of a"]
    save(images / "c_0001.nii.gz", ramp() + 21)  # as b's, in another file
    assert found() == ["channel 0 of a = channel 1 of a, channel 1 of b = channel 1 of c"]
    for channel in (0, 1):
        shutil.copy(images / f"b_{channel:04d}.nii.gz", images / f"c_{channel:04d}.nii.gz")
    assert found() == ["channel 0 of a = channel 1 of a"]  # a whole scan twice is said by `pclauto check`


@pytest.mark.parametrize("name", ["5", "005", "Dataset005_Prostate", "Prostate"])
def test_it_is_found_by_number_and_name(raw: Path, name: str) -> None:
    assert find_task(name, [raw.parent]) == raw


def test_channels_that_do_not_fit_each_other(raw: Path) -> None:
    save(raw / "imagesTr" / "a_0001.nii.gz", ramp((5, 6, 8)))
    save(raw / "imagesTr" / "b_0001.nii.gz", ramp(), np.diag([1.0, 1.0, 2.5, 1.0]))
    save(raw / "imagesTr" / "c_0001.nii.gz", np.zeros(SHAPE, np.int16))
    save(raw / "imagesUn" / "u_0001.nii.gz", np.stack([ramp(), ramp()], axis=-1))
    task, _ = read(raw)
    problems = check_cases(task, threads=1).problems
    found = {(problem.code, Path(problem.where).name) for problem in problems}
    assert found >= {
        ("data.channel-grids", "a_0001.nii.gz"),
        ("data.channel-grids", "b_0001.nii.gz"),
        ("data.constant", "c_0000.nii.gz"),
        ("data.channel-4d", "u_0001.nii.gz"),
    }
    apart = {problem.what for problem in problems if problem.code == "data.channel-grids"}
    assert apart == {"channel and image differ in shape", "channel and image lie apart in space"}
    assert "image of an unlabeled case is constant in channel 1" in [problem.what for problem in problems]


def test_one_channel_that_cannot_be_read(raw: Path) -> None:
    (raw / "imagesTr" / "a_0001.nii.gz").write_bytes(b"")
    task, _ = read(raw)
    checks = check_cases(task, threads=1)
    assert "a" not in checks.images
    assert [(problem.code, Path(problem.where).name) for problem in checks.problems] == [
        ("data.empty", "a_0001.nii.gz")
    ]


def test_everything_wrong_with_the_files_at_once(raw: Path) -> None:
    (raw / "imagesTr" / "b_0001.nii.gz").unlink()
    (raw / "imagesTr" / "c_0000.nii.gz").rename(raw / "imagesTr" / "c.nii.gz")
    save(raw / "labelsTr" / "z.nii.gz", label_map())
    shutil.copy(raw / "imagesTr" / "a_0000.nii.gz", raw / "imagesUn" / "A_0000.nii.gz")
    shutil.copy(raw / "imagesTr" / "a_0001.nii.gz", raw / "imagesUn" / "A_0001.nii.gz")
    (raw / "imagesUn" / "u_0001.nii.gz").unlink()
    (raw / "imagesUn" / "u_0001.nii.gz").symlink_to("/etc/hostname")
    problems = read(raw)[1]
    assert set(codes(problems)) >= {
        "data.channel-files",
        "data.channel-name",
        "data.label-without-image",
        "data.case-twice",
        "data.link-outside",
    }
    assert {"channels of b", "channels of c"} <= {problem.what for problem in problems}


def test_no_label_at_all(raw: Path) -> None:
    shutil.rmtree(raw / "labelsTr")
    assert "data.no-labeled" in codes(read(raw)[1])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"file_ending": ".nrrd"}, "dataset-json.file-ending"),
        ({"dataset": {}}, "dataset-json.file-list"),
        ({"overwrite_image_reader_writer": "NibabelIOWithReorient"}, "dataset-json.reader"),
        ({"overwrite_image_reader_writer": "Tiff3DIO"}, "dataset-json.reader"),
        ({"overwrite_image_reader_writer": ["SimpleITKIO"]}, "dataset-json.reader"),
    ],
)
def test_what_is_not_read_is_said(raw: Path, change: dict[str, Any], code: str) -> None:
    write_description(raw, {**DESCRIPTION, **change})
    assert code in codes(read(raw)[1])


def test_f96_one_file_is_the_label_of_one_case(raw: Path) -> None:
    target = raw / "labelsTr" / "b.nii.gz"
    target.unlink()
    target.symlink_to("a.nii.gz")
    assert codes(read(raw)[1]) == ["label.of-two-cases"]


def test_one_image_under_two_names_and_in_training_and_test(raw: Path) -> None:
    (raw / "imagesUn" / "u_0001.nii.gz").unlink()
    (raw / "imagesUn" / "u_0001.nii.gz").symlink_to("../imagesTr/b_0001.nii.gz")
    (raw / "imagesTs" / "t_0000.nii.gz").unlink()
    os.link(raw / "imagesTr" / "a_0000.nii.gz", raw / "imagesTs" / "t_0000.nii.gz")
    for use_test_images in (False, True):
        _, problems = read(raw, use_test_images=use_test_images)
        assert codes(problems) == ["data.train-and-test", "data.image-twice"]
        assert problems[0].where.endswith("a_0000.nii.gz")
        assert "u_0001.nii.gz" in problems[1].found
