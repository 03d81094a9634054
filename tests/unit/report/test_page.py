from __future__ import annotations

import json
import math
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusal import refused
from report_files import write_run, write_scores

import pcl_auto.report
from pcl_auto.data.palette import COLORS
from pcl_auto.errors import UsageError
from pcl_auto.method.confidence import Reference, assess
from pcl_auto.report import scans as shown
from pcl_auto.report.overlays import Volume
from pcl_auto.report.page import forecast_rows, render, write_report
from pcl_auto.report.validation import read_fold_scores
from pcl_auto.training.request import SUPERVISED_TRAINER
from pcl_auto.training.run_facts import read_confidences, read_run
from pcl_auto.workspace.files import read_json, write_json
from pcl_auto.workspace.folders import Workspace

HOSTILE = "<script>alert(1)</script>", "\"><img src=x onerror='alert(2)'>", "\u202egpj.exe"
FORECAST = {"wall_s": 570.0, "memory_mb": 900, "gpu_memory_mb": 512, "disk_mb": 40}
MEASURED = {"wall_s": 601.2, "memory_mb": 950, "gpu_memory_mb": None, "disk_mb": 42}
STYLE = (Path(pcl_auto.report.__file__).parent / "page.css").read_text()


class Page(HTMLParser):
    """Tags, ids and references of a page; every tag that is opened is closed."""

    VOID = frozenset({"meta", "img", "input", "link", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.external: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name == "id":
                self.ids.append(str(value))
            if name in ("aria-labelledby", "aria-describedby", "for"):
                self.targets.append(str(value))
            if name in ("href", "src", "action", "data", "poster", "srcset"):
                if str(value).startswith("#"):
                    self.targets.append(str(value)[1:])
                elif not str(value).startswith("data:image/"):
                    self.external.append(str(value))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def report(tmp_path: Path, **run: Any) -> str:
    workspace = Workspace.at(tmp_path, "test")
    model = write_run(workspace.results, **run)
    return write_report(model, workspace).read_text(encoding="utf-8")


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    text = report(tmp_path)
    page = Page(text)
    assert page.external == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.targets) <= set(page.ids)
    assert "@import" not in text
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_hostile_names_are_text(tmp_path: Path) -> None:
    text = report(tmp_path, cases=HOSTILE, classes=HOSTILE[:2])
    plain = Page(report(tmp_path / "plain"))
    assert Page(text).tags == plain.tags
    assert "\u202e" not in text


def test_numbers_are_those_of_the_files(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path, "test")
    model = write_run(workspace.results)
    baseline = write_run(workspace.results, trainer=SUPERVISED_TRAINER)
    for folder, dice in ((model, 0.6), (baseline, 0.5)):
        write_scores(folder, {f"t{index}": dice + index / 1000 for index in range(12)})
    text = write_report(model, workspace).read_text(encoding="utf-8")
    for said in ("0.432", "0.877", "4.5 s", "321 MB", "of nnU-Net alone (12 cases)", "train --labeled 2"):
        assert said in text, said
    assert "Nature Methods" in text
    assert "Chaitanya" in text


def test_scores_by_name_are_those_of_the_name_even_if_it_is_a_number(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path, "test")
    model = write_run(workspace.results, classes=("2", "1"))
    write_scores(model, {"t": 0.5})
    table = write_report(model, workspace).read_text(encoding="utf-8").split('aria-label="Scores"')[1]
    assert '<th scope="row">1</th><td class="n">0.432</td>' in table.split("</table>")[0]


def test_paths_stand_in_the_record_alone_and_once(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path / "user", "test")
    model, baseline = write_run(workspace.results), write_run(workspace.results, trainer=SUPERVISED_TRAINER)
    for folder in (model, baseline):
        write_scores(folder, {"t": 0.5}, labels=str(tmp_path / "labelsTs"), predictions=str(tmp_path / "masks"))
    page, record = write_report(model, workspace).read_text(encoding="utf-8").split('<section id="record">')
    assert str(tmp_path) not in page
    for path in (model / "fold_all", baseline, tmp_path / "labelsTs", tmp_path / "masks"):
        assert record.count(f"<code>{path}</code>") == 1


def test_the_tiles_have_what_was_measured(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path, "test")
    model = write_run(workspace.results)
    assert "<dt>difference</dt><dd>" in report(tmp_path / "other")
    assert write_report(model, workspace).read_text(encoding="utf-8").count("not measured yet") >= 4
    baseline = write_run(workspace.results, trainer=SUPERVISED_TRAINER)
    write_scores(model, {"a": 0.8, "b": 0.9})
    write_scores(baseline, {"a": 0.7, "b": 0.6})
    text = write_report(model, workspace).read_text(encoding="utf-8")
    assert "2 of 2 rounds used the unlabeled scans · Dice 0.850, nnU-Net alone 0.650 · 2 cases" in text
    found = dict(re.findall(r'<dt>([^<]*)</dt><dd><span class="value">(.*?)</span>', text))
    assert found == {
        "Dice": "0.850", "nnU-Net alone": "0.650", "difference": "+0.200", "cases scored": "2",
        "rounds used": "2 of 2", "training time": "4.5 s",
    }  # fmt: skip


def test_files_that_are_gone_are_said_to_be_and_spoil_nothing(tmp_path: Path) -> None:
    assert report(tmp_path).count("cannot be shown") == 5  # three pseudo-labels, two labeled cases


@pytest.mark.slow
def test_a_page_of_large_noisy_scans_stays_below_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Noise is the worst that a picture can hold, and every scan of the page is one.
    noise = np.random.default_rng(0).normal(size=(1, 48, 96, 96)).astype(np.float32)
    labels = np.zeros(noise.shape[1:], np.uint8)
    labels[4:44, 8:88, 8:88] = 1
    monkeypatch.setattr(shown, "_stored", lambda *_: Volume(noise, {"label": labels}, (2, 1, 1)))
    workspace = Workspace.at(tmp_path, "test")
    run = read_run(write_run(workspace.results) / "fold_all")
    whole = render(run, workspace)
    assert "the page stays below" not in whole
    limit = len(whole.encode()) // 3
    small = render(run, workspace, limit)
    assert len(small.encode()) <= limit
    assert f"the page stays below {limit / 1e6:g} MB" in small
    assert small.count('class="panel"') == whole.count('class="panel"') == 5


@pytest.mark.slow
def test_a_long_ledger_stays_below_the_limit(tmp_path: Path) -> None:
    cases = tuple(f"case_{number:06}" for number in range(20_000))
    workspace = Workspace.at(tmp_path, "test")
    run = read_run(write_run(workspace.results, cases=cases) / "fold_all")
    small = render(run, workspace, 1_500_000)
    assert len(small.encode()) <= 1_500_000
    assert "2000 rows of it at most" in small


def test_a_cross_validation_is_summed_up_over_its_folds(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path, "test")
    model = write_run(workspace.results)
    for number, (core, shell) in enumerate([(0.8, 0.6), (0.9, math.nan)]):
        fold = model / f"fold_{number}"
        shutil.copytree(model / "fold_all", fold)
        (fold / "validation").mkdir()
        whole = {"Dice": core if math.isnan(shell) else (core + shell) / 2}
        mean = {"1": {"Dice": core}, "2": {"Dice": shell}}
        summary = {"mean": mean, "foreground_mean": whole, "metric_per_case": [{}, {}]}
        (fold / "validation" / "summary.json").write_text(json.dumps(summary))
    shutil.rmtree(model / "fold_all")
    shutil.copytree(model / "fold_1", model / "fold_2")
    shutil.rmtree(model / "fold_2" / "validation")
    text = write_report(model / "fold_1", workspace).read_text(encoding="utf-8")
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", text.split('aria-label="Held-out labeled cases"')[1].split("</table>")[0])
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    assert cells == [
        ["fold", "cases held out", "core", "shell", "mean"],
        ["0", "2", "0.800", "0.600", "0.700"],
        ["1 (on this page)", "2", "0.900", "n/a", "0.900"],
        ["2", "not validated yet", "n/a", "n/a", "n/a"],
        ["mean over folds", "", "0.850", "0.600", "0.800"],
    ]


def test_validation_cases_are_scored_whole_and_said_to_be_chosen_by(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path, "test")
    split = {"name": "L1_V1_s0", "seed": 0, "labeled": ["a"], "validation": ["b"], "unlabeled": ["c"], "hidden": []}
    model = write_run(workspace.results, split=split)
    mean = {"1": {"Dice": 0.8}, "2": {"Dice": 0.6}}
    summary = {"mean": mean, "foreground_mean": {"Dice": 0.7}, "metric_per_case": [{}]}
    (model / "fold_all" / "validation").mkdir(exist_ok=True)
    (model / "fold_all" / "validation" / "summary.json").write_text(json.dumps(summary))
    text = write_report(model, workspace).read_text(encoding="utf-8")
    assert "the weights were chosen by them" in text
    table = text.split('aria-label="Held-out labeled cases"')[1].split("</table>")[0]
    assert re.findall(r'<td class="n">(.*?)</td>', table) == ["1", "0.800", "0.600", "0.700"]
    assert "mean over folds" not in table
    assert "the weights were chosen by them" not in write_report(write_run(tmp_path / "other"), workspace).read_text()


def test_the_dice_of_validation_cases_stands_beside_the_baselines(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path, "test")
    split = {"name": "L1_V1_s0", "seed": 0, "labeled": ["a"], "validation": ["b"], "unlabeled": ["c"], "hidden": []}
    model = write_run(workspace.results, split=split)
    assert "core, nnU-Net alone" not in write_report(model, workspace).read_text(encoding="utf-8")
    baseline = write_run(workspace.results, trainer=SUPERVISED_TRAINER, split=split)
    for folder in (model, baseline):
        write_scores(folder, {"t": 0.5})
    assert "core, nnU-Net alone" in write_report(model, workspace).read_text(encoding="utf-8")


def test_the_scores_of_a_fold_are_found_by_class_and_by_region(tmp_path: Path) -> None:
    fold = tmp_path / "fold_0"
    (fold / "validation").mkdir(parents=True)
    (fold / "run.json").write_text("{}")
    labels = {"background": 0, "whole": [1, 2], "two": 2, "ten": 10}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    mean = {"(1, 2)": {"Dice": 0.1}, "10": {"Dice": 0.3}, "2": {"Dice": 0.2}}
    (fold / "validation" / "summary.json").write_text(json.dumps({"mean": mean}))
    assert [found.dice for found in read_fold_scores(tmp_path)] == [[0.1, 0.2, 0.3]]


def test_confidences_are_shown_and_stand_in_the_last_ledger(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path, "test")
    model = write_run(workspace.results)
    values = [0.5 + number / 100 for number in range(20)]
    content = {"confidences": values, "cases": {"c": 0.51, "d": 0.62345}}
    (model / "fold_all" / "quality.json").write_text(json.dumps(content))
    text = write_report(model, workspace).read_text(encoding="utf-8")
    ledgers = text.split('class="scroll ledger"')[1:]
    assert ["confidence" in ledger.split("</table>")[0] for ledger in ledgers] == [False, True]
    assert '<td class="n" data-value="0.62345">0.62</td>' in ledgers[1]
    known = read_confidences(model / "fold_all")
    flagged = [value for value in values if assess(value, {}, Reference(tuple(values))).review]
    assert known.review == max(flagged)
    assert f"at or below {max(flagged):.4f}" in text
    assert read_confidences(tmp_path).review is None


def test_a_round_on_labels_alone_used_no_pseudo_label(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path, "test")
    model = write_run(workspace.results)
    used = '<td class="n">1</td><td class="n">{}</td><td class="n">3</td>'
    assert used.format(3) in write_report(model, workspace).read_text(encoding="utf-8")
    events = model / "fold_all" / "events.jsonl"
    whole = events.read_text(encoding="utf-8").rpartition("\n")[0]
    event = {"time": "t", "event": "degenerate", "round": 1, "reasons": ["rim is 20 ml"]}
    events.write_text(f"{whole}\n{json.dumps(event)}\n", encoding="utf-8")
    text = write_report(model, workspace).read_text(encoding="utf-8")
    # One number in the story, the tiles, the table of rounds and the ledger.
    assert used.format(0) in text
    assert "trained on labels alone: rim is 20 ml" in text
    assert "1 of 2 rounds used the unlabeled scans" in text
    assert '<span class="value">1 of 2</span>' in text
    assert '<option value="1">1 (0 of 3 used)</option>' in text
    first, second = text.split('class="scroll ledger"')[1:]
    assert [ledger.split("</table>")[0].count('data-used="1"') for ledger in (first, second)] == [0, 2]


def test_corrected_cases_are_listed(tmp_path: Path) -> None:
    correction = {"case": "b", "mask": "0" * 64, "split": "L1_s0", "model": "model of before", "round": 7}
    split = {"name": "L2_plus", "seed": 0, "labeled": ["a", "b"], "validation": [], "unlabeled": [], "hidden": []}
    text = report(tmp_path, split={**split, "history": [correction]})
    assert "Corrected cases" in text
    assert "model of before" in text
    assert "Corrected cases" not in report(tmp_path / "plain")


def test_the_order_of_the_page_is_that_of_the_keyboard(tmp_path: Path) -> None:
    text = report(tmp_path)
    assert set(re.findall(r'tabindex="(.*?)"', text)) == {"0"}
    assert re.findall(r"<th[^>]*aria-sort[^>]*>(<\w+)", text) == ["<button"] * 2 * 5  # rounds and columns


def test_a_report_goes_where_it_is_asked_to(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path, "test")
    target = tmp_path / "elsewhere.html"
    assert write_report(write_run(workspace.results), workspace, target) == target
    assert target.is_file()


def test_a_report_replaces_reports_alone(tmp_path: Path) -> None:
    workspace, target = Workspace.at(tmp_path, "test"), tmp_path / "elsewhere.html"
    model = write_run(workspace.results)
    for _ in range(2):
        write_report(model, workspace, target)
    label, folder = tmp_path / "label.nii.gz", tmp_path / "folder.html"
    label.write_bytes(b"a label")
    (tmp_path / "link.html").symlink_to(label)
    (folder / "mine").mkdir(parents=True)
    os.mkfifo(tmp_path / "fifo.html")
    for other in (label, tmp_path / "link.html", folder, tmp_path / "fifo.html"):
        with refused(UsageError, "output.not-ours"):
            write_report(model, workspace, other)
    assert label.read_bytes() == b"a label"
    assert (folder / "mine").is_dir()


def test_what_was_forecast_stands_beside_what_was_measured() -> None:
    rows = forecast_rows({"forecast": FORECAST, "measured": MEASURED})
    assert rows == [("time", "9m30s", "10m1s"), ("memory", "900 MB", "950 MB"), ("disk", "40 MB", "42 MB")]
    on_gpu = forecast_rows({"forecast": FORECAST, "measured": {**MEASURED, "gpu_memory_mb": 600}})
    assert ("GPU memory", "512 MB", "600 MB") in on_gpu


def test_what_nobody_knew_is_unknown() -> None:
    rows = forecast_rows({"forecast": dict.fromkeys(FORECAST), "measured": {**MEASURED, "wall_s": None}})
    assert rows == [("memory", "unknown", "950 MB"), ("disk", "unknown", "42 MB")]
    assert ("time", "9m30s", "unknown") in forecast_rows({"forecast": FORECAST, "measured": {"wall_s": None}})
    assert forecast_rows({"forecast": FORECAST}) == forecast_rows({}) == []


def test_the_report_shows_forecast_and_measured(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path, "test")
    model = write_run(workspace.results)
    record = model / "fold_all" / "run.json"
    assert "Forecast and measured" not in write_report(model, workspace).read_text()
    write_json(record, {**read_json(record), "forecast": FORECAST, "measured": MEASURED})
    page = write_report(model, workspace).read_text()
    assert "Forecast and measured" in page
    assert "<td>9m30s</td><td>10m1s</td>" in page


def _colors(block: str) -> dict[str, str]:
    return {
        name: value if len(value) == 6 else "".join(c * 2 for c in value)
        for name, value in re.findall(r"--(\w+): #(\w+)", block)
    }


def _luminance(color: str) -> float:
    parts = [int(color[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    light, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_and_curves_can_be_seen(scheme: int) -> None:
    colors = _colors(re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)[scheme])
    for ground in ("paper", "panel"):
        for ink in ("ink", "soft", "link"):
            assert contrast(colors[ink], colors[ground]) >= 4.5, (ink, ground)
    assert contrast(colors["ink"], colors["mark"]) >= 4.5
    for curve in COLORS:
        assert contrast(curve[1:], colors["paper"]) >= 3, curve


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("000000", "ffffff") == pytest.approx(21)
    assert contrast("777777", "ffffff") == pytest.approx(4.48, abs=0.01)
