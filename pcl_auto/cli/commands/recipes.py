"""Define ``pclauto recipes``: the shipped recipes, and every setting of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.terminal import Terminal

if TYPE_CHECKING:
    from pcl_auto.recipe.settings import Recipe


def recipes(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A recipe by name, or a TOML file. Default: list those that are shipped; with --set, default.",
            autocompletion=options.complete_recipe,
            metavar="RECIPE",
        ),
    ] = None,
    settings: options.Settings = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of recipe files, for editors.")
    ] = False,
    json: options.Json = False,
) -> None:
    """List the recipes, or show every setting of one.

    \b
      pclauto recipes
      pclauto recipes default
      pclauto recipes quick --set contrast.weight=0.2 --json

    What is shown of a recipe is a recipe file itself. To begin your own, write it to one: `pclauto recipes default >
    mine.toml`, change it, and train with `--recipe mine.toml`.
    """
    from pcl_auto.recipe.catalog import all_settings
    from pcl_auto.recipe.changes import load_changed
    from pcl_auto.recipe.schema import json_schema
    from pcl_auto.recipe.write import as_toml

    terminal = Terminal()
    if schema:
        terminal.json(json_schema())
    elif recipe is None and not settings:
        _list(terminal, json=json)
    else:
        found = load_changed(recipe or "default", settings or ())
        if json:
            listed = [setting.as_dict(found) for setting in all_settings() if setting.table]
            terminal.json({"name": found.name, "description": found.description, "settings": listed})
        else:
            terminal.print_text(as_toml(found))


def _list(terminal: Terminal, *, json: bool) -> None:
    from pcl_auto.recipe.load import load_recipe, shipped_recipes

    names = sorted(shipped_recipes(), key=lambda name: name != "default")
    listed = [load_recipe(name) for name in names]
    if json:
        terminal.json({"recipes": [_summary(recipe) for recipe in listed]})
        return
    columns = ("recipe", ">epochs × steps", ">rounds", "what it is")
    terminal.print_table(columns, [_row(recipe) for recipe in listed])
    terminal.print_line("every setting of one: pclauto recipes NAME")


def _row(recipe: Recipe) -> tuple[str, str, str, str]:
    schedule = recipe.schedule
    length = f"{schedule.epochs} × {schedule.steps_per_epoch}"
    return recipe.name, length, str(schedule.rounds), recipe.description


def _summary(recipe: Recipe) -> dict[str, Any]:
    schedule = recipe.schedule
    return {
        "name": recipe.name,
        "description": recipe.description,
        "epochs": schedule.epochs,
        "steps_per_epoch": schedule.steps_per_epoch,
        "rounds": schedule.rounds,
    }
