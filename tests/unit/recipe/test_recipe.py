"""Recipes: what is refused, what is read back, and how a schedule is stretched."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from refusal import refused

from pcl_auto.errors import UsageError
from pcl_auto.recipe.load import (
    RENAMED_KEYS,
    from_dict,
    load_recipe,
    recipe_folder,
    recorded_recipe,
    with_current_names,
)
from pcl_auto.recipe.settings import Batch, CollapseGuard, PseudoLabelFilter, Recipe, Schedule, Teacher

SHIPPED = sorted(path.stem for path in recipe_folder().glob("*.toml"))


@pytest.mark.parametrize(
    ("values", "where", "code", "expected"),
    [
        ({"contrats": {}}, "contrats", "recipe.unknown-key", "contrast"),
        ({"contrast": {"temprature": 0.1}}, "contrast.temprature", "recipe.unknown-key", "temperature"),
        ({"contrast": 3}, "contrast", "recipe.wrong-type", "a table"),
        ({"contrast": {"weight": "much"}}, "contrast.weight", "recipe.wrong-type", "float"),
        ({"schedule": {"rounds": 2.0}}, "schedule.rounds", "recipe.wrong-type", "int"),
        ({"schedule": {"rounds": True}}, "schedule.rounds", "recipe.wrong-type", "int"),
        ({"contrast": {"weight": True}}, "contrast.weight", "recipe.wrong-type", "float"),
        ({"pseudo_labels": {"mirroring": 1}}, "pseudo_labels.mirroring", "recipe.wrong-type", "bool"),
        ({"description": 7}, "description", "recipe.wrong-type", "str"),
        ({"schedule": {"rounds": -1}}, "schedule.rounds", "recipe.out-of-range", "0 to 100"),
        ({"contrast": {"temperature": 0.0}}, "contrast.temperature", "recipe.out-of-range", "0.001 to 100"),
        ({"contrast": {"temperature": float("nan")}}, "contrast.temperature", "recipe.out-of-range", "0.001 to 100"),
        ({"contrast": {"weight": float("inf")}}, "contrast.weight", "recipe.out-of-range", "0 to 100"),
        ({"batch": {"patches": 1}}, "batch.patches", "recipe.out-of-range", "2 and more"),
        (
            {"contrast": {"min_voxels": 300}},
            "contrast.min_voxels",
            "recipe.out-of-range",
            "at most contrast.mean_voxels, 256",
        ),
        ({"optimizer": {"name": "lion"}}, "optimizer.name", "recipe.unknown-choice", "'sgd' | 'adam' | 'adamw'"),
        ({"optimizer": {"schedule": "cosine"}}, "optimizer.schedule", "recipe.unknown-choice", "'poly' | 'constant'"),
        ({"augmentation": {"elastic": 1.5}}, "augmentation.elastic", "recipe.out-of-range", "0 to 1"),
        ({"contrast": {"batch_norm": 1}}, "contrast.batch_norm", "recipe.wrong-type", "bool"),
        ({"contrast": {"head_convolutions": -1}}, "contrast.head_convolutions", "recipe.out-of-range", "0 to 16"),
        ({"pseudo_labels": {"network": "best"}}, "pseudo_labels.network", "recipe.unknown-choice", "'best_validation'"),
        ({"contrast": {"matching": ["intra"]}}, "contrast.matching", "recipe.unknown-choice", "'intra' | 'inter'"),
    ],
)
def test_a_bad_value_is_refused_under_its_key(values: dict[str, Any], where: str, code: str, expected: str) -> None:
    with refused(UsageError, code) as refusal:
        from_dict(values)
    assert refusal.problem.where == where
    assert expected in refusal.problem.expected


def test_weights_chosen_by_validation_and_a_teacher_are_refused_together() -> None:
    chosen = {"pseudo_labels": {"network": "best_validation"}}
    assert from_dict(chosen).teacher.ema_rounds == 0
    with refused(UsageError, "recipe.teacher-and-best") as refusal:
        from_dict({**chosen, "teacher": {"ema_rounds": 0.5}})
    assert refusal.problem.where == "pseudo_labels.network"


def test_pseudo_labels_and_a_network_of_the_moment_do_not_teach_together() -> None:
    settings = {
        "contrast": {"weight": 0.1},
        "pseudo_labels": {
            "segmentation_weight": 1.0,
            "restart_network": True,
            "student_noise": True,
            "match_volumes": 1.0,
        },
        "pseudo_label_filter": {"drop_outside_range": True, "min_agreement": 0.9},
        "mixing": {"copy_paste": True, "mixup_alpha": 0.2},
    }
    from_dict(settings)
    with pytest.raises(UsageError) as caught:
        from_dict({**settings, "unlabeled_loss": {"method": "cross_supervision"}})
    assert {problem.code for problem in caught.value.problems} == {"recipe.not-together"}
    assert [problem.where for problem in caught.value.problems] == [
        f"{table}.{key}" for table, keys in settings.items() for key in keys
    ]
    # Without a second network, which would not see them, mixtures of labeled patches are learned.
    off = {"contrast": {"weight": 0.0}, "unlabeled_loss": {"method": "fixmatch"}, "mixing": {"mixup_alpha": 0.2}}
    assert from_dict(off).mixing.mixup_alpha == 0.2


def test_everything_wrong_is_reported_at_once() -> None:
    values: dict[str, Any] = {
        "schedul": {},
        "schedule": {"rounds": 1000, "epochs": 3},
        "optimizer": {"name": "lion"},
        "contrast": {"weight": "0.1", "dimensions": 1},
        "batch": [],
    }
    with pytest.raises(UsageError) as caught:
        from_dict(values)
    assert [(problem.where, problem.code) for problem in caught.value.problems] == [
        ("schedul", "recipe.unknown-key"),
        ("schedule.rounds", "recipe.out-of-range"),
        ("schedule.epochs", "recipe.unknown-key"),
        ("optimizer.name", "recipe.unknown-choice"),
        ("contrast.weight", "recipe.wrong-type"),
        ("contrast.dimensions", "recipe.out-of-range"),
        ("batch", "recipe.wrong-type"),
    ]


@pytest.mark.parametrize("name", ["", "my recipe", "two__underscores", "../../elsewhere", "a/b", "_first", "ü", "a\nb"])
def test_a_name_that_no_folder_should_have(name: str) -> None:
    with refused(UsageError, "recipe.unusable-name") as refusal:
        from_dict({"name": name})
    assert refusal.problem.where == "name"


def test_an_unknown_recipe_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    shipped = "the shipped recipes"
    for name, where in {"papr": shipped, str(tmp_path): shipped, str(tmp_path / "none.toml"): str(tmp_path)}.items():
        with refused(UsageError, "recipe.unknown") as refusal:
            load_recipe(name)
        assert refusal.problem.expected.split(" | ") == SHIPPED
        assert refusal.problem.where == where


@pytest.mark.parametrize("content", [b"[schedule", b"rounds = ", b"\xff\xfe"])
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(content)
    with refused(UsageError, "recipe.not-toml") as refusal:
        load_recipe(str(file))
    assert refusal.problem.where == str(file)


@pytest.mark.parametrize("epochs", [-1, 0, 1, 3])
def test_too_few_epochs_for_the_rounds(epochs: int) -> None:
    with refused(UsageError, "recipe.too-few-epochs") as refusal:
        Schedule(rounds=3).scaled_to(epochs)
    assert "at least 4" in refusal.problem.expected
    assert refusal.problem.found == str(epochs)


def test_the_recipes_that_the_documentation_names_are_shipped() -> None:
    assert {"default", "paper", "quick"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert load_recipe(str(recipe_folder() / f"{name}.toml")) == recipe


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_survives_json(name: str) -> None:
    recipe = load_recipe(name)
    assert from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_what_a_file_does_not_say_is_the_default(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[contrast]\nweight = 1\n")  # a whole number where a fraction may stand
    recipe = load_recipe(str(file))
    assert recipe.name == "mine"
    assert recipe.contrast.weight == 1.0
    assert isinstance(recipe.contrast.weight, float)
    assert from_dict({**recipe.as_dict(), "contrast": {}}) == Recipe("mine")


def test_a_shipped_recipe_comes_before_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "paper").write_text("description = 'not this one'")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("paper").description != "not this one"
    assert load_recipe("./paper").description == "not this one"


def test_range_limits_are_allowed() -> None:
    recipe = from_dict({"contrast": {"weight": 0, "temperature": 100, "mean_voxels": 0}, "batch": {"patches": 2}})
    assert (recipe.contrast.weight, recipe.contrast.temperature, recipe.batch.patches) == (0.0, 100.0, 2)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_scaled_schedule_has_exactly_the_epochs_asked_for(name: str) -> None:
    schedule = load_recipe(name).schedule
    for epochs in range(schedule.rounds + 1, 3 * schedule.epochs, 1 + schedule.epochs // 100):
        scaled = schedule.scaled_to(epochs)
        assert scaled.epochs == epochs
        assert min(scaled.supervised_epochs, scaled.epochs_per_round) >= 1
        assert (scaled.rounds, scaled.steps_per_epoch) == (schedule.rounds, schedule.steps_per_epoch)


def test_a_scaled_schedule_keeps_its_shares() -> None:
    schedule = Schedule(supervised_epochs=400, rounds=3, epochs_per_round=200)
    assert schedule.epochs == 1000
    assert schedule.scaled_to(1000) == schedule
    assert schedule.scaled_to(100) == Schedule(supervised_epochs=40, rounds=3, epochs_per_round=20)


def test_rounding_never_eats_the_supervised_start() -> None:
    # 6 × 20 / 80 rounds to two epochs a round: six in all, none left to start with.
    scaled = Schedule(supervised_epochs=20, rounds=3, epochs_per_round=20).scaled_to(6)
    assert (scaled.supervised_epochs, scaled.epochs_per_round) == (3, 1)


@pytest.mark.parametrize(
    ("fraction", "patches", "unlabeled"),
    [(0.5, 2, 1), (0.05, 2, 1), (0.95, 2, 1), (0.5, 4, 2), (0.05, 4, 1), (0.95, 4, 3), (0.25, 8, 2), (0.95, 1024, 973)],
)
def test_a_joint_batch_holds_both_kinds(fraction: float, patches: int, unlabeled: int) -> None:
    assert Batch(unlabeled_fraction=fraction).unlabeled(patches) == unlabeled


def test_without_rounds_every_epoch_is_supervised() -> None:
    scaled = Schedule(supervised_epochs=10, rounds=0).scaled_to(4)
    assert (scaled.epochs, scaled.supervised_epochs) == (4, 4)


def test_rounds_that_begin_with_a_model_share_all_epochs() -> None:
    scaled = Schedule(supervised_epochs=0, rounds=4, epochs_per_round=2).scaled_to(20)
    assert (scaled.supervised_epochs, scaled.epochs_per_round) == (0, 5)


@pytest.mark.parametrize(("held_out", "steps"), [(True, 50), (False, 10)])
def test_validation_is_a_share_of_an_epoch(held_out: bool, steps: int) -> None:
    assert Schedule(steps_per_epoch=250).validation_steps(held_out=held_out) == steps
    assert Schedule(steps_per_epoch=1).validation_steps(held_out=held_out) == 1


@pytest.mark.parametrize(("memory", "decay"), [(0.0, 0.0), (0.5, 0.98), (1.0, 0.99), (0.001, 0.0)])
def test_the_teacher_looks_back_over_a_share_of_a_round(memory: float, decay: float) -> None:
    schedule = Schedule(steps_per_epoch=50, rounds=4, epochs_per_round=2)
    assert Teacher(memory).decay(schedule) == pytest.approx(decay)


@pytest.mark.parametrize("name", ["quick", "demo"])
def test_short_recipes_have_the_defaults_method(name: str) -> None:
    short, default = load_recipe(name), load_recipe("default")
    for table in (
        "augmentation",
        "contrast",
        "pseudo_labels",
        "pseudo_label_filter",
        "collapse_guard",
        "mixing",
        "teacher",
    ):
        assert getattr(short, table) == getattr(default, table)


def test_recipes_extend_one_another(tmp_path: Path) -> None:
    (tmp_path / "first.toml").write_text('extends = "quick"\n[contrast]\nweight = 0.5\n[teacher]\nema_rounds = 2.0\n')
    (tmp_path / "second.toml").write_text('extends = "first.toml"\ndescription = "mine"\n[contrast]\nanchors = 7\n')
    quick, mine = load_recipe("quick"), load_recipe(str(tmp_path / "second.toml"))
    assert (mine.name, mine.description) == ("second", "mine")
    assert mine.contrast == replace(quick.contrast, weight=0.5, anchors=7)
    assert (mine.teacher.ema_rounds, mine.schedule, mine.optimizer) == (2.0, quick.schedule, quick.optimizer)


@pytest.mark.parametrize("second", ["first.toml", "second.toml"])
def test_recipes_that_extend_each_other_are_refused(
    second: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("first.toml").write_text('extends = "second.toml"\n')
    Path("second.toml").write_text(f'extends = "{second}"\n')
    with refused(UsageError, "recipe.extends-itself"):
        load_recipe("first.toml")


def test_a_recipe_that_extends_nothing_known_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('extends = "nothing"\n')
    with refused(UsageError, "recipe.unknown") as refusal:
        load_recipe(str(tmp_path / "mine.toml"))
    assert "'nothing'" in refusal.problem.what


# Whoever wrote a recipe for version 0.1 has these in it.
OLD_RECIPE = """
[judgement]
drop_outside_range = true
range_margin = 3.0
agreement = 0.9
largest_component = true
degenerate_margin = 5.0
guard = false
validation_drop = 0.2
[mixing]
box = 0.5
[teacher]
memory = 0.25
[pseudo_labels]
crf = false
mirroring = false
"""


def test_a_recipe_of_version_0_1_is_read_with_a_warning_for_each_old_key(tmp_path: Path) -> None:
    (tmp_path / "old.toml").write_text(OLD_RECIPE)
    with pytest.warns(FutureWarning) as warned:
        recipe = load_recipe(str(tmp_path / "old.toml"))
    assert recipe.pseudo_label_filter == PseudoLabelFilter(
        drop_outside_range=True, range_margin=3.0, min_agreement=0.9, largest_component=True
    )
    assert recipe.collapse_guard == CollapseGuard(enabled=False, volume_margin=5.0, validation_drop=0.2)
    assert (recipe.mixing.box_fraction, recipe.teacher.ema_rounds) == (0.5, 0.25)
    assert recipe.pseudo_labels.mirroring is False
    told = [str(entry.message).split(": ", 1)[1].split(";")[0] for entry in warned]
    assert told[:9] == [f"{old} is now {new}" for old, new in RENAMED_KEYS.items()]
    assert told[9:] == ["pseudo_labels.crf is gone"]


def test_a_recipe_may_extend_one_of_version_0_1(tmp_path: Path) -> None:
    (tmp_path / "old.toml").write_text("[teacher]\nmemory = 0.25\n")
    (tmp_path / "new.toml").write_text('extends = "old.toml"\n[teacher]\nema_rounds = 0.75\n')
    with pytest.warns(FutureWarning):
        assert load_recipe(str(tmp_path / "new.toml")).teacher.ema_rounds == 0.75


def test_a_key_under_both_of_its_names_is_refused() -> None:
    with refused(UsageError, "recipe.unknown-key") as refusal:
        from_dict({"teacher": {"memory": 0.25, "ema_rounds": 0.5}})
    assert refusal.problem.where == "teacher.memory"


def test_the_random_field_is_no_setting_any_more() -> None:
    with refused(UsageError, "recipe.crf-moved"):
        from_dict({"pseudo_labels": {"crf": True}})


def test_what_a_record_does_not_know_was_not_there_to_be_chosen() -> None:
    recipe = load_recipe("quick")
    old = recipe.as_dict()
    del old["optimizer"]["schedule"], old["contrast"]["head_convolutions"], old["collapse_guard"]
    assert recorded_recipe(old) == recipe.as_dict()
    assert recorded_recipe(load_recipe("paper").as_dict()) == load_recipe("paper").as_dict()


def test_a_recipe_on_record_is_compared_under_current_names() -> None:
    recipe = load_recipe("quick")
    old = recipe.as_dict()
    old["judgement"] = {**old.pop("pseudo_label_filter"), **old.pop("collapse_guard")}
    old["judgement"] = {
        **{key: old["judgement"][key] for key in ("drop_outside_range", "range_margin", "largest_component")},
        "agreement": old["judgement"]["min_agreement"],
        "degenerate_margin": old["judgement"]["volume_margin"],
        "guard": old["judgement"]["enabled"],
        "validation_drop": old["judgement"]["validation_drop"],
    }
    old["mixing"]["box"] = old["mixing"].pop("box_fraction")
    old["teacher"]["memory"] = old["teacher"].pop("ema_rounds")
    old["pseudo_labels"]["crf"] = False
    known = recipe.as_dict()
    assert with_current_names(old) == known
    assert from_dict(old) == recipe
