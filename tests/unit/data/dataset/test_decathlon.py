"""The decathlon reader: refusals first, then every spelling that real tasks use."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusal import codes, refused
from toys import label_map, ramp, read_description, save, write_description

from pcl_auto.data.case import Case, Task
from pcl_auto.data.dataset.decathlon import find_task, read_task
from pcl_auto.errors import Problem, UsageError

MakeTask = Callable[..., Path]


def problems_of(root: Path, **options: bool) -> list[Problem]:
    """Return all problems, each with what, where and fix."""
    problems = read_task(root, **options)[1]
    assert all(problem.what and problem.where and problem.fix for problem in problems)
    return problems


def only_problem(root: Path, **options: bool) -> Problem:
    problems = problems_of(root, **options)
    assert len(problems) == 1, [str(problem) for problem in problems]
    return problems[0]


def sound_task(root: Path, **options: bool) -> Task:
    task, problems = read_task(root, **options)
    assert problems == [], [str(problem) for problem in problems]
    assert task is not None
    return task


def ids(cases: tuple[Case, ...]) -> list[str]:
    return [case.id for case in cases]


def change_entry(root: Path, number: int, **parts: Any) -> None:
    content = read_description(root)
    content["training"][number] |= parts
    write_description(root, content)


# dataset.json itself


def test_no_folder_and_no_file(tmp_path: Path) -> None:
    for root in (tmp_path / "nowhere", tmp_path):
        assert read_task(root)[0] is None
        assert only_problem(root).code == "dataset-json.missing"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n  "labels": {,\n}', "line 2, column 14"),
        ("", "line 1"),
        ("[1, 2]", "[1, 2]"),
        ("[" * 100_000, ""),
        ('{"numTraining": ' + "9" * 10_000 + "}", ""),
    ],
)
def test_invalid_json(tmp_path: Path, text: str, words: str) -> None:
    write_description(tmp_path, text)
    task, problems = read_task(tmp_path)
    assert task is None
    assert codes(problems) == ["dataset-json.not-an-object" if text == "[1, 2]" else "dataset-json.invalid"]
    assert words in problems[0].found
    assert problems[0].where == str(tmp_path / "dataset.json")


def test_not_utf8(make_task: MakeTask) -> None:
    root = make_task()
    (root / "dataset.json").write_bytes((root / "dataset.json").read_text().encode("utf-16"))
    assert only_problem(root).code == "dataset-json.not-utf8"


def test_duplicate_keys_and_nan(make_task: MakeTask) -> None:
    root = make_task()
    text = (root / "dataset.json").read_text()
    write_description(root, text.replace('"test": []', '"test": [], "release": NaN, "release": 1'))
    found = {problem.code: problem.found for problem in problems_of(root)}
    assert found == {"dataset-json.duplicate-key": '"release"', "dataset-json.not-a-number": "NaN"}


@pytest.mark.parametrize("training", [None, {}, "imagesTr", 3])
def test_training_is_no_list(make_task: MakeTask, training: Any) -> None:
    root = make_task(training=training)
    assert read_task(root)[0] is None
    assert only_problem(root).code == "dataset-json.no-training"


@pytest.mark.parametrize("test", [{"0": "a.nii.gz"}, "imagesTs", 3])
def test_test_is_no_list(make_task: MakeTask, test: Any) -> None:
    assert only_problem(make_task(test=test)).code == "dataset-json.not-a-list"


def test_far_too_large(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_task()
    monkeypatch.setattr("pcl_auto.data.dataset.dataset_json._MAX_BYTES", 100)
    assert only_problem(root).code == "dataset-json.too-large"


def test_a_description_without_the_right_to_read_it(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> str:
        raise PermissionError("no right")  # root may read everything

    root = make_task()
    monkeypatch.setattr(Path, "read_text", refuse)
    assert only_problem(root).code == "dataset-json.unreadable"


def test_a_folder_without_the_right_to_list_it(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> list[Path]:
        raise PermissionError(errno.EACCES, "no right", str(folder))

    root = make_task(unlabeled=0)
    monkeypatch.setattr(Path, "iterdir", refuse)
    problems = problems_of(root)
    assert set(codes(problems)) == {"data.folder-unreadable"}
    assert str(root / "imagesTr") in {problem.where for problem in problems}


@pytest.mark.parametrize(
    "entry", [None, 3, [], {}, {"image": 3}, {"label": "x.nii"}, {"image": "a.nii", "label": 3}, {"image": ["a.nii"]}]
)
def test_entry_of_another_shape(make_task: MakeTask, entry: Any) -> None:
    root = make_task()
    content = read_description(root)
    content["training"].append(entry)
    content["numTraining"] = 3
    write_description(root, content)
    problem = only_problem(root)
    assert problem.code == "dataset-json.bad-entry"
    assert problem.what.startswith("training[2]")


@pytest.mark.parametrize("stated", [1, 3, "three", -2, True, [], 2.5])
def test_wrong_number_of_training_cases(make_task: MakeTask, stated: Any) -> None:
    assert only_problem(make_task(numTraining=stated)).code == "dataset-json.wrong-count"


@pytest.mark.parametrize(
    "modality",
    [None, {}, [], 3, {"1": "T2"}, {"0": "T2", "2": "ADC"}, {"0": 3}, {"x": "T2"}, [""], {"0": "a", "00": "b"}],
)
def test_channels_that_make_no_sense(make_task: MakeTask, modality: Any) -> None:
    root = make_task(modality=modality)
    assert read_task(root)[0] is None
    code = "dataset-json.no-channels" if modality is None else "dataset-json.bad-channels"
    assert only_problem(root).code == code


def test_two_lists_of_channels_that_differ(make_task: MakeTask) -> None:
    assert only_problem(make_task(channel_names=["CT"])).code == "dataset-json.two-channel-lists"


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        (None, "dataset-json.no-classes"),
        ([], "dataset-json.no-classes"),
        ({}, "dataset-json.no-classes"),
        ({"0": "background", "1": "a", "3": "b"}, "dataset-json.label-gap"),
        ({"background": 0, "a": 2}, "dataset-json.label-gap"),
        ({"0": "background", "-1": "a"}, "dataset-json.label-gap"),
        ({"1": "a", "2": "b"}, "dataset-json.no-background"),
        ({"0": "liver", "1": "tumor"}, "dataset-json.zero-not-background"),
        ({"liver": 0, "background": 1}, "dataset-json.zero-not-background"),
        ({"background": 0}, "dataset-json.background-only"),
        ({"background": 0, "a": 1.5}, "dataset-json.label-not-whole"),
        ({"background": 0, "a": "x"}, "dataset-json.label-not-whole"),
        ({"background": 0, "a": True}, "dataset-json.label-not-whole"),
        ({"background": 0, "a": None}, "dataset-json.label-not-whole"),
        ({"0": "background", "1.5": "a"}, "dataset-json.label-not-whole"),
        ({"0": "background", "1": ""}, "dataset-json.label-not-whole"),
        ({"background": 0, "a": 1, "b": 1}, "dataset-json.label-twice"),
        ({"0": "background", "1": "a", "2": "a"}, "dataset-json.label-twice"),
        ({"background": 0, "a": []}, "dataset-json.label-not-whole"),
        ({"background": 0, "a": [1, "x"]}, "dataset-json.label-not-whole"),
        ({"background": [0, 1], "a": 1}, "dataset-json.zero-not-background"),
        ({"background": 0, "a": [0, 1], "b": 2}, "dataset-json.zero-not-background"),
        ({"background": 0, "a": [1, 3], "b": 3}, "dataset-json.label-gap"),
        ({"background": 0, "a": [1, 2], "b": [2, 1]}, "dataset-json.label-twice"),
        ({"background": 0, "a": 1, "both": [1, 2]}, "dataset-json.regions-order"),
        ({"background": 0, "a": 2, "ignore": 1}, "dataset-json.ignore-not-last"),
        ({"background": 0, "a": 1, "ignore": [1, 2]}, "dataset-json.ignore-not-last"),
        ({"background": 0, "a": [1, 2], "b": 1, "ignore": 2}, "dataset-json.ignore-not-last"),
        ({"background": 0, "ignore": 1}, "dataset-json.background-only"),
    ],
)
def test_labels_that_make_no_sense(make_task: MakeTask, labels: Any, code: str) -> None:
    root = make_task(labels=labels)
    task = read_task(root)[0]
    assert task is None or code == "dataset-json.regions-order"
    assert only_problem(root).code == code


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"background": 0, "a": 1, "b": 1}, "the value 1"),
        ({"0": "background", "1": "a", "2": "a"}, "the name a"),
        ({"background": 0, "a": [1, 2], "b": [2, 1]}, "the value 1+2"),
    ],
)
def test_what_two_labels_share_is_named(make_task: MakeTask, labels: Any, words: str) -> None:
    assert words in only_problem(make_task(labels=labels)).what


NESTED = {"whole": [3, 1, 2], "core": [2, 3], "enhancing": 3}


@pytest.mark.parametrize(
    ("labels", "order", "expected"),
    [
        ({"background": 0, **NESTED}, [1, 2, 3], {"background": 0, **NESTED, "whole": [1, 2, 3]}),
        (
            {**NESTED, "background": 0, "Ignore": 4},
            [1, 2, 3],
            {**NESTED, "whole": [1, 2, 3], "background": 0, "ignore": 4},
        ),
        # Kidney, masses, tumor: the order of the regions stands, not that of their values.
        (
            {"background": 0, "b": [1, 2, 3], "c": [2, 3], "a": [2]},
            [1, 3, 2],
            {"background": 0, "b": [1, 2, 3], "c": [2, 3], "a": 2},
        ),
        ({"0": "background", "2": "ignore", "1": "a"}, None, {"background": 0, "a": 1, "ignore": 2}),
        ({"background": 0, "a": [1], "b": 2}, None, {"background": 0, "a": 1, "b": 2}),
    ],
)
def test_regions_and_an_ignore_label(make_task: MakeTask, labels: Any, order: Any, expected: Any) -> None:
    root = make_task(labels=labels, regions_class_order=order)
    task, problems = read_task(root)
    assert problems == []
    assert task is not None
    assert list(task.labels.items()) == list(expected.items())
    assert task.regions_class_order == (None if order is None else tuple(order))


@pytest.mark.parametrize(
    "order", [None, 3, [], [1, 2], [1, 2, 3, 3], [1, 2, 4], [1, 2, "x"], [3, 2, 1], [2, 3, 3], [1, 3, 3], [1, 1, 3]]
)
def test_an_order_that_makes_other_regions(make_task: MakeTask, order: Any) -> None:
    root = make_task(labels={"background": 0, **NESTED}, regions_class_order=order)
    assert only_problem(root).code == "dataset-json.regions-order"


def test_everything_is_listed_at_once(make_task: MakeTask) -> None:
    root = make_task(labels={"0": "background", "2": "a"}, modality={"1": "T2"}, numTraining=9)
    (root / "imagesTr" / "l0.nii.gz").unlink()
    (root / "labelsTr" / "l1.nii.gz").unlink()
    assert sorted(codes(problems_of(root))) == [
        "data.image-missing", "data.label-missing", "data.no-labeled",
        "dataset-json.bad-channels", "dataset-json.label-gap", "dataset-json.wrong-count",
    ]  # fmt: skip


# Paths


@pytest.mark.parametrize(
    "text",
    [
        "../canary.nii.gz",
        "imagesTr/../../canary.nii.gz",
        "./../canary.nii.gz",
        "/etc/canary.nii.gz",
        "//etc/canary.nii.gz",
        "$HOME/canary.nii.gz",
        "imagesTr/${HOME}/canary.nii.gz",
        "~/canary.nii.gz",
        "~root/canary.nii.gz",
        "file:///canary.nii.gz",
        "https://example.org/canary.nii.gz",
        "C:/canary.nii.gz",
        ".",
        "/",
        "imagesTr\\canary.nii.gz",
        "imagesTr/canary\n.nii.gz",
        "imagesTr/canary\0.nii.gz",
        "imagesTr/\x1b[2Jcanary.nii.gz",
    ],
)
@pytest.mark.parametrize("part", ["image", "label"])
def test_path_that_leads_elsewhere(make_task: MakeTask, text: str, part: str) -> None:
    root = make_task(labeled=3)
    save(root.parent / "canary.nii.gz", ramp())
    change_entry(root, 0, **{part: text})
    problem = problems_of(root)[0]
    assert problem.code == ("data.path-outside" if text.isprintable() and "\\" not in text else "data.path-unusable")
    assert "training[0]" in problem.where
    assert str(problem).isprintable()
    task = read_task(root)[0]
    assert task is not None
    assert not any("canary" in str(case) for case in task.cases)


def test_no_file_is_opened(make_task: MakeTask) -> None:
    """A pipe would block whoever opens it."""
    root = make_task(labeled=3, unlabeled=0)
    for pipe in (root / "imagesTr" / "pipe.nii.gz", root.parent / "outside.nii.gz"):
        os.mkfifo(pipe)
    (root / "imagesTr" / "link.nii.gz").symlink_to(root.parent / "outside.nii.gz")
    change_entry(root, 0, image="imagesTr/pipe.nii.gz")
    change_entry(root, 1, image="imagesTr/link.nii.gz")
    found: list[Problem] = []
    thread = threading.Thread(target=lambda: found.extend(problems_of(root)), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert {"data.not-a-file", "data.link-outside"} <= set(codes(found))


@pytest.mark.parametrize("listed", [True, False])
def test_links_out_of_the_data_set(make_task: MakeTask, listed: bool) -> None:
    root = make_task(unlabeled=0)
    outside = save(root.parent / "outside.nii.gz", ramp())
    (root / "imagesTr" / "x.nii.gz").symlink_to(outside)
    if listed:
        change_entry(root, 0, image="imagesTr/x.nii.gz")
        (root / "imagesTr" / "l0.nii.gz").unlink()
    problem = only_problem(root)
    assert problem.code == "data.link-outside"
    assert problem.where.endswith("x.nii.gz")


def test_linked_folder_dangling_link_and_loop(make_task: MakeTask) -> None:
    root = make_task(unlabeled=0)
    (root.parent / "elsewhere").mkdir()
    (root / "imagesUn").symlink_to(root.parent / "elsewhere")
    (root / "imagesTr" / "a.nii.gz").symlink_to("nothing.nii.gz")
    (root / "imagesTr" / "b.nii.gz").symlink_to("b.nii.gz")
    assert codes(problems_of(root)) == ["data.unreachable", "data.unreachable", "data.link-outside"]


def test_linked_dataset_json(make_task: MakeTask) -> None:
    root = make_task()
    (root / "dataset.json").rename(root.parent / "dataset.json")
    (root / "dataset.json").symlink_to("../dataset.json")
    assert only_problem(root).code == "data.link-outside"


def test_links_inside_are_followed(make_task: MakeTask) -> None:
    root = make_task()
    (root / "store").mkdir()
    (root / "imagesTr" / "l0.nii.gz").rename(root / "store" / "blob")
    (root / "imagesTr" / "l0.nii.gz").symlink_to("../store/blob")
    assert ids(sound_task(root).cases) == ["l0", "l1", "u0"]


def test_missing_image_and_label(make_task: MakeTask) -> None:
    root = make_task(labeled=3)
    (root / "imagesTr" / "l0.nii.gz").unlink()
    (root / "labelsTr" / "l1.nii.gz").unlink()
    image, label = problems_of(root)
    assert image.code == "data.image-missing"
    assert image.expected == str(root / "imagesTr" / "l0.nii.gz")
    assert label.code == "data.label-missing"
    assert 'drop the "label" key' in label.fix
    task = read_task(root)[0]
    assert task is not None
    assert ids(task.cases) == ["l2", "u0"]


def test_image_that_is_a_folder(make_task: MakeTask) -> None:
    root = make_task()
    (root / "imagesTr" / "x.nii").mkdir()
    problem = only_problem(root)
    assert (problem.code, problem.found) == ("data.not-a-file", "a folder")


def test_folder_that_is_a_file(make_task: MakeTask) -> None:
    root = make_task()
    (root / "imagesUn").touch()
    problem = only_problem(root)
    assert (problem.code, problem.expected) == ("data.not-a-folder", "a folder")


def test_other_formats(make_task: MakeTask) -> None:
    root = make_task(labeled=3)
    (root / "imagesTr" / "a.mha").touch()
    (root / "labelsTr" / "b.Nrrd").touch()
    (root / "imagesUn").mkdir()
    (root / "imagesUn" / "c.nii.bz2").touch()
    (root / "imagesTr" / "notes.txt").touch()
    change_entry(root, 0, image="imagesTr/l0.nrrd")
    found = [problem.found for problem in problems_of(root) if problem.code == "data.not-named-nifti"]
    assert found == ["'imagesTr/l0.nrrd'", ".Nrrd", ".mha", ".bz2"]


# Cases


@pytest.mark.parametrize(
    "name", ["a_seg", "_a", "-a", "a b", "a\u0430", "ä", "a,b", "a;b", "=a", "a" * 121, "a\nb", "a\x1b[2J", "<script>"]
)
def test_case_names(make_task: MakeTask, name: str) -> None:
    root = make_task(unlabeled=0)
    save(root / "imagesTr" / "x.nii.gz", ramp()).rename(root / "imagesTr" / f"{name}.nii.gz")
    problem = only_problem(root)
    assert problem.code == "data.case-name"
    assert "letters, digits" in problem.expected
    assert str(problem).isprintable()


def test_case_listed_twice_and_names_that_differ_in_case(make_task: MakeTask) -> None:
    root = make_task(unlabeled=0)
    content = read_description(root)
    content["training"].append(content["training"][0])
    content["numTraining"] = 3
    write_description(root, content)
    save(root / "imagesTr" / "L1.nii.gz", ramp())
    first, second = problems_of(root)
    assert first.code == second.code == "data.case-twice"
    assert "l0" in first.found
    assert "L1" in second.found


def test_the_same_case_with_both_suffixes(make_task: MakeTask) -> None:
    root = make_task(unlabeled=0)
    save(root / "imagesTr" / "l0.nii", ramp())
    assert only_problem(root).code == "data.case-twice"


def test_one_image_under_two_names(make_task: MakeTask) -> None:
    root = make_task(unlabeled=0)
    (root / "imagesTr" / "x.nii.gz").symlink_to("l0.nii.gz")
    assert only_problem(root).code == "data.image-twice"


@pytest.mark.parametrize("use_test_images", [True, False])
def test_image_in_training_and_test(make_task: MakeTask, use_test_images: bool) -> None:
    root = make_task(test=["./imagesTr/l1.nii.gz"])
    problem = only_problem(root, use_test_images=use_test_images)
    assert problem.code == "data.train-and-test"


def test_image_in_training_and_linked_as_test(make_task: MakeTask) -> None:
    root = make_task()
    (root / "imagesTs").mkdir()
    os.link(root / "imagesTr" / "l1.nii.gz", root / "imagesTs" / "t.nii.gz")
    assert only_problem(root).code == "data.train-and-test"


def test_no_labeled_case_and_no_case(make_task: MakeTask) -> None:
    for number, found in ((2, "2 unlabeled cases"), (0, "no cases")):
        problem = only_problem(make_task(labeled=0, unlabeled=number, folder=f"Task0{number}_Toy"))
        assert (problem.code, problem.found) == ("data.no-labeled", found)


def test_label_that_is_not_listed(make_task: MakeTask) -> None:
    root = make_task()
    path = save(root / "labelsTr" / "u0.nii.gz", label_map())
    problem = only_problem(root)
    assert problem.code == "data.label-not-listed"
    assert problem.where == str(path)


def test_missing_test_image(make_task: MakeTask) -> None:
    root = make_task(test=["./imagesTs/t0.nii.gz", "./imagesTs/t1.nii.gz"])
    assert sound_task(root).test == ()  # the folder was never downloaded
    assert len(problems_of(root, use_test_images=True)) == 2
    save(root / "imagesTs" / "t0.nii.gz", ramp())
    assert only_problem(root).code == "data.image-missing"


def test_bad_path_of_a_test_image(make_task: MakeTask) -> None:
    assert only_problem(make_task(test=["../t0.nii.gz"])).code == "data.path-outside"


# Sound tasks


def test_a_plain_task(make_task: MakeTask) -> None:
    root = make_task()
    task = sound_task(root)
    assert (task.root, task.name, task.number) == (root.resolve(), "Toy", 7)
    assert task.channels == ("MRI",)
    assert task.labels == {"background": 0, "core": 1, "rim": 2}
    assert ids(task.labeled) == ["l0", "l1"]
    assert ids(task.unlabeled) == ["u0"]
    assert task.labeled[0] == Case("l0", root / "imagesTr" / "l0.nii.gz", root / "labelsTr" / "l0.nii.gz", "training")
    assert task.unlabeled[0].source == "imagesTr"


def test_the_spellings_of_the_real_prostate_task(make_task: MakeTask) -> None:
    root = make_task(labeled=3)
    content = read_description(root)
    for entry in content["training"]:
        for part in entry:
            entry[part] = entry[part].removeprefix(".")
    content["training"].reverse()
    content["relase"] = "1.0"
    write_description(root, "\ufeff" + json.dumps(content))
    assert ids(sound_task(root).cases) == ["l0", "l1", "l2", "u0"]


def test_absolute_paths_inside_the_task(make_task: MakeTask, tmp_path: Path) -> None:
    root = make_task()
    (tmp_path / "link").symlink_to(root)
    change_entry(root, 0, image=str(root / "imagesTr" / "l0.nii.gz"))
    change_entry(root, 1, image=str(tmp_path / "link" / "imagesTr" / "l1.nii.gz"))
    assert ids(sound_task(tmp_path / "link").labeled) == ["l0", "l1"]


def test_the_other_suffix_is_accepted(make_task: MakeTask) -> None:
    root = make_task()
    change_entry(root, 0, image="imagesTr/l0.nii", label="labelsTr/l0.nii")
    assert sound_task(root).cases[0].image.name == "l0.nii.gz"


@pytest.mark.parametrize(
    "labels",
    [
        {"2": "rim", "0": "Background", "1": "core"},
        {"rim": 2, "background": 0, "core": 1},
        {"background": "0", "core": "1", "rim": "2"},
        {"background": 0.0, "core": 1, "rim": 2},
    ],
)
def test_labels_either_way_round(make_task: MakeTask, labels: Any) -> None:
    task = sound_task(make_task(labels=labels))
    assert list(task.labels.items()) == [("background", 0), ("core", 1), ("rim", 2)]


@pytest.mark.parametrize(
    "changes",
    [
        {"modality": {"1": "ADC", "0": "T2"}},
        {"modality": ["T2", "ADC"]},
        {"modality": None, "channel_names": {"0": "T2", "1": "ADC"}},
        {"modality": ["T2", "ADC"], "channel_names": {"0": "T2", "1": "ADC"}},
    ],
)
def test_channels_in_key_order(make_task: MakeTask, changes: Any) -> None:
    assert sound_task(make_task(**changes)).channels == ("T2", "ADC")


def test_ten_channels_are_in_the_order_of_their_numbers(make_task: MakeTask) -> None:
    names = {str(number): f"c{number}" for number in reversed(range(12))}
    assert sound_task(make_task(modality=names)).channels == tuple(f"c{number}" for number in range(12))


@pytest.mark.parametrize("entry", ["i.nii.gz", {"image": "i.nii.gz"}, {"image": "i.nii.gz", "label": None}])
def test_listed_case_without_label(make_task: MakeTask, entry: Any) -> None:
    root = make_task(unlabeled=0)
    save(root / "i.nii.gz", ramp())
    content = read_description(root)
    content["training"].append(entry)
    content["numTraining"] = "3"
    write_description(root, content)
    assert sound_task(root).unlabeled == (Case("i", root / "i.nii.gz", None, "training"),)


def test_a_listed_case_without_label_may_have_a_label_file(make_task: MakeTask) -> None:
    root = make_task()
    content = read_description(root)
    content["training"][1] = {"image": "imagesTr/l1.nii.gz", "label": ""}
    write_description(root, content)
    task = sound_task(root)
    assert ids(task.labeled) == ["l0"]
    assert ids(task.unlabeled) == ["l1", "u0"]


def test_where_unlabeled_cases_come_from(make_task: MakeTask) -> None:
    root = make_task(test=["./imagesTs/t0.nii.gz", {"image": "./imagesTs/t1.nii.gz", "label": "x"}])
    for name in ("t0", "t1", "t2"):
        save(root / "imagesTs" / f"{name}.nii.gz", ramp())
    save(root / "imagesUn" / "n0.nii", ramp())
    task = sound_task(root)
    assert {case.id: case.source for case in task.unlabeled} == {"u0": "imagesTr", "n0": "imagesUn"}
    assert [(case.id, case.label, case.source) for case in task.test] == [
        (name, None, "imagesTs") for name in ("t0", "t1", "t2")
    ]
    wide = sound_task(root, use_test_images=True)
    assert ids(wide.unlabeled) == ["n0", "t0", "t1", "t2", "u0"]
    assert wide.test == task.test


def test_a_test_name_may_repeat_a_training_name_until_they_share_a_pool(make_task: MakeTask) -> None:
    root = make_task()
    save(root / "imagesTs" / "l0.nii.gz", ramp() + 5)
    sound_task(root)
    assert only_problem(root, use_test_images=True).code == "data.case-twice"


def test_hidden_files_are_nobody(make_task: MakeTask) -> None:
    root = make_task()
    for folder in ("imagesTr", "labelsTr"):
        (root / folder / "._l0.nii.gz").write_bytes(b"\0\5\x16\7")
        (root / folder / ".DS_Store").touch()
    assert ids(sound_task(root).cases) == ["l0", "l1", "u0"]


@pytest.mark.parametrize(
    ("folder", "name", "number"),
    [("Task05_Prostate", "Prostate", 5), ("Task06_My_Organ", "My_Organ", 6), ("my-scans", "my-scans", None)],
)
def test_names(make_task: MakeTask, folder: str, name: str, number: int | None) -> None:
    task = sound_task(make_task(folder=folder))
    assert (task.name, task.number) == (name, number)


def test_the_current_folder(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_task())
    assert sound_task(Path()).name == "Toy"


def test_reading_changes_nothing(make_task: MakeTask) -> None:
    root = make_task()

    def state() -> list[tuple[str, int]]:
        return sorted((str(path), path.stat().st_mtime_ns) for path in root.rglob("*"))

    before = state()
    sound_task(root)
    assert state() == before


def test_any_json_is_read_or_reported(make_task: MakeTask) -> None:
    """Seeded junk anywhere in a sound description never raises, and never passes without a problem."""
    root = make_task()
    sound = read_description(root)
    dice = random.Random(5)
    junk: list[Any] = [
        None,
        True,
        -1,
        3,
        1.5,
        1e300,
        "",
        "..",
        "/",
        "x" * 5000,
        "\ud800",
        [],
        [[]],
        {},
        {"0": {}},
        {"": ""},
    ]
    for _ in range(400):
        content = json.loads(json.dumps(sound))
        node, key = content, dice.choice(list(content))
        while isinstance(node[key], dict | list) and node[key] and dice.random() < 0.7:
            node = node[key]
            key = dice.choice(list(node)) if isinstance(node, dict) else dice.randrange(len(node))
        node[key] = dice.choice(junk)
        write_description(root, content)
        task, problems = read_task(root)
        assert task or problems
        assert all(str(problem).isprintable() for problem in problems)


# Finding a task


@pytest.fixture
def library(tmp_path: Path) -> list[Path]:
    for folder in ("one/Task05_Prostate", "one/Task04_Hippocampus", "two/Task05_Prostate", "two/Task50_Hat", "two/bag"):
        write_description(tmp_path / folder, {})
    (tmp_path / "one" / "Task09_Empty").mkdir()
    return [tmp_path / "one", tmp_path / "two", tmp_path / "nowhere"]


@pytest.mark.parametrize(
    "name", ["prostate", "task04_hippocampus", "TASK04", "9", "Task09_Empty", "Task5_", "", "x" * 5000]
)
def test_unknown_task(library: list[Path], name: str) -> None:
    with refused(UsageError, "data.unknown-task") as refusal:
        find_task(name, library)
    assert refusal.error.exit_code == 2
    assert all(str(folder) in str(refusal.error) for folder in library)


def test_near_misses_are_named(library: list[Path]) -> None:
    with refused(UsageError, "data.unknown-task") as refusal:
        find_task("Hipocampus", library)
    assert "Hippocampus" in refusal.problem.found
    with refused(UsageError, "data.unknown-task") as refusal:
        find_task("777", library)
    assert "Task50_Hat" in refusal.problem.found


def test_folder_without_dataset_json(library: list[Path]) -> None:
    with refused(UsageError, "data.unknown-task") as refusal:
        find_task(str(library[0] / "Task09_Empty"), library)
    assert "no dataset.json in it" in refusal.problem.found


@pytest.mark.parametrize("name", ["5", "05", "Task05", "Task5", "Prostate"])
def test_short_form_that_fits_two(library: list[Path], name: str) -> None:
    with refused(UsageError, "data.task-ambiguous"):
        find_task(name, library)
    assert find_task(name, library[:1]) == library[0] / "Task05_Prostate"


def test_found_tasks(library: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, _ = library
    assert find_task("Task05_Prostate", library) == one / "Task05_Prostate"
    assert find_task("Task05_Prostate", [two, one]) == two / "Task05_Prostate"
    assert find_task("4", library) == one / "Task04_Hippocampus"
    assert find_task("Hat", library) == two / "Task50_Hat"
    assert find_task("bag", library) == two / "bag"
    assert find_task(str(two / "bag"), []) == two / "bag"
    monkeypatch.chdir(two)
    assert find_task("bag", []) == Path("bag")


def test_one_folder_under_two_names_is_one_task(library: list[Path]) -> None:
    shutil.rmtree(library[1] / "Task05_Prostate")
    (library[1] / "Task05_Prostate").symlink_to(library[0] / "Task05_Prostate")
    assert find_task("5", library).name == "Task05_Prostate"
