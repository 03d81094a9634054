"""Hold the package's own rules: who imports whom, how long things are, and what is never done."""

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

# A folder imports only from folders before it; the order is that of the package's docstring.
ORDER = re.findall(r"\w+", (pcl_auto.__doc__ or "").split("::")[1].split("``method``")[0])
# Within nnunet the folders have an order too; modules right under it come before them.
ORDER_IN_NNUNET = ["pretrained", "planning", "data", "inference", "training", "pretraining", "extension"]
NNUNET_FAMILY = {
    "acvl_utils",
    "batchgenerators",
    "batchgeneratorsv2",
    "blosc2",
    "dynamic_network_architectures",
    "nnunetv2",
}
PURE = {"__future__", "cc3d", "collections", "dataclasses", "math", "numpy", "pydensecrf", "scipy", "torch", "typing"}
MAX_LINES, MAX_LINES_OF_A_FUNCTION = 600, 70


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """Return the dotted name of a module below ``pcl_auto``: ``nnunet.data.store``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


NAMES = {name_of(path) for path in MODULES}


def imports(module: ast.Module) -> Iterator[str]:
    """Yield the full name of everything that a module imports, at its top, in functions and for type checkers."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> set[str]:
    """Return the modules of this package that a module imports, named as by :func:`name_of`."""
    names = {name.removeprefix("pcl_auto.") for name in imports(tree(path)) if name.startswith("pcl_auto.")}
    return {name if name in NAMES else name.rpartition(".")[0] for name in names} & NAMES


def called(node: ast.Call) -> str:
    """Return the dotted name of what is called, as far as it is one."""
    return ast.unparse(node.func) if isinstance(node.func, (ast.Name, ast.Attribute)) else ""


def breaking(rule: Callable[[Path], Iterable[str]], modules: Sequence[Path] = MODULES) -> dict[str, list[str]]:
    """Return the modules that break a rule, each with what breaks it."""
    found = {name_of(path): sorted(rule(path)) for path in modules}
    return {module: broken for module, broken in found.items() if broken}


def rank(name: str) -> tuple[int, int]:
    """Return where a module stands in the order of folders."""
    folder, _, rest = name.partition(".")
    inner = rest.partition(".")[0]
    within = ORDER_IN_NNUNET.index(inner) + 1 if folder == "nnunet" and inner in ORDER_IN_NNUNET else 0
    return ORDER.index(folder), within


def test_the_order_names_every_folder() -> None:
    assert sorted(ORDER) == sorted({name.partition(".")[0] for name in NAMES} - {"__init__", "__main__"})


def test_a_module_imports_only_from_its_folder_and_those_before_it() -> None:
    def later(path: Path) -> set[str]:
        return {name for name in own_imports(path) if rank(name) > rank(name_of(path))}

    # The package itself stands above its folders: it hands out the API.
    assert breaking(later, [path for path in MODULES if name_of(path) not in ("__init__", "__main__")]) == {}


def test_no_module_imports_itself_in_a_circle() -> None:
    below = {name_of(path): own_imports(path) for path in MODULES}
    # Modules that import nothing of what is left, or that nothing of it imports, are in no circle.
    while free := {
        name for name, needed in below.items() if not needed & set(below) or name not in set().union(*below.values())
    }:
        below = {name: needed for name, needed in below.items() if name not in free}
    assert set(below) == set()


def test_one_folder_alone_meets_nnunet() -> None:
    def meets(path: Path) -> set[str]:
        return {name.split(".")[0] for name in imports(tree(path))} & NNUNET_FAMILY

    assert breaking(meets, [path for path in MODULES if not name_of(path).startswith("nnunet.")]) == {}


def test_the_method_knows_no_disk_and_no_environment() -> None:
    unwanted = {"open", "print", "torch.save", "torch.load", "np.save", "np.load", "torch.manual_seed"}
    own = ("pcl_auto.method.", "pcl_auto.recipe.settings.")

    def impure(path: Path) -> set[str]:
        names = {name.split(".")[0] for name in imports(tree(path)) if not name.startswith(own)}
        calls = {called(node) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)}
        return (names - PURE) | (calls & unwanted)

    assert breaking(impure, sorted((PACKAGE / "method").glob("*.py"))) == {}


