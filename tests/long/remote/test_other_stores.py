"""``gs://``, ``az://`` and ``abfs://`` against servers on loopback, ``hf://`` against a stand-in of
the hub: data, labels, results and every way to fail, in this process and by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk.data import open_source
from mae_sdk.jobs.root import Root
from mae_sdk.storage import retry, transfer, urls
from mae_skill.errors import DataError, NotFoundError, StorageError

from tests.support import hub, stores
from tests.support.images import make_tarball, write_imagefolder
from tests.support.s3 import environment

STORES = ["gs", "gcs", "az", "abfs"]
SMALL = (
    "train.stage=finetune",
    "model.arch=vit_tiny_patch16",
    "image_size=32",
    "model.num_classes=2",
    "train.num_epochs=1",
    "dataset.batch_size=4",
    "dataset.num_workers_per_gpu=0",
    "train.accelerator=cpu",
)


@pytest.fixture(scope="session")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment that has gcsfs and adlfs; this process finds them too."""
    home = tmp_path_factory.mktemp("drivers")
    packages, reason = stores.install_drivers(home)
    if reason:
        pytest.skip(f"the drivers could not be installed: {reason}")
    sys.path.append(str(packages))
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(packages))))
    with environment({"PYTHONPATH": path}):
        yield home
    sys.path.remove(str(packages))


@pytest.fixture(scope="session")
def google(drivers: Path) -> Iterator[stores.GoogleServer]:
    with stores.GoogleServer(drivers) as server:
        yield server


