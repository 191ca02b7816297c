"""Which platforms there are, and where: those of this package, and those that other packages name
in the entry points of the group `GROUP`.
"""

from __future__ import annotations

from mae_skill.errors import UsageError
from mae_skill.spelling import nearest

GROUP = "mae_sdk.platforms"

BUILT_IN = {
    "local": "mae_sdk.run.local:LocalPlatform",
    "slurm": "mae_sdk.run.slurm:SlurmPlatform",
    "ray": "mae_sdk.run.ray:RayPlatform",
    "docker": "mae_sdk.run.docker:DockerPlatform",
    "kubernetes": "mae_sdk.run.kubernetes:KubernetesPlatform",
}
"""Found without an installation's metadata: they cost no search and work from a checkout."""


def find(name: str) -> str:
    """Where the platform of that name is: ``module:class``.

    Raises:
        UsageError: there is none.
    """
    places = BUILT_IN if name in BUILT_IN else _places()
    if name not in places:
        expected = " or ".join(sorted(places))
        near = nearest(name, sorted(places))
        raise UsageError(
            "no such platform",
            field="platform",
            got=name,
            expected=expected,
            hint=f"did you mean {near}?" if near else "local is this machine",
        )
    return places[name]


def names() -> list[str]:
    """The platforms that are installed, the default one first."""
    return list(dict.fromkeys([*BUILT_IN, *_places()]))


def _places() -> dict[str, str]:
    """Platform name → ``module:class``, of all that are installed."""
    from importlib.metadata import entry_points

    added = {point.name: point.value for point in entry_points(group=GROUP)}
    return {**added, **BUILT_IN}
