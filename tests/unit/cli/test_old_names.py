"""Test that old options, verbs and recipe keys work until version 0.3, each with one warning that names the new one."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import pytest

from pcl_auto.cli import main
from pcl_auto.cli.old_names import OPTIONS, VERBS, current_names

OLD = [(verb, *names) for verb, options in OPTIONS.items() for names in options.items()]
BOOLEAN = {"--like-input"}
# What a verb is given beside the option, and the code of the problem that it ends with.
REST = {
    "train": ((), "plan.missing"),
    "predict": (("nowhere.nii.gz", "-o", "out"), "data.no-such-path"),
    "benchmark": (("nowhere",), "data.unknown-task"),
    "sweep": (("nowhere",), "data.unknown-task"),
    "check": (("nowhere",), "data.unknown-task"),
}
VALUES = {"--budget": "quick", "--hold-out": "3", "--seeds": "3"}


def ended(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str
) -> tuple[list[str], list[str]]:
    """Run a command that is refused; return the codes of its problems, and its lines on stderr."""
    monkeypatch.setattr(sys, "argv", ["pclauto", *arguments, "--json"])
    with pytest.raises(SystemExit):
        main.run()
    out, err = capfd.readouterr()
    return [problem["code"] for problem in json.loads(out)["problems"]], err.splitlines()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("nnUNet_", "PCLAUTO_"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(("verb", "old", "new"), OLD)
def test_an_old_option_means_the_new_one(
    verb: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rest, code = REST[verb]
    value = [] if old in BOOLEAN else [VALUES[old]]
    codes, lines = ended(monkeypatch, capfd, verb, *rest, old, *value)
    assert codes == [code]
    assert lines[0] == f"warning: {old} is now {new}; the old name works until version 0.3"
    assert [line.partition(":")[0] for line in lines[1:]] == ["error"]
    # What a later message tells the user to repeat has the new name.
    assert sys.argv[1:-1] == [verb, *rest, new, *value]


@pytest.mark.parametrize(("old", "new"), VERBS.items())
def test_an_old_verb_means_the_new_one(
    old: str, new: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rest, code = REST[new]
    codes, lines = ended(monkeypatch, capfd, old, *rest)
    assert codes == [code]
    assert lines[0] == f"warning: `pclauto {old}` is now `pclauto {new}`; the old name works until version 0.3"


@pytest.mark.parametrize("words", [["train", "--continue"], ["train", "--epochs", "2", "--continue"]])
def test_to_continue_is_a_verb(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    codes, lines = ended(monkeypatch, capfd, *words)
    assert codes == ["model.missing"]
    assert lines[0].startswith("warning: `pclauto train --continue` is now `pclauto continue`; ")
    assert sys.argv[1:-1] == ["continue", *words[1:-1]]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["train", "--budget", "2h"],
        ["predict", "-o", "out", "--", "--like-input"],
        ["plan", "checks"],
    ],
)
def test_other_words_stay(arguments: list[str]) -> None:
    assert current_names(arguments) == (arguments, [])


def test_a_value_that_is_tied_to_its_option_stays_so() -> None:
    words, messages = current_names(["sweep", "--hold-out=4", "--hold-out", "3"])
    assert words == ["sweep", "--test-cases=4", "--test-cases", "3"]
    assert len(messages) == 1


def test_an_old_key_of_a_recipe_is_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    Path("mine.toml").write_text("[mixing]\nbox = 0.5\n")
    arms = ("--arms", "nnunet,mine.toml", "--base-recipe", "mine.toml")
    codes, lines = ended(monkeypatch, capfd, "benchmark", "nowhere", *arms)
    assert "data.unknown-task" in codes
    warned = [line for line in lines if line.startswith("warning: ")]
    assert len(warned) == 1
    assert "mixing.box is now mixing.box_fraction" in warned[0]


def test_other_warnings_stay_as_they_are(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    others: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_place: others.append(str(message)))
    ended(monkeypatch, capfd, "check", "nowhere")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("from elsewhere", FutureWarning, stacklevel=1)
    assert others == ["from elsewhere"]
    assert capfd.readouterr().err == ""
