"""Define ``pclauto check``: a data set looked over before any GPU time."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.progress import counting
from pcl_auto.cli.console.terminal import Terminal
from pcl_auto.nnunet.environment import available_cores
from pcl_auto.workspace.files import printable
from pcl_auto.workspace.folders import Workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pcl_auto.errors import Problem

MAX_SHOWN = 5


def check(
    task: options.Task,
    use_test_images: Annotated[
        bool, typer.Option("--use-test-images", help="Judge imagesTs as unlabeled cases, as plan does with it.")
    ] = False,
    follow_symlinks: options.FollowSymlinks = False,
    workspace_path: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Look a data set over before any GPU time.

    \b
      pclauto check Task05_Prostate

    It finds damaged, missing, double and odd scans.

    Exit codes: 0 nothing found, 1 warnings alone, 3 what `pclauto plan` refuses or what spoils a score.
    """
    from pcl_auto.data.checks.check_dataset import diagnose
    from pcl_auto.data.dataset.decathlon import find_task

    terminal = Terminal()
    root = find_task(task, Workspace.find(workspace_path).data_folders())
    with counting(terminal, {"check": "reading files"}) as listener:
        found = diagnose(
            root,
            threads=available_cores(),
            use_test_images=use_test_images,
            follow_links=follow_symlinks,
            progress=lambda done, total: listener("check", {"done": done, "total": total}),
        )
    if json:
        terminal.json(found.as_dict())
    else:
        terminal.print_result(str(found.root), style="bold")
        terminal.print_result(", ".join(f"{number} {role}" for role, number in found.cases.items()))
        _render(terminal, "pclauto plan refuses", "red", found.refused)
        _render(terminal, "wrong", "red", found.wrong)
        _render(terminal, "worth a look", "yellow", found.warnings)
        if found.exit_code == 0:
            terminal.print_result("nothing found: pclauto plan accepts it", style="green")
        elif not found.refused:
            why = ", for it does not look at test scans" if found.wrong else ""
            terminal.print_result()
            terminal.print_result(f"pclauto plan accepts it{why}")
    raise typer.Exit(found.exit_code)


def _render(terminal: Terminal, title: str, color: str, problems: Sequence[Problem]) -> None:
    """Print problems of one kind together, with where they are."""
    from rich.padding import Padding
    from rich.text import Text

    def indented(text: str, style: str = "") -> None:
        terminal.out.print(Padding(Text(printable(text), style), (0, 0, 0, 6)))

    if not problems:
        return
    terminal.print_result()
    terminal.print_result(title, style=f"{color} bold")
    ordered = sorted(problems, key=lambda problem: (problem.what, problem.fix))
    for (what, fix), group in groupby(ordered, key=lambda problem: (problem.what, problem.fix)):
        same = list(group)
        terminal.print_result(f"  • {what}{f' ({len(same)})' if len(same) > 1 else ''}", style=color)
        for problem in same[:MAX_SHOWN]:
            pairs = (("expected", problem.expected), ("found", problem.found))
            compared = ", ".join(f"{word} {value}" for word, value in pairs if value)
            indented(f"{problem.where}{': ' + compared if compared else ''}")
        if len(same) > MAX_SHOWN:
            indented(f"and {len(same) - MAX_SHOWN} more; --json lists them all")
        indented(f"fix: {fix}", "dim")
