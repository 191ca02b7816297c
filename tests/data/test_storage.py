"""Transfers: one interface for disks and stores, verified, atomic, safe to log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mae_sdk.storage import retry, transfer, urls
from mae_skill.errors import NotFoundError, StorageError, UsageError

from tests.support.s3 import MotoServer, S3Server, environment


@pytest.fixture(params=["disk", "s3", "memory"])
def root(request: pytest.FixtureRequest, s3: S3Server, tmp_path: Path) -> str:
    if request.param == "s3":
        s3.bucket("storage")
        return f"s3://storage/{request.node.name.replace('[', '-').replace(']', '')}"
    return str(tmp_path / "disk") if request.param == "disk" else f"memory://{tmp_path.name}"


def test_bytes_and_files_go_there_and_back(root: str, tmp_path: Path) -> None:
    url = transfer.join(root, "a/b", "c.bin")
    assert not transfer.exists(url)
    transfer.write_bytes(url, b"one")
    transfer.write_bytes(url, b"two")
    assert transfer.exists(url) and transfer.read_bytes(url) == b"two"
    big = os.urandom(20 << 20)
    (tmp_path / "big").write_bytes(big)
    transfer.upload(tmp_path / "big", transfer.join(root, "a/big"))
    transfer.download(transfer.join(root, "a/big"), tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == big
    assert transfer.list_files(root) == ["a/b/c.bin", "a/big"]
    transfer.delete(url)
    transfer.delete(url)
    assert transfer.list_files(root) == ["a/big"]


def test_create_only_leaves_an_existing_file_as_it_is(root: str) -> None:
    url = transfer.join(root, "once.json")
    transfer.write_bytes(url, b"first", if_none_match=True)
    with pytest.raises(StorageError, match="exists already") as caught:
        transfer.write_bytes(url, b"second", if_none_match=True)
    assert not caught.value.retryable
    assert transfer.read_bytes(url) == b"first"


def test_what_is_missing_is_not_found(root: str, tmp_path: Path) -> None:
    transfer.write_bytes(transfer.join(root, "there"), b"x")
    with pytest.raises(NotFoundError):
        transfer.read_bytes(transfer.join(root, "none"))
    with pytest.raises(NotFoundError):
        transfer.download(transfer.join(root, "none"), tmp_path / "out")
    with pytest.raises(NotFoundError):
        transfer.upload(tmp_path / "none", transfer.join(root, "up"))
    assert not (tmp_path / "out").exists()
    assert transfer.list_files(transfer.join(root, "no/such/prefix")) == []


def test_aws_refuses_a_second_creation_by_itself_and_bad_keys_are_final(tmp_path: Path) -> None:
    with MotoServer() as server, environment(server.env):
        fs, _ = urls.filesystem("s3://moto/x")
        fs.mkdir("moto")
        transfer.write_bytes("s3://moto/x", b"first", if_none_match=True)
        with pytest.raises(StorageError, match="exists already"):
            retry.attempt(
                lambda: fs.pipe_file("moto/x", b"second", mode="create"), "s3://moto/x", "write"
            )
        assert transfer.read_bytes("s3://moto/x") == b"first"
        with pytest.raises(NotFoundError):
            transfer.read_bytes("s3://no-such-bucket-here/x")


@pytest.mark.parametrize("part", ["/etc/passwd", "../up", "a/../../up", "s3://other/x"])
def test_a_part_that_leaves_the_root_is_refused(part: str) -> None:
    with pytest.raises(UsageError):
        transfer.join("s3://bucket/root", part)


def test_joining_keeps_urls_urls_and_paths_paths() -> None:
    assert transfer.join("s3://b/r/", "x", "y/z") == "s3://b/r/x/y/z"
    assert transfer.join("/data", "x") == "/data/x"
    assert transfer.join("https://h/d?sig=1", "x") == "https://h/d/x?sig=1"


def test_options_of_a_store_come_from_fsspecs_own_configuration(
    s3: S3Server, tmp_path: Path
) -> None:
    (s3.bucket("configured") / "x").write_bytes(b"found")
    key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    options = {"endpoint_url": s3.endpoint, "key": key, "secret": secret}
    (tmp_path / "s3.json").write_text(json.dumps({"s3": options}))
    code = "from mae_sdk.storage import transfer\nprint(transfer.read_bytes('s3://configured/x'))"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**plain, "FSSPEC_CONFIG_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "b'found'\n"


def test_secrets_are_redacted_and_two_signatures_are_one_object() -> None:
    url = "https://user:pass@host/a.tar.gz?X-Amz-Signature=abc&X-Amz-Credential=def&versionId=7"
    shown = urls.redact(url)
    assert not any(secret in shown for secret in ("pass", "abc", "def")) and "versionId=7" in shown
    assert (
        urls.unsigned(url)
        == urls.unsigned(url.replace("abc", "xyz"))
        != urls.unsigned(url.replace("versionId=7", "versionId=8"))
    )
    assert (
        urls.is_archive(url)
        and urls.is_archive("s3://b/X.TAR.ZST")
        and not urls.is_archive("s3://b/x.tar.gz/folder")
    )
