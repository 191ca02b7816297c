"""The engines that the platforms need, each started by the tests themselves, on loopback."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mae_sdk.run import platform as platforms

from tests.support import containers, ray, slurm
from tests.support.loopback import leave_the_network
from tests.support.platforms import Place


@pytest.fixture(scope="session")
def alone() -> str | None:
    """Before any engine starts: nothing but loopback from here on, or why that cannot be."""
    return leave_the_network()


@pytest.fixture(scope="session")
def slurm_cluster(alone: str | None) -> Iterator[slurm.SlurmPlace]:
    if reason := slurm.why_not():
        pytest.skip(reason)
    home = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))  # a short path, for its sockets
    home.chmod(0o755)
    place = slurm.SlurmPlace(home)
    with place.engine():
        yield place
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_cluster(alone: str | None) -> Iterator[ray.RayPlace]:
    if reason := ray.why_not() or alone:  # it binds to every address whatever one asks for
        pytest.skip(reason)
    home = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    place = ray.RayPlace(home)
    with place.engine():
        yield place
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def docker_cluster() -> Iterator[containers.DockerPlace]:
    home = Path(tempfile.mkdtemp(prefix="docker", dir="/tmp"))
    place = containers.DockerPlace(home)
    if reason := place.prepare():
        pytest.skip(reason)
    yield place
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(params=["local", "slurm", "ray", "docker"])
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
