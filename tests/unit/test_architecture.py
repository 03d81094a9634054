"""The package's own rules: who imports whom, how long things are, and what is never done."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

import pcl_auto

PACKAGE = Path(pcl_auto.__file__).resolve().parent
CHECKOUT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))
# The order that the package promises in its docstring.
ORDER = re.findall(r"\w+", (pcl_auto.__doc__ or "").split("::")[1].split("``method``")[0])

NNUNET_FAMILY = {
    "acvl_utils",
    "batchgenerators",
    "batchgeneratorsv2",
    "blosc2",
    "dynamic_network_architectures",
    "nnunetv2",
}
PURE = {"__future__", "collections", "dataclasses", "math", "numpy", "pydensecrf", "scipy", "torch", "typing"}

MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 70


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def part(path: Path) -> str:
    """The package or module right under ``pcl_auto`` that ``path`` belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(module: ast.Module) -> Iterator[str]:
    """Full names of what a module imports, at its top, in functions and for type checkers."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(module: ast.Module) -> set[str]:
    """The parts of this package that a module imports; ``__version__`` and the like stand before all of them."""
    names = (name.split(".") for name in imports(module))
    return {name[1] for name in names if name[0] == "pcl_auto" and name[1:] and not name[1].startswith("__")}


def called(node: ast.Call) -> str:
    """The dotted name of what is called, as far as it is one."""
    return ast.unparse(node.func) if isinstance(node.func, (ast.Name, ast.Attribute)) else ""


def test_the_order_names_every_part() -> None:
    parts = {part(path) for path in MODULES} - {"__init__", "__main__"}
    assert set(ORDER) == parts
    assert len(ORDER) == len(parts)


def breaking(rule: Callable[[Path], Iterable[str]], modules: Sequence[Path] = MODULES) -> dict[str, list[str]]:
    """The modules that break a rule, each with what breaks it."""
    found = {str(path.relative_to(PACKAGE)): sorted(rule(path)) for path in modules}
    return {module: broken for module, broken in found.items() if broken}


def test_a_module_imports_only_what_stands_before_it() -> None:
    def later(path: Path) -> set[str]:
        last = len(ORDER) if part(path) == "__main__" else ORDER.index(part(path)) + 1 if part(path) in ORDER else 0
        return own_imports(tree(path)) - set(ORDER[:last])

    assert breaking(later) == {}


def test_one_package_alone_meets_nnunet() -> None:
    def meets(path: Path) -> set[str]:
        return {name.split(".")[0] for name in imports(tree(path))} & NNUNET_FAMILY

    assert breaking(meets, [path for path in MODULES if part(path) != "nnunet"]) == {}


def test_the_method_knows_no_disk_and_no_environment() -> None:
    unwanted = {"open", "print", "torch.save", "torch.load", "np.save", "np.load", "torch.manual_seed"}

    def impure(path: Path) -> set[str]:
        names = {name.split(".")[0] for name in imports(tree(path)) if not name.startswith("pcl_auto.method")}
        calls = {called(node) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)}
        return (names - PURE) | (calls & unwanted)

    assert breaking(impure, sorted((PACKAGE / "method").glob("*.py"))) == {}


def test_modules_and_functions_stay_short() -> None:
    def long(path: Path) -> Iterator[str]:
        if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES:
            yield f"more than {MOST_LINES} lines"
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and _length(node) > MOST_LINES_OF_A_FUNCTION:
                yield f"{node.name}: {_length(node)} lines"

    assert breaking(long) == {}


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function; of a verb without its signature, which is the table of its options."""
    first = function.body[0].lineno if _has_options(function) else function.lineno
    return (function.end_lineno or first) - first + 1


def _has_options(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return "typer." in ast.unparse(function.args)


def _unsafe(module: ast.Module) -> Iterator[str]:
    """What runs code from data, starts a shell, or unpacks wherever an archive says."""
    for node in ast.walk(module):
        if not isinstance(node, ast.Call):
            continue
        name = called(node)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        forbidden = (
            name in {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "pydoc.locate"}
            or re.fullmatch(r"(pickle|cPickle|dill|joblib|marshal)\.(load|loads|Unpickler)", name)
            or name.endswith((".extractall", ".unpack_archive"))
            or options.get("shell", "False") != "False"
            or options.get("allow_pickle", "False") != "False"
            or (name == "torch.load" and options.get("weights_only") != "True")
        )
        if forbidden:
            yield ast.unparse(node)


def test_test_files_have_names_of_their_own() -> None:
    """Without packages under tests/, pytest imports each by its bare name and stops at the second of a name."""
    names = [path.name for path in Path(__file__).resolve().parents[1].rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)


def test_nothing_runs_what_it_reads() -> None:
    assert breaking(lambda path: _unsafe(tree(path))) == {}


@pytest.mark.parametrize(
    "code",
    [
        "pickle.load(handle)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "subprocess.run(text, shell=True)",
        "eval(text)",
        "exec(text)",
        "archive.extractall(folder)",
        "os.system(text)",
        "yaml.load(text)",
        "pydoc.locate(text)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_search_for_unsafe_calls_finds_them(code: str) -> None:
    assert list(_unsafe(ast.parse(code))) == [code]


def test_the_search_for_unsafe_calls_knows_good_from_bad() -> None:
    good = "network.eval(); torch.load(path, weights_only=True); re.compile(text); subprocess.run([name])"
    assert list(_unsafe(ast.parse(good))) == []


# Put together here, so that this file is not what it looks for.
PRIVATE = re.compile(
    rb"(?<![\w.~)}<-])/(?:" + b"|".join([b"ho" + b"me", b"wo" + b"rk", b"ro" + b"ot", b"Us" + b"ers"]) + rb")/"
)
REGISTRIES = [
    f"{host}.{domain}".encode()
    for host, domain in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("proxy.golang", "org"),
        ("registry.npmjs", "org"),
        ("anaconda", "org"),
        ("crates", "io"),
    )
]


def _tracked() -> list[Path]:
    try:
        listed = subprocess.run(
            ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [file for name in listed.split(b"\0") if name and (file := CHECKOUT / name.decode()).is_file()]


def test_no_file_names_a_private_folder_or_a_package_registry() -> None:
    files = _tracked()
    if not files:
        pytest.skip("no git checkout")
    assert CHECKOUT / "pyproject.toml" in files
    found = [
        str(file.relative_to(CHECKOUT))
        for file in files
        if PRIVATE.search(file.read_bytes()) or any(host in file.read_bytes() for host in REGISTRIES)
    ]
    assert found == []
