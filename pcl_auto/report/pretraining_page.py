"""Write the report of a pre-training: its loss curves and what it was made of, one HTML page."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pcl_auto.recipe.time_budget import format_duration
from pcl_auto.report.curves import Series, draw_curves
from pcl_auto.report.page import inline_file
from pcl_auto.training.pretrain_record import read_pretraining
from pcl_auto.training.run_facts import read_events
from pcl_auto.workspace.files import printable, write_text
from pcl_auto.workspace.run_record import REPORT

_PAGE = Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: pclauto report</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<h2>Loss</h2>
<div class="charts">{figures}</div>
<h2>Settings</h2>
<table>{rows}</table>
<h2>Command</h2>
<pre>{command}</pre>
</body>
</html>
""")
_FIGURE = Markup("<figure><figcaption>{}</figcaption>{}</figure>")
_ROW = Markup('<tr><th scope="row">{}</th><td>{}</td></tr>')
_TITLES = {
    "masked": "Mean squared error on hidden voxels",
    "global": "Global contrast (encoder)",
    "local": "Local contrast (decoder)",
}


def write_pretraining_report(folder: Path) -> Path:
    """Write the report of the pre-training in ``folder`` into it, and return the file.

    Raises:
        StateError: its record is missing or damaged.
    """
    record, events = read_pretraining(folder), read_events(folder / "events.jsonl")
    # Where an epoch was repeated, its last.
    epochs = [*{event["epoch"]: event for event in events if event["event"] == "epoch"}.values()]
    identity = record["identity"]
    page = _PAGE.format(
        title=printable(f"{identity['recipe']['pretraining']['method']} pre-training of {identity['dataset']}"),
        style=inline_file("page.css"),
        figures=Markup("").join(_figures(epochs)),
        rows=Markup("").join(_ROW.format(name, printable(value)) for name, value in _facts(record, epochs)),
        command=printable(shlex.join(["pclauto", *map(str, record.get("command", ())[1:])])),
    )
    write_text(folder / REPORT, page)
    return folder / REPORT


def _figures(epochs: list[dict[str, Any]]) -> Iterable[Markup]:
    """Draw the loss of each stage by itself: their sizes have nothing to do with each other."""
    for stage, title in _TITLES.items():
        points = [
            (event["epoch"], event.get("losses", {}).get("loss")) for event in epochs if event.get("stage") == stage
        ]
        if points:
            yield _FIGURE.format(title, draw_curves([Series("loss", points)], title=title, x_name="epoch"))


def _facts(record: Mapping[str, Any], epochs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    identity, settings = record["identity"], record["identity"]["recipe"]["pretraining"]
    return [
        ("data set", f"{identity['dataset']}, {identity['configuration']}"),
        ("images", f"{len(record.get('images', {}))}, cases: {identity['split']}; no label was read"),
        ("recipe", str(identity["recipe"]["name"])),
        *((name.replace("_", " "), f"{value}") for name, value in settings.items()),
        ("seed", str(identity["seed"])),
        ("device", str(record.get("device", ""))),
        ("time of the epochs", format_duration(sum(float(event["seconds"]) for event in epochs))),
        *((f"version of {name}", text) for name, text in record.get("versions", {}).items()),
    ]
