"""The client SDK: plans, jobs, data, AutoML. No torch.

Importing it loads the standard library only.

``from mae_sdk import Skill, Plan, Job, MaeError``
"""

from __future__ import annotations

import os
import sys

# `python -m mae_sdk.…` looks into the folder that it is called in before it looks anywhere else: a
# yaml.py there would be imported. First of all, so that nothing has been; and for its children.
if sys.argv[:1] == ["-m"] and any(word.startswith(__name__) for word in sys.orig_argv):
    if not getattr(sys.flags, "safe_path", False):  # Python 3.10 has no such flag
        del sys.path[0]
    os.environ["PYTHONSAFEPATH"] = "1"

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
        from mae_sdk.jobs.other_sdk import CLASSES

        if name in CLASSES:  # `from mae_sdk import` hides the words of an AttributeError
            raise ImportError(f"there is no mae_sdk.{name}: {CLASSES[name]}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
