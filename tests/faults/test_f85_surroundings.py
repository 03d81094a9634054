"""F85, F86: closed and full streams, odd terminals and locales; a workspace that cannot be written; absurd numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from refusal import refused
from report_files import write_run
from shell import Shell

from pcl_auto.errors import ResourceError
from pcl_auto.workspace.folders import require_writable

STATUS = '"$PYTHON" -m pcl_auto status --workspace "$WORK"'


def sh(shell: Shell, line: str, work: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell."""
    environment = shell.environment(PYTHON=sys.executable, WORK=work, **variables)
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], cwd=shell.folder, env=environment, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip


@pytest.fixture
def work(tmp_path: Path) -> Path:
    write_run(tmp_path / "work" / "nnUNet_results")
    return tmp_path / "work"


@pytest.mark.parametrize(
    "line",
    [f"{STATUS} >&-", f"{STATUS} 2>&-", f"{STATUS} <&- >&- 2>&-", f"{STATUS} --json | head -n 1", f"{STATUS} | true",
     '"$PYTHON" -m pcl_auto --help | true'],
)  # fmt: skip
def test_f85_nobody_who_listens(shell: Shell, work: Path, line: str) -> None:
    done = sh(shell, line, work)
    assert done.returncode == 0
    assert [text.startswith("workspace: ") for text in done.stderr.splitlines()] in ([], [True])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_f85_a_full_stdout(shell: Shell, work: Path) -> None:
    assert sh(shell, f"{STATUS} > /dev/full", work).returncode == 5


@pytest.mark.parametrize(
    "variables",
    [{"COLUMNS": "0"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"TMPDIR": "/no"}],
)
def test_f85_odd_terminals_locales_and_folders(shell: Shell, work: Path, variables: dict[str, str]) -> None:
    environment = {**shell.environment(WORK=work), **variables}
    done = subprocess.run(
        [sys.executable, "-m", "pcl_auto", "status", "--workspace", work], cwd=shell.folder, env=environment,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0
    assert "tiny" in done.stdout


def test_f86_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_writable(tmp_path / "new" / "folder", "x")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with refused(ResourceError, "disk.unwritable"):
        require_writable(tmp_path / "file" / "in it", "x")
    monkeypatch.setattr("os.access", lambda *_arguments: False)
    with refused(ResourceError, "disk.unwritable") as refusal:
        require_writable(tmp_path / "new", "choose another")
    assert refusal.problem.fix == "choose another"


@pytest.mark.parametrize(
    "words",
    ["train --seed 1e400", "train --seed -1", "train --labeled 99999999999999999999", "train --workers 1e9",
     "train --workers 1000000000", "train --epochs 99999999999999999999", "plan x --gpu-memory-gb nan",
     "plan x --gpu-memory-gb 1e400", "suggest -n 99999999999999999999", "review -n -1", "demo --seed 1e9",
     "benchmark --draws 99999999999999999999"],
)  # fmt: skip
def test_f86_numbers_that_nothing_counts(shell: Shell, words: str) -> None:
    done = shell.python("-m", "pcl_auto", *words.split())
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
