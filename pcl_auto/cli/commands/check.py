"""``pclauto check``."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from pcl_auto.cli.console.options import JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pcl_auto.cli.console.terminal import Terminal
    from pcl_auto.errors import Problem

_PLACES = 5


def check(
    task: Annotated[
        str, typer.Argument(help="A decathlon or nnUNet_raw folder, or its name or number, as for `pclauto plan`.")
    ],
    use_test_images: Annotated[
        bool, typer.Option("--use-test-images", help="Judge imagesTs as unlabeled cases, as plan does with it.")
    ] = False,
    follow_symlinks: Annotated[
        bool, typer.Option("--follow-symlinks", help="Accept links that lead out of the data set's folder.")
    ] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Look a data set over before any GPU time: damaged, missing, double and odd scans.

    \b
      pclauto check Task05_Prostate

    Exit codes: 0 nothing found, 1 warnings alone, 3 what `pclauto plan` refuses or what spoils a score.
    """
    from pcl_auto.cli.commands.plan import find
    from pcl_auto.cli.console.progress import counting
    from pcl_auto.cli.console.terminal import Terminal
    from pcl_auto.data.checks.check import diagnose
    from pcl_auto.nnunet.environment import available_cores

    terminal = Terminal()
    root = find(task, workspace)
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
        terminal.out.print(f"[bold]{_escaped(str(found.root))}[/]", soft_wrap=True)
        terminal.out.print(", ".join(f"{number} {role}" for role, number in found.cases.items()))
        _render(terminal, "pclauto plan refuses", "red", found.refused)
        _render(terminal, "wrong", "red", found.wrong)
        _render(terminal, "worth a look", "yellow", found.warnings)
        if found.exit_code == 0:
            terminal.out.print("[green]nothing found[/]: pclauto plan accepts it")
        elif not found.refused:
            why = ", for it does not look at test scans" if found.wrong else ""
            terminal.out.print(f"\npclauto plan accepts it{why}")
    raise typer.Exit(found.exit_code)


def _escaped(text: str) -> str:
    from pcl_auto.cli.console.terminal import cell

    return cell(text)


def _render(terminal: Terminal, title: str, color: str, problems: Sequence[Problem]) -> None:
    """Problems of one kind together, with the places where they are."""
    from rich.padding import Padding

    if not problems:
        return
    terminal.out.print(f"\n[{color} bold]{title}[/]")
    ordered = sorted(problems, key=lambda problem: (problem.what, problem.fix))
    for (what, fix), same in groupby(ordered, key=lambda problem: (problem.what, problem.fix)):
        places = list(same)
        number = f" ({len(places)})" if len(places) > 1 else ""
        terminal.out.print(f"  [{color}]•[/] {_escaped(what)}{number}")
        for problem in places[:_PLACES]:
            pairs = (("expected", problem.expected), ("found", problem.found))
            said = ", ".join(f"{word} {value}" for word, value in pairs if value)
            terminal.out.print(Padding(_escaped(f"{problem.where}{': ' + said if said else ''}"), (0, 0, 0, 6)))
        if len(places) > _PLACES:
            terminal.out.print(f"      and {len(places) - _PLACES} more; --json lists them all")
        terminal.out.print(Padding(f"[dim]fix:[/] {_escaped(fix)}", (0, 0, 0, 6)))
