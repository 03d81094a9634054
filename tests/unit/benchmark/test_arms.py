"""Make arms: what they share, what stays their own, and names that are none."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
from refusal import codes, refused

from pcl_auto.benchmark.arms import (
    ALL_LABELS,
    BASELINE_ARMS,
    begin_with,
    fit_recipe,
    fit_schedule,
    load_base_recipe,
    make_arms,
    parse_labeled,
)
from pcl_auto.errors import OldNameWarning, UsageError
from pcl_auto.recipe.load import from_dict, load_recipe
from pcl_auto.recipe.settings import Augmentation, Pretrained, Pretraining, Recipe, Schedule

BASE = load_recipe("quick")
SHARED = {"schedule", "optimizer", "batch", "network", "pretrained", "pretraining"}


@pytest.mark.parametrize("epochs", [2, 3, 7, 12, 24, 1000])
@pytest.mark.parametrize("rounds", [1, 2, 3, 9, 100])
def test_every_number_of_rounds_gets_as_many_epochs(epochs: int, rounds: int) -> None:
    budget = Schedule(steps_per_epoch=7, supervised_epochs=epochs - 1, rounds=1, epochs_per_round=1)
    own = Schedule(steps_per_epoch=250, supervised_epochs=280, rounds=rounds, epochs_per_round=80)
    fitted = fit_schedule(budget, own)
    assert fitted.epochs == epochs
    assert fitted.steps_per_epoch == 7
    assert fitted.rounds == min(rounds, epochs - 1)
    # As near to the recipe's own shares as equal rounds of whole epochs allow, after a supervised start.
    joint, longest = fitted.rounds * fitted.epochs_per_round, (epochs - 1) // fitted.rounds
    nearest = abs(joint - epochs * rounds * 80 / own.epochs) <= fitted.rounds / 2
    assert nearest or fitted.epochs_per_round in (1, longest)


@pytest.mark.parametrize("name", ["paper", "default", "demo", "mixup", "noisy_student", "mean_teacher"])
def test_an_arm_has_the_budget_and_its_own_method(name: str) -> None:
    recipe = load_recipe(name)
    arm = fit_recipe(recipe, BASE)
    for field in fields(Recipe):
        if field.name not in SHARED:
            assert getattr(arm, field.name) == getattr(recipe, field.name)
        elif field.name not in ("schedule", "pretrained", "pretraining"):
            assert getattr(arm, field.name) == getattr(BASE, field.name)
    assert arm.schedule.epochs == BASE.schedule.epochs


def test_pre_training_has_the_budget_too_where_an_arm_asks_for_it() -> None:
    own = from_dict({"pretrained": {"source": "auto"}, "pretraining": {"method": "contrastive", "epochs": 500}})
    assert fit_recipe(own, BASE).pretraining == replace(BASE.pretraining, method="contrastive")
    # Without, it is no setting of an arm: records of before there was pre-training stay those of the same arm.
    assert fit_recipe(load_recipe("demo"), BASE).pretraining == Pretraining()
    assert fit_recipe(load_recipe("demo"), BASE).pretrained == Pretrained()


def test_weights_for_every_arm_are_gone_on_from_as_the_base_says() -> None:
    (plain, own), problems = make_arms(["nnunet", "default"], BASE)
    assert problems == []
    own = replace(own, recipe=replace(own.recipe, pretrained=Pretrained(source="of/its/own", rate_factor=0.5)))
    for source in ("auto", ""):
        begun = begin_with(source, plain, BASE)
        assert begun.recipe.pretrained == replace(BASE.pretrained, source=source)
        assert begun.recipe.pretraining == (BASE.pretraining if source else Pretraining())
        assert begun.recipe.name != plain.recipe.name
        assert begin_with(source, own, BASE) == own


def test_a_scaled_budget_scales_every_arm() -> None:
    arms, problems = make_arms(["nnunet", "paper", "default", ALL_LABELS], load_base_recipe("quick", 24))
    assert problems == []
    assert {arm.recipe.schedule.epochs for arm in arms} == {24}
    assert len({arm.recipe.schedule.supervised_epochs for arm in arms}) == 1
    assert [(arm.baseline, arm.all_labels) for arm in arms] == [
        (True, False), (False, False), (False, False), (True, True),
    ]  # fmt: skip


def test_an_arm_without_rounds_has_as_many_epochs() -> None:
    fitted = fit_schedule(BASE.schedule, Schedule(rounds=0))
    assert fitted.rounds == 0
    assert fitted.epochs == BASE.schedule.epochs


@pytest.mark.parametrize(
    ("supervised", "rounds", "fitted"),
    [
        (280, 9, (3, 9, 1)),  # the default
        (640, 4, (8, 4, 1)),
        (80, 3, (3, 3, 3)),  # a quarter
        (1, 9, (3, 9, 1)),  # as nearly as nine equal rounds can
        (99_999, 1, (11, 1, 1)),  # there is a round
        (0, 4, (0, 4, 3)),  # as with a start that is there already
    ],
)
def test_rounds_begin_where_the_recipe_begins_them(supervised: int, rounds: int, fitted: tuple[int, int, int]) -> None:
    own = Schedule(supervised_epochs=supervised, rounds=rounds, epochs_per_round=80)
    found = fit_schedule(BASE.schedule, own)
    assert (found.supervised_epochs, found.rounds, found.epochs_per_round) == fitted
    assert found.epochs == BASE.schedule.epochs


def test_a_budget_needs_rounds(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('extends = "quick"\n[schedule]\nrounds = 0\n')
    with refused(UsageError, "benchmark.budget-without-rounds"):
        load_base_recipe(str(file), None)


def test_too_few_epochs_for_the_budget() -> None:
    with refused(UsageError, "recipe.too-few-epochs"):
        load_base_recipe("quick", 2)


def test_recipes_of_arms_are_recipes_with_names_of_their_content() -> None:
    (supervised, paper, ceiling), _ = make_arms(["nnunet", "paper", ALL_LABELS], BASE)
    (longer,), _ = make_arms(["paper"], load_base_recipe("quick", 24))
    assert from_dict(paper.recipe.as_dict()) == paper.recipe
    assert paper.recipe.name.startswith("bench-paper-")
    assert paper.recipe.name != longer.recipe.name
    # With all labels on either side they are one training.
    assert supervised.recipe == ceiling.recipe
    # The baseline does not depend on the method of the recipe that the budget comes from.
    other = replace(BASE, contrast=replace(BASE.contrast, weight=3.0))
    assert make_arms(["nnunet"], other)[0][0].recipe == supervised.recipe


def test_baselines_differ_in_their_mirroring_alone() -> None:
    arms, _ = make_arms(list(BASELINE_ARMS), BASE)
    assert [arm.recipe.augmentation.mirroring for arm in arms] == ["all", "none", "symmetric"]
    plain = {replace(arm.recipe, name="", augmentation=Augmentation()) for arm in arms}
    assert len(plain) == 1


def test_the_ceiling_is_every_baseline_with_all_labels() -> None:
    arms, _ = make_arms(["default", ALL_LABELS], BASE)
    assert [(arm.name, arm.all_labels) for arm in arms] == [
        ("default", False),
        *((name, True) for name in BASELINE_ARMS),
    ]
    arms, _ = make_arms([ALL_LABELS, "nnunet_symmetric"], BASE)
    assert [(arm.name, arm.all_labels) for arm in arms] == [("nnunet_symmetric", False), ("nnunet_symmetric", True)]


def test_the_old_name_of_the_baseline_is_read_with_a_warning() -> None:
    with pytest.warns(OldNameWarning, match="nnunet"):
        arms, problems = make_arms(["supervised"], BASE)
    assert [arm.name for arm in arms] == ["nnunet"]
    assert problems == []


def test_an_arm_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('extends = "paper"\n[contrast]\nweight = 0.5\n')
    (arm,), problems = make_arms([str(file)], BASE)
    assert problems == []
    assert arm.name == "mine"
    assert arm.recipe.contrast.weight == 0.5


@pytest.mark.parametrize("name", ["nnunet", "nnunet_symmetric", "all-labels"])
def test_a_recipe_is_not_called_as_a_baseline(tmp_path: Path, name: str) -> None:
    """Its line in a table would be taken for the baseline's."""
    own, renamed = tmp_path / f"{name}.toml", tmp_path / "mine.toml"
    own.write_text('extends = "default"\n')
    renamed.write_text(f'extends = "default"\nname = "{name}"\n')
    arms, problems = make_arms([str(own), str(renamed)], BASE)
    assert arms == []
    assert codes(problems) == ["benchmark.arm-named-as-baseline"] * 2


