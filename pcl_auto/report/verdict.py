"""Say in a sentence what a run shows of the unlabeled scans, and no more than that."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pcl_auto.errors import StateError
from pcl_auto.evaluation.statistics import mean, t_interval
from pcl_auto.report.baseline import BaselineComparison, case_dice, compare_to_baseline
from pcl_auto.report.find_baseline import earlier_runs, mirroring_in_words
from pcl_auto.report.rounds import RoundUse, describe_use, round_uses
from pcl_auto.training.request import SUPERVISED_TRAINER
from pcl_auto.training.run_facts import RunFacts, read_run, run_folders, schedule_of
from pcl_auto.workspace.folders import Workspace

# Below, a model is of no use, and a difference between two such models no reason to praise one.
MIN_SANE_DICE = 0.5
# Two seeds differ by as much.
NOISE_DICE = 0.01
# Fewer cases have no interval to speak of.
MIN_CASES = 5
Tone = Literal["neutral", "bad", "good"]


@dataclass(frozen=True)
class Verdict:
    """The ``sentence`` on a run, and whether it is to be seen as good or bad."""

    sentence: str
    tone: Tone = "neutral"


def verdict_sentence(run_folder: Path, workspace: Workspace) -> str:
    """Say in one or two sentences what the run in ``run_folder`` (that of a fold) shows; plain text, without torch.

    Raises:
        StateError: a file of the run is missing or damaged.
    """
    run = read_run(run_folder)
    return judge(run, compare_to_baseline(run, workspace)).sentence


def model_uses(run: RunFacts) -> list[RoundUse]:
    """List what the rounds behind the model of ``run`` did: those of all its folds that can be read."""
    uses = round_uses(run)
    for folder in run_folders(run.folder.parent):
        with suppress(StateError):  # `pclauto status` names a damaged one
            uses += round_uses(read_run(folder)) if folder != run.folder else []
    return uses


def judge(run: RunFacts, comparison: BaselineComparison) -> Verdict:
    """Judge ``run`` by what its rounds did and by its comparison with the baseline."""
    own = _own_scores(comparison)
    labeled = len(run.split.labeled)
    if not run.happened("trained"):
        done = run.epochs[-1]["epoch"] if run.epochs else 0
        return Verdict(f"Training has not ended: epoch {done} of {schedule_of(run.identity).epochs}.")
    if run.identity["trainer"] == SUPERVISED_TRAINER:
        what = "This run is a baseline: nnU-Net alone" if run.split.unlabeled else "No unlabeled scans: nnU-Net alone"
        return Verdict(f"{what} on {count(labeled, 'labeled case')}; {own or 'not measured yet'}.")
    uses = model_uses(run)
    is_used = any(use.used for use in uses) or _earlier_used(run)
    if not is_used:
        return _judge_unused(run, comparison, uses, own)
    if comparison.dice:
        return _judge_pair(run, comparison)
    story = describe_use(uses)
    story = story[0].upper() + story[1:]
    if not own:
        return Verdict(f"Not measured yet: {comparison.missing}. {story}.")
    refused = f" (refused: {comparison.refused.partition(': ')[2]})" if comparison.refused else ""
    return Verdict(f"{own}. What the unlabeled scans brought is not measured yet: {comparison.missing}{refused}.")


def _own_scores(comparison: BaselineComparison) -> str:
    """Return the Dice of the run over all cases that it was scored on, in words; empty where it was not."""
    if comparison.scores is None:
        return ""
    dice = case_dice(comparison.scores)
    return f"Dice {mean(dice.values()):.3f} on {count(len(dice), 'case')}"


def _earlier_used(run: RunFacts) -> bool:
    """Tell whether a run that ``run`` goes on from has used the unlabeled scans."""
    if not run.steps_before:
        return False
    return any(use.used for earlier in earlier_runs(run) for use in round_uses(earlier))


def _judge_unused(run: RunFacts, comparison: BaselineComparison, uses: Sequence[RoundUse], own: str) -> Verdict:
    unused = f"No round used the unlabeled scans{_why_unused(uses)}"
    if not comparison.dice:
        measured = f"{own} is that of training on labels alone" if own else "not measured yet"
        return Verdict(f"{unused}; {measured}.", "bad")
    pair = pair_in_words(comparison)
    if is_noise(comparison):
        return Verdict(f"{unused}; {pair} {_noise_in_words(comparison)}.", "bad")
    rest = ", ".join(rest_of_recipe(run, comparison.baseline))
    source = f"the rest of the recipe ({rest})" if rest else "chance: nothing else in the recipe differs"
    return Verdict(f"{unused}; the difference comes from {source}: {pair}.", "bad")


def _why_unused(uses: Sequence[RoundUse]) -> str:
    outcomes = [use.outcome for use in uses if use.number]
    if "rolled back" not in outcomes:
        return ""
    alone = outcomes.count("labels alone")
    trained = f", {alone} trained on labels alone" if alone else ""
    return f" ({outcomes.count('rolled back')} rolled back{trained})"


def _judge_pair(run: RunFacts, comparison: BaselineComparison) -> Verdict:
    own, other = comparison.means
    pair, cases = pair_in_words(comparison), len(comparison.dice)
    caveat = "One draw of labeled cases is no proof: pclauto benchmark compares several."
    if differs := _other_mirroring(run, comparison.baseline):
        caveat = f"The pair also differs in {differs}. {caveat}"
    if max(own, other) < MIN_SANE_DICE:
        return Verdict(f"{pair}: too low to say what the unlabeled scans bring. Train longer, or label more.", "bad")
    if is_noise(comparison):
        return Verdict(f"{pair} {_noise_in_words(comparison)}. {caveat}")
    better = sum(mine > alone for mine, alone in comparison.dice.values())
    if own > other:
        tone: Tone = "good" if own >= MIN_SANE_DICE and cases >= MIN_CASES else "neutral"
        return Verdict(f"{pair}: better in {better} of them. {caveat}", tone)
    return Verdict(f"{pair}: worse in {cases - better} of them. {caveat}", "bad")


def _other_mirroring(run: RunFacts, baseline: Path | None) -> str:
    """Say along which axes a run and its baseline mirror; empty where that is alike, or not known."""
    if baseline is None:
        return ""
    own = mirroring_in_words(run.folder.parent, run.identity)
    other = mirroring_in_words(baseline, read_run(baseline / run.folder.name).identity)
    return f"mirroring {own} instead of {other}" if own != other else ""


def pair_in_words(comparison: BaselineComparison) -> str:
    """Return both means over the compared cases, in words."""
    own, other = comparison.means
    return f"Dice {own:.3f} and {other:.3f} of nnU-Net alone ({count(len(comparison.dice), 'case')})"


def is_noise(comparison: BaselineComparison) -> bool:
    """Tell whether the compared cases differ by no more than chance may do."""
    differences = [own - other for own, other in comparison.dice.values()]
    if abs(mean(differences)) < NOISE_DICE or len(differences) < 2:
        return True
    return not t_interval(differences).excludes_zero


def _noise_in_words(comparison: BaselineComparison) -> str:
    """Say why a difference is taken for noise: it is small, or the cases are few."""
    few = len(comparison.dice) < MIN_CASES and abs(mean([a - b for a, b in comparison.dice.values()])) >= NOISE_DICE
    return "are of too few cases to tell them apart" if few else "differ within noise"


def rest_of_recipe(run: RunFacts, baseline: Path | None) -> list[str]:
    """List what ``run`` and its baseline may differ by where no pseudo-label was used."""
    recipe = run.identity["recipe"]
    augmentation, mixing, contrast, labels = (
        recipe.get(table, {}) for table in ("augmentation", "mixing", "contrast", "pseudo_labels")
    )
    mirroring = _other_mirroring(run, baseline)
    parts = {
        mirroring: mirroring,
        "warped labeled cases": augmentation.get("warped_cases"),
        "elastic deformation": augmentation.get("elastic"),
        "copy-paste between labeled cases": mixing.get("labeled_copy_paste"),
        "mixup": mixing.get("mixup_alpha"),
        "a deeper segmentation head": contrast.get("head_convolutions"),
        "layers drawn anew": contrast.get("restart_head") or labels.get("restart_network"),
        "weights chosen by validation cases": labels.get("network") == "best_validation" and run.split.validation,
        "steps lost in rounds that were rolled back": run.happened("rolled_back"),
    }
    return [name for name, is_there in parts.items() if is_there]


def count(number: int, what: str) -> str:
    """Return a number of things, as "1 case" or "2 cases"."""
    return f"{number} {what}{'s' * (number != 1)}"
