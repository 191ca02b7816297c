"""The engines that the platforms need, each started by the tests themselves, on loopback."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mae_sdk.run import platform as platforms

from tests.support import slurm
from tests.support.platforms import Place


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[slurm.SlurmPlace]:
    if reason := slurm.why_not():
        pytest.skip(reason)
    home = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))  # a short path, for its sockets
    home.chmod(0o755)
    place = slurm.SlurmPlace(home)
    with place.engine():
        yield place
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(params=["local", "slurm"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "local":
        return Place()
    found: Place = request.getfixturevalue(f"{request.param}_cluster")
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(platforms, "_loaded", {})
    return found


@pytest.fixture
def cluster(slurm_cluster: slurm.SlurmPlace, monkeypatch: pytest.MonkeyPatch) -> slurm.SlurmPlace:
    """SLURM, for the tests of what only it has."""
    for name, value in slurm_cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(platforms, "_loaded", {})
    return slurm_cluster
