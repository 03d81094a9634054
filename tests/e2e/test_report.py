"""Read the report of a run as a user does: written by train, opened in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from shared import model_of
from shell import Shell

pytestmark = pytest.mark.slow

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
MAX_BYTES = 15_000_000

# Note errors from the page's first line on; do a reader's steps; leave all that was found as text.
WATCH = """<script>
window.wrong = [];
addEventListener("error", (event) => wrong.push(String(event.message)), true);
addEventListener("securitypolicyviolation", (event) => wrong.push(event.blockedURI));
</script>"""
STEPS = """<script>
addEventListener("load", () => {
  const found = {}, ledger = document.querySelector(".ledger:not([hidden])");
  found.pictures = [...document.images].map((picture) => picture.naturalWidth);
  const cases = () => [...ledger.querySelectorAll("tbody tr:not([hidden])")].map((row) => row.cells[0].textContent);
  const head = ledger.querySelector("th button");
  head.focus(); found.outline = getComputedStyle(head).outlineStyle;
  head.click(); found.up = cases();
  head.click(); found.down = cases();
  found.sorted = head.parentElement.getAttribute("aria-sort");
  const filter = document.getElementById("ledger-filter");
  filter.value = found.up[1]; filter.dispatchEvent(new Event("input"));
  found.filtered = cases(); found.count = document.getElementById("ledger-count").textContent;
  found.tiles = [...document.querySelectorAll(".tile")].map((tile) => tile.querySelector("dt").textContent);
  const plane = document.querySelector(".plane"), slider = plane.querySelector("input");
  const shift = () => new DOMMatrix(getComputedStyle(plane.querySelector("img")).transform).m42;
  found.begins = [slider.value === slider.dataset.start, shift() < 0 || slider.dataset.start === "0"];
  slider.value = 0; slider.dispatchEvent(new Event("input"));
  found.slice = [plane.querySelector("output").textContent, plane.dataset.slices.split(" ")[0]];
  const channel = document.querySelector("[data-channel]");
  channel.value = "1"; channel.dispatchEvent(new Event("change"));
  found.first = shift();
  found.numbers = plane.dataset.slices.split(" ").map(Number);
  found.channels = [...plane.querySelectorAll("[data-of-channel]")].map((picture) => picture.hidden);
  found.wide = document.documentElement.scrollWidth > innerWidth;
  found.wrong = window.wrong;
  document.body.innerHTML = "";
  const output = document.createElement("pre");
  output.textContent = "FO" + "UND" + JSON.stringify(found) + "END";
  document.body.append(output);
});
</script>"""


@pytest.fixture(scope="module")
def page(model: Path) -> str:
    return (model / "fold_all" / "report.html").read_text(encoding="utf-8")


def test_train_leaves_a_report_of_its_own(page: str) -> None:
    assert len(page.encode()) < MAX_BYTES
    assert "not measured yet" in page
    assert "rounds used the unlabeled scans" in page
    assert "--supervised-only" in page
    assert "cannot be shown" not in page
    assert '<button type="button">confidence</button>' in page
    for part in ("summary", "split", "plan", "curves", "ledger", "scans", "recipe", "record"):
        assert f'<section id="{part}">' in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)


def test_scores_are_kept_with_the_model_and_reported(
    shell: Shell, task: Path, own_trained: Path, tmp_path: Path
) -> None:
    model = model_of(own_trained)
    shell.pclauto("predict", task / "imagesTs", "-o", tmp_path / "out", "--model", model, "--device", "cpu")
    scores = json.loads(shell.pclauto("evaluate", tmp_path / "out", task / "labelsTs", "--json").stdout)
    (kept,) = (model / "evaluations").glob("*.json")
    assert json.loads(kept.read_text())["mean"] == scores["mean"]
    done = shell.pclauto("report", "--workspace", own_trained, "-o", tmp_path / "report.html")
    assert done.stdout.strip() == str(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"{scores['mean']['dice']:.3f}" in text
    assert "Predictions that were evaluated" in text
    assert "cannot be shown" not in text


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here to open the report in")
def test_a_browser_shows_it_and_its_controls_work(page: str, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page.replace("<title>", WATCH + "<title>").replace("</body>", STEPS + "</body>"), encoding="utf-8")
    shown = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=20000", "--window-size=600,900", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    found = json.loads(html.unescape(shown.split("FOUND")[-1].split("END")[0]))
    assert found["wrong"] == []
    assert found["pictures"]
    assert min(found["pictures"]) > 0
    assert found["up"] == sorted(found["up"]) == found["down"][::-1]
    assert len(found["up"]) == 4
    assert found["sorted"] == "descending"
    assert found["filtered"] == [found["up"][1]]
    assert found["outline"] == "solid"
    assert found["count"] == "1 of 4"
    assert found["slice"][0] == found["slice"][1]
    assert found["tiles"] == ["Dice", "nnU-Net alone", "difference", "cases scored", "rounds used", "training time"]
    assert found["begins"] == [True, True]
    assert found["first"] == 0
    assert found["numbers"] == sorted(found["numbers"])
    assert found["channels"] == [True, False]
    assert not found["wide"]
