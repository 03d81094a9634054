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
