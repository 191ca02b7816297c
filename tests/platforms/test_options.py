"""The settings of a platform, and what the adapter of SLURM makes of them. No engine runs here."""

from __future__ import annotations

import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill, answers
from mae_sdk.cli.main import main
from mae_sdk.jobs import records
from mae_sdk.run import nodes, ray, registry, slurm
from mae_sdk.run.options import Option, settle
from mae_sdk.run.platform import EngineState, Polled, attempt_name, platform
from mae_skill.errors import MaeError, UsageError

from tests.support.images import write_imagefolder
from tests.support.jobs import write

KNOWN = {"partition": Option(""), "cpus": Option("", int, 4, least=1), "setup": Option("", list)}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "platforms.yaml"
    monkeypatch.setenv("MAE_PLATFORMS", str(path))
    path.write_text("slurm: {partition: gpu, cpus: 8}\n")
    return path


def test_a_caller_goes_before_the_site_and_the_site_before_the_default(site: Path) -> None:
    assert settle("slurm", KNOWN, {}) == {"partition": "gpu", "cpus": 8}
    assert settle("slurm", KNOWN, {"partition": "debug"})["partition"] == "debug"
    site.write_text("ray: {address: x}\n")
    assert settle("slurm", KNOWN, {"setup": "module load x"}) == {
        "cpus": 4,
        "setup": ["module load x"],
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"partitoin": "gpu"}, "did you mean partition"),
        ({"cpus": "many"}, "type int"),
        ({"cpus": 0}, "at least 1"),
        ({"partition": ["a", "b"]}, "type str"),
        ({"partition": "a\nb"}, "type str"),
        ({"partition": "http://user:secret@host"}, "credentials"),
    ],
)
def test_a_setting_that_is_unknown_or_no_value_is_one_error(
    site: Path, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as error:
        settle("slurm", KNOWN, given)
    assert str(error.value.field).startswith("platform_options.")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("text", ["slurm: 3", "[a", "- a"])
def test_a_file_of_settings_that_is_none_is_named(site: Path, text: str) -> None:
    site.write_text(text)
    with pytest.raises(UsageError):
        settle("slurm", KNOWN, {})
    site.unlink()
    with pytest.raises(UsageError, match="missing"):
        settle("slurm", KNOWN, {})


@pytest.mark.parametrize("text", ["slurm: 3", "[a", "- a", None])
def test_a_file_of_settings_that_is_none_says_what_one_is(site: Path, text: str | None) -> None:
    site.unlink() if text is None else site.write_text(text)
    with pytest.raises(UsageError) as error:
        settle("slurm", KNOWN, {})
    assert error.value.got == str(site) and error.value.hint
    assert "slurm: {partition: gpu}" in str(error.value.expected)


def test_a_misspelled_platform_of_the_site_is_an_error_and_one_of_another_machine_is_none(
    site: Path,
) -> None:
    site.write_text("slrum: {partition: gpu}\n")
    with pytest.raises(UsageError, match="did you mean slurm") as error:
        settle("slurm", KNOWN, {})
    assert error.value.got == "slrum" and str(site) in error.value.message
    site.write_text("our_own_batch_system: {partition: gpu}\n")
    assert "partition" not in settle("slurm", KNOWN, {})


def test_a_value_of_the_site_that_the_engine_refuses_names_its_file(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_imagefolder(tmp_path / "data", classes=2, per_class=2, size=16)
    monkeypatch.setattr(slurm, "_run", lambda *words, **more: "")  # there is no such partition
    for given in ({}, {"partition": "other"}):
        with pytest.raises(UsageError) as error:
            Skill().plan(
                "train", train_datasets=str(data), platform="slurm", platform_options=given
            )
        assert error.value.field == "platform_options.partition"
        assert (str(site) in error.value.message) == (not given)


def test_too_many_gpus_and_too_many_nodes_are_said_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_imagefolder(tmp_path / "data", classes=2, per_class=2, size=16)
    monkeypatch.setattr(slurm, "_run", lambda *words, **more: "gpu*|2|64|500000|gpu:a100:4\n")
    spec = {"train.num_gpus": 8, "train.num_nodes": 4, "train.stage": "pretrain"}
    with pytest.raises(MaeError) as error:
        Skill().plan("train", train_datasets=str(data), platform="slurm", spec_overrides=spec)
    said = str(error.value)
    assert "has 4 GPU(s)" in said and "2 nodes for a job, not 4" in said


@pytest.mark.parametrize(
    "raised", [RuntimeError("Jobs API not found"), ValueError("bad port"), KeyError("version")]
)
def test_whatever_the_client_of_ray_raises_is_an_error_of_its_address(
    monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    submission = pytest.importorskip("ray.job_submission")

    def connect(address: str) -> None:
        raise raised

    monkeypatch.setattr(submission, "JobSubmissionClient", connect)
    with pytest.raises(UsageError) as error:
        platform("ray").resources({"address": "http://head:8265"})
    assert error.value.field == "platform_options.address"
    assert error.value.got == "http://head:8265" and error.value.expected and error.value.hint


def test_a_setting_without_a_value_names_the_option_that_it_is_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["plan", "train", "--platform", "slurm", "--platform-option", "partition"])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "platform_options" in said and "partition=VALUE" in said and "override" not in said


@pytest.mark.parametrize("text", ["{partitoin: gpu}", "{cpus: many}", "{cpus: -1}"])
def test_a_wrong_setting_of_the_site_names_its_file(site: Path, text: str) -> None:
    site.write_text(f"slurm: {text}")
    with pytest.raises(UsageError, match=str(site)):
        settle("slurm", KNOWN, {})
    site.write_text("slurm: {}")
    with pytest.raises(UsageError) as error:
        settle("slurm", KNOWN, {"cpus": -1})
    assert str(site) not in str(error.value)


@pytest.mark.parametrize("grace", [-5, 0])
def test_a_warning_that_never_comes_is_refused_by_the_name_of_its_setting(grace: int) -> None:
    with pytest.raises(UsageError, match="at least 1") as error:
        platform("slurm").settings({"grace": grace})
    assert error.value.field == "platform_options.grace"


def test_errors_of_gpus_say_whose_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    rows = "cpu*|1|4|1000|(null)\ngpu|2|64|500000|gpu:a100:8\n"
    (bin_ / "sinfo").write_text(
        f"#!/bin/sh\nprintf '{rows}' | grep \"^${{3#--partition=}}[*|]\" || printf '{rows}'\n"
    )
    (bin_ / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:/usr/bin:/bin")
    data = str(write_imagefolder(tmp_path / "data", classes=2, per_class=2))

    def refused(partition: str | None, **more: Any) -> str:
        options = {"partition": partition} if partition else {}
        with pytest.raises(MaeError) as error:
            Skill().plan(
                "train",
                train_datasets=data,
                platform="slurm",
                platform_options=options,
                automl_policy="off",
                results_root=str(tmp_path / "r"),
                spec_overrides=more,
            )
        return str(error.value)

    said = refused(None, **{"train.accelerator": "gpu"})
    assert "a node of SLURM's partition cpu has no GPU" in said and "this machine" not in said
    said = refused("gpu", **{"train.num_gpus": 9})
    assert "a node of SLURM's partition gpu has 8 GPU(s)" in said and "this machine" not in said
    with pytest.raises(MaeError, match="a node of 4xA100 has 4 GPU") as error:
        spec = {"train.num_gpus": 5}
        Skill().plan("train", on="4xA100", images="1K", automl_policy="off", spec_overrides=spec)
    assert "this machine" not in str(error.value)


def test_a_cancel_that_the_engine_cannot_be_told_says_that_the_folder_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("squeue", "scancel"):
        (tmp_path / name).write_text(
            "#!/bin/sh\necho 'error: Unable to contact slurm controller' >&2; exit 1\n"
        )
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    root = tmp_path / "r"
    folder = write(root, "true", platform="slurm")
    records.update_record(
        folder, lambda record: records.last_attempt(record).update(handle={"job": "7"})
    )
    with pytest.raises(MaeError) as error:
        Skill().job(folder.name, str(root)).cancel()
    assert error.value.exit_code == 8 and "submitted twice" not in str(error.value)
    assert "holds the request to cancel" in str(error.value) and error.value.retryable
    assert (folder / records.CANCEL_NAME).exists()


def test_a_plan_refuses_settings_that_its_platform_does_not_have(tmp_path: Path) -> None:
    data = write_imagefolder(tmp_path / "data", classes=2, per_class=2)
    with pytest.raises(UsageError, match="no such setting"):
        Skill().plan("train", train_datasets=str(data), platform_options={"partition": "gpu"})


def test_every_platform_says_what_is_missing_and_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    rows = {row["name"]: row for row in answers.platforms()["platforms"]}
    assert rows["local"]["ready"] and rows["local"]["resources"]["cores"]
    assert set(registry.BUILT_IN) <= set(rows)
    assert "sbatch" in rows["slurm"]["missing"][0]["what"] and not rows["slurm"]["ready"]
    for row in rows.values():
        assert row["about"] and all(one["what"] and one["how"] for one in row["missing"])
    with pytest.raises(UsageError, match="no such platform"):
        answers.platforms("moon")


def test_an_attempt_has_one_name_however_often_it_is_submitted(tmp_path: Path) -> None:
    folder = write(tmp_path, "true", name="train-0123456789ab.t001_X")
    record = records.read_record(folder)
    name = attempt_name(folder, record)
    assert name == attempt_name(folder, record) and len(name) <= 52
    assert name.strip("abcdefghijklmnopqrstuvwxyz0123456789-") == ""
    records.new_attempt(record)
    other = write(tmp_path / "other", "true", name="train-0123456789ab.t001_X")
    names = {name, attempt_name(folder, record), attempt_name(other, records.read_record(other))}
    assert len(names) == 3


def test_an_engine_is_asked_less_often_while_nothing_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, asked, answer = [0.0], [], ["PENDING"]

    class Engine(Polled):
        submit = cancel = resources = None  # type: ignore[assignment]

        def poll(self, jobs: Any) -> list[EngineState]:
            asked.append(clock[0])
            return [EngineState(answer[0])] * len(jobs)

    monkeypatch.setattr(Engine, "__abstractmethods__", frozenset())
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    folder = write(tmp_path, "true")
    engine, jobs = Engine(), [(folder, records.read_record(folder))]
    for _ in range(600):
        clock[0] += 0.1
        assert engine.state(jobs)[0].state == answer[0] or clock[0] - asked[-1] < 16
    pauses = [after - before for before, after in pairwise(asked)]
    assert len(asked) < 20 and pauses[0] < 1 and 10 < pauses[-1] < 15.2
    before = len(asked)
    engine.ask_again()
    answer[0] = "RUNNING"
    assert engine.state(jobs)[0].state == "RUNNING" and len(asked) == before + 1


def test_the_words_of_sbatch_name_what_a_job_needs_and_no_secret(tmp_path: Path) -> None:
    folder = write(tmp_path, "true", platform="slurm", device_count=8, nodes=4)
    record = records.read_record(folder)
    settings = {"partition": "gpu", "time": "1:00:00", "gpu_type": "a100", "arguments": ["--x"]}
    record["platform_options"] = platform("slurm").settings(settings)
    words = slurm._arguments(folder, record)
    assert {"--partition=gpu", "--time=1:00:00", "--signal=B:USR1@120"} < set(words)
    assert {"--nodes=4", "--gres=gpu:a100:8", "--requeue"} < set(words) and words[-1] == "--x"

    command, processes = platform("slurm").wrap(
        ["true"], record, {"SLURM_JOB_ID": "7", "MAE_JOB_DIR": str(folder)}
    )
    assert processes == 1 and command[1:4] == ["-m", "mae_sdk.run.nodes", "srun"]
    assert "--jobid=7" in command and command[-3:] == ["1", "--", "true"]


def test_the_batch_script_ends_with_the_exit_code_of_the_job_and_passes_a_signal_on(
    tmp_path: Path,
) -> None:
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/bash\ntrap 'echo told; exit 75' TERM\necho up\n"
        '[ -e "$3/fail" ] && exit 5\nfor _ in $(seq 500); do sleep 0.01; done\n'
    )
    python.chmod(0o755)
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/asked\n')
    (tmp_path / "scontrol").chmod(0o755)
    text = slurm.script(tmp_path / "a job's", {"python": str(python), "setup": ["echo ready"]})

    def start() -> subprocess.Popen[str]:
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
        return subprocess.Popen(
            ["bash", "-c", text], env=env, stdout=subprocess.PIPE, text=True, cwd=tmp_path
        )

    job = start()
    assert job.stdout and [job.stdout.readline() for _ in range(2)] == ["ready\n", "up\n"]
    job.terminate()
    said, _ = job.communicate(timeout=20)
    assert (said, job.returncode) == ("told\n", 75)
    assert (tmp_path / "asked").read_text() == "requeue 7\n"

    (tmp_path / "a job's").mkdir()
    (tmp_path / "a job's" / "fail").touch()
    (tmp_path / "asked").unlink()
    job = start()
    job.communicate(timeout=20)
    assert job.returncode == 5 and not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    ("why", "canceled"),
    [
        ("", True),
        (" DUE to SIGNAL Terminated", True),
        (" DUE TO TIME LIMIT", False),
        (" DUE TO PREEMPTION", False),
        (" DUE TO JOB REQUEUE", False),
    ],
)
def test_the_batch_script_tells_scancel_from_a_preemption_by_what_slurm_logs(
    tmp_path: Path, why: str, canceled: bool
) -> None:
    """SLURM writes its line into the log before it sends signals. A line of a former run of the
    same number says nothing."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/bash\ntrap 'exit 75' TERM\necho up\nfor _ in $(seq 500); do sleep 0.01; done\n"
    )
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/asked\n')
    for name in ("python", "scontrol"):
        (tmp_path / name).chmod(0o755)
    folder = tmp_path / "a job's"
    folder.mkdir()
    line = "slurmstepd-n2: error: *** JOB 7 ON n2 CANCELLED AT 2026-11-27T22:31:44{} ***\n"
    log = folder / slurm.LOG_NAME
    log.write_text(line.format(""))
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    job = subprocess.Popen(
        ["bash", "-c", slurm.script(folder, {"python": str(python)})],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert job.stdout and job.stdout.readline() == "up\n"
    with log.open("a") as file:
        file.write(line.format(why))
    job.terminate()
    job.communicate(timeout=20)
    assert (folder / records.CANCEL_NAME).exists() == canceled
    # What SLURM itself queues again is left to it: it may have been canceled since.
    assert (tmp_path / "asked").exists() == (not canceled and "REQUEUE" not in why)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("5", 300),
        ("1:30", 90),
        ("1:00:00", 3600),
        ("1-12", 129600),
        ("1-0:30", 88200),
        ("2-01:00:05", 176405),
        ("UNLIMITED", None),
    ],
)
def test_a_time_limit_is_read_as_sbatch_does(time: str, seconds: int | None) -> None:
    assert slurm._seconds_of(time) == seconds


def test_a_time_limit_that_the_warning_before_it_fills_is_refused() -> None:
    settings = platform("slurm").settings({"time": "00:02:00"})
    with pytest.raises(MaeError, match="nothing is left to train in") as error:
        slurm._check_time(settings)
    assert error.value.field == "platform_options.time"
    slurm._check_time({**settings, "grace": 30})
    slurm._check_time(platform("slurm").settings({}))


@pytest.mark.parametrize(
    ("said", "field", "later"),
    [
        ("Invalid account or account/partition combination", "platform_options.account", False),
        (
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "platform_options.qos",
            True,
        ),
        ("Invalid qos specification", "platform_options.qos", False),
        ("Requested node configuration is not available", "platform_options", False),
        ("something new", "platform", False),
    ],
)
def test_a_refusal_names_the_setting_and_whether_to_try_again(
    said: str, field: str, later: bool
) -> None:
    with pytest.raises(MaeError) as error:
        slurm._refused(f"sbatch: error: {said}", {})
    assert (error.value.field, error.value.retryable) == (field, later)


def test_states_of_slurm_are_states_of_jobs() -> None:
    words = {"PENDING": "PENDING", "COMPLETING": "RUNNING", "REQUEUE_HOLD": "PENDING"}
    words |= {"TIMEOUT": "ERROR", "CANCELLED by 0": "CANCELED", "NEW_WORD": "ERROR"}
    assert {word: slurm._state(word, "").state for word in words} == words
    assert slurm._state("OUT_OF_MEMORY", "").category == "out_of_memory"
    assert slurm._gpus(["gpu:a100:8(S:0-1),gpu:t4:2", "(null)"], None) == (8, "a100")
    assert slurm._gpus(["gpu:a100:8,gpu:t4:2"], "t4") == (2, "t4")
    assert slurm._gpus(["gpu:4"], None) == (4, "gpu") and slurm._gpus(["(null)"], None)[0] == 0


def test_a_task_of_srun_knows_its_node_and_nothing_of_the_first_ones_process() -> None:
    inherited = {"RANK": "0", "WORLD_SIZE": "1", "SLURM_NODEID": "1", "SLURM_STEP_NUM_NODES": "2"}
    found = nodes.of_slurm({**inherited, "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1", "X": "1"}, 29500)
    assert found == {
        "WORLD_SIZE": "2",
        "NODE_RANK": "1",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "29500",
        "PYTHONSAFEPATH": "1",
        "X": "1",
    }


@pytest.mark.parametrize(
    ("time", "said"), [("00:20:00", "about"), ("30-00:00:00", None), (None, None)]
)
def test_a_plan_says_how_often_a_time_limit_has_the_run_start_again(
    time: str | None, said: str | None
) -> None:
    made = Skill().plan(
        "train",
        on="1xA100",
        images="1.28M",
        automl_policy="off",
        platform="slurm",
        platform_options={"time": time, "grace": 300} if time else {},
    )
    found = [text for text in made.notices if "is started again" in text]
    assert len(found) == (said is not None)
    if said is not None:
        times = -(-made.estimates["time"]["seconds_total"] // 900) - 1
        assert times > 10 and f"about {times:,.0f} times" in found[0]


@pytest.fixture
def of_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A call for a cluster with a small and a large kind of node, whose ``sbatch`` refuses."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    rows = "cpu*|2|4|1000|(null)\\ncpu*|1|16|64000|(null)\\n"
    # Without --exact a row of several kinds tells the least.
    (bin_ / "sinfo").write_text(
        '#!/bin/sh\ncase "$*" in *--exact*) '
        f"printf '{rows}';; *) printf 'cpu*|3|4+|1000+|(null)\\n';; esac\n"
    )
    (bin_ / "squeue").write_text("#!/bin/sh\n")
    (bin_ / "sbatch").write_text(
        '#!/bin/sh\n[ -e "$(dirname "$0")/later" ] && echo QOSMaxSubmitJob >&2 && exit 1\n'
        "echo Invalid account >&2; exit 1\n"
    )
    for name in ("sinfo", "squeue", "sbatch"):
        (bin_ / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:/usr/bin:/bin")
    data = str(write_imagefolder(tmp_path / "data", classes=2, per_class=2))
    more = {"automl_policy": "off", "results_root": str(tmp_path / "results")}
    return {"train_datasets": data, "platform": "slurm", **more}


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"cpus": 17}, "cpus"), ({"memory": "65G"}, "memory"), ({"cpus": 16, "memory": "62G"}, None)],
)
def test_more_than_the_largest_node_has_is_refused_by_the_plan(
    of_slurm: dict[str, Any], settings: dict[str, Any], field: str | None
) -> None:
    if field is None:
        assert Skill().plan("train", platform_options=settings, **of_slurm).resources.nodes == 3
        return
    with pytest.raises(UsageError, match="would wait for ever") as error:
        Skill().plan("train", platform_options=settings, **of_slurm)
    assert error.value.field == f"platform_options.{field}" and error.value.expected


def test_a_job_that_its_engine_refuses_for_good_leaves_nothing_behind(
    of_slurm: dict[str, Any], tmp_path: Path
) -> None:
    skill = Skill()
    with pytest.raises(UsageError, match="SLURM did not take the job"):
        skill.create_job("train", idempotency_key="k", **of_slurm)
    assert not skill.jobs(results_root=of_slurm["results_root"])

    # One that it may take later stays, says that it never ran, and can be removed.
    (tmp_path / "bin" / "later").touch()
    with pytest.raises(UsageError) as error:
        skill.create_job("train", idempotency_key="k", **of_slurm)
    assert error.value.retryable
    (job,) = skill.jobs(results_root=of_slurm["results_root"])
    assert job.state == "ERROR"
    assert str((job.record["error"] or {})["message"]).startswith("refused, and never submitted")
    job.delete()
    assert not skill.jobs(results_root=of_slurm["results_root"])


def test_more_than_the_largest_node_of_ray_has_is_refused() -> None:
    totals = [{"CPU": 4.0}, {"CPU": 8.0, "lamp": 1.0}]
    for settings in ({"cpus": 9.0}, {"resources": {"lamp": "2"}}, {"resources": {"bulb": "1"}}):
        with pytest.raises(UsageError, match="would wait for ever"):
            ray._check_size(settings, totals)
    with pytest.raises(UsageError, match="not an amount"):
        ray._check_size({"resources": {"lamp": "much"}}, totals)
    ray._check_size({"cpus": 8.0, "resources": {"lamp": "1"}}, totals)


@pytest.mark.parametrize("address", ["ftp://head", "ray://head:10001", "os.path://head"])
def test_an_address_of_ray_is_one_of_http(address: str) -> None:
    from mae_sdk.run import ray

    with pytest.raises(UsageError, match="no address of a dashboard") as error:
        ray._address({"address": address})
    assert error.value.field == "platform_options.address" and error.value.got == address


@pytest.mark.parametrize(
    ("name", "setting", "wrong", "right"),
    [
        ("kubernetes", "shm_size", "big", "16Gi"),
        ("kubernetes", "memory", "lots", "64Gi"),
        ("kubernetes", "cpus", "-1", "500m"),
        ("kubernetes", "namespace", "Bad_Name", "team-vision"),
        ("kubernetes", "secrets", ["good", "Bad One"], ["s3-keys"]),
        ("kubernetes", "image", "bad image", "registry:5000/mae@sha256:00ff"),
        ("docker", "image", "bad image", "mae-skill:cpu"),
        ("docker", "shm_size", "8 GiB", "8g"),
        ("slurm", "memory", "lots", "64G"),
        ("slurm", "time", "banana", "2-12:00:00"),
        ("slurm", "time", "1-2-3", "90"),
    ],
)
def test_a_setting_that_its_engine_cannot_read_is_refused_by_its_form(
    name: str, setting: str, wrong: Any, right: Any
) -> None:
    chosen = platform(name)
    assert settle(name, chosen.options, {setting: right})[setting] == right
    with pytest.raises(UsageError, match="not a value of this setting") as error:
        settle(name, chosen.options, {setting: wrong})
    got = wrong[-1] if isinstance(wrong, list) else wrong
    assert error.value.field == f"platform_options.{setting}" and error.value.got == got
    assert (
        "such as" in str(error.value.expected)
        or "minutes" in str(error.value.expected)
        or ("small letters" in str(error.value.expected))
    )
