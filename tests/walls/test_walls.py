"""The walls between the rooms: imports run one way, torch lives in the runners, the SDK names no
architecture."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {
    "skill": ROOT / "skill/mae_skill",
    "sdk": ROOT / "sdk/mae_sdk",
    "runners": ROOT / "runners/mae_runners",
}
TORCH = {"torch", "torchvision", "timm", "pytorch_lightning", "lightning", "torchmetrics"}
FORBIDDEN = {"skill": {"mae_sdk", "mae_runners", *TORCH}, "sdk": {"mae_runners", *TORCH}}

# What one line `import mae_sdk` must not cost: each of these loads inside the functions that need
# it.
LATE = [
    "jsonschema",
    "fsspec",
    "yaml",
    "rich",
    "pydantic",
    "numpy",
    "click",
    "optuna",
    "PIL",
    "s3fs",
    "torch",
    "asyncio",
    "mae_sdk.cli",
]


def imports(path: Path) -> set[str]:
    """Top-level names of every absolute import in a file, wherever it stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("room", sorted(FORBIDDEN))
def test_imports_run_one_way_and_torch_stays_in_the_runners(room: str) -> None:
    files = sorted(ROOMS[room].rglob("*.py"))
    assert files
    broken = {
        str(path.relative_to(ROOT)): sorted(imports(path) & FORBIDDEN[room])
        for path in files
        if imports(path) & FORBIDDEN[room]
    }
    assert broken == {}


def test_the_sdk_names_no_architecture() -> None:
    from mae_skill.archs import ARCHS

    families = {re.split(r"[_\d]", name)[0] for name in ARCHS}
    assert {"vit", "hiera"} <= families
    words = re.compile(r"\b(" + "|".join(sorted(families)) + r")(v\d)?(_|\b)", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted(ROOMS["sdk"].rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if words.search(line)
    ]
    assert found == []


def test_importing_the_sdk_loads_the_standard_library_only() -> None:
    program = f"import sys, mae_sdk; print([name for name in {LATE!r} if name in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == "[]"


def test_help_loads_no_command_and_nothing_heavy() -> None:
    late = [
        *(name for name in LATE if name not in ("click", "mae_sdk.cli")),
        "mae_sdk.cli.plan_run",
        "mae_sdk.cli.jobs",
    ]
    program = (
        "import sys\nfrom mae_sdk.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        f"print('loaded', [name for name in {late!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "loaded []" in done.stderr
    assert "inspect" in done.stdout


def test_nothing_pickled_is_ever_loaded() -> None:
    """``weights_only=False`` executes what is in the file."""
    found = [
        str(path.relative_to(ROOT))
        for path in sorted(ROOMS["runners"].rglob("*.py"))
        if "weights_only=False" in path.read_text(encoding="utf-8")
    ]
    assert found == []


def test_no_command_goes_through_a_shell() -> None:
    found = [
        str(path.relative_to(ROOT))
        for room in ROOMS.values()
        for path in sorted(room.rglob("*.py"))
        if re.search(r"shell\s*=\s*True|os\.system\(|os\.popen\(", path.read_text(encoding="utf-8"))
    ]
    assert found == []


def _imported_files(room: Path) -> dict[str, set[str]]:
    """Module → modules of the same package that it imports, wherever the import stands.

    Imports for type checkers alone are left out: they load nothing.
    """
    modules = {}
    for path in sorted(room.rglob("*.py")):
        parts = path.relative_to(room.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path

    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for_types = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for statement in node.body
            for inner in ast.walk(statement)
        }
        names: set[str] = set()
        for node in ast.walk(tree):
            if id(node) in for_types:
                continue
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= (full & modules.keys()) or {node.module}
        graph[module] = (names & modules.keys()) - {module}
    return graph


def _in_a_circle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes from which a way leads back to themselves."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += graph.get(node, ())
        return seen

    return [node for node in graph if node in reached(node)]


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_no_files_and_no_folders_import_each_other_in_a_circle(room: str) -> None:
    graph = _imported_files(ROOMS[room])
    assert len(graph) > 20
    assert _in_a_circle(graph) == []

    folders: dict[str, set[str]] = {}
    for module, imported in graph.items():
        here = module.split(".")[1:2]
        for name in imported:
            there = name.split(".")[1:2]
            if here and there and here != there:
                folders.setdefault(here[0], set()).add(there[0])
    assert _in_a_circle(folders) == []


def test_the_packages_have_few_rooms() -> None:
    """Files and folders at the root, without the markers of a package."""

    def rooms(room: Path) -> set[str]:
        names = {path.stem for path in room.iterdir() if path.suffix == ".py" or path.is_dir()}
        return names - {"__init__", "__main__", "__pycache__", "_bundle"}

    assert len(rooms(ROOMS["sdk"])) <= 14
    assert len(rooms(ROOMS["runners"])) <= 11
