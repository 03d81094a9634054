"""F39, F41: a run goes on only as what it was, from what it was planned on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from refusal import refused
from shared import PLAN_OPTIONS
from shell import Shell
from tiny_model import make_model

from pcl_auto.errors import StateError
from pcl_auto.nnunet.pretrained.strict_start import refuse_other_model
from pcl_auto.workspace.files import read_json, write_json
from pcl_auto.workspace.run_record import compare_versions

VERSIONS = {"torch": "2.9.0", "nnunetv2": "2.8.1"}


def compare(now: dict[str, str], *, deterministic: bool) -> list[tuple[str, dict[str, Any]]]:
    said: list[tuple[str, dict[str, Any]]] = []
    compare_versions(
        VERSIONS, now, Path("run"), deterministic=deterministic, listener=lambda *event: said.append(event)
    )
    return said


def test_f39_other_versions_are_named() -> None:
    changed = {**VERSIONS, "torch": "2.10.0"}
    assert compare(changed, deterministic=False) == [("versions", {"torch": ("2.9.0", "2.10.0")})]
    assert compare(VERSIONS, deterministic=True) == []


def test_f39_a_deterministic_run_is_refused_with_other_versions() -> None:
    with refused(StateError, "run.versions-changed") as refusal:
        compare({**VERSIONS, "torch": "2.10.0"}, deterministic=True)
    assert refusal.problem.what.endswith("another torch")
    assert (refusal.problem.expected, refusal.problem.found) == ("2.9.0", "2.10.0")
    assert "--restart" in refusal.problem.fix


def test_f41_an_image_that_changed_since_it_was_planned(shell: Shell, own_copy: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shell.pclauto("plan", own_copy, "--workspace", work, *PLAN_OPTIONS)
    changed, gone = sorted((own_copy / "imagesTr").iterdir())[:2]
    changed.write_bytes(changed.read_bytes() + b"\0")
    gone.unlink()
    train = ("train", "--workspace", work, "--recipe", "tiny.toml", "--device", "cpu")
    problems = shell.refusal(*train, code=4)
    assert [problem["code"] for problem in problems] == ["plan.image-changed"] * 2
    assert {Path(problem["where"]) for problem in problems} == {changed, gone}
    assert not list((work / "nnUNet_results").rglob("run.json"))


@pytest.mark.slow
def test_f39_the_classes_are_those_of_the_plan(shell: Shell, planned: Path) -> None:
    (file,) = planned.glob("nnUNet_preprocessed/*/dataset.json")
    described = read_json(file)
    write_json(file, {**described, "labels": {"background": 0, "edited": 1}})
    shell.pclauto("train", "--workspace", planned, "--recipe", "tiny.toml", "--device", "cpu")
    (model,) = planned.glob("nnUNet_results/*/*/dataset.json")
    assert read_json(model)["labels"] == described["labels"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "labels"),
        ({"labels": {"background": 0, "shell": 1, "core": 2}}, "labels"),
        ({"channel_names": {"0": "another"}}, "channel_names"),
    ],
)
def test_f39_a_model_to_start_from_that_means_something_else(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    model = make_model(tmp_path / "model")
    plans, theirs = (read_json(model / name) for name in ("plans.json", "dataset.json"))
    checkpoint = model / "fold_all" / "checkpoint_final.pth"
    refuse_other_model(checkpoint, plans, "3d_fullres", theirs)
    with refused(StateError, "model.start-differs") as refusal:
        refuse_other_model(checkpoint, plans, "3d_fullres", {**theirs, **change})
    assert refusal.problem.what.endswith(f"other {what}")
