"""Hooks of mkdocs: pages that lie elsewhere in the checkout join the site, and links out of docs/ lead to them.

A link to a file that has no page becomes its name alone: the site knows no address of the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

CHECKOUT = Path(__file__).resolve().parent.parent
# Pages of the site by the file of the checkout that they show.
ELSEWHERE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
    "tests/faults/README.md": "faults.md",
}
PAGES = {**ELSEWHERE, "README.md": "index.md"}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere."""
    for source, name in ELSEWHERE.items():
        text = (CHECKOUT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=with_links(text, source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Change a page's links out of docs/."""
    name = page.file.src_uri
    return markdown if name in ELSEWHERE.values() else with_links(markdown, f"docs/{name}")


def with_links(text: str, source: str) -> str:
    """Return a page with the links of its ``source`` in the checkout as the site has them."""

    def link(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        page = PAGES.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if page is None:
            return words if words.startswith("`") else f"`{words}`" if "." in words else words
        return f"[{words}]({page}{anchor})"

    return _LINK.sub(link, text)
