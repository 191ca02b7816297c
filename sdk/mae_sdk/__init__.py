"""The client SDK: plans, jobs, data, AutoML. No torch.

Importing it loads the standard library only.

``from mae_sdk import Skill, Plan, Job, MaeError``
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mae_skill.errors import MaeError

    from mae_sdk.job import Job
    from mae_sdk.plan.plan import Plan
    from mae_sdk.skill import Skill

__all__ = ["Job", "MaeError", "Plan", "Skill"]

_HOMES = {
    "Job": "mae_sdk.job",
    "MaeError": "mae_skill.errors",
    "Plan": "mae_sdk.plan.plan",
    "Skill": "mae_sdk.skill",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
