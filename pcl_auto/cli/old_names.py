"""Accept the options and verbs of version 0.1 until version 0.3, each with a warning that names the new one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from pcl_auto.errors import OldNameWarning

VERBS = {"checks": "check"}
_STUDY = {"--budget": "--base-recipe", "--hold-out": "--test-cases", "--seeds": "--draws"}
# By verb, under its current name.
OPTIONS = {
    "predict": {"--like-input": "--keep-format"},
    "benchmark": _STUDY,
    "sweep": _STUDY,
}


def current_names(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments of a command under current names, and a message for every old name among them."""
    words = list(arguments)
    options_end = words.index("--") if "--" in words else len(words)
    at = next((index for index, word in enumerate(words[:options_end]) if not word.startswith("-")), None)
    if at is None:
        return words, []
    renamed, verb = {}, VERBS.get(words[at], words[at])
    if verb != words[at]:
        renamed[f"`pclauto {words[at]}`"] = f"`pclauto {verb}`"
    if verb == "train" and "--continue" in words[:options_end]:
        renamed["`pclauto train --continue`"], verb = "`pclauto continue`", "continue"
        words.remove("--continue")
        options_end -= 1
    words[at] = verb
    for index in range(at + 1, options_end):
        option, equals, value = words[index].partition("=")
        if new := OPTIONS.get(verb, {}).get(option):
            renamed[option] = new
            words[index] = f"{new}{equals}{value}"
    return words, [f"{old} is now {new}; the old name works until version 0.3" for old, new in renamed.items()]


def show_old_names(print_line: Callable[[str], None]) -> None:
    """Print what the library says of old names in files, each once; other warnings stay as they are."""
    shown: set[str] = set()
    otherwise = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, OldNameWarning):
            otherwise(message, category, *place, **more)
        elif str(message) not in shown:
            shown.add(str(message))
            print_line(f"warning: {message}")

    warnings.simplefilter("always", OldNameWarning)
    warnings.showwarning = show