def test_modules_and_functions_stay_short() -> None:
    def long(path: Path) -> Iterator[str]:
        if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES:
            yield f"more than {MAX_LINES} lines"
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and _length(node) > MAX_LINES_OF_A_FUNCTION:
                yield f"{node.name}: {_length(node)} lines"

    assert breaking(long) == {}


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without its docstring; of a verb without its table of options too."""
    first = function.body[0].lineno if _has_options(function) else function.lineno
    docstring = ast.get_docstring(function, clean=False) or ""
    return (function.end_lineno or first) - first + 1 - docstring.count("\n")


def _has_options(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return "typer." in ast.unparse(function.args)


# A docstring says what a thing does or is: no noun clause, and of a function a verb first (ruff's D401 sees most).
CLAUSE = re.compile(r"(What|Whether|How|Where|Which|Who|Of|Why|When)\b")
NO_VERB = re.compile(
    r"(The|An?|One|All|Each|Every|Everything|No|None|Nothing|This|That|These|Those|It|There|"
    r"About|As|At|By|For|From|If|In|On|With|Without)\b|[`:*(\d]"
)


def test_docstrings_begin_with_what_is_done() -> None:
    def riddles(path: Path) -> Iterator[str]:
        for node in ast.walk(tree(path)):
            if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            first = (ast.get_docstring(node) or "").split("\n")[0]
            does = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not any(
                "property" in ast.unparse(decorator) for decorator in node.decorator_list
            )
            if CLAUSE.match(first) or (does and NO_VERB.match(first)):
                yield f"{getattr(node, 'name', 'module')}: {first}"

    assert breaking(riddles) == {}


# --- the page -------------------------------------------------------------------------------------------------

ARCHITECTURE = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
WALKS = {
    name: re.findall(r"^\d+\. `(.+?)`", steps, re.MULTILINE)
    for name, steps in re.findall(r"^### (\w+)\n(.*?)(?=^#)", ARCHITECTURE, re.MULTILINE | re.DOTALL)
}
MAX_FILES_OF_A_WALK = 10


def test_the_page_names_every_folder_and_no_file_that_is_not_there() -> None:
    named = set(re.findall(r"`([\w./]+(?:\.py|/))`", ARCHITECTURE))
    missing = [name for name in named if not (PACKAGE / name).exists() and not (CHECKOUT / name).exists()]
    assert missing == []
    folders = {f"{path.parent.relative_to(PACKAGE)}/" for path in MODULES if path.parent != PACKAGE}
    assert folders - named == set()


def test_the_walks_are_those_of_three_commands() -> None:
    assert list(WALKS) == ["plan", "train", "predict"]


@pytest.mark.parametrize("steps", WALKS.values(), ids=WALKS.keys())
def test_a_walk_is_short_and_goes_down(steps: list[str]) -> None:
    assert len(steps) <= MAX_FILES_OF_A_WALK
    assert steps[0].startswith("cli/commands/")
    reached = own_imports(PACKAGE / steps[0])
    for step in steps[1:]:
        assert step.removesuffix(".py").replace("/", ".") in reached, f"{step} is called by none before it"
        reached |= own_imports(PACKAGE / step)


# --- what is never done ---------------------------------------------------------------------------------------


def _unsafe(module: ast.Module) -> Iterator[str]:
    """Yield calls that run code from data, start a shell, or unpack wherever an archive says."""
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


def _leads_nowhere(dotted: str) -> bool:
    """Tell whether ``pcl_auto.data.split.Split`` names no module, or nothing that stands in its module."""
    parts = dotted.split(".")[1:]
    module = PACKAGE
    while parts and (module / parts[0]).is_dir():
        module /= parts.pop(0)
    file = module / f"{parts[0]}.py" if parts else module / "__init__.py"
    parts, file = (parts[1:], file) if file.is_file() else (parts, module / "__init__.py")
    return bool(parts) and not re.search(rf"\b{parts[0]}\b", file.read_text(encoding="utf-8"))


def test_names_of_the_package_lead_somewhere() -> None:
    """In strings and docstrings no type checker looks: what moves leaves them behind."""
    found = {
        f"{file.relative_to(CHECKOUT)}: {name}"
        for file in _tracked()
        if file.suffix in (".py", ".md", ".toml", ".sh") and file.name != "CHANGELOG.md"
        for name in re.findall(r"(?<![\w/.])pcl_auto(?:\.(?!__)\w+)+", file.read_text(encoding="utf-8"))
        if _leads_nowhere(name)
    }
    assert found == set()
