"""A job folder and its copy on S3: kept up to date, verified, claimed once, brought back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill, files
from mae_sdk.job import Job, RemoteJob, parent_info
from mae_sdk.jobs import records, sync
from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_sdk.jobs.outputs import fetch
from mae_sdk.jobs.root import Root
from mae_sdk.plan.inferred_fields import InferenceContext, apply
from mae_sdk.run.platform import submit
from mae_sdk.run.process import identify
from mae_sdk.storage import transfer
from mae_sdk.storage.faults import fault
from mae_skill.errors import CheckpointError, JobFailedError, MaeError, NotFoundError, UsageError

from tests.support.folders import add_checkpoints, job_folder
from tests.support.s3 import MotoServer, fresh_bucket


@pytest.fixture(scope="module")
def server() -> Iterator[MotoServer]:
    with MotoServer() as found:
        yield found


@pytest.fixture
def bucket(server: MotoServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty bucket of moto, which has conditional creation and lists at once."""
    with fresh_bucket(server, request.node.name) as bucket:
        yield bucket


def wait_for(ready: Any, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_a_folder_is_copied_as_it_changes_and_what_goes_goes_there_too(
    bucket: str, tmp_path: Path
) -> None:
    folder = job_folder(
        tmp_path, "j", "train", launch={"command": ["true"], "upload_excludes": ["train/scratch*"]}
    )
    index = add_checkpoints(folder, [0.1, 0.2])
    (folder / "train/toy_latest.pth").symlink_to("model_epoch_001.pth")
    (folder / "train/scratch.bin").write_bytes(b"not wanted")
    follower = sync.FolderSync(folder, f"{bucket}/r/j", seconds=0.1)
    copy = f"{bucket}/r/j"
    wait_for(lambda: transfer.exists(f"{copy}/train/checkpoints.json"))
    assert transfer.exists(
        f"{copy}/train/model_epoch_001.pth"
    )  # a file before the index that names it
    assert index.thin(1) == ["model_epoch_000.pth"]
    (folder / "train/model_epoch_000.pth").unlink()
    for line in range(50):
        with (folder / "log.txt").open("a") as log:
            log.write(f"line {line}\n")
    follower.finish()
    names = set(transfer.list_files(copy))
    assert {"spec.yaml", "job.json", "log.txt", "sync.json", "train/model_epoch_001.pth"} <= names
    assert not names & {
        "train/scratch.bin",
        "train/model_epoch_000.pth",
        "train/toy_latest.pth",
        ".lock",
    }
    assert transfer.read_bytes(f"{copy}/log.txt") == (folder / "log.txt").read_bytes()


def test_a_copy_that_cannot_arrive_is_an_error_at_the_end(bucket: str, tmp_path: Path) -> None:
    folder = job_folder(tmp_path, "j", "train")
    follower = sync.FolderSync(folder, "s3://no-such-bucket/j", seconds=60)
    with pytest.raises(MaeError, match="no-such-bucket"):
        follower.finish()
    assert (folder / "spec.yaml").exists()


def start(scratch: Path, url: str, command: str) -> Job:
    record: dict[str, Any] = {"id": "job", "action": "train", "resume_keys": ["train.resume"]}
    record["launch"] = {
        "command": ["sh", "-c", command, str(scratch / "job/spec.yaml")],
        "remote": url,
    }
    records.new_attempt(record)
    files.write_json(scratch / "job/job.json", record)
    (scratch / "job/spec.yaml").write_text(f"results_dir: {scratch}/job\ntrain: {{resume: null}}\n")
    add_checkpoints(scratch / "job", [0.5])
    assert submit(scratch / "job")
    return Job(scratch / "job")


def test_a_failed_job_keeps_its_results_on_s3_and_goes_on_elsewhere(
    bucket: str, tmp_path: Path
) -> None:
    url = f"{bucket}/job"
    job = start(tmp_path / "here", url, "echo working; [ $MAE_ATTEMPT = 2 ] || exit 1")
    with pytest.raises(JobFailedError):
        job.wait(30)
    wait_for(lambda: b'"ERROR"' in transfer.read_bytes(f"{url}/job.json"))
    assert {"log.txt", "status.json", "train/model_epoch_000.pth"} <= set(transfer.list_files(url))
    (tmp_path / "here").rename(tmp_path / "lost")

    there = tmp_path / "there/job"
    sync.pull(url, there)
    assert CheckpointIndex(there / "train").select("latest") == there / "train/model_epoch_000.pth"
    resumed = Job(there)
    resumed.resume().wait(30)
    spec = (there / "spec.yaml").read_text()
    assert (
        f"resume: {there}/train/model_epoch_000.pth" in spec
        and f"results_dir: {there}" in spec
        and "/here/" not in spec
    )
    assert resumed.record["launch"]["command"][-1] == str(there / "spec.yaml")
    wait_for(lambda: b'"COMPLETE"' in transfer.read_bytes(f"{url}/job.json"))


@pytest.mark.parametrize("why", ["pruned after epoch 3 at acc 0.1", ""])
def test_a_request_to_cancel_behind_a_url_brings_its_reason(
    bucket: str, tmp_path: Path, why: str
) -> None:
    folder = job_folder(tmp_path, "j", "train", launch={"command": ["true"]})

    def run_by_engine(record: records.JobRecord) -> None:
        records.last_attempt(record)["handle"] = {"job": "7"}

    records.update_record(folder, run_by_engine)
    url = f"{bucket}/j"
    follower = sync.FolderSync(folder, url, seconds=60.0)
    transfer.write_bytes(f"{url}/{records.CANCEL_NAME}", why.encode())
    follower.look_for_cancel()
    assert records.cancel_reason(folder) == (why or "canceled on request")
    assert (folder / records.CANCEL_NAME).exists(), "an earlier version's request is empty"
    assert not transfer.exists(f"{url}/{records.CANCEL_NAME}")
    follower.finish()


def test_a_canceled_job_keeps_its_results_on_s3_and_gives_them_anywhere(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAE_SCRATCH", str(tmp_path / "elsewhere"))
    url = f"{bucket}/job"
    job = start(tmp_path / "here", url, "echo working; exec sleep 100")
    wait_for(lambda: "working" in job.logs())
    assert job.cancel() == "CANCELED"
    wait_for(lambda: b'"CANCELED"' in transfer.read_bytes(f"{url}/job.json"))
    assert {"log.txt", "status.json", "train/model_epoch_000.pth", "train/checkpoints.json"} <= set(
        transfer.list_files(url)
    )
    assert transfer.read_bytes(f"{url}/log.txt") == b"working\n"
    seen = Skill().job("job", bucket)
    assert seen.state == "CANCELED" and seen.best_checkpoint().read_bytes() == b"weights 0"
    with pytest.raises(UsageError, match="CANCELED"):
        parent_info("job", bucket)


def test_a_pull_that_was_cut_short_starts_again_and_a_whole_one_is_left_alone(
    bucket: str, tmp_path: Path
) -> None:
    url = f"{bucket}/j"
    with pytest.raises(NotFoundError):
        sync.pull(url, tmp_path / "new")
    folder = job_folder(tmp_path, "j", "train")
    add_checkpoints(folder, [0.1])
    (folder / "train/toy_latest.pth").symlink_to("model_epoch_000.pth")
    sync.FolderSync(folder, url, seconds=60).finish()
    (tmp_path / "new/train").mkdir(parents=True)
    (tmp_path / "new/train/model_epoch_000.pth").write_bytes(b"half")
    sync.pull(url, tmp_path / "new")
    assert (tmp_path / "new/train/toy_latest.pth").read_bytes() == b"weights 0"
    (tmp_path / "new/log.txt").write_text("newer")
    sync.pull(url, tmp_path / "new")
    assert (tmp_path / "new/log.txt").read_text() == "newer"


def test_a_parent_on_s3_gives_its_model_like_a_local_one(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAE_SCRATCH", str(tmp_path / "scratch"))
    root = f"{bucket}/results"
    folder = job_folder(tmp_path, "t1", "train", spec={"model": {"arch": "toy"}})
    add_checkpoints(folder, [0.1, 0.8])
    sync.FolderSync(folder, f"{root}/t1", seconds=60).finish()
    info = parent_info("t1", root)
    assert (info.kind, info.spec, info.checkpoint_meta and info.checkpoint_meta["arch"]) == (
        "checkpoint",
        {"model": {"arch": "toy"}},
        "toy",
    )
    applied = apply(
        "evaluate",
        {"a.checkpoint": "parent_model"},
        InferenceContext("evaluate", None, "/out", info),
    )
    path = Path(applied[0].value)
    assert not path.exists() and path.is_relative_to(tmp_path / "scratch")  # a plan copies nothing
    assert fetch(applied) == [path] and path.read_bytes() == b"weights 1"

    path.unlink()
    transfer.write_bytes(
        f"{root}/t1/train/model_epoch_001.pth", b"weightsX1"
    )  # as long, and damaged
    with pytest.raises(CheckpointError):
        fetch(applied)
    assert not path.exists()
    transfer.delete(f"{root}/t1/train/model_epoch_001.pth")
    applied = apply(
        "evaluate",
        {"a.checkpoint": "parent_model"},
        InferenceContext("evaluate", None, "/out", parent_info("t1", root)),
    )
    assert applied[0].value.endswith("model_epoch_000.pth") and "skipped" in applied[0].note


def test_pretrained_weights_behind_a_url_are_fetched_once(
    bucket: str,
) -> None:
    transfer.write_bytes(f"{bucket}/w.pth", b"weights")
    context = InferenceContext("train", None, "/out", ptm=f"{bucket}/w.pth")
    applied = apply("train", {"a.path": "ptm"}, context)
    assert [path.read_bytes() for path in fetch(applied)] == [b"weights"]
    assert fetch(apply("train", {"a.path": "ptm"}, context)) == []
    with pytest.raises(NotFoundError):
        apply(
            "train",
            {"a.path": "ptm"},
            InferenceContext("train", None, "/out", ptm=f"{bucket}/none.pth"),
        )


def test_of_many_callers_one_creates_a_remote_job_and_the_others_are_given_it(bucket: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: sync.claim(f"{bucket}/job", {"caller": n}), range(8)))
    winners = [number for number, record in enumerate(found) if record is None]
    assert len(winners) == 1
    assert {record["caller"] for record in found if record is not None} == set(winners)


def test_a_caller_whose_claim_comes_while_the_first_record_is_replaced_is_given_it(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sync.claim(f"{bucket}/job", {"id": "job", "caller": 1}) is None
    read, missed = transfer.read_bytes, iter([b"", NotFoundError("gone for a moment")])

    def torn(url: str) -> bytes:
        found = next(missed, None)
        if isinstance(found, Exception):
            raise found
        return read(url) if found is None else found

    monkeypatch.setattr(transfer, "read_bytes", torn)
    monkeypatch.setattr(transfer, "exists", lambda url: False)
    monkeypatch.setattr(transfer, "write_bytes", _exists_already)
    first = sync.claim(f"{bucket}/job", {"id": "job", "caller": 2})
    assert first is not None and first["caller"] == 1


def _exists_already(url: str, data: bytes, if_none_match: bool = False) -> None:
    raise fault("exists", "it exists already", url, retryable=False, hint="")


def test_a_record_that_is_being_replaced_is_read_again(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAE_SCRATCH", str(tmp_path / "elsewhere"))
    folder = job_folder(tmp_path, "t1", "train")
    whole = (folder / "job.json").read_bytes()
    answers = iter([b"", NotFoundError("gone for a moment"), whole])

    def read(root: Root, job_id: str, name: str) -> bytes:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(Root, "read", read)
    assert RemoteJob(Root(bucket), "t1").record["id"] == "t1"


def test_further_nodes_and_who_takes_a_job_over_read_a_record_that_is_being_replaced_again(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = job_folder(tmp_path, "t1", "train")
    url = f"{bucket}/t1"
    transfer.write_bytes(f"{url}/job.json", (folder / "job.json").read_bytes())
    seen = files.read_json(folder / "job.json")
    asked: dict[str, int] = {}

    def gone_once(name: str) -> None:
        real = getattr(transfer, name)

        def call(place: str, *more: Any) -> Any:
            if place.endswith("/job.json"):
                asked[name] = asked.get(name, 0) + 1
                if asked[name] == 1:
                    raise NotFoundError("gone for a moment")
            return real(place, *more)

        monkeypatch.setattr(transfer, name, call)

    gone_once("read_bytes")
    assert sync.read_record(url, "t1")["id"] == "t1" and asked["read_bytes"] >= 2
    asked.clear()
    gone_once("info")
    assert sync.take_over(url, seen, identify(), lambda process: True, None)
    assert asked["info"] >= 2 and asked["read_bytes"] >= 2
