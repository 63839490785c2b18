"""The order of the layers, read from the source of every module with `ast`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pytest_bertology"
LAYERS = (
    "answering",
    "names",
    "rounding",
    "errors",
    "files",
    "heads",
    "models",
    "tasks",
    "engine",
    "paired_proportions",
    "statistics",
    "significance",
    "bootstrap",
    "power",
    "measures",
    "search",
    "checks",
    "report",
    "baselines",
    "deferred",
    "strategies",
    "embedded",
    "inspection",
    "__main__",
    "plugin",
)
MODULES = {path: path.relative_to(PACKAGE.parent).with_suffix("").parts for path in sorted(PACKAGE.rglob("*.py"))}


def imports(source: str, package: tuple[str, ...]) -> Iterator[str]:
    """The dotted names that a module imports at run time, at its top or within functions."""
    yield from _imports(ast.parse(source).body, package)


def _imports(nodes: list[ast.stmt], package: tuple[str, ...]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}" if base == "pytest_bertology" else base) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports(node.orelse, package)
        else:
            yield from _imports([n for n in ast.iter_child_nodes(node) if isinstance(n, ast.AST)], package)


def layer(parts: tuple[str, ...]) -> str | None:
    """The layer of `pytest_bertology.x.y`; None for the package itself."""
    return parts[1] if len(parts) > 1 and parts[1] != "__init__" else None


def inside(path: Path) -> list[str]:
    package = MODULES[path][:-1]
    return list(imports(path.read_text(encoding="utf-8"), package))


def test_every_module_is_in_a_known_layer():
    assert {layer(parts) for parts in MODULES.values()} - {None} <= set(LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: ".".join(MODULES[path][1:]))
def test_a_module_imports_only_from_its_own_layer_or_below(path):
    own = layer(MODULES[path])
    allowed = LAYERS[: LAYERS.index(own) + 1] if own else ("answering",)

    used = [name for name in inside(path) if name.split(".")[0] == "pytest_bertology"]

    assert [name for name in used if layer(tuple(name.split("."))) not in allowed] == []


@pytest.mark.parametrize(
    "path", [p for p in MODULES if layer(MODULES[p]) != "plugin"], ids=lambda path: ".".join(MODULES[path][1:])
)
def test_nothing_outside_the_plugin_imports_pytest(path):
    assert [name for name in inside(path) if name.split(".")[0] in ("pytest", "_pytest", "pluggy", "xdist")] == []


def test_the_reader_of_imports_sees_every_form():
    source = """
import pytest_bertology.plugin
from pytest_bertology import checks, heads
from pytest_bertology.models.state import frozen
from . import sibling
from ..errors import NotAHead
if TYPE_CHECKING:
    import hidden
else:
    import shown
def function():
    with context:
        import pytest as p
"""

    found = list(imports(source, ("pytest_bertology", "engine")))

    assert found == [
        "pytest_bertology.plugin",
        "pytest_bertology.checks",
        "pytest_bertology.heads",
        "pytest_bertology.models.state",
        "pytest_bertology.engine",
        "pytest_bertology.errors",
        "shown",
        "pytest",
    ]
