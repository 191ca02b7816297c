"""What reaches a terminal or a log: no command to it, whatever names hold; JSON stays exact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mae_skill.spelling import original

from tests.support.images import photo

NASTY = [
    b"caf\xe9.png",
    b"clear\x1b[2J\x07.png",
    "c1\x9b31m.png".encode(),
    "right\u202egpj.png".encode(),
    "line\u2028break.png".encode(),
    b"new\nline.png",
    b"back\\xe9.png",
    "caf\u00e9.png".encode(),
]
RAW = ["\x1b", "\x07", "\x9b", "\u202e", "\u2028"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of odd names, half of them unreadable, the rest twins of each other."""
    root = tmp_path_factory.mktemp("images")
    for name in NASTY:
        (root / os.fsdecode(b"bad-" + name)).write_bytes(b"no image")
        photo(0, 32, 32).save(root / os.fsdecode(name), "PNG")
    return root


def mae(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-m", "mae_sdk.cli.main", *arguments], capture_output=True, env=env
    )


def test_inspect_prints_no_name_raw(images: Path) -> None:
    done = mae("inspect", str(images))
    assert done.returncode in (0, 3), done.stderr  # 3: too many are unreadable
    text = done.stdout.decode("utf-8") + done.stderr.decode("utf-8")
    assert not any(mark in text for mark in RAW)
    assert r"bad-caf\xe9.png" in text
    assert r"clear\u001b[2J\u0007.png" in text
    assert r"back\\xe9.png" in text


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict", "latin-1"])
def test_the_json_of_inspect_gives_every_name_back_in_any_locale(
    images: Path, encoding: str
) -> None:
    done = mae("inspect", str(images), "--json", PYTHONIOENCODING=encoding)
    assert done.returncode in (0, 3), done.stderr  # 3: too many are unreadable
    text = done.stdout.decode(encoding.split(":")[0])
    assert not any(mark in text for mark in RAW)
    listed = json.dumps(json.loads(text)["unreadable"])
    for name in NASTY:
        path = os.fsdecode(os.fsencode(images) + b"/bad-" + name)
        assert any(original(one) == path for one in _texts(json.loads(listed))), name


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in _texts(item)]


def test_mcp_inspects_any_name(images: Path) -> None:
    from mae_sdk import Skill
    from mae_sdk.mcp_server import answer, tools

    skill = Skill()
    tool = next(tool for tool in tools(skill) if tool.name == "inspect")
    document, failed = answer(skill, tool, {"source": str(images)})
    assert not failed
    json.dumps(document, ensure_ascii=False).encode()
    nowhere, failed = answer(skill, tool, {"source": os.fsdecode(b"/no/caf\xe9")})
    assert failed
    json.dumps(nowhere, ensure_ascii=False).encode()


def test_an_error_with_a_hostile_name_is_printed_harmlessly(tmp_path: Path) -> None:
    done = mae("inspect", str(tmp_path / "gone\x1b]0;title\x07\u202e"))
    assert done.returncode == 3
    assert not any(mark in done.stderr.decode() for mark in RAW)
