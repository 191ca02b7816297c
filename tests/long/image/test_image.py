"""The image of docker/Dockerfile, built and used. It takes some minutes and seven gigabytes.

No image is pulled: the base is a Debian that debootstrap makes, or what MAE_TEST_BASE names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mae_sdk import Skill
from mae_sdk.run import platform as platforms

from tests.support.containers import DockerPlace
from tests.support.training import digits_folder, spec

ROOT = Path(__file__).resolve().parents[3]
BASE, IMAGE = "localhost/mae-base:test", "localhost/mae-skill:test"


@pytest.fixture(scope="module")
def place() -> Iterator[DockerPlace]:
    home = Path(tempfile.mkdtemp(prefix="image", dir="/tmp"))
    made = DockerPlace(home, driver="overlay")
    before = dict(os.environ)
    try:
        if reason := made.find_program():
            pytest.skip(reason)
        named = os.environ.get("MAE_TEST_BASE")
        if not named and (reason := make_base(made)):
            pytest.skip(reason)
        build(made, named or BASE)
        yield made
    finally:
        if shutil.which(made.program):
            subprocess.run([made.program, "rmi", "--force", IMAGE, BASE], capture_output=True)
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(home, ignore_errors=True)


def make_base(place: DockerPlace) -> str | None:
    """A Debian without Python as an image; why that cannot be, or None."""
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        return "no base: debootstrap (as root) makes one, or MAE_TEST_BASE names an image"
    folder, archive = place.home / "base", place.home / "base.tar"
    command = ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm"]
    made = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    if made.returncode != 0:
        return f"debootstrap made no base: {made.stdout[-200:]}"
    subprocess.run(["tar", "-C", str(folder), "-cf", str(archive), "."], check=True)
    shutil.rmtree(folder)
    done = subprocess.run(
        [place.program, "import", str(archive), BASE], capture_output=True, text=True
    )
    archive.unlink()
    return None if done.returncode == 0 else f"{place.program} takes no image: {done.stderr[-200:]}"


def build(place: DockerPlace, base: str) -> None:
    """Build by the command of the Dockerfile's head; pip finds what it finds on this machine."""
    command = [place.program, "build", "--tag", IMAGE, "--build-arg", f"BASE={base}"]
    command += ["--network=host", "--file", "docker/Dockerfile"]
    if place.program == "podman":
        command += [f"--volume={mount}:ro" for mount in mounts_of_pip()]
    done = subprocess.run([*command, "."], cwd=ROOT, capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def mounts_of_pip() -> list[str]:
    """The site's settings of pip, and the folders and the certificates that they name."""
    files = [Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf"]
    mounts = [f"{path}:/etc/pip.conf" for path in files if path.is_file()][:1]
    pip = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(pip, capture_output=True, text=True, check=True).stdout
    for scheme, name in re.findall(r"(?:(file://)|(?<![:/\w]))(/[^\s']+)", said):
        path = Path(name).parent if scheme else Path(name)
        mount = f"{path}:{path}"
        if path.exists() and mount not in mounts:
            mounts.append(mount)
    return mounts


def test_the_image_has_what_the_runner_needs(place: DockerPlace) -> None:
    command = [place.program, "run", "--rm", "--network=none", IMAGE, "mae", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for extra in ("train", "s3", "export"):
        assert re.search(rf"^ *{extra} .*: installed$", done.stdout, re.MULTILINE), extra


def test_a_job_of_the_platform_docker_trains_in_the_image(
    place: DockerPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platforms, "_loaded", {})
    digits_folder(tmp_path / "data", per_class=4)
    made = spec(tmp_path / "data", tmp_path / "unused", dataset__batch_size=2, train__num_epochs=1)
    del made["results_dir"]
    settings = {"program": place.program, "image": IMAGE, "shm_size": "64m"}
    job = Skill().create_job(
        "train",
        spec=made,
        automl_policy="off",
        results_root=str(tmp_path / "results"),
        platform="docker",
        platform_options=settings,
        env={"OMP_NUM_THREADS": "1"},
    )
    job.wait(400)
    assert job.metrics()["train_loss"] > 0 and job.best_checkpoint().is_file()
    assert job.record["versions"]["mae-skill"]
