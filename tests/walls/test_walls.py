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


def named_in(words: str, *, outside: str) -> list[str]:
    """Files of the packages that have one of these words and lie outside a place."""
    return [
        str(path.relative_to(ROOT))
        for room in ROOMS.values()
        for path in sorted(room.rglob("*.py"))
        if not path.is_relative_to(ROOT / outside)
        and re.search(words, path.read_text(encoding="utf-8"))
    ]


def test_only_the_room_of_platforms_knows_one_of_them() -> None:
    engines = "local|slurm|ray|docker|kubernetes"
    words = rf"run\.({engines})\b|run import .*\b({engines})\b|visible_gpus|os\.kill\("
    assert named_in(words, outside="sdk/mae_sdk/run") == []


def test_one_file_says_where_caches_are() -> None:
    words = r"XDG_CACHE_HOME|[\"'/]\.cache\b(?!/huggingface)|MAE_CACHE_DIR[\"']\)"
    assert named_in(words, outside="sdk/mae_sdk/files.py") == []
