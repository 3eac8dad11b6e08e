"""What holds the project together: imports run one way, and nothing heavy is loaded before it is needed."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support import ENVIRONMENT, ROOT

ALLOWED = {
    "bench.archive",
    "bench.contracts",
    "bench.decoders",
    "bench.features",
    "bench.frequency",
    "bench.metrics",
    "bench.oracle",  # for the name of a type alone
    "bench.precision",
    "bench.progress",
    "bench.recognizers",
    "bench.seeds",
}
PLUGINS = sorted([*(ROOT / "defenses").glob("*.py"), *(ROOT / "attacks").glob("*.py")])
CORE = sorted((ROOT / "bench").rglob("*.py"))


def _imports(path: Path) -> list[tuple[str, bool]]:
    """Every module that a file imports, and whether for type checkers alone."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found += [(name, id(node) in typing_only) for name in names]
    return found


@pytest.mark.parametrize("path", PLUGINS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_plugins_import_contracts_and_never_the_runner(path: Path) -> None:
    for name, typing_only in _imports(path):
        if name.split(".")[0] == "bench":
            assert any(name == a or name.startswith(f"{a}.") for a in ALLOWED), f"{path.name} imports {name}"
            assert name != "bench.oracle" or typing_only, f"{path.name} needs {name} at run time"
        assert name.split(".")[0] not in {"defenses", "attacks"} - {path.parent.name}


def test_the_core_knows_no_plugin() -> None:
    # Replay and linkage are also kinds of cells, for which the contracts have classes.
    plugins = {path.stem for path in PLUGINS} - {"__init__", "replay", "linkage"}
    for path in CORE:
        for name, _ in _imports(path):
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


def test_every_package_is_shipped() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    real = {
        str(p.parent.relative_to(ROOT)).replace("/", ".")
        for folder in ("bench", "defenses", "attacks")
        for p in (ROOT / folder).rglob("__init__.py")
    }
    assert listed == real
