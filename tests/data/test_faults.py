"""Network faults between us and the store: right bytes or a clear, retryable error; never wrong
bytes, never half an entry."""

from __future__ import annotations

from pathlib import Path

import pytest
from mae_sdk.data import open_source
from mae_sdk.storage import retry, transfer
from mae_sdk.storage.retry import attempt
from mae_skill.errors import DataError, NotFoundError, StorageError

from tests.support.images import make_tarball, write_imagefolder
from tests.support.proxy import FaultProxy
from tests.support.s3 import S3Server, environment

QUICK = {"MAE_STORAGE_TIMEOUT": "0.5"}


@pytest.fixture(scope="module")
def archive(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_imagefolder(tmp_path_factory.mktemp("pictures"), 2, 6)
    make_tarball(folder, s3_server.bucket("faults") / "a.tar.gz")
    return folder


def images(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*.png"))]


@pytest.mark.parametrize("fault", ["reset", "truncate", "stall", "500", "503", "SlowDown"])
def test_a_passing_fault_costs_a_retry_and_no_bytes(
    fault: str, s3: S3Server, archive: Path, tmp_path: Path
) -> None:
    hit: list[str] = []

    def once(method: str, path: str, number: int) -> str | None:
        if method == "GET" and "a.tar.gz" in path and not hit:
            hit.append(path)
            return fault
        return None

    with (
        FaultProxy(s3.endpoint, decide=once, stall_seconds=2) as proxy,
        environment({**QUICK, "AWS_ENDPOINT_URL": proxy.endpoint}),
    ):
        source = open_source("s3://faults/a.tar.gz", cache_dir=tmp_path)
    assert hit
    assert [source.read(i) for i in range(len(source))] == images(archive)


@pytest.mark.parametrize("fault", ["reset", "truncate", "503", "SlowDown"])
def test_a_lasting_fault_is_a_clear_retryable_error_and_leaves_no_entry(
    fault: str, s3: S3Server, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)

    def always(method: str, path: str, number: int) -> str | None:
        return fault if method == "GET" else None

    with (
        FaultProxy(s3.endpoint, decide=always) as proxy,
        environment({**QUICK, "AWS_ENDPOINT_URL": proxy.endpoint}),
        pytest.raises(StorageError) as caught,
    ):
        open_source("s3://faults/a.tar.gz", cache_dir=tmp_path)
    assert caught.value.retryable
    assert "s3://faults/a.tar.gz" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]


def test_credentials_that_expire_midway_say_so_and_new_ones_finish_the_work(
    s3: S3Server, archive: Path, tmp_path: Path
) -> None:
    def expired(method: str, path: str, number: int) -> str | None:
        return "ExpiredToken" if method == "GET" else None

    with (
        FaultProxy(s3.endpoint, decide=expired) as proxy,
        environment({"AWS_ENDPOINT_URL": proxy.endpoint}),
    ):
        with pytest.raises(StorageError, match="credentials have expired") as caught:
            open_source("s3://faults/a.tar.gz", cache_dir=tmp_path)
        assert (
            sum(method == "GET" for method, _ in proxy.requests) == 1
        )  # waiting does not renew credentials
    assert caught.value.retryable
    source = open_source("s3://faults/a.tar.gz", cache_dir=tmp_path)
    assert [source.read(i) for i in range(len(source))] == images(archive)


def test_denied_access_is_not_retryable(s3: S3Server, archive: Path, tmp_path: Path) -> None:
    with (
        environment({"AWS_SECRET_ACCESS_KEY": "another"}),
        pytest.raises(StorageError, match="access denied") as caught,
    ):
        open_source("s3://faults/a.tar.gz", cache_dir=tmp_path)
    assert not caught.value.retryable


def test_a_missing_archive_is_a_data_error_and_a_missing_file_not_found(
    s3: S3Server, tmp_path: Path
) -> None:
    s3.bucket("faults")
    with pytest.raises(DataError, match="there is no data source"):
        open_source("s3://faults/none.tar.gz", cache_dir=tmp_path)
    with pytest.raises(NotFoundError):
        transfer.read_bytes("s3://faults/none.bin")


def test_an_object_that_changes_while_it_is_read_is_refused(s3: S3Server, tmp_path: Path) -> None:
    target = s3.bucket("faults") / "changing.tar.gz"
    make_tarball(write_imagefolder(tmp_path / "one", 1, 3), target)
    other = make_tarball(
        write_imagefolder(tmp_path / "two", 1, 3, start=5), tmp_path / "two.tar.gz"
    ).read_bytes()

    def swap(method: str, path: str, number: int) -> str | None:
        if method == "GET" and "changing" in path:
            target.write_bytes(other)
        return None

    with (
        FaultProxy(s3.endpoint, decide=swap) as proxy,
        environment({"AWS_ENDPOINT_URL": proxy.endpoint}),
        pytest.raises((StorageError, DataError)),
    ):
        open_source("s3://faults/changing.tar.gz", cache_dir=tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".locks"]


@pytest.mark.parametrize("change", ["grows", "is replaced", "joins"])
def test_a_prefix_that_changes_while_it_is_read_is_refused(
    change: str, s3: S3Server, tmp_path: Path
) -> None:
    folder = s3.bucket("faults") / f"prefix {change}"
    write_imagefolder(folder, 1, 4)
    target = sorted(folder.rglob("*.png"))[1]
    old = target.read_bytes()
    new = {"grows": old + b"more", "is replaced": old[:-4] + b"swap", "joins": old}[change]

    def swap(method: str, path: str, number: int) -> str | None:
        if method == "GET" and ".png" in path and "list-type" not in path:
            (folder / "0" / "late.png" if change == "joins" else target).write_bytes(new)
        return None

    with (
        FaultProxy(s3.endpoint, decide=swap) as proxy,
        environment({"AWS_ENDPOINT_URL": proxy.endpoint}),
        pytest.raises(StorageError, match="changed while it was read") as caught,
    ):
        open_source(f"s3://faults/prefix {change}", cache_dir=tmp_path / "cache")
    assert caught.value.retryable
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".locks"]


