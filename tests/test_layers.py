"""The shape of the code: who imports whom, which library stands behind which file, how long things are."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGES = ("cluster", "generation", "selection", "training")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
LONGEST_FILE = 400
LONGEST_FUNCTION = 60

ADAPTERS = {
    "vllm": {"generation/engines/vllm.py", "generation/engines/vllm_internals.py", "cluster/models/encoder_vllm.py"},
    "deepspeed": {"training/zero.py"},
}
"""Libraries that few files may import, at any depth: of vLLM's, one writes, one has all private names, one embeds."""
HEAVY = (
    "torch",
    "vllm",
    "deepspeed",
    "transformers",
    "peft",
    "ray",
    "sentence_transformers",
    "plotly",
    "jieba",
    "datasets",
)
"""Libraries that no import of these modules may pull in: the command line answers before any of them is loaded."""
LIGHT = (
    *(
        "gristmill." + name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for name in NAMES
        if name.startswith("cluster/")
    ),
    "gristmill.generation.job",
    "gristmill.selection.job",
    "gristmill.training.job",
    "gristmill.training.evaluate.job",
)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every import of a file, nested ones too, as (line, module)."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) > 20


@pytest.mark.parametrize("name", NAMES)
def test_the_ground_imports_nobody_and_the_three_only_the_ground(name: str) -> None:
    own = name.split("/", maxsplit=1)[0]
    others = {*PACKAGES} - {own} - ({"cluster"} if own != "cluster" else set())
    wrong = [
        f"line {line}: {module}"
        for line, module in imports(ROOT / name)
        if module.startswith("gristmill.") and module.split(".")[1] in others
    ]
    assert not wrong, f"{name} imports {wrong}; the packages meet in datasets on disk"


def module_of(name: str) -> str:
    return "gristmill." + name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def used(path: Path, known: set[str]) -> set[str]:
    """The modules of ours that a file imports anywhere, for types alone too."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= inner or {node.module}
    return found & known


def test_no_files_import_each_other_in_a_circle() -> None:
    known = {module_of(name): path for name, path in zip(NAMES, FILES, strict=True)}
    left = {module: used(path, set(known)) - {module} for module, path in known.items()}
    while free := {module for module, needs in left.items() if not needs & left.keys()}:
        left = {module: needs for module, needs in left.items() if module not in free}
    assert not left, f"these are in a circle, or use one: {sorted(left)}"


@pytest.mark.parametrize("name", NAMES)
def test_imports_are_absolute(name: str) -> None:
    wrong = [node.lineno for node in ast.walk(tree(ROOT / name)) if isinstance(node, ast.ImportFrom) and node.level]
    assert not wrong, f"{name}: relative imports at lines {wrong}"


@pytest.mark.parametrize("library", ADAPTERS)
def test_a_library_is_imported_by_its_adapter_alone(library: str) -> None:
    users = {
        name
        for name, path in zip(NAMES, FILES, strict=True)
        for _, module in imports(path)
        if module.split(".")[0] == library
    }
    assert users == ADAPTERS[library]


@pytest.mark.parametrize("name", NAMES)
def test_files_and_functions_are_short(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST_FILE, f"{name} has {lines} lines"
    long = [
        f"{node.name} ({(node.end_lineno or 0) - node.lineno + 1} lines)"
        for node in ast.walk(tree(ROOT / name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert not long, f"{name}: {long}"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cluster/cli/main.py"])
def test_only_the_command_line_prints(name: str) -> None:
    calls = (node for node in ast.walk(tree(ROOT / name)) if isinstance(node, ast.Call))
    wrong = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not wrong, f"{name}: print at lines {wrong}"


@pytest.mark.parametrize("name", NAMES)
def test_every_file_says_in_its_first_line_what_it_is_for(name: str) -> None:
    text = ast.get_docstring(tree(ROOT / name))
    assert text, f"{name}: no docstring"


def test_importing_what_the_command_line_needs_loads_no_heavy_library() -> None:
    """In a fresh process, so that nothing that another test imported hides a library."""
    code = (
        "import importlib, sys\n"
        f"for name in {LIGHT!r}:\n"
        "    importlib.import_module(name)\n"
        f"    loaded = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]\n"
        "    assert not loaded, f'{name} loads {loaded}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr.strip().splitlines()[-1]
