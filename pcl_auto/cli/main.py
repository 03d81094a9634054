"""Define the command ``pclauto``: its verbs, errors and exit codes."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pcl_auto import __version__
from pcl_auto.cli.console.help_pages import VerbCommand, help_page
from pcl_auto.cli.console.interrupt import Terminated, end_in_order, exit_code, terminated
from pcl_auto.cli.console.terminal import Terminal, open_standard_files
from pcl_auto.cli.old_names import current_names, show_old_names
from pcl_auto.cli.verbs import VERBS, load_verb
from pcl_auto.errors import PclautoError, Problem, UsageError
from pcl_auto.workspace.files import printable

_EPILOG = (
    "Exit codes: 0 done, 1 unexpected fault (check: warnings alone), 2 usage, 3 bad data, 4 bad plan, run or model, "
    "5 resources, 6 locked by another run, 7 numerical failure, 130 interrupted, 143 terminated. "
    "With --debug, an error comes with its traceback."
)
_HELP = """Semi-supervised nnU-Net: few labels, many scans.

\b
  pclauto plan Task05_Prostate
  pclauto train --labeled 2
  pclauto predict new_scan.nii.gz -o out/

\b
No data at hand? `pclauto demo` makes some and runs the whole way in minutes.
"""

_DEBUG = "--debug"


class _Group(TyperGroup):
    """Verbs whose modules are imported when they are used, and whose mistakes are problems as any others."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        # The names are for completion and suggestions.
        names: dict[str, Any] = dict.fromkeys(VERBS)
        self.commands = names

    def get_command(self, _ctx: Any, cmd_name: str) -> Any:
        """Make the command of a verb; None where there is none."""
        if cmd_name not in VERBS:
            return None
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=_SETTINGS)
        alone.command(cmd_name, cls=VerbCommand)(load_verb(cmd_name))
        return typer.main.get_command(alone)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page of all verbs."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, verb in VERBS.items():
            panels.setdefault(verb.panel, []).append((name, verb.summary))
        formatter.write(help_page(ctx.get_usage(), _HELP, panels.items(), _EPILOG))

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Parse what comes before the verb."""
        with _mistakes_as_problems():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Parse the rest, and do it."""
        with _mistakes_as_problems():
            return super().invoke(ctx)


@contextmanager
def _mistakes_as_problems() -> Iterator[None]:
    """Turn what typer says of arguments into a problem, so that --json shows it and no name steers the terminal.

    Raises:
        UsageError: arguments that the command does not know.
    """
    try:
        yield
    except Exception as error:
        # Which class this is depends on the version of typer.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "pclauto"
        what = " ".join(printable(line) for line in str(message()).splitlines()).rstrip(".")
        raise UsageError(Problem("command.arguments", what, f"`{command}`", f"see `{command} --help`")) from error


_SETTINGS = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(cls=_Group, name="pclauto", pretty_exceptions_enable=False, context_settings=_SETTINGS)


def _show_version(value: bool) -> None:  # noqa: FBT001 (typer calls it with the option's value)
    if value:
        typer.echo(f"pclauto {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _wants_json(arguments: list[str]) -> bool:
    """Tell whether a command asks for its result as JSON; what follows ``--`` are names of files."""
    return "--json" in arguments[: arguments.index("--") if "--" in arguments else None]


def _report_error(terminal: Terminal, error: Exception) -> int:
    """Print what went wrong on stderr, with --json on stdout too, and return the exit code."""
    known = _known(error)
    if known is not None:
        terminal.problems(known.problems)
        if _wants_json(sys.argv[1:]):
            with suppress(OSError):  # stdout itself may be what is full
                terminal.json({"problems": [problem.as_dict() for problem in known.problems]})
        return known.exit_code
    terminal.print_line(f"unexpected fault: {type(error).__name__}: {error}")
    terminal.print_line(f"{_keep_fault(error)}; the same command with {_DEBUG} shows it.")
    return PclautoError.exit_code


def _known(error: Exception) -> PclautoError | None:
    """Return the refusal that an error is or means; None for a fault of the program."""
    from pcl_auto.workspace.resources import as_refused_operation, as_resource_error

    return error if isinstance(error, PclautoError) else as_resource_error(error) or as_refused_operation(error)


def _keep_fault(error: Exception) -> str:
    """Write how a fault came about to a file of its own, and say where it is.

    Others may write to the folder: the file is a new one, under a name that nobody can foretell, for this user alone.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix="pclauto-fault-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n".join(map(printable, _told(error).splitlines())) + "\n")
    except OSError as problem:
        return f"No file can be written to report it from ({problem.strerror})"
    return f"A report of it should hold what is in {name}"


def _told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def run() -> None:
    """Run the command line; errors of ours become lines on stderr and an exit code."""
    open_standard_files()
    if not os.environ.get("COLUMNS", "1").strip("0"):
        del os.environ["COLUMNS"]  # a terminal of no width: nothing would be seen
    end_in_order()
    terminal = Terminal()
    # Wherever in the command it stands: who needs it has just seen the command fail.
    debug = _DEBUG in sys.argv
    sys.argv[1:], renamed = current_names([argument for argument in sys.argv[1:] if argument != _DEBUG])
    for message in renamed:
        terminal.print_line(f"warning: {message}")
    show_old_names(terminal.print_line)
    try:
        app()
    except Exception as error:
        if debug and not _known(error):
            sys.excepthook = lambda _kind, fault, _trace: terminal.print_line(_told(fault))
            raise
        if debug:
            terminal.print_line(_told(error))
        sys.exit(_report_error(terminal, error))
    except SystemExit as end:
        # typer knows one interrupt alone.
        if end.code == exit_code(KeyboardInterrupt()) and terminated():
            sys.exit(exit_code(Terminated()))
        if isinstance(end.__context__, BrokenPipeError):  # who read the help had enough of it
            sys.exit(0)
        raise
