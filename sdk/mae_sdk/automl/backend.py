"""Where the trials of a study run, as the loop sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Seen:
    """A child job as observed: its state and, where it failed, category and message."""

    state: str
    category: str = ""
    message: str = ""


class Backend(Protocol):
    """Where trials run. `create` and `start` are idempotent: a second call for the same trial finds the first one's child."""

    def path(self, number: int) -> Path: ...
    def create(self, number: int, spec: Mapping[str, Any]) -> Path: ...
    def start(self, child: Path, slot: int) -> None: ...
    def retry(self, child: Path, slot: int, spec: Mapping[str, Any] | None) -> None: ...
    def observe(self, child: Path) -> Seen: ...
    def records(self, child: Path) -> list[dict[str, Any]]: ...
    def spec(self, child: Path) -> dict[str, Any]: ...
    def slot(self, child: Path) -> int | None: ...
    def cancel(self, child: Path) -> None: ...
