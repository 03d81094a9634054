"""Settings without a file: what ``--set`` takes, what it refuses, and how the changed recipe is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusal import refused

from pcl_auto.errors import UsageError
from pcl_auto.recipe.changes import MAX_NAME, as_changes, change_recipe, load_changed
from pcl_auto.recipe.load import load_recipe, usable_name

DEFAULT = load_recipe("default")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (["contrast.weight=0.2"], "[contrast]\nweight = 0.2"),
        (["contrast.weight=1"], "[contrast]\nweight = 1"),
        (["optimizer.learning_rate = 1e-3"], "[optimizer]\nlearning_rate = 1e-3"),
        (["optimizer.name=adamw"], '[optimizer]\nname = "adamw"'),
        (["optimizer.name='adamw'"], '[optimizer]\nname = "adamw"'),
        (["mixing.copy_paste=false", "batch.patches=4"], "[mixing]\ncopy_paste = false\n[batch]\npatches = 4"),
        (
            ["pseudo_labels.network=best_validation", "teacher.ema_rounds=0"],
            '[teacher]\nema_rounds = 0\n[pseudo_labels]\nnetwork = "best_validation"',
        ),
    ],
)
def test_it_is_the_recipe_that_a_file_would_be(changes: list[str], text: str, tmp_path: Path) -> None:
    changed = change_recipe(DEFAULT, changes)
    assert usable_name(changed.name)
    file = tmp_path / f"{changed.name}.toml"
    file.write_text(f'extends = "default"\n{text}\n')
    assert load_recipe(str(file)) == changed


def test_it_is_called_after_its_changes() -> None:
    assert change_recipe(DEFAULT, ["contrast.weight=0.2"]).name == "default-contrast.weight-0.2"
    assert change_recipe(DEFAULT, ["mixing.copy_paste=false"]).name == "default-mixing.copy_paste-false"
    assert change_recipe(DEFAULT, ["optimizer.name=adamw"]).name == "default-optimizer.name-adamw"
    many = ["optimizer.name=adamw", "contrast.weight=0.2"]
    name = change_recipe(DEFAULT, many).name
    assert len(name) <= MAX_NAME
    assert name.startswith("default-")
    assert change_recipe(DEFAULT, many[::-1]).name == name
    assert change_recipe(DEFAULT, [many[0], "contrast.weight=0.3"]).name != name


def test_what_changes_nothing_is_the_recipe_itself() -> None:
    assert change_recipe(DEFAULT, []) is DEFAULT
    assert change_recipe(DEFAULT, ["contrast.weight=0.10", "optimizer.name=sgd"]) is DEFAULT
    partly = change_recipe(DEFAULT, ["contrast.weight=0.10", "batch.patches=4"])
    assert partly.name == "default-batch.patches-4"


@pytest.mark.parametrize(
    "change",
    [
        "", "=", "contrast", "contrast.weight", "contrast.weight=", "contrast.weight=0,2", "contrast.weight=.2",
        "contrast.weight=[1", "name=mine", "description='x'", "a.b.c=1", "batch.patches=4\nrounds=3", "contrast. =1",
    ],
)  # fmt: skip
def test_what_is_no_setting(change: str) -> None:
    with refused(UsageError, "recipe.not-set-syntax") as refusal:
        change_recipe(DEFAULT, [change])
    assert refusal.problem.where == "--set"


@pytest.mark.parametrize(
    ("change", "code", "meant"),
    [
        ("contrast.temprature=0.2", "recipe.unknown-key", "contrast.temperature"),
        ("augmentation.copy_paste=true", "recipe.unknown-key", "mixing.copy_paste"),
        ("contrats.weight=0.2", "recipe.unknown-key", "contrast"),
        ("zzz.zzz=0.2", "recipe.unknown-key", "pclauto recipes"),
        ("contrast.weight=much", "recipe.wrong-type", ""),
        ("contrast.weight=true", "recipe.wrong-type", ""),
        ("contrast.weight={a=1}", "recipe.wrong-type", ""),
        ("schedule.rounds=2.5", "recipe.wrong-type", ""),
        ("contrast.weight=nan", "recipe.out-of-range", ""),
        ("contrast.weight=-1", "recipe.out-of-range", ""),
        ("batch.patches=1", "recipe.out-of-range", ""),
        ("optimizer.name=lion", "recipe.unknown-choice", ""),
        ("pseudo_labels.network=best_validation", "recipe.teacher-and-best", ""),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(change: str, code: str, meant: str) -> None:
    with refused(UsageError, code) as refusal:
        change_recipe(DEFAULT, [change])
    name = change.partition("=")[0]
    assert refusal.problem.where in (f"--set {name}", f"--set {name.split('.')[0]}")
    assert meant in refusal.problem.fix


def test_a_setting_is_given_once() -> None:
    with refused(UsageError, "recipe.set-twice") as refusal:
        change_recipe(DEFAULT, ["contrast.weight=0.2", "contrast.weight=0.2"])
    assert refusal.problem.where == "--set contrast.weight"


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    wrong = ["contrast", "contrast.temprature=1", "schedule.rounds=x", "optimizer.name=lion", "mixing.mixup_alpha=-1"]
    codes = [
        "recipe.not-set-syntax", "recipe.unknown-key", "recipe.wrong-type", "recipe.unknown-choice",
        "recipe.out-of-range",
    ]  # fmt: skip
    with refused(UsageError, *codes):
        change_recipe(DEFAULT, wrong)
    with refused(UsageError, "recipe.unknown", *codes):
        load_changed(str(tmp_path / "none.toml"), wrong)


def test_settings_that_do_not_go_together_are_refused_as_in_a_file() -> None:
    with refused(UsageError, "recipe.not-together", "recipe.not-together", "recipe.not-together"):
        change_recipe(DEFAULT, ["unlabeled_loss.method=fixmatch"])


def test_values_of_python_are_those_of_the_option() -> None:
    given = as_changes({"contrast.weight": 0.2, "optimizer.name": "adamw", "mixing.copy_paste": False})
    assert given == ("contrast.weight=0.2", 'optimizer.name="adamw"', "mixing.copy_paste=false")
    options = ["contrast.weight=0.2", "optimizer.name=adamw", "mixing.copy_paste=false"]
    assert change_recipe(DEFAULT, given) == change_recipe(DEFAULT, options)
