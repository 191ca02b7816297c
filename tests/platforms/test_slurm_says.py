"""What SLURM's programs print, as errors of the setting that is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_sdk.run import slurm
from mae_skill.errors import MaeError, UsageError

from tests.support.jobs import write

FAILED = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("said", "settings", "field", "got"),
    [
        ("Invalid feature specification", {"constraint": "nope"}, "constraint", "nope"),
        (
            "Invalid feature specification",
            {"arguments": ["--hold", "--constraint=nope"]},
            "arguments",
            "--constraint=nope",
        ),
        (
            "Invalid node name specified",
            {"arguments": ["--nodelist=nope"]},
            "arguments",
            "--nodelist=nope",
        ),
        ("Requested reservation is invalid", {"arguments": ["-x"]}, "arguments", ["-x"]),
        ("Invalid partition name specified", {"partition": "nope"}, "partition", "nope"),
        ("Memory specification can not be satisfied", {"memory": "9T"}, "memory", "9T"),
        (
            "Memory specification can not be satisfied",
            {"arguments": ["--mem=1T"]},
            "arguments",
            "--mem=1T",
        ),
        ("Invalid account or account/partition combination", {}, "account", None),
    ],
)
def test_what_sbatch_refuses_names_setting_value_and_a_way_out(
    said: str, settings: dict[str, Any], field: str, got: Any
) -> None:
    with pytest.raises(UsageError) as refused:
        slurm._refused(FAILED + said, settings)
    error = refused.value
    assert (error.field, error.got) == (f"platform_options.{field}", got)
    assert error.expected and error.hint and said in error.message


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("/spool/slurm_script: line 13: /nope/python: No such file or directory", True),
        ("/spool/slurm_script: line 13: /nope/python: Permission denied", True),
        ("/nope/python: Error while finding module specification: No module named 'mae_sdk'", True),
        ("/spool/slurm_script: line 2: module: command not found", False),
        ("slurmstepd: error: something else", False),
    ],
)
def test_a_python_that_no_node_has_is_an_error_of_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, named: bool
) -> None:
    folder = write(tmp_path, "true", platform="slurm")

    def take(record: records.JobRecord) -> None:
        record["platform_options"] = {"python": "/nope/python"}
        records.last_attempt(record)["handle"] = {"job": "7"}

    records.update_record(folder, take)
    (folder / slurm.LOG_NAME).write_text(f"prepared\n{line}\n")
    monkeypatch.setattr(slurm, "_queue", lambda numbers: {"7": slurm._state("FAILED", "")})
    monkeypatch.setattr(slurm, "_run", lambda *words, **more: "")
    job = Job(folder)
    with pytest.raises(MaeError) as failed:
        job.wait(10)
    problem = job.record["error"]
    assert problem is not None
    if not named:
        assert "platform_options" not in str(failed.value)
        assert problem["category"] == "lost_process"
        return
    assert "platform_options.python=/nope/python" in str(failed.value)
    assert line in str(failed.value)
    assert problem["category"] == "dependency" and problem["hint"]
    assert (problem["error"] or {})["got"] == "/nope/python"
