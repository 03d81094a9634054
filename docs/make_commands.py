"""Write docs/commands.md: every verb of pclauto, from its help page.

python docs/make_commands.py
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import typer.main

from pcl_auto.cli.main import app
from pcl_auto.cli.verbs import VERBS

TARGET = Path(__file__).resolve().parent / "commands.md"
INTRODUCTION = """# Commands

What `pclauto VERB --help` shows, verb by verb. Every verb has examples, and `--json` for its result on stdout.
[Files](files.md#exit-codes) lists the exit codes. With `--debug`, an error comes with its traceback.

This page is made from the program (`python docs/make_commands.py`).
"""
ARGUMENTS, OPTIONS = "Arguments", "Options"
Row = tuple[str, str]


def commands() -> dict[str, Any]:
    """Return the verbs by name, each as the object that parses its arguments."""
    group: Any = typer.main.get_command(app)
    context = group.context_class(group, info_name="pclauto")
    return {name: group.get_command(context, name) for name in VERBS}


def page() -> str:
    """Return the page."""
    parts, panel = [INTRODUCTION], ""
    for name, command in commands().items():
        if VERBS[name].panel != panel:
            panel = VERBS[name].panel
            parts.append(f"## {panel}\n")
        parts += [f"### pclauto {name}\n", *description(command.help or ""), *tables(command.params)]
    return "\n".join(parts)


def description(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help page; those that keep their lines are examples."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines = paragraph.split("\n")
        if lines[0].strip() == "\b":
            example = inspect.cleandoc("\n".join(lines[1:]))
            yield f"```sh\n{example}\n```\n"
        else:
            yield " ".join(paragraph.split()) + "\n"


def tables(parameters: Sequence[Any]) -> Iterator[str]:
    """Yield a table of each panel of arguments and options; options that are in no panel come last."""
    panels: dict[str, list[Row]] = {}
    for parameter in parameters:
        if not getattr(parameter, "hidden", False):
            own = ARGUMENTS if is_argument(parameter) else OPTIONS
            panels.setdefault(getattr(parameter, "rich_help_panel", None) or own, []).append(row(parameter))
    for title in sorted(panels, key=lambda title: title == OPTIONS):
        rows = "\n".join(f"| `{name}` | {text} |" for name, text in panels[title])
        yield f"| {title} | |\n|---|---|\n{rows}\n"


def is_argument(parameter: Any) -> bool:
    """Tell arguments from options."""
    return bool(parameter.param_type_name == "argument")


def row(parameter: Any) -> Row:
    """Return the name of an argument or option, and what it does."""
    if is_argument(parameter):
        name = str(parameter.metavar or parameter.name).upper()
        return name if parameter.required else f"[{name}]", sentence(parameter)
    name = ", ".join(sorted(parameter.opts, key=len))
    if parameter.secondary_opts:
        name += f" / {', '.join(parameter.secondary_opts)}"
    if not parameter.is_flag:
        name += f" {parameter.metavar or 'TEXT'}"
    return name, sentence(parameter)


def sentence(parameter: Any) -> str:
    """Return the text of an argument or option, with its default where the text does not say it."""
    text, default = str(parameter.help or ""), parameter.default
    if isinstance(default, Enum):
        default = default.value
    if parameter.required and not is_argument(parameter):
        text += " Required."
    elif default not in (None, "", ()) and not isinstance(default, bool) and not callable(default):
        text += "" if "Default:" in text else f" Default: `{default}`."
    return text.replace("|", "\\|")


def main() -> None:
    """Write the page."""
    TARGET.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
