"""Write docs/errors.md: every refusal of pclauto, read from its source.

python docs/make_errors.py
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "pcl_auto"
TARGET = HERE / "errors.md"

CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)+")
FIELDS = ("code", "what", "where", "fix", "expected", "found")
# Stands for what only a run can tell.
UNKNOWN = "…"
AREAS = {
    "archive": "The archives of the Medical Segmentation Decathlon: how they come, and what is in them.",
    "benchmark": "What `pclauto benchmark` and `pclauto sweep` compare, and on which cases.",
    "budget": "Budgets of time.",
    "checkpoint": "Checkpoints.",
    "command": "Verbs, options and arguments of a command.",
    "data": "The files of a data set, how they fit each other, and scans to predict.",
    "dataset-json": "What `dataset.json` says.",
    "device": "GPUs, and trainings on several of them.",
    "dicom": "Series of DICOM files.",
    "disk": "Room on the disk, and the right to use it.",
    "header": "Headers of MetaImage and NRRD files, and the voxels that they promise.",
    "init": "Folders of images and masks that `pclauto init` makes a data set of.",
    "label": "Label maps.",
    "lock": "Other processes.",
    "mask": "Masks of unlabeled cases to begin a training with.",
    "memory": "Memory.",
    "model": "Trained models.",
    "nifti": "NIfTI files and their headers.",
    "number": "Numbers that are none any more.",
    "output": "Folders and files that outputs may not go into.",
    "plan": "Plans, and what is planned with them.",
    "predict": "Scans to segment, and folders for their masks.",
    "pretrain": "Pre-training without labels.",
    "pretrained": "Pretrained weights to begin a training with, or to plan for.",
    "recipe": "Recipes.",
    "repair": "Files that `pclauto repair` writes anew.",
    "review": "Pseudo-labels to review, and their corrections.",
    "run": "Trainings, and what they have left on the disk.",
    "score": "Masks that are scored by labels.",
    "split": "Which cases are learned from.",
    "usage": "Arguments of the Python functions.",
}
INTRODUCTION = """# Refusals

