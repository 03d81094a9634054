"""Draw the help pages: examples first, options in panels, one column of text where the terminal is narrow."""

from __future__ import annotations

import inspect
import io
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

# Wider lines are hard to read; narrower ones leave no room for a second column.
MAX_WIDTH, MIN_WIDTH_OF_COLUMNS = 100, 60
ARGUMENTS, OPTIONS = "Arguments", "Options"
Row = tuple[str, str]


class VerbCommand(TyperCommand):
    """A verb whose help page is ours."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page of the verb."""
        formatter.write(help_page(ctx.get_usage(), self.help or "", _panels(self.get_params(ctx))))


def help_page(usage: str, text: str, panels: Iterable[tuple[str, Sequence[Row]]], epilog: str = "") -> str:
    """Render a help page.

    Args:
        usage: the line that says how the command is written.
        text: paragraphs, separated by empty lines; the lines of one that begins with ``\\b`` stay as they are.
        panels: titles, each with its rows of a name and a text.
        epilog: a paragraph below the panels.
    """
    from rich.console import Console, Group
    from rich.padding import Padding
    from rich.panel import Panel
    from rich.text import Text

    width = _width()
    colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    page = io.StringIO()
    console = Console(file=page, width=width, force_terminal=colored, highlight=False)
    console.print(Text(usage, style="bold"), soft_wrap=False)
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        console.print()
        console.print(Padding(_paragraph(paragraph), (0, 0, 0, 1)))
    console.print()
    listed = list(panels)
    longest = max((len(name) for _, rows in listed for name, _ in rows), default=0)
    for title, rows in listed:
        body = _columns(rows, longest) if width >= MIN_WIDTH_OF_COLUMNS else Group(*_stacked(rows))
        console.print(Panel(body, title=title, title_align="left", border_style="dim"))
    if epilog:
        console.print(Padding(Text(epilog, style="dim"), (0, 0, 0, 1)))
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines())


def _width() -> int:
    return min(MAX_WIDTH, shutil.get_terminal_size().columns)


def _paragraph(text: str) -> Text:
    """Return a paragraph; the lines of an example stay as they are."""
    from rich.text import Text

    if text.startswith("\b"):
        return Text("\n".join(text.split("\n")[1:]), style="cyan" if "  pclauto " in text else "", no_wrap=True)
    return Text(" ".join(text.split()))


def _columns(rows: Sequence[Row], longest: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True, min_width=longest)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(Text(name, style="bold cyan"), Text(text))
    return table


def _stacked(rows: Sequence[Row]) -> Iterable[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    for name, text in rows:
        yield Text(name, style="bold cyan")
        yield Padding(Text(text), (0, 0, 0, 2))


def _panels(parameters: Sequence[Any]) -> list[tuple[str, list[Row]]]:
    """Return arguments and options by panel, the panel of options that are in every verb last."""
    panels: dict[str, list[Row]] = {}
    for parameter in parameters:
        if getattr(parameter, "hidden", False):
            continue
        own = ARGUMENTS if parameter.param_type_name == "argument" else OPTIONS
        title = getattr(parameter, "rich_help_panel", None) or own
        panels.setdefault(title, []).append((_name(parameter), _text(parameter)))
    last = panels.pop(OPTIONS, [])
    return [*panels.items(), *([(OPTIONS, last)] if last else [])]


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name)
    names = ", ".join(sorted(parameter.opts, key=len))
    if parameter.secondary_opts:
        names += f" / {', '.join(parameter.secondary_opts)}"
    return names if parameter.is_flag or not parameter.metavar else f"{names} {parameter.metavar}"


def _text(parameter: Any) -> str:
    """Return the text of an option, with its default where it is a value and the text does not say it."""
    text, default = str(parameter.help or ""), parameter.default
    if isinstance(default, Enum):
        default = default.value
    if parameter.required and parameter.param_type_name == "option":
        return f"{text} Required."
    if default in (None, "", ()) or isinstance(default, bool) or callable(default) or "Default:" in text:
        return text
    return f"{text} Default: {default}."