@pytest.mark.parametrize("fault", ["reset", "truncate", "500"])
def test_downloads_and_uploads_survive_faults(fault: str, s3: S3Server, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4000
    (tmp_path / "in.bin").write_bytes(data)
    hits: list[str] = []

    def first_two(method: str, path: str, number: int) -> str | None:
        if method in ("GET", "PUT") and path.startswith("/faults/t.bin") and len(hits) < 2:
            hits.append(method)
            return fault
        return None

    s3.bucket("faults")
    with (
        FaultProxy(s3.endpoint, decide=first_two) as proxy,
        environment({"AWS_ENDPOINT_URL": proxy.endpoint}),
    ):
        transfer.upload(tmp_path / "in.bin", "s3://faults/t.bin")
        transfer.download("s3://faults/t.bin", tmp_path / "out.bin")
    assert (tmp_path / "out.bin").read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.bin", "out.bin"]


@pytest.mark.parametrize("code", ["PermanentRedirect", "AuthorizationHeaderMalformed", "301"])
def test_a_bucket_of_another_region_is_said_to_be_one_and_not_tried_again(code: str) -> None:
    from botocore.exceptions import ClientError

    tries: list[int] = []

    def request() -> None:
        tries.append(1)
        raise ClientError({"Error": {"Code": code, "Message": "use this endpoint"}}, "GetObject")

    with pytest.raises(StorageError, match=f"in another region, .* \\({code}\\)") as caught:
        attempt(request, "s3://bucket/x.tar", "read")
    assert not caught.value.retryable and len(tries) == 1
    assert "AWS_DEFAULT_REGION" in str(caught.value.hint)
