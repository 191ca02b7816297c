"""Every scheme that the documents name, against a real server on loopback, and URLs that cannot
work: one clear error each."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch
from urllib.parse import quote

import pytest
from mae_sdk.data import open_source
from mae_sdk.jobs.root import Root
from mae_sdk.storage import retry, transfer, urls
from mae_skill.errors import DataError, DependencyError, NotFoundError, StorageError, UsageError

from tests.support import hub, servers
from tests.support.images import make_tarball, write_imagefolder
from tests.support.s3 import S3Server, environment

LOGIN = f"{servers.USER}:{quote(servers.PASSWORD, safe='')}@"
SCHEMES = ["s3", "http", "https", "ftp", "ftp-anonymous", "sftp", "ssh", "memory", "file", "local"]
SCHEMES += ["hf"]
WRITABLE = ["s3", "ftp", "sftp", "ssh", "memory", "file", "local"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_imagefolder(tmp_path_factory.mktemp("pictures"), 2, 3)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, pictures: Path) -> Iterator[str]:
    """The URL of a folder, of the scheme of the parameter, that holds ``a.tar``, ``data`` (a tar
    without a suffix) and ``loose/``."""
    root = tmp_path / "served"
    root.mkdir()
    tar = make_tarball(pictures, root / "a.tar").read_bytes()
    (root / "data").write_bytes(tar)
    write_imagefolder(root / "loose", 2, 3)
    scheme = str(request.param).partition("-")[0]
    with ExitStack() as stack:
        if scheme == "s3":
            server = stack.enter_context(S3Server(tmp_path))
            stack.enter_context(environment(server.env))
            yield "s3://served"
        elif scheme in ("http", "https"):
            from tests.support.web import serving

            if scheme == "https":
                web, trusted = stack.enter_context(servers.https(tmp_path))
                # What SSL_CERT_FILE names, which aiohttp reads once, when it is imported.
                context = ssl.create_default_context(cafile=str(trusted))
                stack.enter_context(patch("aiohttp.connector._SSL_CONTEXT_VERIFIED", context))
            else:
                web = stack.enter_context(serving())
            web.files = {"/a.tar": tar, "/data": tar}
            yield f"{scheme}://127.0.0.1:{web.server_port}"
        elif scheme == "ftp":
            login = "" if request.param == "ftp-anonymous" else LOGIN
            yield f"ftp://{login}{stack.enter_context(servers.ftp(root))}"
        elif scheme in ("sftp", "ssh"):
            yield f"{scheme}://{LOGIN}{stack.enter_context(servers.sftp(root))}"
        elif scheme == "hf":
            found = stack.enter_context(hub.serve())
            stack.enter_context(environment({"HF_ENDPOINT": found.url}))
            found.datasets["lab/digits"] = {
                str(path.relative_to(root)): path.read_bytes()
                for path in root.rglob("*")
                if path.is_file()
            }
            yield "hf://datasets/lab/digits"
        elif scheme == "memory":
            url = f"memory://{tmp_path.name}"
            for path in root.rglob("*"):
                if path.is_file():
                    transfer.upload(path, f"{url}/{path.relative_to(root)}")
            yield url
        else:
            yield f"{scheme}://{root}"
    urls.forget_filesystems()


def contents(url: str, cache: Path) -> list[bytes]:
    source = open_source(url, cache_dir=cache)
    return [source.read(i) for i in range(len(source))]


@pytest.mark.parametrize("place", SCHEMES, indirect=True)
def test_archives_with_and_without_a_suffix_and_folders_are_read(
    place: str, pictures: Path, tmp_path: Path
) -> None:
    want = [path.read_bytes() for path in sorted(pictures.rglob("*.png"))]
    assert contents(f"{place}/a.tar", tmp_path / "cache") == want
    assert contents(f"{place}/data", tmp_path / "cache") == want
    if not place.startswith("http"):
        assert len(contents(f"{place}/loose", tmp_path / "cache")) == 6
    with pytest.raises(DataError, match="there is no data source at"):
        open_source(f"{place}/none.tar", cache_dir=tmp_path / "cache")
    if urls.is_remote(place):
        with pytest.raises(NotFoundError, match="there is no such file"):
            transfer.read_bytes(f"{place}/none.bin")


@pytest.mark.parametrize("place", WRITABLE, indirect=True)
def test_results_go_there_and_back(place: str, tmp_path: Path) -> None:
    url = f"{place}/results/job/log.txt"
    transfer.write_bytes(url, b"one")
    transfer.write_bytes(url, b"two")
    assert transfer.read_bytes(url) == b"two"
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    transfer.upload(tmp_path / "file", f"{place}/results/job/model.pth")
    transfer.download(f"{place}/results/job/model.pth", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"x" * 3_000_000
    assert transfer.list_files(f"{place}/results") == ["job/log.txt", "job/model.pth"]
    if urls.is_remote(place):
        assert Root(f"{place}/results").ids() == ["job"]
    transfer.delete(url)
    assert not transfer.exists(url)


@pytest.mark.parametrize("place", ["ftp", "sftp"], indirect=True)
def test_a_wrong_password_is_no_access_and_is_not_shown(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    wrong = place.replace(quote(servers.PASSWORD, safe=""), "not-this-one")
    with pytest.raises(StorageError, match="access denied") as caught:
        transfer.read_bytes(f"{wrong}/a.tar")
    assert not caught.value.retryable
    assert "not-this-one" not in str(caught.value)


@pytest.mark.parametrize("place", ["https"], indirect=True)
def test_a_certificate_that_nobody_vouches_for_is_refused_by_name(
    place: str,
) -> None:
    untold = ssl.create_default_context()
    with (
        patch("aiohttp.connector._SSL_CONTEXT_VERIFIED", untold),
        pytest.raises(StorageError, match=r"certificate of 127\.0\.0\.1") as caught,
    ):
        transfer.read_bytes(f"{place}/a.tar")
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("name", "status", "error", "says"),
    [
        ("lab/none", None, NotFoundError, "there is no dataset 'lab/none'"),
        ("lab/private", None, NotFoundError, "there is no dataset 'lab/private'"),
        ("lab/digits@old", None, NotFoundError, "there is no dataset 'lab/digits@old'"),
        ("lab/gated", None, StorageError, r"access denied \(403\)"),
        ("lab/digits", 401, StorageError, r"access denied \(401\)"),
        ("lab/digits", 403, StorageError, r"access denied \(403\)"),
        ("lab/digits", 500, StorageError, r"the store answered 500"),
    ],
)
def test_what_the_hub_does_not_show_is_said_in_the_words_of_its_cause(
    name: str,
    status: int | None,
    error: type[NotFoundError | StorageError],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub.serve() as server, environment({"HF_ENDPOINT": server.url}):
        every = ("digits", "private", "gated")
        server.datasets = {f"lab/{known}": {"a.tar": b"", "loose/1.png": b""} for known in every}
        server.private, server.gated = {"lab/private"}, {"lab/gated"}
        server.status = status
        for below in ("a.tar", "loose"):
            for call in (transfer.info, transfer.list_files, transfer.holds_something):
                with pytest.raises(error, match=says) as caught:
                    call(f"hf://datasets/{name}/{below}")
                assert getattr(caught.value, "retryable", False) is (status == 500)


NO_URL = [
    "http://[::1",
    "https://host:port/x.tar",
    "https://",
    "s3://",
    "s3:///key",
    "S3:///key",
    "s3://AKIA:secret@bucket/x.tar",
    "sftp:///x.tar",
    "ftp://",
    "gs://",
    "hf://datasets/lab",
    "hf://lab",
    "nothing-known://host/x.tar",
]


@pytest.mark.parametrize("url", NO_URL)
def test_a_url_that_can_name_nothing_is_a_usage_error_wherever_it_is_given(url: str) -> None:
    from mae_sdk.plan.sources import locate
    from mae_skill.bundle import Bundle

    for call in (open_source, transfer.info, transfer.list_files):
        with pytest.raises(UsageError) as caught:
            call(url)
        assert "secret" not in str(caught.value)
    _, errors = locate("train", Bundle.load().info, {"train_datasets": url})
    assert [(type(error), error.field) for error in errors] == [(UsageError, "train_datasets")]
    if not url.startswith("nothing"):
        with pytest.raises(UsageError):
            Root(url)


@pytest.mark.parametrize("url", ["http://host/results", "https://host/r", "github://o:r@main/r"])
def test_a_results_root_that_can_only_be_read_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="can only be read") as caught:
        Root(url)
    assert caught.value.field == "results_root"


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("sftp://host/x.tar", "mae-skill[sftp]"),
        ("ssh://host/x.tar", "mae-skill[sftp]"),
        ("s3://bucket/x.tar", "mae-skill[s3]"),
        ("https://host/x.tar", "mae-skill[http]"),
        ("gs://bucket/x.tar", "mae-skill[gs]"),
        ("az://container/x.tar", "mae-skill[az]"),
        ("smb://host/share/x.tar", "smbprotocol"),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(
    url: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("paramiko", "s3fs", "aiohttp", "gcsfs", "adlfs", "smbprotocol", "smbclient"):
        monkeypatch.setitem(sys.modules, module, None)
    for name in ("sftp", "http"):
        monkeypatch.delitem(sys.modules, f"fsspec.implementations.{name}", raising=False)
    for scheme in ("sftp", "ssh", "s3", "http", "https"):
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
    monkeypatch.setattr(urls, "_filesystems", {})
    with pytest.raises(DependencyError) as caught:
        transfer.info(url)
    assert hint in str(caught.value.hint)


def test_a_host_that_nobody_answers_at_is_said_in_the_same_words_for_every_scheme(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and never listening
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = {"AWS_ENDPOINT_URL": f"http://{at}", "AWS_ACCESS_KEY_ID": "k"}
        with environment({**settings, "AWS_SECRET_ACCESS_KEY": "s"}):
            for url in (f"http://{at}/x", f"ftp://{at}/x", f"sftp://{at}/x", "s3://bucket/x"):
                with pytest.raises(StorageError, match=f"{at} cannot be reached") as caught:
                    transfer.info(url)
                assert caught.value.retryable


def test_the_hub_offline_is_a_network_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match="Hub cannot be reached") as caught:
        transfer.info("hf://datasets/owner/name/x.tar")
    assert caught.value.retryable
