"""What the documents say in a form that a program can check: commands, links, JSON, dotted keys."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def pages() -> list[Path]:
    """Every document that a user or an agent reads."""
    top = [ROOT / name for name in ("SKILL.md", "README.md", "AGENTS.md", "CONTRIBUTING.md")]
    return [
        *top,
        *sorted((ROOT / "references").glob("*.md")),
        *sorted((ROOT / "docs").glob("*.md")),
    ]


def fences(page: Path, language: str) -> list[str]:
    return [
        body for found, body in FENCE.findall(page.read_text(encoding="utf-8")) if found == language
    ]


def commands(page: Path) -> Iterator[list[str]]:
    """Every ``mae …`` call on the page, fenced or inline, as words; comments and ``…`` dropped."""
    text = page.read_text(encoding="utf-8")
    lines = [
        line
        for language in ("bash", "sh", "console")
        for body in fences(page, language)
        for line in body.replace("\\\n", " ").splitlines()
    ]
    lines += INLINE.findall(FENCE.sub("", text))
    for line in lines:
        line = line.removeprefix("$ ").strip()
        if line.startswith("mae "):
            words = [word for word in shlex.split(line, comments=True) if word != "…"]
            yield words[1:]


def links(page: Path) -> Iterator[str]:
    """Targets of relative links, without their fragment."""
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:|#", target):
            yield target.split("#")[0]


def evals_runner() -> ModuleType:
    """`evals/run.py` as a module."""
    spec = importlib.util.spec_from_file_location("evals_run", ROOT / "evals" / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
