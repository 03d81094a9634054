"""The codes of refusals: docs/errors.md lists them as the source has them, and each is asserted by a test."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pcl_auto import errors
from pcl_auto.cli.console.interrupt import Terminated, exit_code
from pcl_auto.errors import PclautoError

TESTS = Path(__file__).resolve().parents[1]
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PclautoError)]


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_errors", TESTS.parent / "docs" / "make_errors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def refusals_of(maker: ModuleType, folder: Path, *sources: str) -> list[tuple[str, str, str]]:
    """The refusals that the generator finds in a package of these files."""
    for number, source in enumerate(sources):
        (folder / f"part_{number}.py").write_text(source)
    return [(found.code, found.what, found.fix) for found in maker.Source(folder).refusals()]


def test_the_page_is_what_the_source_says(maker: ModuleType) -> None:
    made = maker.page(maker.Source(maker.PACKAGE).refusals())
    assert maker.TARGET.read_text(encoding="utf-8") == made, "python docs/make_errors.py writes it anew"


def test_every_area_is_described(maker: ModuleType) -> None:
    found = {refusal.code.split(".")[0] for refusal in maker.Source(maker.PACKAGE).refusals()}
    assert found == maker.AREAS.keys()


def test_the_page_of_files_tells_every_exit_code(maker: ModuleType) -> None:
    page = (maker.HERE / "files.md").read_text(encoding="utf-8")
    section = page.split("## Exit codes")[1].split("\n## ")[0]
    told = {int(number) for number in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    assert told == {0, *(kind.exit_code for kind in KINDS), exit_code(KeyboardInterrupt()), exit_code(Terminated())}


def test_every_code_is_asserted_by_a_test(maker: ModuleType) -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in TESTS.rglob("*.py") if file != Path(__file__).resolve())
    codes = {refusal.code for refusal in maker.Source(maker.PACKAGE).refusals()}
    assert sorted(code for code in codes if f'"{code}"' not in text) == []


# --- how the source is read -----------------------------------------------------------------------------------


def test_branches_stay_together(maker: ModuleType, tmp_path: Path) -> None:
    source = """
FIX = "copy it"

def refuse(whole, kind):
    code = "a.whole" if whole else "a.part"
    if kind == "label":
        fix = "drop it"
    else:
        fix = FIX
    return Problem(code, "a whole" if whole else f"a part of {kind}", "here", fix)
"""
    assert refusals_of(maker, tmp_path, source) == [
        ("a.part", "a part of …", "copy it"),
        ("a.part", "a part of …", "drop it"),
        ("a.whole", "a whole", "copy it"),
        ("a.whole", "a whole", "drop it"),
    ]


def test_an_assignment_of_another_branch_is_not_taken(maker: ModuleType, tmp_path: Path) -> None:
    source = """
def refuse(number):
    fix = "first"
    if number == 1:
        fix = "second"
        return Problem("a.one", "one", "here", fix)
    elif number == 2:
        return Problem("a.two", "two", "here", fix)
    if number:
        fix = "third"
    return Problem(code="a.three", what="three", where="here", fix=fix)
"""
    assert refusals_of(maker, tmp_path, source) == [
        ("a.one", "one", "second"),
        ("a.three", "three", "first"),
        ("a.three", "three", "third"),
        ("a.two", "two", "first"),
    ]


def test_what_a_function_is_given_is_looked_up_where_it_is_called(maker: ModuleType, tmp_path: Path) -> None:
    first = """
def refuse(code, what, fix="mend it"):
    return Problem(code, what, "here", fix)

def one():
    return refuse("a.one", "one")
"""
    second = """
from part_0 import refuse

def two(name):
    return refuse("a.two", f"two of {name}", fix="leave it")
"""
    assert refusals_of(maker, tmp_path, first, second) == [
        ("a.one", "one", "mend it"),
        ("a.two", "two of …", "leave it"),
    ]


def test_a_code_that_cannot_be_told_is_an_error(maker: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no code"):
        refusals_of(maker, tmp_path, 'def refuse(kind):\n    return Problem(f"a.{kind}", "what", "here", "fix")\n')
