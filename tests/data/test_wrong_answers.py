"""Answers of a store that arrive whole and are wrong: never a finished entry, never for ever."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from mae_sdk.data import open_source
from mae_sdk.storage import checksums, listing, objects, retry, transfer
from mae_sdk.storage.ranged_file import RangedFile
from mae_skill.errors import MaeError, StorageError

from tests.support.images import make_tarball, write_imagefolder
from tests.support.proxy import FaultProxy
from tests.support.s3 import MotoServer, S3Server, environment
from tests.support.web import serving

QUICK = {"MAE_STORAGE_TIMEOUT": "0.5"}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Archives of some 100 kB span several ranges, and pauses are short."""
    monkeypatch.setattr(RangedFile.__init__, "__defaults__", (1 << 14, 4))
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=lambda seconds: time.sleep(0.01)))
    monkeypatch.setattr(objects, "FLOOR", 200)


@pytest.fixture
def stored(s3: S3Server, tmp_path: Path) -> tuple[str, list[bytes], bytes]:
    """A plain tar in a bucket: its URL, its pictures, and the bytes of another of its length."""
    folder = write_imagefolder(tmp_path / "pictures", 2, 30)
    bucket = s3.bucket("wrong")
    tar = make_tarball(folder, bucket / "a.tar").read_bytes()
    held = [path.read_bytes() for path in sorted(folder.rglob("*.png"))]
    return "s3://wrong/a.tar", held, bytes(255 - byte for byte in tar)


def contents(url: str, cache: Path) -> list[bytes]:
    source = open_source(url, cache_dir=cache)
    return [source.read(i) for i in range(len(source))]


def left(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.name != ".locks"]


def at(hits: list[int], numbers: range, fault: str) -> Callable[[str, str, int], str | None]:
    """The fault, at those of the ranged reads."""

    def decide(method: str, path: str, number: int) -> str | None:
        if method != "GET" or "list-type" in path:
            return None
        hits.append(number)
        return fault if len(hits) - 1 in numbers else None

    return decide


@pytest.mark.parametrize("fault", ["other", "shift", "whole", "trickle", "trickled head"])
def test_one_wrong_answer_is_asked_for_again(
    fault: str, s3: S3Server, stored: tuple[str, list[bytes], bytes], tmp_path: Path
) -> None:
    url, held, other = stored
    hits: list[int] = []
    decide = at(hits, range(1, 2), fault)
    with (
        FaultProxy(s3.endpoint, decide=decide, other=other) as proxy,
        environment({**QUICK, "AWS_ENDPOINT_URL": proxy.endpoint}),
    ):
        assert contents(url, tmp_path / "cache") == held
    assert len(hits) > 2


@pytest.mark.parametrize("fault", ["flip", "swap", "other", "shift", "trickle"])
def test_answers_that_stay_wrong_are_one_retryable_error_and_leave_nothing(
    fault: str, s3: S3Server, stored: tuple[str, list[bytes], bytes], tmp_path: Path
) -> None:
    url, held, other = stored
    begin = time.monotonic()
    decide = at([], range(1, 10_000), fault)
    with (
        FaultProxy(s3.endpoint, decide=decide, other=other) as proxy,
        environment({**QUICK, "AWS_ENDPOINT_URL": proxy.endpoint}),
        pytest.raises(StorageError) as caught,
    ):
        open_source(url, cache_dir=tmp_path / "cache")
    assert time.monotonic() - begin < 30
    assert caught.value.retryable
    assert left(tmp_path / "cache") == []
    assert contents(url, tmp_path / "cache") == held


@pytest.mark.parametrize("fault", ["flip", "swap"])
def test_a_picture_that_was_changed_under_the_same_etag_is_caught_by_the_checksum(
    fault: str, s3: S3Server, tmp_path: Path
) -> None:
    """A plain tar has no checksum of its own contents: only the store's tells."""
    folder = tmp_path / "pictures" / "class"
    folder.mkdir(parents=True)
    (folder / "large.png").write_bytes(bytes(200_000))
    tar = make_tarball(tmp_path / "pictures", s3.bucket("wrong") / "large.tar").read_bytes()
    other = tar[:60_000] + b"\1" + tar[60_001:]
    for read in (
        lambda: open_source("s3://wrong/large.tar", cache_dir=tmp_path / "cache"),
        lambda: transfer.download("s3://wrong/large.tar", tmp_path / "out.tar"),
    ):
        decide = at([], range(0 if fault == "swap" else 3, 10_000), fault)
        with (
            FaultProxy(s3.endpoint, decide=decide, other=other) as proxy,
            environment({**QUICK, "AWS_ENDPOINT_URL": proxy.endpoint}),
            patch.object(transfer, "PART", 1 << 14),
            pytest.raises(StorageError, match="md5 checksum") as caught,
        ):
            read()
        assert caught.value.retryable
    assert left(tmp_path / "cache") == []
    assert not (tmp_path / "out.tar").exists()


