"""Begin a training with pretrained weights (``--pretrained``): find them, match them with the run's network, take them.

What comes from the file is known, stage by stage, before anything is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcl_auto.data.split import Split
from pcl_auto.errors import Problem, StateError, UsageError
from pcl_auto.nnunet.pretrained.find import FoundSource, find_source
from pcl_auto.planning.plan import Plan
from pcl_auto.planning.split_plans import with_recipe
from pcl_auto.recipe.settings import Recipe
from pcl_auto.training.pretrain_record import find_pretraining
from pcl_auto.training.run_inputs import used_cases
from pcl_auto.workspace.folders import DatasetFolder, Workspace

if TYPE_CHECKING:
    from pcl_auto.nnunet.pretrained.match import Match
    from pcl_auto.nnunet.pretrained.source import PretrainedSource

AUTO = "auto"
# Of spacing: what is nearer than this is the same.
_SAME_RATIO = 1.05


def resolve_pretrained(
    given: str, workspace: Workspace, data: DatasetFolder, plan: Plan, configuration: str, split: Split
) -> FoundSource:
    """Find the weights that ``given`` means: a source or ``auto``, those that were made last of the images of a split.

    Raises:
        StateError: there are none of them; else as :func:`pcl_auto.nnunet.pretrained.find.find_source`.
    """
    if given != AUTO:
        return find_source(given)
    # Others may have seen images that the split keeps for a test, or that are other ones now.
    images = {case: plan.cases[case].digest for case in used_cases(split)}
    made = find_pretraining(workspace, data, configuration, within=images)
    if not made:
        raise StateError(
            Problem(
                code="pretrained.none-made",
                what="nothing was pre-trained on the images of this split",
                where=f"{data.name}, {configuration}",
                expected="a finished `pclauto pretrain`",
                fix="run `pclauto pretrain`, where cases are kept out with the same --split; or name other weights",
            )
        )
    return find_source(str(made[0]))


def read_and_match(
    start: FoundSource, plan: Plan, configuration: str, recipe: Recipe
) -> tuple[PretrainedSource, Match]:
    """Read pretrained weights, and match them with the network that a recipe makes of a planned configuration.

    Raises:
        StateError: weights that cannot be read or used, see :func:`read_source` and :func:`match_network`.
    """
    from pcl_auto.nnunet.pretrained.architecture import from_plans
    from pcl_auto.nnunet.pretrained.match import match_network
    from pcl_auto.nnunet.pretrained.source import read_source

    planned = with_recipe(plan.nnunet["configurations"][configuration], recipe)
    network = from_plans(planned["architecture"]).build(len(plan.dataset_json["channel_names"]))
    source = read_source(start.file, start.address)
    if source.digest != start.digest:
        raise StateError(
            Problem(
                code="pretrained.changed",
                what="the checkpoint is not the one that the command began with",
                where=str(start.file),
                expected=f"SHA-256 {start.digest[:12]}…",
                found=f"{source.digest[:12]}…",
                fix="restore it, or repeat the command to begin with the new one",
            )
        )
    return source, match_network(source, network, decoder=recipe.pretrained.decoder)


def match_record(start: FoundSource, plan: Plan, configuration: str, recipe: Recipe) -> dict[str, Any]:
    """Return where pretrained weights come from, what of the network they fill, and how the data differ, as values.

    Raises:
        StateError: see :func:`read_and_match`.
    """
    source, match = read_and_match(start, plan, configuration, recipe)
    found = differences(source, plan.nnunet["configurations"][configuration])
    return {**source.as_record(), **match.as_record(), "differences": found}


def differences(source: PretrainedSource, planned: Mapping[str, Any]) -> list[str]:
    """Say what of spacing, normalization and layers without weights the pre-training had otherwise than planned."""
    found = []
    said = source.described
    before, now = said.spacing_mm, planned["spacing"]
    if before is not None and (len(before) != len(now) or not _alike(before, now)):
        found.append(f"spacing {_times(before)} mm in the pre-training, {_times(now)} mm here")
    if said.normalization is not None and {*said.normalization} != {*planned["normalization_schemes"]}:
        found.append(
            f"{_words(said.normalization)} in the pre-training, {_words(planned['normalization_schemes'])} here"
        )
    layers = said.architecture.arguments if said.architecture is not None else {}
    for name in ("nonlin", "norm_op"):
        there, here = (_layer(entry.get(name)) for entry in (layers, planned["architecture"]["arch_kwargs"]))
        if there and there != here:
            found.append(f"{there} in the network of the weights, {here} here")
    return found


def _layer(name: Any) -> str:
    """Return the name of a layer without its module."""
    return str(name or "").rpartition(".")[2]


def _alike(before: Sequence[float], now: Sequence[float]) -> bool:
    return all(max(a, b) <= _SAME_RATIO * min(a, b) for a, b in zip(before, now, strict=True))


def _times(values: Sequence[float]) -> str:
    return "×".join(f"{value:.3g}" for value in values)


def _words(schemes: Sequence[str]) -> str:
    return " and ".join(dict.fromkeys(schemes))


def refuse_both_starts(pretrained: str, start_from: Path | None) -> None:
    """Refuse to begin with two sets of weights.

    Raises:
        UsageError: both are given.
    """
    if pretrained and start_from is not None:
        raise UsageError(
            Problem(
                code="pretrained.two-starts",
                what="two networks to begin with",
                where="--start-from and --pretrained",
                fix="keep one of them: --start-from takes all of a model that segments these classes already and skips "
                "the supervised start, --pretrained takes what fits and keeps it",
            )
        )
