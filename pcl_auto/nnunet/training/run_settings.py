"""Settings of a run as its trainer reads them from the plans: nnU-Net hands a trainer nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pcl_auto.errors import Problem, StateError
from pcl_auto.recipe.load import from_dict, recorded_recipe
from pcl_auto.recipe.settings import Recipe, Schedule

# nnU-Net keeps keys of a configuration that it does not know.
KEY = "pclauto"
NNUNET_FOLDS = 5


@dataclass(frozen=True)
class RunSettings:
    """The recipe of a run, its split, its case store and how far it is to be reproducible.

    ``split``: its name. ``store``: the key of the case store that the split reads, empty until the split is prepared.
    ``folds``: of a cross-validation over the labeled cases, if a fold is trained. ``mirror_axes``: axes of the patch to
    mirror along; None leaves the choice to nnU-Net. ``recipe_mirroring``: a training without rounds mirrors along them
    too, not as stock nnU-Net does. ``initial_masks``: the folder, in that of the data set, of the stored cases with the
    masks that training begins with; empty without such. ``pretrained``: the SHA-256 of the pretrained weights that the
    network begins with; empty without such.
    """

    recipe: Recipe
    seed: int
    split: str
    store: str = ""
    deterministic: bool = False
    mirror_axes: tuple[int, ...] | None = None
    folds: int = NNUNET_FOLDS
    recipe_mirroring: bool = False
    initial_masks: str = ""
    pretrained: str = ""

    @property
    def shares_start(self) -> bool:
        """True if the supervised start is the network's alone, so that runs that differ in the rounds can share it."""
        registers = self.recipe.pseudo_labels.start == "registration"
        return not (registers or self.initial_masks or self.recipe.teacher.from_start)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values for a plans file."""
        axes = None if self.mirror_axes is None else list(self.mirror_axes)
        return {**self.__dict__, "recipe": self.recipe.as_dict(), "mirror_axes": axes}


def with_settings(
    plans: Mapping[str, Any], plans_name: str, configuration: str, settings: RunSettings
) -> dict[str, Any]:
    """Return a split's plans under their name, with the settings of a run in its configuration."""
    chosen = {**plans["configurations"][configuration], KEY: settings.as_dict()}
    return {**plans, "plans_name": plans_name, "configurations": {configuration: chosen}}


def read_settings(configuration: Mapping[str, Any], plans_name: str) -> RunSettings:
    """Read the settings in a plans configuration.

    Raises:
        StateError: the plans were not written by ``pclauto train``.
    """
    values = configuration.get(KEY)
    if values is None:
        raise StateError(
            Problem(
                code="plan.no-settings",
                what="the plans say nothing about a split and a recipe",
                where=plans_name,
                expected=f"a key {KEY!r} in the configuration, as `pclauto train` writes it",
                fix="run `pclauto train --prepare-only` and use the plans that it names",
            )
        )
    given = {entry.name: values[entry.name] for entry in fields(RunSettings) if entry.name in values}
    axes = given.pop("mirror_axes", None)
    recipe = from_dict(given.pop("recipe"))
    return RunSettings(recipe, **given, mirror_axes=None if axes is None else tuple(axes))


def start_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Select from :meth:`RunSettings.as_dict` what decides the state after the supervised start.

    How rounds divide their epochs does not.
    """
    recipe = recorded_recipe(settings["recipe"])
    schedule = Schedule(**recipe["schedule"])
    return {
        **{key: settings[key] for key in ("seed", "split", "store", "deterministic")},
        **({"pretrained": [settings["pretrained"], recipe["pretrained"]]} if settings.get("pretrained") else {}),
        **{key: recipe[key] for key in ("optimizer", "batch", "network", "augmentation")},
        "head_convolutions": recipe["contrast"]["head_convolutions"],
        "weights": recipe["pseudo_labels"]["network"],
        "steps_per_epoch": schedule.steps_per_epoch,
        "supervised_epochs": schedule.supervised_epochs,
        # The learning rate decays over all of them.
        "epochs": schedule.epochs,
        "mixing": {key: recipe["mixing"][key] for key in ("labeled_copy_paste", "mixup_alpha")},
        "second_network": recipe["unlabeled_loss"]["method"] == "cross_supervision",
    }


def patch_axes(plans: Mapping[str, Any], configuration: str) -> list[str]:
    """Name the axes of a patch by those of the scans (x, y, z), in the order in which the data set is stored."""
    stored = ["zyx"[axis] for axis in plans.get("transpose_forward", (0, 1, 2))]
    return stored[-len(plans["configurations"][configuration]["patch_size"]) :]
