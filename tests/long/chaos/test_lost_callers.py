"""Callers killed at every place of a launch on an object store, machines lost before the first
copy, refusals: no job is lost, none is PENDING for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk import job as jobs
from mae_sdk.run.local import LocalPlatform
from mae_skill.errors import StorageError

from tests.sdk.test_lost_callers import caller, root, server
from tests.support.callers import Caller, lose_the_machine
from tests.support.jobs import wait_until
from tests.support.s3 import environment

__all__ = ["caller", "root", "server"]  # fixtures


@pytest.mark.parametrize(
    "places",
    [["claimed"], ["written"], ["claimed", "replaced"], ["claimed", *["taken over"] * 2]],
)
def test_the_same_key_launches_what_killed_callers_had_begun(
    caller: Caller, places: list[str]
) -> None:
    for place in places:
        caller.dies(place)
    job = caller.calls().wait(60)
    assert job.state == "COMPLETE" and [a["number"] for a in job.record["attempts"]] == [1]
    assert (job.folder / "spec.yaml").exists()
    assert list(job.folder.parent.glob(".*")) == [], "nothing of the killed callers is left"


def test_the_same_key_takes_a_job_over_whose_machine_was_lost(
    caller: Caller, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller.dies("claimed")
    lose_the_machine(root)
    monkeypatch.setattr(jobs, "_NEVER_LAUNCHED_SECONDS", 1.0)
    wait_until(lambda: caller.calls().folder.exists())
    assert caller.calls().wait(60).state == "COMPLETE"


def test_a_refusal_of_a_remote_job_is_seen_from_other_machines(
    caller: Caller, root: str, tmp_path: Path
) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError(13, "not on this machine")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalPlatform, "submit", refuse)
        with pytest.raises(StorageError, match="could not be started"):
            caller.calls()
    with environment({"MAE_SCRATCH": str(tmp_path / "elsewhere")}):
        (job,) = Skill(caller.bundle).jobs(results_root=root)
        assert job.state == "ERROR" and "not on this machine" in str(job.record["error"])
        assert job.resume().wait(60).state == "COMPLETE"
