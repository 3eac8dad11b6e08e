"""What holds the project together: imports run one way, and nothing heavy is loaded before it is needed."""

import ast
import subprocess
import sys
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from support import ENVIRONMENT, ROOT

#: Which rooms of `bench` each room may import, beside itself. What is missing here is a wall.
ROOMS = {
    "errors": set(),
    "labels": set(),
    "seeds": set(),
    "durations": set(),
    "openmp": set(),
    "metrics.catalogue": set(),
    "storage": {"errors", "labels", "contracts"},  # contracts: states and weights, in arrays.py and weights.py alone
    "metrics": {"errors", "storage"},
    "contracts": {"errors", "labels", "seeds"},
    "synthesis": {"seeds", "storage", "toolkit.progress"},
    "toolkit": {"contracts", "durations", "errors", "labels", "metrics", "storage"},
    "datasets": {"contracts", "errors", "labels", "seeds", "storage", "synthesis", "toolkit"},
    "recognizers": {"contracts", "errors", "storage", "toolkit"},
    "settings": {"contracts", "errors", "labels", "metrics.catalogue", "storage"},
    "plan": {"contracts", "datasets", "errors", "labels", "metrics.catalogue", "settings", "storage", "toolkit"},
    "analysis": {"errors", "labels", "metrics", "seeds", "settings.model", "storage"},
    "report": {"analysis", "durations", "errors", "labels", "metrics", "storage"},
    "checks": {"contracts", "datasets", "errors", "metrics", "recognizers", "settings", "storage", "toolkit"},
    "runner": {
        "contracts", "datasets", "errors", "labels", "metrics", "openmp", "plan", "seeds", "settings", "storage",
        "toolkit",
    },
    "forecast": {
        "contracts", "datasets", "durations", "errors", "labels", "metrics", "plan", "runner", "settings", "storage",
        "toolkit",
    },
    "train_recognizer": {
        "contracts", "datasets", "errors", "metrics", "seeds", "settings", "storage", "toolkit",
    },
}  # fmt: skip
ABOVE = {"api", "cli", "paper", "__init__", "__main__"}  #: may import everything below
PLUGINS_MAY = {"contracts", "errors", "metrics", "storage.files", "storage.weights", "toolkit"}
#: Results are read, compared and drawn where torch need not be installed.
NO_TORCH = (
    "analysis", "api", "cli", "durations", "errors", "labels", "metrics.bootstrap", "metrics.catalogue",
    "metrics.proportions", "openmp", "report", "seeds", "settings.model", "settings.toml", "storage.files",
    "storage.keys", "storage.records", "storage.session", "storage.store",
)  # fmt: skip
PLUGINS = sorted([*(ROOT / "defenses").glob("*.py"), *(ROOT / "attacks").glob("*.py")])
CORE = sorted((ROOT / "bench").rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in CORE}


def _imports(path: Path) -> list[str]:
    """Every module that a file imports when it runs, `from package import module` included."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name if name in MODULES else node.module for name in names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def _within(module: str, places: Iterable[str]) -> bool:
    return any(module == f"bench.{place}" or module.startswith(f"bench.{place}.") for place in places)


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {name: {n for n in _imports(path) if n in MODULES and n != name} for name, path in MODULES.items()}
    assert tuple(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", sorted(MODULES))
def test_rooms_import_what_lies_below(name: str) -> None:
    room = name.removeprefix("bench").lstrip(".")
    if room == "" or room.split(".")[0] in ABOVE:
        return
    own = next(place for place in sorted(ROOMS, key=len, reverse=True) if _within(name, [place]))
    for imported in _imports(MODULES[name]):
        if imported.startswith("bench."):
            assert _within(imported, {own.split(".")[0], *ROOMS[own]}), f"{name} imports {imported}"


@pytest.mark.parametrize("path", PLUGINS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_plugins_import_contracts_and_never_the_runner(path: Path) -> None:
    for name in _imports(path):
        if name.split(".")[0] == "bench":
            assert _within(name, PLUGINS_MAY), f"{path.name} imports {name}"
        assert name.split(".")[0] not in {"defenses", "attacks"} - {path.parent.name}


def test_results_are_read_without_torch() -> None:
    """Not even by way of another module: in a process of its own, where torch cannot be imported."""
    names = [name for name in MODULES if _within(name, NO_TORCH)]
    code = f"""import importlib, sys
sys.modules["torch"] = None
for name in {names!r}: importlib.import_module(name)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr


def test_the_core_knows_no_plugin() -> None:
    # Replay and linkage are also kinds of cells, for which the contracts have classes, and distill is a loss.
    plugins = {path.stem for path in PLUGINS} - {"__init__", "replay", "linkage", "distill"}
    for path in CORE:
        for name in _imports(path):
            assert name.split(".")[0] not in {"defenses", "attacks"}, f"{path} imports {name}"
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not strings & plugins, path


def test_the_command_line_starts_light() -> None:
    heavy = ["torch", "facenet_pytorch", "lpips", "seaborn", "pandas", "skimage", "matplotlib"]
    code = f"import sys, bench.cli; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert done.stdout.strip() == "[]"


def test_every_folder_with_code_is_a_package() -> None:
    for folder in ("bench", "defenses", "attacks"):
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} would not be shipped"