def test_every_wrong_arm_is_listed(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[contrast]\nweight = -1\nnope = 1\n")
    arms, problems = make_arms(["papr", "paper", "paper", str(broken), "other"], BASE)
    assert [arm.name for arm in arms] == ["paper"]
    assert codes(problems) == [
        "benchmark.unknown-arm",
        "benchmark.arm-twice",
        "recipe.out-of-range",
        "recipe.unknown-key",
        "benchmark.unknown-arm",
    ]
    assert [name in problems[place].what for place, name in ((0, "'papr'"), (1, "'paper'"), (4, "'other'"))] == [
        True
    ] * 3
    assert "nnunet_symmetric" in problems[0].expected
    assert "default" in problems[0].expected


def test_no_arm_at_all() -> None:
    assert codes(make_arms([], BASE)[1]) == ["benchmark.no-arm"]


@pytest.mark.parametrize(("text", "numbers"), [("1,2,8", [1, 2, 8]), ("8, 2,2", [2, 8]), ("3", [3])])
def test_numbers_of_labels(text: str, numbers: list[int]) -> None:
    assert parse_labeled(text) == (numbers, [])


@pytest.mark.parametrize(("text", "wrong"), [("0,2", 1), ("a,-1,2", 2), ("", 1), ("1,,2", 1), ("1.5", 1), ("²", 1)])
def test_what_is_no_number_of_labels(text: str, wrong: int) -> None:
    problems = parse_labeled(text)[1]
    assert codes(problems) == ["benchmark.labeled-not-a-number"] * wrong
    assert all(problem.where == "--labeled" for problem in problems)


def test_settings_are_those_of_the_base_and_of_every_recipe() -> None:
    changes = (
        "schedule.rounds=3",
        "optimizer.learning_rate=0.05",
        "contrast.temperature=0.5",
        "optimizer.flat_share=0.2",
    )
    base = load_base_recipe("quick", None, changes)
    assert (base.schedule.epochs, base.optimizer.learning_rate) == (6, 0.05)
    arms, problems = make_arms(["nnunet", "default", "paper", "copy_paste_teacher"], base, changes)
    assert problems == []
    assert {arm.recipe.schedule.epochs for arm in arms} == {6}
    assert {arm.recipe.optimizer for arm in arms if not arm.baseline} == {base.optimizer}
    assert {arm.recipe.contrast.temperature for arm in arms} == {0.5, Recipe("").contrast.temperature}
    assert [arm.recipe.contrast.temperature == 0.5 for arm in arms] == [False, True, True, True]
    assert [arm.recipe.schedule.rounds for arm in arms][1:] == [3, 3, 3]


def test_numbers_of_epochs_are_on_the_scale_of_the_base() -> None:
    changes = ("schedule.supervised_epochs=5",)
    base = load_base_recipe("quick", None, changes)
    (default,), _ = make_arms(["default"], base, changes)
    assert default.recipe.schedule == replace(BASE.schedule, supervised_epochs=5)


def test_settings_that_change_nothing_leave_every_arm_as_it_is() -> None:
    names = ["nnunet", "default", "paper", "mixup", "noisy_student"]
    assert make_arms(names, BASE, ("network.width=0.5",)) != make_arms(names, load_recipe("default"))
    for name in names:
        changes = (f"mixing.box_fraction={load_recipe('default').mixing.box_fraction}",)
        assert make_arms([name], load_base_recipe("quick", None, changes), changes) == make_arms([name], BASE)


def test_a_setting_that_does_not_go_with_an_arm_is_refused() -> None:
    changes = ("mixing.copy_paste=true",)
    _, problems = make_arms(["fixmatch", "default"], load_base_recipe("quick", None, changes), changes)
    assert codes(problems) == ["recipe.not-together"]
