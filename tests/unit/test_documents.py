"""Hold the pages beside the code: what they name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page for folder in (".", "docs", "benchmarks", "tests/faults") for page in (CHECKOUT / folder).glob("*.md")
)
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


def test_the_citation_names_what_the_readme_names() -> None:
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert [author["name"] for author in citation["authors"]] == ["The pclauto developers"]
    for reference in citation["references"]:
        assert f"*{reference['journal']}*" in README.replace("\n", " ")
        assert {"title", "authors", "year", "doi"} <= reference.keys()
        assert str(reference["volume"]) in README
        assert str(reference["start"]) in README
        assert f"({reference['year']})" in README


def test_contributors_are_led_to_files_that_are_there() -> None:
    page = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:pcl_auto|tests|plans|docs|benchmarks)/[\w./]+)`", page))
    new = {"pcl_auto/cli/commands/export.py"}  # the verb that is added
    assert [name for name in sorted(named - new) if not (CHECKOUT / name).exists()] == []


def test_contributors_are_told_every_command_of_the_makefile() -> None:
    page = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert targets is not None
    assert [
        name
        for name in targets[1].split()
        if f"`make {name}`" not in page + README.replace("    make demo", "`make demo`")
    ] == ["clean"]