Every refusal has a code, which names its kind and stays when the words of the message change.
With `--json`, a command that is refused prints `{"problems": [...]}`, and each problem has its `code` beside what is
wrong, where, what was expected, what was found and how to fix it.
[Its exit code](files.md#exit-codes) says of which sort the refusal is.

The tables are made from the source (`python docs/make_errors.py`); … stands for what differs from case to case.
Some codes are warnings too: of scans that are left out, or of what is worth a look.
"""

# The outcomes of conditions, by their text, under which a value is what it is.
Conditions = dict[str, bool]


@dataclass(frozen=True, order=True)
class Refusal:
    """One kind of refusal, as one place in the source words it."""

    code: str
    what: str
    fix: str


@dataclass(frozen=True)
class Value:
    """A text that an expression may have, and when; ``constant`` where nothing in it is left open."""

    text: str
    when: Conditions = field(default_factory=dict)

    def under(self, when: Conditions) -> Value | None:
        """Return the value under more conditions, None where they exclude each other."""
        if any(self.when.get(test, outcome) != outcome for test, outcome in when.items()):
            return None
        return Value(self.text, {**self.when, **when})


def joined(parts: Sequence[Sequence[Value]]) -> list[Value]:
    """Return every text that the parts make, where their conditions do not exclude each other."""
    texts = [Value("")]
    for part in parts:
        texts = [
            Value(before.text + fitting.text, fitting.when)
            for before, after in itertools.product(texts, part)
            if (fitting := after.under(before.when)) is not None
        ]
    return texts


class Module:
    """One file of the package, with the constants and functions that refusals are made with."""

    def __init__(self, file: Path) -> None:
        self.tree = ast.parse(file.read_text(encoding="utf-8"))
        self.parents = {child: parent for parent in ast.walk(self.tree) for child in ast.iter_child_nodes(parent)}
        self.calls: dict[str, list[ast.Call]] = defaultdict(list)
        for node in self.parents:
            if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
                self.calls[node.func.id if isinstance(node.func, ast.Name) else node.func.attr].append(node)

    def function_of(self, node: ast.AST) -> ast.FunctionDef | None:
        """Return the function that a node stands in."""
        while node in self.parents:
            node = self.parents[node]
            if isinstance(node, ast.FunctionDef):
                return node
        return None


class Source:
    """The package: its refusals are the calls of ``Problem``, and of functions that hand their arguments on to it."""

    def __init__(self, package: Path) -> None:
        self.modules = [Module(file) for file in sorted(package.rglob("*.py"))]

    def refusals(self) -> list[Refusal]:
        """Return every refusal, sorted."""
        found: set[Refusal] = set()
        for module in self.modules:
            for call in module.calls["Problem"]:
                if call.args or any(keyword.arg == "code" for keyword in call.keywords):
                    found.update(self._refusals_of(module, call))
        return sorted(found)

    def _refusals_of(self, module: Module, call: ast.Call) -> Iterator[Refusal]:
        given = arguments(call, FIELDS)
        wanted = [given["code"], given["what"], given["fix"]]
        for bound in self._bindings(module, call, wanted):
            values = [list(self._values(module, part, bound)) for part in wanted]
            for code, what, fix in itertools.product(*values):
                fitting = what.under(code.when)
                if fitting is None or fix.under(fitting.when) is None:
                    continue
                if not CODE.fullmatch(code.text):
                    raise ValueError(f"line {call.lineno}: no code: {ast.unparse(call)}")
                yield Refusal(code.text, what.text, fix.text)

    def _bindings(
        self, module: Module, call: ast.Call, wanted: Sequence[ast.expr]
    ) -> Iterator[Mapping[str, tuple[Module, ast.expr]]]:
        """Yield what the parameters among ``wanted`` are given, call by call of the function that they belong to."""
        function = module.function_of(call)
        names = (
            [] if function is None else [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
        )
        if function is None or not any(isinstance(part, ast.Name) and part.id in names for part in wanted):
            yield {}
            return
        defaults = defaults_of(function)
        for caller in [module] if function.name.startswith("_") else self.modules:
            for each in caller.calls[function.name]:
                given = arguments(each, [name for name in names if name != "self"])
                yield {
                    **{name: (module, value) for name, value in defaults.items()},
                    **{name: (caller, value) for name, value in given.items()},
                }

    def _values(self, module: Module, node: ast.expr, bound: Mapping[str, tuple[Module, ast.expr]]) -> Iterator[Value]:
        """Yield the texts that an expression may have."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield Value(node.value)
        elif isinstance(node, ast.JoinedStr):
            yield from joined([self._parts(module, part, bound) for part in node.values])
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            yield from joined([list(self._values(module, side, bound)) for side in (node.left, node.right)])
        elif isinstance(node, ast.IfExp):
            for branch, outcome in ((node.body, True), (node.orelse, False)):
                for value in self._values(module, branch, bound):
                    fitting = value.under(condition(node.test, outcome))
                    if fitting is not None:
                        yield fitting
        elif isinstance(node, ast.Name) and node.id in bound:
            owner, given = bound[node.id]
            yield from self._values(owner, given, {})
        elif isinstance(node, ast.Name):
            yield from self._named(module, node, bound)
        else:
            yield Value(UNKNOWN)

    def _parts(self, module: Module, node: ast.expr, bound: Mapping[str, tuple[Module, ast.expr]]) -> list[Value]:
        """Return what a part of an f-string may be: names of constants and of texts chosen before are looked up."""
        if isinstance(node, ast.FormattedValue):
            is_open = not isinstance(node.value, (ast.Name, ast.IfExp)) or node.conversion != -1
            values = [] if is_open else list(self._values(module, node.value, {}))
            return values or [Value(UNKNOWN)]
        return list(self._values(module, node, bound))

    def _named(self, module: Module, node: ast.Name, bound: Mapping[str, tuple[Module, ast.expr]]) -> Iterator[Value]:
        function = module.function_of(node)
        assigned = [] if function is None else list(reaching(module, node, node.id))
        # A constant of this file, or of the one that it is imported from.
        for owner in (module, *self.modules):
            assigned = assigned or [(value, {}) for value in top_level(owner, node.id)]
        if not assigned:
            yield Value(UNKNOWN)
        for expression, when in assigned:
            for value in self._values(module, expression, bound):
                fitting = value.under(when)
                if fitting is not None:
                    yield fitting


def arguments(call: ast.Call, names: Sequence[str]) -> dict[str, ast.expr]:
    """Return the arguments of a call by the names of the parameters."""
    plain = itertools.takewhile(lambda argument: not isinstance(argument, ast.Starred), call.args)
    return {**dict(zip(names, plain)), **{each.arg: each.value for each in call.keywords if each.arg}}  # noqa: B905


def defaults_of(function: ast.FunctionDef) -> dict[str, ast.expr]:
    """Return the defaults of a function's parameters."""
    plain, own = function.args.args, function.args.defaults
    pairs = [*zip(plain[len(plain) - len(own) :], own, strict=True)]
    keyword = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return {
        **{parameter.arg: value for parameter, value in pairs},
        **{parameter.arg: value for parameter, value in keyword if value is not None},
    }


def condition(test: ast.expr, outcome: bool) -> Conditions:  # noqa: FBT001 (the two outcomes of one test)
    """Return the condition that a test has this outcome, ``a != b`` being no other test than ``a == b``."""
    text = ast.unparse(test)
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.NotEq):
        return {text.replace(" != ", " == "): not outcome}
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return {ast.unparse(test.operand): not outcome}
    return {text: outcome}