def test_an_object_that_is_another_for_a_while_never_ends_in_an_entry_of_both(
    s3: S3Server, stored: tuple[str, list[bytes], bytes], tmp_path: Path
) -> None:
    """A → B → A: a look before and a look after see the same."""
    url, held, other = stored
    target = s3.root / "wrong" / "a.tar"
    tar = target.read_bytes()
    reads: list[str] = []

    def swap(method: str, path: str, number: int) -> str | None:
        if method == "GET" and "list-type" not in path:
            reads.append(path)
            target.write_bytes(other if len(reads) in (2, 3) else tar)
        return None

    with (
        FaultProxy(s3.endpoint, decide=swap) as proxy,
        environment({**QUICK, "AWS_ENDPOINT_URL": proxy.endpoint}),
    ):
        try:
            assert contents(url, tmp_path / "cache") == held
        except StorageError as error:
            assert "changed while it was read" in str(error) or "md5 checksum" in str(error)
            assert left(tmp_path / "cache") == []


@pytest.mark.parametrize("fault", ["again", "lost"])
@pytest.mark.parametrize("call", ["list_files", "list_folders", "open_source"])
def test_a_list_that_does_not_end_is_one_clear_error(
    fault: str, call: str, s3: S3Server, tmp_path: Path
) -> None:
    write_imagefolder(s3.bucket("wrong") / "loose", 2, 3)

    def decide(method: str, path: str, number: int) -> str | None:
        return fault if "list-type" in path else None

    with (
        FaultProxy(s3.endpoint, decide=decide) as proxy,
        environment({**QUICK, "AWS_ENDPOINT_URL": proxy.endpoint}),
        pytest.raises(StorageError, match="list does not end"),
    ):
        if call == "open_source":
            open_source("s3://wrong/loose", cache_dir=tmp_path)
        else:
            getattr(transfer, call)("s3://wrong/loose")
    assert len(proxy.requests) < 12


