"""Define ``pclauto init``: a data set of two plain folders."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.interrupt import resumable
from pcl_auto.cli.console.progress import counting
from pcl_auto.cli.console.terminal import Terminal, some_of
from pcl_auto.data.labels import format_values
from pcl_auto.nnunet.environment import available_cores

if TYPE_CHECKING:
    from pcl_auto.data.dataset.plain_folders import NewDataset
    from pcl_auto.data.dataset.write_dataset import Written


_MEANING = "What the values mean"


class Modality(str, Enum):
    """The kinds of scans that nnU-Net normalizes differently."""

    ct = "CT"
    mri = "MRI"


def init(
    images: Annotated[Path, typer.Argument(help="Folder of images.", metavar="IMAGES")],
    masks: Annotated[
        Path, typer.Argument(help="Folder with masks of some of them, called as their images.", metavar="MASKS")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the data set. Default: Task_ and the name of the folder that IMAGES lies in, here.",
            metavar="FOLDER",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="The classes: 1=liver,2=tumor, or their names in order. Default: class_1, class_2, …",
            metavar="NAMES",
            rich_help_panel=_MEANING,
        ),
    ] = None,
    modality: Annotated[
        Modality | None,
        typer.Option(
            case_sensitive=False,
            help="CT, normalized by its units, or MRI, as all else. Default: MRI; images that may be CT are refused.",
            metavar="KIND",
            rich_help_panel=_MEANING,
        ),
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(
            help="The channels of an image in order, where it has several: T2,ADC.",
            metavar="NAMES",
            rich_help_panel=_MEANING,
        ),
    ] = None,
    test_images: Annotated[
        Path | None, typer.Option(help="Folder of images that are kept for tests.", metavar="FOLDER")
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the files. Default: hard links, where the disk allows it.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and match the files, write nothing.")] = False,
    json: options.Json = False,
) -> None:
    """Make a data set of a folder of images and one of masks.

    \b
      pclauto init images/ masks/ --labels 1=liver,2=tumor -o Task_Liver/
      pclauto init images/ masks/ --labels liver,tumor --dry-run

    Images without a mask are the unlabeled cases. A mask is called as its image,
    or with a word such as _seg or mask_ more; files case_0000, case_0001, … are
    the channels of one case. NIfTI stays as it is, MetaImage and NRRD are
    converted. Both folders stay as they are.
    """
    from pcl_auto.data.dataset.plain_cases import Sources
    from pcl_auto.data.dataset.plain_folders import default_target, make_dataset

    terminal = Terminal()
    events = {"convert": "converting files", "check": "checking files"}
    with resumable(terminal), counting(terminal, events) as listener:
        made = make_dataset(
            Sources(images, masks, test_images),
            output or default_target(images),
            labels=labels,
            channels=() if channels is None else tuple(name.strip() for name in channels.split(",")),
            modality=None if modality is None else modality.value,
            copy=copy,
            dry_run=dry_run,
            threads=available_cores(),
            progress=lambda what, done, total: listener(what, {"done": done, "total": total}),
        )
    terminal.problems(made.warnings, "warning")
    is_guess = channels is None and modality is None
    if json:
        terminal.json(_facts(made, modality_is_guess=is_guess))
        return
    _render(terminal, made, is_guess=is_guess, classes_are_named=labels is not None)
    next_step = f"next: pclauto plan {shlex.quote(str(made.folder))}"
    terminal.print_line("dry run: nothing was written" if dry_run else next_step)


def _facts(made: NewDataset, *, modality_is_guess: bool) -> dict[str, Any]:
    written = made.written
    return {
        "folder": str(made.folder),
        "format": "nnunet_raw" if made.is_raw else "decathlon",
        "channels": list(made.channels),
        "modality_is_guess": modality_is_guess,
        "labels": made.labels,
        "labeled": list(made.labeled),
        "unlabeled": list(made.unlabeled),
        "test": list(made.test),
        "matched": dict(made.matched),
        "converted": made.converted,
        "linked": written.linked if written else 0,
        "copied": written.copied if written else 0,
        "bytes_written": written.bytes_written if written else 0,
        "dry_run": written is None,
        "warnings": [problem.as_dict() for problem in made.warnings],
        "problems": [],
    }


def _render(terminal: Terminal, made: NewDataset, *, is_guess: bool, classes_are_named: bool) -> None:
    guess = "  (assumed; for CT: --modality CT)" if is_guess else ""
    unnamed = "" if classes_are_named else "  (--labels gives them names)"
    classes = some_of((f"{format_values(value)} {name}" for name, value in made.labels.items() if value), ", ")
    facts = [
        ("format", "nnU-Net raw, a file for each channel" if made.is_raw else "decathlon"),
        ("channels", ", ".join(made.channels) + guess),
        ("classes", classes + unnamed),
        ("labeled", _some(made.labeled)),
        ("unlabeled", _some(made.unlabeled)),
    ]
    if made.test:
        facts.append(("test", _some(made.test)))
    facts.append(("matched by", "; ".join(f"{how}: {count}" for how, count in made.matched.items())))
    if made.written:
        facts.append(("files", _files(made.written, made.converted)))
    terminal.print_facts(facts, title=str(made.folder))


def _files(written: Written, converted: int) -> str:
    counts = {"hard links": written.linked, "copied": written.copied, "converted to NIfTI": converted}
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    return f"{kinds}; {written.bytes_written / 1e6:.1f} MB written"


def _some(names: tuple[str, ...], limit: int = 3) -> str:
    shown = ", ".join(names[:limit])
    return f"{len(names)}" + (f"  ({shown}{', …' if len(names) > limit else ''})" if names else "")
