"""Project-wide rules: layers of imports, lazy heavy imports, and module docstrings."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from support import ENVIRONMENT, ROOT

#: The packages and modules of `bench` that each one may import, besides itself.
LAYERS = {
    "errors": set(),
    "labels": set(),
    "seeds": set(),
    "durations": set(),
    "openmp": set(),
    "metrics.catalogue": set(),
    "storage": {"errors", "labels", "contracts"},  # contracts: only arrays.py and weights.py, for states and weights
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
ABOVE = {"api", "cli", "paper", "__init__", "__main__"}  #: may import all lower layers
PLUGINS_MAY = {"contracts", "errors", "metrics", "storage.files", "storage.weights", "synthesis", "toolkit"}
#: Modules that read, compare and plot results; they must work without torch.
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


def test_there_is_no_import_cycle() -> None:
    graph = {name: {n for n in _imports(path) if n in MODULES and n != name} for name, path in MODULES.items()}
    assert tuple(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", sorted(MODULES))
def test_modules_only_import_lower_layers(name: str) -> None:
    layer = name.removeprefix("bench").lstrip(".")
    if layer == "" or layer.split(".")[0] in ABOVE:
        return
    own = next(place for place in sorted(LAYERS, key=len, reverse=True) if _within(name, [place]))
    for imported in _imports(MODULES[name]):
        if imported.startswith("bench."):
            assert _within(imported, {own.split(".")[0], *LAYERS[own]}), f"{name} imports {imported}"


@pytest.mark.parametrize("path", PLUGINS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_plugins_import_contracts_and_never_the_runner(path: Path) -> None:
    for name in _imports(path):
        if name.split(".")[0] == "bench":
            assert _within(name, PLUGINS_MAY), f"{path.name} imports {name}"
        assert name.split(".")[0] not in {"defenses", "attacks"} - {path.parent.name}


def test_results_are_read_without_torch() -> None:
    """Not even indirectly: runs in a separate process in which torch cannot be imported."""
    names = [name for name in MODULES if _within(name, NO_TORCH)]
    code = f"""import importlib, sys
sys.modules["torch"] = None
for name in {names!r}: importlib.import_module(name)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr


def test_the_core_names_no_plugin() -> None:
    # Replay and linkage are also kinds of cell with contract classes; distill is a loss; FaceNet has a layer "dropout".
    plugins = {path.stem for path in PLUGINS} - {"__init__", "replay", "linkage", "distill"}
    for path in CORE:
        homonyms = {"dropout"} if path.stem == "facenet" else set()
        for name in _imports(path):
            assert name.split(".")[0] not in {"defenses", "attacks"}, f"{path} imports {name}"
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not strings & (plugins - homonyms), path


def test_the_command_line_starts_without_heavy_imports() -> None:
    heavy = ["torch", "facenet_pytorch", "lpips", "seaborn", "pandas", "skimage", "matplotlib"]
    code = f"import sys, bench.cli; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert done.stdout.strip() == "[]"


def test_every_folder_with_code_is_a_package() -> None:
    for folder in ("bench", "defenses", "attacks"):
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} would not be shipped"


@pytest.mark.parametrize("path", [*CORE, *PLUGINS], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_modules_say_in_one_sentence_what_they_are_for(path: Path) -> None:
    """The first line is a sentence of its own, and a module above 300 lines gives the reason for its length."""
    text = path.read_text()
    said = ast.get_docstring(ast.parse(text)) or ""
    first, _, rest = said.partition("\n")
    assert first[:1].isupper() and first.endswith((".", ":")) and len(first.split()) >= 4, f"{path}: {first!r}"
    assert not rest or rest.startswith("\n"), f"{path}: the first line must be a sentence of its own"
    if text.count("\n") > 300:
        assert "exceeds 300 lines" in said, f"{path}: {text.count(chr(10))} lines without a reason in the docstring"


def test_the_versions_of_python_that_are_promised_are_those_that_ci_runs() -> None:
    matrix = re.search(r"python: \[(.*)\]", (ROOT / ".github/workflows/ci.yml").read_text())
    assert matrix is not None
    *others, last = re.findall(r"3\.\d+", matrix[1])
    for page in ("docs/index.md", "CONTRIBUTING.md"):
        text = (ROOT / page).read_text()
        assert f"Python {', '.join(others)} or {last}" in text or f"Python {', '.join(others)} and {last}" in text, page
    assert f'requires-python = ">={others[0]}"' in (ROOT / "pyproject.toml").read_text()
