"""The floor plan: no circle of files or folders, imports run down the floors, privacy, few rooms.

Every import statement counts, at any level of a file; those under ``TYPE_CHECKING`` do not, since
nothing runs. A module that is loaded by its name at run time (`importlib`: the commands of ``mae``,
an action of the runner, the entry points of a bundle) is no import here.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "mae_skill": ROOT / "skill/mae_skill",
    "mae_sdk": ROOT / "sdk/mae_sdk",
    "mae_runners": ROOT / "runners/mae_runners",
}

# Each room imports only from rooms further down its list. `__init__` is the package itself, which
# any room may name.
FLOORS = {
    "mae_sdk": [
        "cli",
        "mcp_server",
        "report",
        "answers",
        "skill",
        "launch",
        "plan",
        "automl",
        "job",
        "run",
        "jobs",
        "data",
        "storage",
        "files",
    ],
    # `__main__` is below the actions: it finds the one it runs by name, `measure` reads a spec as
    # it does, and the warm runner runs it in a fork.
    "mae_runners": [
        "warm",
        "actions",
        "__main__",
        "deploy",
        "training",
        "tasks",
        "metrics",
        "data",
        "models",
        "distributed",
        "context",
    ],
}
MAX_ROOMS = {"mae_sdk": 14, "mae_runners": 11}


def files_of(package: str) -> dict[str, Path]:
    """Dotted module name → file."""
    found = {}
    for path in sorted(PACKAGES[package].rglob("*.py")):
        parts = path.relative_to(PACKAGES[package]).with_suffix("").parts
        found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


@cache
def imported(path: Path) -> tuple[tuple[str, str | None], ...]:
    """Every import of a file that can run: module, and the name taken from it."""
    found: list[tuple[str, str | None]] = []

    def look(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports here are absolute"
            found.extend((str(node.module), alias.name) for alias in node.names)

        inside: Iterable[ast.AST] = ast.iter_child_nodes(node)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            inside = node.orelse
        for child in inside:
            if not isinstance(child, ast.expr):  # no statement is in an expression
                look(child)

    look(ast.parse(path.read_text(encoding="utf-8")))
    return tuple(found)


def arrows(package: str) -> dict[str, set[str]]:
    """Module → the modules of the same package that it imports."""
    modules = files_of(package)
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        targets = set()
        for source, name in imported(path):
            whole = f"{source}.{name}"
            targets |= {whole if whole in modules else source} & set(modules)
        found[module] = targets - {module}
    return found


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def between_rooms(package: str) -> dict[str, set[str]]:
    """Room → the rooms that its files import."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, targets in arrows(package).items():
        found[room(module)] |= {room(target) for target in targets} - {room(module), "__init__"}
    return found


def circles(graph: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """The sets of nodes that reach one another."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for target in graph.get(waiting.pop(), set()) - seen:
                seen.add(target)
                waiting.append(target)
        return seen

    reach = {node: reached(node) for node in graph}
    return sorted(
        {
            tuple(sorted({node} | {other for other in reach[node] if node in reach.get(other, ())}))
            for node in graph
            if node in reach[node]
        }
    )


def test_a_circle_is_found_wherever_it_begins() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}, "e": set()}
    assert circles(graph) == [("b", "c"), ("d",)]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_files_import_one_another_in_a_circle(package: str) -> None:
    graph = arrows(package)
    assert any(graph.values())
    assert circles(graph) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folders_import_one_another_in_a_circle(package: str) -> None:
    graph = between_rooms(package)
    assert any(graph.values())
    assert circles(graph) == []


@pytest.mark.parametrize("package", FLOORS)
def test_rooms_import_only_from_lower_floors(package: str) -> None:
    floors = FLOORS[package]
    rooms = {room(module) for module in files_of(package)} - {"__init__"}
    assert rooms == set(floors), "a new room has a floor"

    upward = {
        f"{upper} imports {lower}"
        for upper, targets in between_rooms(package).items()
        for lower in targets
        if upper != "__init__" and floors.index(lower) < floors.index(upper)
    }
    assert upward == set()


@pytest.mark.parametrize("package", MAX_ROOMS)
def test_a_package_has_few_rooms(package: str) -> None:
    rooms = {room(module) for module in files_of(package)} - {"__init__"}
    assert len(rooms) <= MAX_ROOMS[package], sorted(rooms)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_begins_with_an_underscore_stays_in_its_file(package: str) -> None:
    taken = [
        f"{module}: {source}.{name}"
        for module, path in files_of(package).items()
        for source, name in imported(path)
        if source.split(".")[0] in PACKAGES
        for part in [*source.split("."), *([name] if name else [])]
        if part.startswith("_") and not part.startswith("__")
    ]
    assert taken == []
