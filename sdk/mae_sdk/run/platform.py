"""What a platform is: one call over an engine that exists already; the rest goes through the job folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from mae_skill.errors import UsageError

NAMES = ("local",)


class Platform(Protocol):
    """Where jobs run. Status, logs and cancel go through the job folder (`mae_sdk.job.Job`), which every engine shares."""

    def submit(self, job_dir: Path, env: Mapping[str, str] | None = None) -> bool:
        """Start the pending attempt of a job once, whoever else tries; whether this call started it."""
        ...


def platform(name: str) -> Platform:
    """The platform of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in NAMES:
        raise UsageError(
            "no such platform", field="platform", got=name, expected=" or ".join(NAMES)
        )
    from mae_sdk.run import local

    return local
