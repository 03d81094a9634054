"""Write docs/recipes.md: the shipped recipes, and every setting of a recipe as pcl_auto/recipe/settings.py has it.

python docs/make_recipes.py

What was measured is put in by `make table`, and kept here.
"""

from __future__ import annotations

from pathlib import Path

from pcl_auto.recipe.catalog import Setting, all_settings, tables
from pcl_auto.recipe.load import load_recipe, shipped_recipes
from pcl_auto.recipe.write import toml_value

TARGET = Path(__file__).resolve().parent / "recipes.md"
BEGIN, END = "<!-- measured effects: made by `make table` -->", "<!-- end of measured effects -->"
# When to take which; what each is stands in its description.
WHEN = {
    "default": "on a GPU, for results",
    "quick": "on a CPU, or for a first look: minutes on two cores",
    "demo": "in `pclauto demo`",
    "paper": "to compare with the published method, in 3D",
    "paper_2d": "the same in a 2D configuration",
    **dict.fromkeys(
        ("self_training", "noisy_student", "mixup", "mean_teacher", "uncertainty_mean_teacher", "fixmatch", "unimatch",
         "cross_supervision", "copy_paste_teacher"),
        "as an arm of `pclauto benchmark` ([methods](methods.md))",
    ),
}  # fmt: skip
INTRODUCTION = """# Recipes

A recipe is every setting of a training but its data, split and seed: how long it is, how it learns, and what it does
with unlabeled cases. `pclauto recipes` lists the recipes below, and `pclauto recipes NAME` prints one as a file,
complete and with comments. `pclauto train --recipe NAME` takes a recipe by name, or a file of yours.

## Change a setting

Without a file, by `--set`, as often as you like:

```sh
pclauto train --labeled 2 --set contrast.weight=0.2 --set schedule.rounds=4 --dry-run
```

Values are written as in TOML; a word needs no quotes (`--set optimizer.name=adamw`). The run is another one than
without: its recipe is called `default-contrast.weight-0.2`, or where that would be long `default-` and a checksum,
and so are the folders of its models. With `--supervised-only` and the same `--set` the baseline takes the same steps,
batch and network. In `pclauto benchmark` and `pclauto sweep`, `--set` changes the base recipe and every recipe that
is compared. In Python it is `pcl_auto.train(settings={"contrast.weight": 0.2})`.

With a file, which says what it changes in another recipe, and is called as it is itself:

```toml
# mine.toml, for --recipe mine.toml
extends = "default"
description = "the default with more weight on contrast"

[contrast]
weight = 0.2
```

To begin with everything written out:

```sh
pclauto recipes default > mine.toml
```

For completion and checks in an editor, `pclauto recipes --schema > recipe.schema.json` writes a JSON Schema. Editors
that use Taplo take it from the first line of a recipe: `#:schema recipe.schema.json`.

This page is made from the program (`python docs/make_recipes.py`).

## Shipped recipes
"""
SETTINGS = """## Settings

A default is what a key has that a recipe leaves out; the recipe called `default` sets some of them. The last column
has the value of that recipe, where it is another one, and of the shipped recipes that differ from it. Where the
study has measured a change of the setting, a link says so.
"""
MEASURED = """## Measured effects

Wherever two arms of the study differ in one setting alone: the mean Dice of the second minus that of the first, over
the draws of labeled cases that both have, on development scans, with its 95 % t-interval. With fewer than five draws
it says little, and the intervals are not adjusted for their number. [Ablation](ablation.md) has the same for all
settings that were asked about, and [Benchmark](benchmark.md) how it is measured.
"""


def page(measured: str) -> str:
    """Return the page; ``measured`` is what stands between the marks of `make table`."""
    lines = [INTRODUCTION, "| recipe | what it is | length | rounds | when |", "|---|---|---|---|---|"]
    for name in (*WHEN, *sorted({*shipped_recipes()} - WHEN.keys())):
        recipe = load_recipe(name)
        length = f"{recipe.schedule.epochs} × {recipe.schedule.steps_per_epoch}"
        lines.append(f"| `{name}` | {recipe.description} | {length} | {recipe.schedule.rounds} | {WHEN[name]} |")
    lines += ["", "Lengths are epochs × steps.", "", SETTINGS]
    for table, about in tables().items():
        lines += [
            f"### {table}",
            "",
            about,
            "",
            "| key | default | values | what it does | recipes |",
            "|---|---|---|---|---|",
        ]
        lines += [_row(setting, measured) for setting in all_settings() if setting.table == table]
        lines.append("")
    return "\n".join([*lines, MEASURED, f"{BEGIN}{measured}{END}"]) + "\n"


def _row(setting: Setting, measured: str) -> str:
    about = setting.help + (" [Measured](#measured-effects)." if f"`{setting.name}`" in measured else "")
    values = ", ".join(f"`{choice}`" for choice in setting.choices) or setting.allowed
    cells = (f"`{setting.key}`", f"`{toml_value(setting.default)}`", values, about, _recipes(setting))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _recipes(setting: Setting) -> str:
    """List the recipes that have their own value: the default's where it is not the key's, others where not that."""
    common = setting.value_in(load_recipe("default"))
    by_value = {toml_value(common): ["default"]} if common != setting.default else {}
    for name in WHEN:
        if (value := setting.value_in(load_recipe(name))) != common:
            by_value.setdefault(toml_value(value), []).append(name)
    return "; ".join(f"`{value}`: {', '.join(names)}" for value, names in by_value.items())


def measured_before() -> str:
    """Return what the page has between the marks now, nothing where there is no page."""
    text = TARGET.read_text(encoding="utf-8") if TARGET.is_file() else ""
    return text.partition(BEGIN)[2].partition(END)[0] or "\n\n"


if __name__ == "__main__":
    TARGET.write_text(page(measured_before()), encoding="utf-8")
