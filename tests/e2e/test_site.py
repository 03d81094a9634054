"""Build the documentation, and look for what a reader would miss: pages, anchors, and hosts that nobody asked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT

pytestmark = pytest.mark.slow


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=False
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert {page.name for page in pages} >= {"index.html", "tutorial.html", "commands.html", "faults.html"}
    loaded = r"""<(?:script|img|link|iframe)[^>]*\s(?:src|href)="?(?:https?:)?//[^>]*"""
    assert [found for page in pages for found in re.findall(loaded, page.read_text(encoding="utf-8"))] == []
