"""Read the list of the study: its runs in order, and everything that can be wrong with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from refusal import refused
from study_list import ALL, Dataset, StudyList, read_list, recipe_digest, without_defaults
from study_lists import toy_block, toy_dataset

from pcl_auto.benchmark.arms import make_arms
from pcl_auto.errors import StateError, UsageError
from pcl_auto.recipe.load import load_recipe

STUDY = Path(__file__).parents[3] / "benchmarks" / "study.toml"
DATASET, BLOCK = toy_dataset(), toy_block()


def written(folder: Path, text: str) -> StudyList:
    file = folder / "study.toml"
    file.write_text(text)
    return read_list(file)


def test_runs_come_block_by_block_and_draw_by_draw(tmp_path: Path) -> None:
    later = BLOCK.replace('"first"', '"later"').replace("draws = 2", "draws = 3").replace("[2, 1]", "[2]")
    runs = written(tmp_path, DATASET + BLOCK + later).runs()
    assert [(run.labels, run.draw, run.arm) for run in runs] == [
        ("2", 0, "nnunet"), ("2", 0, "default"), ("2", 1, "nnunet"), ("2", 1, "default"),
        ("1", 0, "nnunet"), ("1", 0, "default"), ("1", 1, "nnunet"), ("1", 1, "default"),
        ("2", 2, "nnunet"), ("2", 2, "default"),
    ]  # fmt: skip
    assert len({run.name for run in runs}) == len(runs)


def test_a_block_may_wait_to_be_asked_for(tmp_path: Path) -> None:
    asked = BLOCK.replace('"first"', '"last"') + 'scans = "confirmation"\nasked = true\n'
    listed = written(tmp_path, DATASET + asked)
    assert listed.runs() == []
    assert {run.scans for run in listed.runs(["last"])} == {"confirmation"}


def test_the_list_of_the_repository() -> None:
    listed = read_list(STUDY)
    runs = listed.runs()
    assert {run.scans for run in runs} == {"development"}, "confirmation waits until it is asked for"
    first = [run for run in runs if run.labels == "2" and run.draw == 0]
    assert {run.dataset for run in first} == {"hippocampus", "acdc", "left_atrium"}
    assert {"nnunet", "nnunet_no_mirroring", "nnunet_symmetric", "default"} <= {run.arm for run in first}
    for run in runs:
        if run.labels == ALL:
            assert run.arm.startswith("nnunet")
    # At least as many draws as a verdict needs.
    assert max(run.draw for run in runs if run.labels == "2") >= 5


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("draws = 2", "draws = 0", ["study.wrong-list"]),
        ("draws = 2", "draws = true", ["study.wrong-list"]),
        ("draws = 2", "", ["study.wrong-list"]),
        ("draws = 2", "draws = 2\nnope = 1", ["study.wrong-list"]),
        ("labels = [2, 1]", 'labels = ["some"]', ["study.wrong-list"]),
        ("labels = [2, 1]", 'labels = ["all"]', ["study.wrong-list"]),
        ("labels = [2, 1]", "labels = []", ["study.wrong-list"]),
        ('["toy"]', '["toys"]', ["study.wrong-list"]),
        ('"nnunet", "default"', '"nnunet", "other"', ["benchmark.unknown-arm"]),
        ('"nnunet", "default"', '"nnunet", "wrong.toml"', ["recipe.unknown-key"]),
        ("development = 2", "development = 0", ["study.wrong-list"]),
        ("gpu_memory_gb = 1", "gpu_memory_gb = -1", ["study.wrong-list"]),
        ('base = "quick"', 'base = "quck"', ["recipe.unknown"]),
        ('name = "first"', 'name = "first"\nscans = "test"', ["study.wrong-list"]),
        ('name = "first"', 'name = "first"\nasked = "yes"', ["study.wrong-list"]),
        ("[datasets.toy]", "[other]\n[datasets.toy]", ["study.wrong-list"]),
        ("[[blocks]]", "[[blocks", ["study.unreadable-list"]),
        ("draws = 2", "draws = 0\ndraw = 1", ["study.wrong-list"] * 2),
        ('"nnunet", "default"', '"nnunet", "all-labels"', ["study.wrong-list"]),
        # Recipes that rows and tables would take for others.
        ('"nnunet", "default"', '"nnunet.toml", "default"', ["benchmark.arm-named-as-baseline"]),
        ('"nnunet", "default"', '"nnunet", "com,ma/mine.toml"', ["study.wrong-list"]),
        (
            "draws = 2",
            f"draws = 2\n{BLOCK.replace('default', 'com_ma/default.toml')}",
            ["study.wrong-list"],
        ),
        ("[[blocks]]", "[blocks]", ["study.wrong-list"]),
        ("[datasets.toy]", "[datasets]\ntoy = 1\n[other]", ["study.wrong-list"] * 3),
    ],
)
def test_wrong_lists(tmp_path: Path, before: str, after: str, expected: list[str]) -> None:
    (tmp_path / "wrong.toml").write_text('extends = "paper"\n[contrast]\nwieght = 1\n')
    for name in ("nnunet.toml", "com,ma/mine.toml", "com_ma/default.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('extends = "default"\n[contrast]\nweight = 0.5\n')
    text = DATASET + BLOCK
    assert before in text
    with refused(UsageError, *expected):
        written(tmp_path, text.replace(before, after))


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with refused(UsageError, "study.unreadable-list"):
        read_list(tmp_path / "none.toml")


def test_arms_and_base_recipes_may_lie_beside_the_list(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('extends = "default"\n[contrast]\nweight = 0.5\n')
    (tmp_path / "base.toml").write_text('extends = "quick"\n[batch]\npatches = 6\n')
    text = (DATASET + BLOCK).replace('"quick"', '"base.toml"').replace('"default"]', '"mine.toml"]')
    listed = written(tmp_path, text)
    runs = listed.runs()
    assert [run.arm for run in runs][:2] == ["nnunet", "mine"]
    # As a benchmark makes them, in the process of a run.
    assert [listed.name_arm(run) for run in runs[:2]] == ["nnunet", str(tmp_path / "mine.toml")]
    (tmp_path / "mine.toml").write_text('extends = "default"\n[contrast]\nweight = 0.25\n')
    with refused(StateError, "study.recipe-changed"):
        listed.name_arm(runs[1])
    assert listed.base_recipe(listed.datasets["toy"]).batch.patches == 6


TOY = Dataset("toy", "Task05_Toy", "3d_fullres", 8, "quick", 2)


def digests(arm: str = "default") -> set[str]:
    """Return the digests of an arm with one setting changed after the other."""
    base = load_recipe("quick")
    (made,), _ = make_arms([arm], base)
    recipe = made.recipe
    changed = [
        replace(made, recipe=replace(recipe, contrast=replace(recipe.contrast, weight=0.7))),
        replace(made, recipe=replace(recipe, schedule=replace(recipe.schedule, steps_per_epoch=7))),
        replace(made, baseline=True),
    ]
    return {
        recipe_digest(made, TOY),
        *(recipe_digest(other, TOY) for other in changed),
        recipe_digest(made, replace(TOY, configuration="2d")),
        recipe_digest(made, replace(TOY, gpu_memory_gb=4)),
    }


def test_every_setting_of_a_result_is_in_its_digest() -> None:
    assert len(digests()) == 6


def test_names_and_the_place_of_the_data_are_not() -> None:
    (made,), _ = make_arms(["default"], load_recipe("quick"))
    renamed = replace(made, name="other", recipe=replace(made.recipe, name="other", description="other"))
    assert recipe_digest(renamed, TOY) == recipe_digest(made, TOY)
    assert recipe_digest(made, replace(TOY, task="Task06", development=3, note="x")) == recipe_digest(made, TOY)


def test_a_recipe_without_its_defaults() -> None:
    recipe = load_recipe("default")
    changed = without_defaults(recipe)
    assert changed["mixing"] == {"copy_paste": True}
    assert "collapse_guard" not in changed
    assert "name" not in changed


def test_digests_of_committed_rows_do_not_change_unnoticed() -> None:
    """Fails where a recipe or a default changed: all rows of that arm are another recipe's then.

    If that is meant, put in the new values. If a default changed under a recipe that should train as before, write the
    old value into the recipe.
    """
    arms, _ = make_arms(["nnunet", "nnunet_no_mirroring", "nnunet_symmetric", "default"], load_recipe("quick"))
    assert {arm.name: recipe_digest(arm, TOY) for arm in arms} == PINNED


PINNED = {
    "nnunet": "5c8c9bdb",
    "nnunet_no_mirroring": "6423a9fe",
    "nnunet_symmetric": "b1506b49",
    "default": "d5dd7a65",
}