def top_level(module: Module, name: str) -> list[ast.expr]:
    """Return what a module's own constant is, in the file that assigns it."""
    return [value for statement in module.tree.body for value, _ in assignments(statement, name)]


def assignments(statement: ast.stmt, name: str) -> Iterator[tuple[ast.expr, Conditions]]:
    """Yield what a statement assigns to a name, and the conditions inside the statement."""
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            if isinstance(target, ast.Name) and target.id == name:
                yield statement.value, {}
            elif isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):
                pairs = zip(target.elts, statement.value.elts, strict=True)
                yield from ((value, {}) for each, value in pairs if isinstance(each, ast.Name) and each.id == name)
    elif isinstance(statement, ast.If):
        for block, outcome in ((statement.body, True), (statement.orelse, False)):
            if not leaves(block):
                for value, when in last_assigned(block, name):
                    yield value, {**condition(statement.test, outcome), **when}
    elif isinstance(statement, (ast.With, ast.For, ast.Try)) and not leaves(statement.body):
        yield from last_assigned(statement.body, name)


def leaves(block: Sequence[ast.stmt]) -> bool:
    """Tell whether nothing after a block is reached from it."""
    return bool(block) and isinstance(block[-1], (ast.Return, ast.Raise, ast.Continue, ast.Break))


def last_assigned(block: Sequence[ast.stmt], name: str) -> list[tuple[ast.expr, Conditions]]:
    """Return what a name may be at the end of a block of statements, as far as the block decides."""
    found: list[tuple[ast.expr, Conditions]] = []
    excluded: list[Conditions] = []
    for statement in reversed(block):
        new = list(assignments(statement, name))
        for value, when in new:
            fitting = with_none_of(when, excluded)
            if fitting is not None:
                found.append((value, fitting))
        if any(not when for _, when in new):
            break
        excluded += [when for _, when in new]
    return found


def with_none_of(when: Conditions, excluded: Sequence[Conditions]) -> Conditions | None:
    """Return the conditions together with the opposite of others, where each of those is a single one."""
    whole = dict(when)
    for other in excluded:
        if len(other) == 1:
            ((test, outcome),) = other.items()
            if whole.get(test, not outcome) == outcome:
                return None
            whole[test] = not outcome
    return whole


def reaching(module: Module, node: ast.AST, name: str) -> Iterator[tuple[ast.expr, Conditions]]:
    """Yield what a name may be where it is used, going back from there through the function's statements."""
    around: Conditions = {}
    excluded: list[Conditions] = []
    while not isinstance(node, ast.FunctionDef):
        parent = module.parents[node]
        block = next((body for body in blocks(parent) if node in body), None)
        if isinstance(parent, ast.If) and node in (*parent.body, *parent.orelse):
            around = {**condition(parent.test, node in parent.body), **around}
        if block is not None:
            before = block[: block.index(node)]  # type: ignore[arg-type]
            for value, when in last_assigned(before, name):
                fitting = with_none_of({**around, **when}, excluded)
                if fitting is not None:
                    yield value, fitting
            settled = [when for statement in before for _, when in assignments(statement, name)]
            if any(not when for when in settled):
                return
            excluded += settled
        node = parent


def blocks(node: ast.AST) -> list[list[ast.stmt]]:
    """Return the lists of statements that a statement holds."""
    lists = [getattr(node, part, None) for part in ("body", "orelse", "finalbody")]
    return [each for each in lists if isinstance(each, list)]


def row(*cells: str) -> str:
    """Return a row of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def page(refusals: Sequence[Refusal]) -> str:
    """Return docs/errors.md."""
    fixes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for refusal in refusals:
        fixes[refusal.code, refusal.what].append(refusal.fix)
    lines = [INTRODUCTION]
    for area, meaning in AREAS.items():
        own = {key: value for key, value in fixes.items() if key[0].split(".")[0] == area}
        lines += [f"## {area}", "", meaning, "", row("code", "what it says", "how to fix it"), row("---", "---", "---")]
        lines += [
            row(f"`{code}`", what, "<br>".join(sorted(set(texts)))) for (code, what), texts in sorted(own.items())
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Write the page."""
    refusals = Source(PACKAGE).refusals()
    unknown = {refusal.code.split(".")[0] for refusal in refusals} ^ AREAS.keys()
    if unknown:
        raise SystemExit(f"areas to describe, or to leave out: {', '.join(sorted(unknown))}")
    TARGET.write_text(page(refusals), encoding="utf-8")


if __name__ == "__main__":
    main()
