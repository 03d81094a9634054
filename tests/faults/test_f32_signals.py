"""F32: SIGINT and SIGTERM end a training in order; repeating the command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sessions import command, processes_of_session
from shell import Shell

SECONDS_TO_END = 30


def started(shell: Shell, workspace: Path) -> subprocess.Popen[str]:
    """A training in a session of its own, as far as its second epoch."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pcl_auto", *command(workspace)],
        cwd=shell.folder, env=shell.environment(), stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            return process
    raise AssertionError(f"the training ended with {process.wait()}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.soak), (signal.SIGTERM, 143)]
)
def test_f32_a_signal_ends_a_training_in_order(shell: Shell, planned: Path, sent: signal.Signals, code: int) -> None:
    workspace = planned
    # So long that it cannot end before the signal is sent, on a busy machine too.
    recipe = shell.folder / "tiny.toml"
    recipe.write_text(recipe.read_text().replace("epochs_per_round = 2", "epochs_per_round = 6"))
    process = started(shell, workspace)
    os.kill(process.pid, sent)
    _, said = process.communicate(timeout=SECONDS_TO_END)
    assert process.returncode == code
    assert f"resume with: pclauto {' '.join(command(workspace))}" in said
    for _ in range(100):
        if not processes_of_session(process.pid):
            break
        time.sleep(0.1)
    assert processes_of_session(process.pid) == []

    done = shell.pclauto(*command(workspace), pictures=False)
    assert "going on after epoch" in done.stderr
    assert (next((workspace / "nnUNet_results").rglob("fold_all")) / "checkpoint_final.pth").is_file()


# In short naps: a signal that comes just before a long sleep begins is only seen at its end.
DOZE = """
import time
def doze():
    for _ in range(1200):
        time.sleep(0.05)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_f32_a_second_signal_ends_at_once(sent: signal.Signals) -> None:
    code = (
        DOZE
        + """
from pcl_auto.cli.console.interrupt import end_in_order
end_in_order()
try:
    print("ready", flush=True)
    doze()
except KeyboardInterrupt:
    print("cleaning up", flush=True)
    doze()
"""
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for expected in ("ready", "cleaning up"):
        assert process.stdout.readline().strip() == expected
        os.kill(process.pid, sent)
    assert process.wait(timeout=10) == -sent


def test_f32_any_verb_says_which_signal_it_was() -> None:
    code = (
        DOZE
        + """
from pcl_auto.cli import main, verbs
def wait() -> None:
    print("ready", flush=True)
    doze()
verbs.VERBS["wait"] = verbs.Verb("Data", "Wait.")
main.load_verb = lambda name: wait
main.run()
"""
    )
    for sent, expected in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = subprocess.Popen([sys.executable, "-c", code, "wait"], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        os.kill(process.pid, sent)
        assert process.wait(timeout=10) == expected


def test_f32_a_job_in_the_background_stays_deaf_to_ctrl_c() -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "from pcl_auto.cli.console.interrupt import end_in_order; end_in_order();"
        "print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "True"
