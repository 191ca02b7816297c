"""Weights & Biases, MLflow: a run that cannot log there trains without it, and says so."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Collection
from pathlib import Path

from mae_skill.rules.base import Case, Rule

KEYLESS = ("offline", "dryrun", "disabled")
"""Values of WANDB_MODE that need no key."""


def wandb_lacks(variables: Collection[str], local: bool = True) -> str | None:
    """What Weights & Biases lacks for a run with these variables, or None.

    Args:
        local: whether the run is on this machine, whose packages and files count then.
    """
    if not local:
        return None
    if importlib.util.find_spec("wandb") is None:
        return "the package wandb is not installed (pip install 'mae-skill[wandb]')"
    if os.environ.get("WANDB_MODE", "").lower() in KEYLESS or "WANDB_MODE" in (
        set(variables) - os.environ.keys()
    ):
        return None
    if "WANDB_API_KEY" in variables or _logged_in():
        return None
    return "there is no API key: set WANDB_API_KEY, or WANDB_MODE=offline"


def mlflow_lacks(local: bool = True) -> str | None:
    """What MLflow lacks, or None; `local`: whether the run is on this machine."""
    if local and importlib.util.find_spec("mlflow") is None:
        return "the package mlflow-skinny is not installed (pip install 'mae-skill[mlflow]')"
    return None


def _logged_in() -> bool:
    """Whether ``wandb login`` has left a key here."""
    import netrc

    file = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        hosts = netrc.netrc(str(file)).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any("wandb" in host for host in hosts)


def tracked(case: Case) -> None:
    """Logging that is enabled and impossible is no reason not to train."""
    variables = case.facts.variables
    local = case.facts.local_files or variables is None
    if case("wandb.enable"):
        lacks = wandb_lacks(os.environ.keys() if variables is None else variables, local)
        if lacks is not None:
            case.warn("wandb.enable", f"the run trains without Weights & Biases: {lacks}")
    if case("mlflow.enable") and (lacks := mlflow_lacks(local)) is not None:
        case.warn("mlflow.enable", f"the run trains without MLflow: {lacks}")


RULES = [Rule(tracked, ("train",))]
