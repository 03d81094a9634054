"""Test ``pclauto init`` as it is typed: two folders become what ``pclauto plan`` reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from shell import Shell


@pytest.fixture
def folders(shell: Shell, task: Path) -> Path:
    """Lay a task's images and masks into plain folders, the masks under names of their own."""
    shutil.copytree(task / "imagesTr", shell.folder / "images")
    (shell.folder / "masks").mkdir()
    for mask in (task / "labelsTr").iterdir():
        shutil.copyfile(mask, shell.folder / "masks" / f"mask_{mask.name}")
    return shell.folder


def test_init_then_plan(shell: Shell, folders: Path) -> None:
    done = shell.pclauto(
        "init", "images", "masks", "--labels", "core,rim,spot", "--channels", "T2,ADC", "-o", "Task_Toy/"
    )
    assert "next: pclauto plan Task_Toy" in done.stderr
    assert '"mask_" of the mask left out: 2' in done.stdout
    planned = json.loads(shell.pclauto("plan", "Task_Toy", "--gpu-memory-gb", "1", "--dry-run", "--json").stdout)
    assert len(planned["labeled"]) == 2
    assert len(planned["unlabeled"]) == 4
    assert planned["channels"] == ["T2", "ADC"]
    assert sorted(path.name for path in folders.iterdir() if path.is_dir()) == ["Task_Toy", "images", "masks"]


def test_init_as_json_and_its_refusals(shell: Shell, folders: Path) -> None:
    tried = shell.pclauto("init", "images", "masks", "--channels", "T2,ADC", "--dry-run", "--json")
    facts = json.loads(tried.stdout)
    assert (facts["dry_run"], facts["format"], facts["problems"]) == (True, "decathlon", [])
    assert facts["folder"] == f"Task_{folders.name}"
    assert "dry run" not in tried.stdout
    (found,) = shell.refusal("init", "images", "masks", code=3)
    assert found["code"] == "init.channels"
    assert {problem["code"] for problem in shell.refusal("init", "images", "images", "--labels", "", code=2)} == {
        "init.same-folder",
        "init.labels",
    }
    assert sorted(path.name for path in folders.iterdir() if path.is_dir()) == ["images", "masks"]