def test_a_list_longer_than_anybody_has_is_refused(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_imagefolder(s3.bucket("wrong") / "many", 2, 3)
    monkeypatch.setattr(listing, "MOST_KEYS", 5)
    with pytest.raises(StorageError, match="more than 5 objects") as caught:
        transfer.list_files("s3://wrong/many")
    assert not caught.value.retryable


def test_new_contents_under_an_old_etag_are_another_entry(s3: S3Server, tmp_path: Path) -> None:
    """As of a store that keeps one ETag: size and time of change count too."""
    with serving() as web:
        web.headers = {"ETag": '"always"', "Last-Modified": "Thu, 26 Nov 2026 10:00:00 GMT"}
        for number in (0, 1):
            folder = write_imagefolder(tmp_path / f"{number}", 1, 3, start=number)
            web.files["/a.tar"] = make_tarball(folder, tmp_path / "a.tar").read_bytes()
            want = [path.read_bytes() for path in sorted(folder.rglob("*.png"))]
            assert contents(web.url("a.tar"), tmp_path / "cache") == want
            web.headers["Last-Modified"] = "Thu, 26 Nov 2026 11:00:00 GMT"


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("header", ["ETag", "Last-Modified", "Content-MD5", "Repr-Digest"])
def test_a_web_file_that_changes_or_is_damaged_on_the_way_is_refused(
    header: str, ranges: bool, tmp_path: Path
) -> None:
    folder = write_imagefolder(tmp_path / "pictures", 1, 20)
    tar = make_tarball(folder, tmp_path / "a.tar").read_bytes()
    other = bytearray(tar)
    other[1000] ^= 1  # inside the first picture
    sums = {
        "Content-MD5": checksum("md5", tar),
        "Repr-Digest": f"sha-256=:{checksum('sha256', tar)}:",
    }
    with serving() as web:
        web.ranges, web.files["/a.tar"] = ranges, tar
        web.headers = {
            "ETag": {"ETag": '"one"'},
            "Last-Modified": {"Last-Modified": "Thu, 26 Nov 2026 10:00:00 GMT"},
        }.get(header, {name: sums[name] for name in sums if name == header})
        before = transfer.info(web.url("a.tar"))
        assert before["checksum"] or before["etag"] or before["mtime"]
        web.files["/a.tar"] = bytes(other)
        if header == "ETag":
            web.headers = {"ETag": '"two"'}
        if header == "Last-Modified":
            web.headers = {"Last-Modified": "Thu, 26 Nov 2026 11:00:00 GMT"}
        if ranges:
            file = RangedFile(web.url("a.tar"), len(tar), seen=before)
        with pytest.raises(StorageError, match=r"changed|checksum"):
            if ranges:
                while file.read(1 << 14):
                    pass
                file.finish()
            else:
                from mae_sdk.storage.streams import StreamedFile

                with StreamedFile(web.url("a.tar"), len(tar), before) as stream:
                    stream.finish()


def checksum(name: str, data: bytes) -> str:
    import base64

    return base64.b64encode(hashlib.new(name, data).digest()).decode()


def test_checksums_of_a_store_are_recomputed(tmp_path: Path) -> None:
    """moto computes what AWS computes, but for the two that its client library has no code of."""
    import boto3

    data = bytes(range(256)) * 500
    with MotoServer() as server, environment(server.env):
        client = boto3.client("s3")
        client.create_bucket(Bucket="sums")
        for name in ("CRC32", "SHA1", "SHA256"):
            client.put_object(Bucket="sums", Key=name, Body=data, ChecksumAlgorithm=name)
            found = transfer.info(f"s3://sums/{name}")["checksum"]
            assert found.startswith(f"{name.lower()}:")
            assert checksums.matches(found, data)
            assert not checksums.matches(found, data[1:])
            assert transfer.read_bytes(f"s3://sums/{name}") == data
        for code, call in (
            ("there is no bucket 'none-such'", "s3://none-such/x"),
            ("there is no such file", "s3://sums/none"),
        ):
            with pytest.raises(MaeError, match=code):
                transfer.read_bytes(call)


# The check values of the CRC catalog, of the digits 1 to 9.
KNOWN = {
    "crc32": "cbf43926",
    "crc32c": "e3069283",
    "crc64nvme": "ae8b14860a799888",
    "md5": "25f9e794323b453885f5181f1b624d0b",
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_checksum_is_that_of_the_catalog_however_the_bytes_are_cut(name: str) -> None:
    found = checksums.running(f"{name}:")
    for part in (b"1", b"", b"2345", b"6789"):
        found.update(part)
    assert found.hexdigest() == KNOWN[name]
    assert checksums.matches(f"{name}:{KNOWN[name]}", b"123456789")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"ETag": '"25f9e794323b453885f5181f1b624d0b"'}, f"md5:{KNOWN['md5']}"),
        ({"ETag": '"25f9e794323b453885f5181f1b624d0b-3"'}, None),
        ({"ETag": '"25f9e794323b453885f5181f1b624d0b"', "ServerSideEncryption": "aws:kms"}, None),
        ({"ETag": '"25f9e794323b453885f5181f1b624d0b"', "SSECustomerAlgorithm": "AES256"}, None),
        (
            {"ETag": '"25f9e794323b453885f5181f1b624d0b"', "ServerSideEncryption": "AES256"},
            f"md5:{KNOWN['md5']}",
        ),
        ({"ChecksumCRC64NVME": "rosUhgp5mIg="}, f"crc64nvme:{KNOWN['crc64nvme']}"),
        ({"ChecksumCRC32C": "4waSgw==", "ChecksumType": "FULL_OBJECT"}, "crc32c:e3069283"),
        ({"ChecksumCRC32": "y/Q5Jg==-2", "ChecksumType": "COMPOSITE"}, None),
        ({}, None),
    ],
)
def test_only_what_is_a_checksum_of_the_whole_counts(
    answer: dict[str, str], expected: str | None
) -> None:
    assert checksums.of_s3(answer) == expected
