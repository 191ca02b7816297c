"""What the platform docker makes of a job: words, never values. No container starts here."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk.jobs import records
from mae_sdk.run.platform import platform
from mae_skill.errors import DependencyError, NotFoundError

from tests.support.images import write_imagefolder
from tests.support.jobs import write


def words(tmp_path: Path, settings: dict[str, Any], **launch: Any) -> list[str]:
    folder = write(tmp_path / "results", "true", platform="docker", **launch)
    record = records.read_record(folder)
    record["env_names"] = ["SHADE"]
    record["platform_options"] = settings
    record["launch"]["command"] = [sys.executable, "-m", "mae_runners"]
    environment = {"MAE_JOB_DIR": str(folder), "SHADE": "canary-1", "HOME": "/canary-2"}
    environment |= {"AWS_SECRET_ACCESS_KEY": "canary-3", "CUDA_VISIBLE_DEVICES": "2,5"}
    command, processes = platform("docker").wrap(record["launch"]["command"], record, environment)
    assert processes == 1
    return command


def test_variables_go_in_by_name_and_folders_at_their_own_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAE_PLATFORMS", "")
    monkeypatch.setenv("MAE_CACHE_DIR", str(tmp_path / "cache"))
    said = words(tmp_path, {"image": "our:1", "mounts": ["/w:/w:ro"]}, device_count=2)
    assert "canary" not in " ".join(said)
    assert {"--env=SHADE", "--env=AWS_SECRET_ACCESS_KEY", "--env=MAE_JOB_DIR"} < set(said)
    assert "--env=HOME" not in said and "--env=CUDA_VISIBLE_DEVICES" not in said
    assert f"--volume={tmp_path}/results:{tmp_path}/results" in said
    assert f"--volume={tmp_path}/cache:{tmp_path}/cache" in said and "--volume=/w:/w:ro" in said
    assert '--gpus="device=2,5"' in said and f"--user={os.getuid()}:{os.getgid()}" in said
    assert said[-4:] == ["our:1", "python3", "-m", "mae_runners"]


def test_the_caller_of_podman_without_root_is_the_containers_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert "--user=0:0" in words(tmp_path / "a", {"image": "our:1", "program": "podman"})
    monkeypatch.setattr(os, "getuid", lambda: 0)
    said = words(tmp_path / "b", {"image": "our:1", "program": "podman"})
    assert f"--user=0:{os.getgid()}" in said


def test_an_image_of_another_maker_runs_its_own_command(tmp_path: Path) -> None:
    said = words(tmp_path, {"image": "other", "command": "go -e {config_path} --out={job_dir}"})
    folder = tmp_path / "results" / "job"
    assert said[-5:] == ["other", "go", "-e", f"{folder}/spec.yaml", f"--out={folder}"]


def test_ranks_share_a_container(tmp_path: Path) -> None:
    said = words(tmp_path, {"image": "our"}, processes=4)
    assert said[-7:] == ["mae_sdk.run.nodes", "ranks", "4", "--", "python3", "-m", "mae_runners"]


def test_no_program_no_daemon_and_no_image_are_told_apart_before_a_job_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_imagefolder(tmp_path / "data", classes=2, per_class=2)
    monkeypatch.setenv("MAE_PLATFORMS", "")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")

    def plan() -> None:
        options = {"program": "engine"}
        Skill().plan("train", train_datasets=str(data), platform="docker", platform_options=options)

    with pytest.raises(DependencyError, match="the program engine is not here"):
        plan()
    program = tmp_path / "bin" / "engine"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho no daemon >&2; exit 1\n")
    program.chmod(0o755)
    with pytest.raises(DependencyError, match="no daemon of engine answers: no daemon") as error:
        plan()
    assert error.value.retryable
    program.write_text('#!/bin/sh\n[ "$1" = info ]\n')
    with pytest.raises(NotFoundError, match="not on this machine") as missing:
        plan()
    assert missing.value.field == "platform_options.image" and "build" in str(missing.value.hint)


def test_braces_in_the_name_of_a_folder_are_its_own(tmp_path: Path) -> None:
    said = words(tmp_path / "{job_dir}", {"image": "other", "command": "go {config_path}"})
    assert said[-1] == f"{tmp_path}/{{job_dir}}/results/job/spec.yaml"
