"""F22 to F25, F27, F28: dataset.json, the paths and names in it, links, and lists that contradict each other."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from refusal import codes
from refusals import accepted, describe, image, label, refusal, small_task

from pcl_auto.data.dataset.decathlon import read_task


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return small_task(tmp_path)


def training(task: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((task / "dataset.json").read_text())["training"]
    return found


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "dataset-json.missing"),
        ('{"labels": {', "dataset-json.invalid"),
        ('{"labels": {}, "labels": {}}', "dataset-json.duplicate-key"),
        ('{"numTraining": NaN}', "dataset-json.not-a-number"),
        ("[1, 2]", "dataset-json.not-an-object"),
        ('{"training": 3}', "dataset-json.no-training"),
    ],
)
def test_f22_files_that_are_no_description(task: Path, text: str | None, code: str) -> None:
    (task / "dataset.json").unlink() if text is None else (task / "dataset.json").write_text(text)
    assert code in codes(refusal(task))


def test_f22_a_byte_order_mark_is_no_fault(task: Path) -> None:
    file = task / "dataset.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert accepted(task)


@pytest.mark.parametrize(
    "path",
    ["../secret.nii.gz", "imagesTr/../../secret.nii.gz", "/etc/passwd.nii.gz", "$HOME/x.nii.gz", "~/x.nii.gz",
     "file:///tmp/x.nii.gz", "C:\\x.nii.gz"],
)  # fmt: skip
def test_f23_paths_that_lead_out_are_never_opened(task: Path, path: str) -> None:
    # A pipe without a writer: whoever opens it waits for ever.
    os.mkfifo(task.parent / "secret.nii.gz")
    entries = training(task)
    describe(task, training=[{**entries[0], "image": path}, *entries[1:]])
    code = "data.path-unusable" if "\\" in path else "data.path-outside"
    # The label that its image does not name any more is listed nowhere.
    assert codes(refusal(task)) == [code, "data.label-not-listed"]


def test_f23_a_leading_slash_means_the_folder_as_in_the_real_prostate_task(task: Path) -> None:
    describe(
        task,
        training=[{key: value.replace("./", "/") for key, value in entry.items()} for entry in training(task)],
    )
    assert accepted(task)


@pytest.mark.parametrize("name", ["a b", ".hidden", "x_seg", "x" * 121, "ü", "a\nb", "=1+1", "-x"])
def test_f24_names_that_are_unsafe(task: Path, name: str) -> None:
    entries = training(task)
    for file, folder in ((image(task), "imagesTr"), (label(task), "labelsTr")):
        file.rename(task / folder / f"{name}.nii.gz")
    first = {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
    describe(task, training=[first, *entries[1:]])
    problems = refusal(task)
    assert {"data.case-name", "data.path-unusable"} & set(codes(problems))
    assert all(str(problem).isprintable() for problem in problems)


def test_f24_names_that_differ_in_case_only(task: Path) -> None:
    shutil.copy(image(task), task / "imagesTr" / "PHANTOM_001.nii.gz")
    assert codes(refusal(task)) == ["data.case-twice"]


def test_f25_links_out_of_the_folder_loops_and_dangling_links(task: Path) -> None:
    outside = task.parent / "outside.nii.gz"
    image(task, 1).rename(outside)
    image(task, 1).symlink_to(outside)
    label(task, 2).unlink()
    label(task, 2).symlink_to("nowhere.nii.gz")
    image(task, 3).unlink()
    image(task, 3).symlink_to(image(task, 3).name)
    found = {problem.code: problem.where for problem in refusal(task)}
    assert found.keys() == {"data.link-outside", "data.unreachable", "data.no-labeled"}
    assert found["data.link-outside"] == str(image(task, 1))
    unreachable = [problem.where for problem in refusal(task) if problem.code == "data.unreachable"]
    assert unreachable == [str(label(task, 2)), str(image(task, 3))]


def test_f25_links_inside_and_a_linked_folder_are_followed(task: Path) -> None:
    (task / "store").mkdir()
    image(task).rename(task / "store" / "one.nii.gz")
    image(task).symlink_to("../store/one.nii.gz")
    assert accepted(task)
    linked = task.parent / "linked"
    linked.symlink_to(task)
    assert accepted(linked)


def test_f25_a_folder_of_links_is_followed_when_asked(task: Path) -> None:
    archive = task.parent / "archive"
    shutil.move(task / "imagesTr", archive)
    (task / "imagesTr").mkdir()
    for file in archive.iterdir():
        (task / "imagesTr" / file.name).symlink_to(file)
    links = [problem for problem in refusal(task) if problem.code == "data.link-outside"]
    assert links
    assert all("--follow-symlinks" in problem.fix for problem in links)
    found, problems = read_task(task, follow_links=True)
    assert problems == []
    assert found is not None
    # A loop leads nowhere, whatever is allowed.
    image(task).unlink()
    image(task).symlink_to(image(task).name)
    assert "data.unreachable" in codes(read_task(task, follow_links=True)[1])


def test_f27_lists_that_contradict_each_other(task: Path) -> None:
    entries = training(task)
    describe(task, numTraining=17, training=[*entries, entries[0]], test=[entries[1]["image"]])
    assert codes(refusal(task)) == ["dataset-json.wrong-count", "data.train-and-test", "data.case-twice"]


def test_f28_numbers_of_cases(task: Path, tmp_path: Path) -> None:
    describe(task, training=[], numTraining=0)
    assert "data.label-not-listed" in codes(refusal(task))
    shutil.rmtree(task / "labelsTr")
    assert codes(refusal(task)) == ["data.no-labeled"]
    for folder in ("imagesTr", "imagesTs"):
        shutil.rmtree(task / folder, ignore_errors=True)
    describe(task, test=[], numTest=0)
    assert codes(refusal(task)) == ["data.no-labeled"]
    # One labeled case is enough to begin with, and no unlabeled case leaves nnU-Net alone (test_training.py).
    assert accepted(small_task(tmp_path / "one", labeled=1, unlabeled=0, test=0))