@pytest.fixture(scope="session")
def azure(drivers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[stores.AzureServer]:
    home = tmp_path_factory.mktemp("azurite")
    if reason := stores.install_azurite(home):
        pytest.skip(f"Azurite could not be installed: {reason}")
    with stores.AzureServer(home) as server:
        yield server


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``a.tar``, ``b.tar.gz``, ``loose/`` and ``labels.csv``, to be put into a store."""
    root = tmp_path_factory.mktemp("pictures")
    loose = write_imagefolder(root / "loose", 2, 8)
    make_tarball(loose, root / "a.tar")
    make_tarball(loose, root / "b.tar.gz")
    names = sorted(str(path.relative_to(loose)) for path in loose.rglob("*.png"))
    rows = [f"{name},{'abc'[index % 3]}" for index, name in enumerate(names)]
    (root / "labels.csv").write_text("\n".join(["path,label", *rows]))
    return root


@pytest.fixture
def place(request: pytest.FixtureRequest, pictures: Path, tmp_path: Path) -> Iterator[str]:
    """The URL of a new bucket that holds `pictures`, of the scheme of the parameter."""
    scheme = str(request.param)
    files = {str(p.relative_to(pictures)): p for p in pictures.rglob("*") if p.is_file()}
    with ExitStack() as stack:
        stack.enter_context(environment({"MAE_CACHE_DIR": str(tmp_path / "cache")}))
        if scheme == "hf":
            server = stack.enter_context(hub.serve())
            stack.enter_context(environment({"HF_ENDPOINT": server.url}))
            server.datasets["lab/digits"] = {k: path.read_bytes() for k, path in files.items()}
            yield "hf://datasets/lab/digits"
        else:
            name = "google" if scheme in ("gs", "gcs") else "azure"
            stack.enter_context(environment(request.getfixturevalue(name).env))
            bucket = f"bucket{abs(hash(tmp_path)) % 10**8}"
            fs, _ = urls.filesystem(f"{scheme}://{bucket}")
            fs.mkdir(bucket)
            for key, path in files.items():
                transfer.upload(path, f"{scheme}://{bucket}/{key}")
            yield f"{scheme}://{bucket}"
    urls.forget_filesystems()


def mae(*arguments: str, exits: int = 0) -> Any:
    """The command line in a process of its own: its JSON, or that of its error."""
    command = [sys.executable, "-m", "mae_sdk.cli.main", *arguments, "--json"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == exits, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return json.loads(done.stderr if exits else done.stdout)


@pytest.mark.parametrize("place", STORES, indirect=True)
def test_archives_and_folders_are_read_whole_and_only_once(
    place: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = [path.read_bytes() for path in sorted(pictures.rglob("*.png"))]
    for name in ("a.tar", "b.tar.gz", "loose"):
        source = open_source(f"{place}/{name}", cache_dir=tmp_path / "here")
        assert [source.read(i) for i in range(len(source))] == want
    seen = transfer.info(f"{place}/a.tar")
    assert seen["size"] == (pictures / "a.tar").stat().st_size
    assert seen["etag"] and seen["mtime"] and seen["checksum"].startswith("md5:")
    monkeypatch.setattr(transfer, "read_range", pytest.fail)  # the cache knows the archive now
    assert len(open_source(f"{place}/a.tar", cache_dir=tmp_path / "here")) == len(want)


@pytest.mark.parametrize("place", STORES, indirect=True)
def test_results_go_there_and_back(place: str, tmp_path: Path) -> None:
    url = f"{place}/results/job/log.txt"
    transfer.write_bytes(url, b"one")
    transfer.write_bytes(url, b"two")
    assert transfer.read_bytes(url) == b"two"
    with pytest.raises(StorageError, match="it exists already"):
        transfer.write_bytes(url, b"three", if_none_match=True)
    (tmp_path / "file").write_bytes(os.urandom(20_000_000))  # of several parts, each way
    transfer.upload(tmp_path / "file", f"{place}/results/job/model.pth")
    transfer.download(f"{place}/results/job/model.pth", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
    assert transfer.list_files(f"{place}/results") == ["job/log.txt", "job/model.pth"]
    assert transfer.holds_something(f"{place}/results")
    assert not transfer.holds_something(f"{place}/nothing")
    assert Root(f"{place}/results").ids() == ["job"]
    transfer.delete(url)
    assert not transfer.exists(url)
    transfer.delete(url)


@pytest.mark.parametrize("place", ["gs", "az", "hf"], indirect=True)
def test_inspect_and_plan_say_what_is_there(place: str) -> None:
    for name in ("a.tar", "b.tar.gz", "loose"):
        found = mae("inspect", f"{place}/{name}")
        assert found["images"] == 16 and found["classes"] == {"0": 8, "1": 8}
    planned = mae("plan", "train", "--train-datasets", f"{place}/loose", *SMALL)
    assert planned["sources"]["dataset.train_data_sources"]["images"] == 16
    table = f"dataset.labels.train={place}/labels.csv"
    others = [word for word in SMALL if not word.startswith("model.num_classes")]
    more = (*others, table, "model.num_classes=3")
    planned = mae("plan", "train", "--train-datasets", f"{place}/a.tar", *more)
    assert planned["sources"]["dataset.train_data_sources"]["classes"] == 3


@pytest.mark.parametrize("place", ["gs", "az"], indirect=True)
def test_a_training_reads_there_writes_there_and_its_child_goes_on(
    place: str, tmp_path: Path
) -> None:
    root = ("--results-root", f"{place}/results", "--automl-policy", "off", "--wait")
    with environment({"MAE_SCRATCH": str(tmp_path / "one")}):
        data = ("--train-datasets", f"{place}/loose", "--eval-dataset", f"{place}/a.tar")
        job = mae("run", "train", *data, *root, *SMALL)
    assert job["state"] == "COMPLETE"
    kept = transfer.list_files(f"{place}/results/{job['job_id']}")
    assert {"job.json", "spec.yaml", "train/checkpoints.json"} <= set(kept)
    with environment({"MAE_SCRATCH": str(tmp_path / "two")}):
        told = ("--parent", job["job_id"], "--eval-dataset", f"{place}/b.tar.gz")
        child = mae("run", "evaluate", *told, *root[:2], "--wait")
        assert child["state"] == "COMPLETE"
        seen = Skill().job(child["job_id"], results_root=f"{place}/results")
        assert 0 <= seen.metrics()["ACC_all"] <= 1


@pytest.mark.parametrize("place", ["hf"], indirect=True)
def test_a_training_reads_a_data_set_of_the_hub(place: str, tmp_path: Path) -> None:
    data = ("--train-datasets", f"{place}/a.tar", "--results-root", str(tmp_path / "results"))
    job = mae("run", "train", *data, "--automl-policy", "off", "--wait", *SMALL)
    assert job["state"] == "COMPLETE"


@contextmanager
def instead(values: Mapping[str, str | None]) -> Iterator[None]:
    """Variables for a block; None takes one away."""
    with environment({key: value or "" for key, value in values.items()}):
        for key, value in values.items():
            if value is None:
                del os.environ[key]
        yield


@pytest.mark.parametrize("place", ["gs", "az"], indirect=True)
def test_what_is_not_there_is_said_as_of_any_store(place: str) -> None:
    scheme, noun = urls.scheme(place), urls.place_noun(place)
    with pytest.raises(NotFoundError, match="there is no such file"):
        transfer.read_bytes(f"{place}/none.bin")
    with pytest.raises(DataError, match="there is no data source at"):
        open_source(f"{place}/none.tar")
    assert transfer.list_files(f"{place}/none") == []
    lost = f"{scheme}://nobucket"
    for call in (transfer.info, transfer.list_files, transfer.list_folders, transfer.exists):
        with pytest.raises(NotFoundError, match=f"there is no {noun} 'nobucket'"):
            call(f"{lost}/a.tar")
    for name in ("a.tar", "folder"):
        with pytest.raises(DataError, match=f"there is no {noun} 'nobucket'"):
            open_source(f"{lost}/{name}")


def refused(url: str, says: str, retryable: bool) -> None:
    """Every kind of request ends in one error that says this."""
    for call in (transfer.info, transfer.list_files, transfer.holds_something, open_source):
        with pytest.raises(StorageError, match=says) as caught:
            call(url)
        assert caught.value.retryable is retryable
        assert stores.KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "message", "says", "retryable"),
    [
        (401, "Anonymous caller does not have storage.objects.get access.", "denied", False),
        (401, "Invalid Credentials", "access denied", False),
        (403, "caller does not have storage.objects.list access", "access denied", False),
        (429, "The rate of change requests is too high.", "the store answered 429", True),
        (503, "Backend Error", "the store answered 503", True),
    ],
)
def test_what_google_answers_has_one_wording_per_cause(
    drivers: Path,
    status: int,
    message: str,
    says: str,
    retryable: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    with stores.answering(status, message) as url, environment(stores.google_env(url)):
        refused("gs://bucket/a.tar", says, retryable)


@pytest.mark.parametrize("place", ["az"], indirect=True)
@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"key": "A" + stores.KEY[1:]}, r"access denied \(403\)"),
        ({"AZURE_STORAGE_CONNECTION_STRING": "no such thing"}, "no usable credentials"),
        ({"AZURE_STORAGE_CONNECTION_STRING": None}, "no usable credentials"),
    ],
)
def test_azures_refusals_have_one_wording_per_cause(
    place: str, values: dict[str, str | None], says: str, azure: stores.AzureServer
) -> None:
    wrong = values.get("key")
    given = stores.azure_env(azure.endpoint, wrong) if wrong else values
    with instead(given):
        refused(f"{place}/a.tar", says, False)
        for name in ("a.tar", "loose"):
            said = mae("inspect", f"{place}/{name}", exits=8)
            assert "AZURE_STORAGE" in said["hint"] or wrong


@pytest.mark.parametrize("scheme", ["gs", "az", "hf"])
def test_a_store_that_is_away_or_silent_is_exit_8_and_soon(
    scheme: str, drivers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    url = {"hf": "hf://datasets/lab/digits/a.tar"}.get(scheme, f"{scheme}://bucket/a.tar")

    def variables(endpoint: str) -> dict[str, str]:
        if scheme == "hf":
            return {"HF_ENDPOINT": endpoint}
        return (stores.google_env if scheme == "gs" else stores.azure_env)(endpoint)

    with stores.nobody() as at, environment(variables(at)):
        refused(url, f"{at}.* cannot be reached", True)
        assert "cannot be reached" in mae("inspect", url, exits=8)["message"]
    with stores.silent() as at, environment({**variables(at), "MAE_STORAGE_TIMEOUT": "1"}):
        for call in (transfer.info, transfer.list_files):
            with pytest.raises(StorageError, match="no answer within 1 s"):
                call(url)
