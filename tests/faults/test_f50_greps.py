"""F50: what runs code from data appears nowhere in the package, in whatever form (see also test_architecture.py)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pcl_auto

PACKAGE = Path(pcl_auto.__file__).parent
FORBIDDEN = (
    r"\bpickle\.loads?\(", r"\bload_pickle\b", r"\bUnpickler\(", r"weights_only\s*=\s*False", r"shell\s*=\s*True",
    r"(?<![\w.])eval\(", r"(?<![\w.])exec\(", r"\.extractall\((?!.*filter=)", r"\bunpack_archive\(", r"\byaml\.load\(",
    r"\bos\.system\b", r"\bos\.popen\b", r"\bpydoc\b", r"\bimport_module\b", r"\b__import__\(",
    r"allow_pickle\s*=\s*True", r"\bnp\.load\(",
)  # fmt: skip
# Each with its reason.
ALLOWED = {
    # Knows numpy arrays and plain values alone.
    ("nnunet/data/cases.py", "class _PlainUnpickler(pickle.Unpickler):"),
    ("nnunet/data/cases.py", "properties = _PlainUnpickler(handle).load()"),
    # Of the names in a table beside it alone.
    ("cli/verbs.py", "from importlib import import_module"),
    ("cli/verbs.py", 'module = import_module(f"pcl_auto.cli.commands.{python_name}")'),
}


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_f50_nothing_in_the_package_runs_what_it_reads(pattern: str) -> None:
    found = [
        (str(path.relative_to(PACKAGE)), line.strip())
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(pattern, line)
    ]
    assert [hit for hit in found if hit not in ALLOWED] == []


def test_f50_what_is_allowed_is_still_there() -> None:
    for name, line in ALLOWED:
        assert line in {text.strip() for text in (PACKAGE / name).read_text(encoding="utf-8").splitlines()}


@pytest.mark.parametrize(
    "line",
    [
        "x = pickle.load(f)", "load_pickle(f)", "torch.load(f, weights_only=False)", "run(c, shell=True)", "eval(text)",
        "exec(text)", "tar.extractall(folder)", "yaml.load(f)", "os.system(c)", "pydoc.locate(n)",
        "np.load(f, allow_pickle=True)",
    ],
)  # fmt: skip
def test_f50_the_patterns_find_what_they_are_for(line: str) -> None:
    assert any(re.search(pattern, line) for pattern in FORBIDDEN)
    assert not any(re.search(p, "network.eval(); tar.extractall(f, filter='data')") for p in FORBIDDEN)
