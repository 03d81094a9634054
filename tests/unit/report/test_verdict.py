from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from report_files import write_run, write_scores

from pcl_auto.report.find_baseline import mirroring_in_words
from pcl_auto.report.rounds import describe_use, round_uses, why_unused
from pcl_auto.report.verdict import verdict_sentence
from pcl_auto.training.request import SUPERVISED_TRAINER
from pcl_auto.training.run_facts import read_run
from pcl_auto.workspace.folders import Workspace

WORKSPACE = Workspace.find(Path("/anywhere"), {})
CASES = [f"t{index}" for index in range(12)]
ALONE = [{"event": "degenerate", "round": number, "reasons": ["class core: nothing"]} for number in (1, 2)]
FIRST_BACK = {"event": "rolled_back", "round": 1, "epoch": 2, "reasons": ["class core has vanished everywhere"]}


def verdict(folder: Path, own: float | None, alone: float | None, *, step: float = 0.0, **run: Any) -> str:
    """Return the sentence on a run and its baseline with these Dice scores; ``step`` between its cases."""
    model = write_run(folder, **run)
    if alone is not None:
        write_scores(write_run(folder, trainer=SUPERVISED_TRAINER), dict.fromkeys(CASES, alone))
    if own is not None:
        write_scores(model, {case: own + step * (-1) ** index for index, case in enumerate(CASES)})
    return verdict_sentence(model / "fold_all", WORKSPACE)


def test_rounds_on_labels_alone_have_not_used_the_unlabeled_scans(tmp_path: Path) -> None:
    found = verdict(tmp_path, 0.9, 0.7, happened=ALONE)
    assert found.startswith("No round used the unlabeled scans; the difference comes from chance")
    assert "better" not in found


def test_what_else_the_recipe_does_is_named(tmp_path: Path) -> None:
    model = write_run(tmp_path, happened=ALONE)
    mirror_otherwise(model, [0])
    write_scores(model, {"a": 0.9, "b": 0.91})
    write_scores(write_run(tmp_path, trainer=SUPERVISED_TRAINER), {"a": 0.7, "b": 0.7})
    found = verdict_sentence(model / "fold_all", WORKSPACE)
    rest = "the rest of the recipe (mirroring along z instead of along every axis)"
    assert f"comes from {rest}: Dice 0.905 and 0.700 of nnU-Net alone (2 cases)" in found


def mirror_otherwise(model: Path, axes: list[int]) -> None:
    """Let the model in this folder mirror its patches along these axes."""
    plans = model / "plans.json"
    plans.write_text(plans.read_text().replace('"store": "s"', f'"store": "s", "mirror_axes": {axes}'))


@pytest.mark.parametrize(("axes", "words"), [([], "along no axis"), ([0, 2], "along z and x")])
def test_a_pair_that_mirrors_otherwise_says_so(tmp_path: Path, axes: list[int], words: str) -> None:
    """Most of a gain may come from the mirroring alone: it shall not be taken for that of the unlabeled scans."""
    verdict(tmp_path, 0.9, 0.8)
    model = next(tmp_path.glob("*/nnUNetTrainerPCL__*"))
    mirror_otherwise(model, axes)
    found = verdict_sentence(model / "fold_all", WORKSPACE)
    assert f"The pair also differs in mirroring {words} instead of along every axis. One draw" in found


def test_axes_are_named_as_the_scan_lies(tmp_path: Path) -> None:
    """The axes of a patch follow the order in which the data set is stored."""
    model = write_run(tmp_path)
    mirror_otherwise(model, [0])
    plans = json.loads((model / "plans.json").read_text())
    (model / "plans.json").write_text(json.dumps({**plans, "transpose_forward": [2, 0, 1]}))
    assert mirroring_in_words(model, read_run(model / "fold_all").identity) == "along x"


@pytest.mark.parametrize(
    ("own", "alone", "step", "part"),
    [
        (0.85, 0.8, 0.0, "better in 12 of them. One draw of labeled cases is no proof"),
        (0.75, 0.8, 0.0, "worse in 12 of them. One draw of labeled cases is no proof"),
        (0.805, 0.8, 0.0, "differ within noise"),
        (0.83, 0.8, 0.3, "differ within noise"),
        (0.4, 0.1, 0.0, "too low to say"),
    ],
)
def test_a_pair_is_judged_by_its_size_and_its_spread(
    tmp_path: Path, own: float, alone: float, step: float, part: str
) -> None:
    assert part in verdict(tmp_path, own, alone, step=step)


def test_what_was_not_measured_is_not_measured_yet(tmp_path: Path) -> None:
    assert "Not measured yet: this run has no scores. 2 of 2 rounds used" in verdict(tmp_path / "1", None, None)
    found = verdict(tmp_path / "2", 0.8, None)
    assert found.startswith("Dice 0.800 on 12 cases.")
    assert "not measured yet: nnU-Net alone was not trained on the same labels and steps" in found
    write_run(tmp_path / "2", trainer=SUPERVISED_TRAINER, seed=1)
    found = verdict_sentence(next((tmp_path / "2").glob("*/nnUNetTrainerPCL__*")) / "fold_all", WORKSPACE)
    assert "(refused: seed 1, not 0)" in found
    assert "labels alone" in verdict(tmp_path / "3", 0.8, None, happened=ALONE)


def test_a_baseline_and_a_run_that_has_not_ended_say_so(tmp_path: Path) -> None:
    baseline = write_run(tmp_path, trainer=SUPERVISED_TRAINER)
    assert "is a baseline" in verdict_sentence(baseline / "fold_all", WORKSPACE)
    events = write_run(tmp_path) / "fold_all" / "events.jsonl"
    events.write_text(events.read_text().replace('"trained"', '"other"'))
    assert verdict_sentence(events.parent, WORKSPACE) == "Training has not ended: epoch 3 of 3."


def test_a_round_after_a_roll_back_learns_from_the_pseudo_labels_before_it(tmp_path: Path) -> None:
    uses = round_uses(read_run(write_run(tmp_path, happened=[FIRST_BACK]) / "fold_all"))
    assert [(use.number, use.outcome, use.source, use.used) for use in uses] == [
        (1, "rolled back", 1, 0),
        (2, "used", 1, 3),
    ]
    assert [why_unused(uses, number) for number in (1, 2)] == ["", "the round was rolled back"]
    assert describe_use(uses) == "1 of 2 rounds used the unlabeled scans"


def test_the_sentence_needs_no_torch() -> None:
    code = "import sys, pcl_auto.report.verdict; sys.exit('torch' in sys.modules or 'nnunetv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
