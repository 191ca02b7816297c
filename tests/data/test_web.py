"""Archives on plain web servers: with ranges or without, with a length or without; broken answers
are retryable errors."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from mae_sdk.data import open_source
from mae_sdk.storage import retry, transfer
from mae_sdk.storage.ranged_file import RangedFile
from mae_skill.errors import DataError, StorageError

from tests.support.images import make_tarball
from tests.support.s3 import environment
from tests.support.web import Web, serving


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], list[bytes]]:
    rng, root = random.Random(0), tmp_path_factory.mktemp("packed")
    folder = root / "pictures"
    folder.mkdir()
    for i in range(8):
        (folder / f"{i}.jpg").write_bytes(rng.randbytes(50_000))
    files = {
        f"/a.{kind}": make_tarball(folder, root / f"a.{kind}").read_bytes()
        for kind in ("tar", "tar.gz", "tar.xz", "zip")
    }
    return files, [path.read_bytes() for path in sorted(folder.iterdir())]


@pytest.fixture
def held(
    web: Web, packed: tuple[dict[str, bytes], list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> list[bytes]:
    """Archives of some 400 kB that span several blocks of a ranged read."""
    monkeypatch.setattr(RangedFile.__init__, "__defaults__", (1 << 16, 4))
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    web.files.update(packed[0])
    return packed[1]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "zip"])
@pytest.mark.parametrize(("able", "lengths"), [(True, True), (False, True), (False, False)])
def test_an_archive_is_read_whatever_the_server_can(
    kind: str, able: bool, lengths: bool, web: Web, held: list[bytes], tmp_path: Path
) -> None:
    web.ranges, web.lengths = able, lengths
    source = open_source(web.url(f"a.{kind}"), cache_dir=tmp_path / "cache")
    assert [source.read(i) for i in range(len(source))] == held
    whole = [wanted for wanted in web.asked if wanted is None]
    assert able == (not whole) and (
        able or len(web.asked) <= 4
    )  # one whole answer; without a length HEAD is asked again as GET
    transfer.download(web.url(f"a.{kind}"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == web.files[f"/a.{kind}"]


@pytest.mark.parametrize("kind", ["tar.gz", "tar", "zip"])
@pytest.mark.parametrize("stall", [0.0, 1.5])
def test_an_answer_that_breaks_off_or_falls_silent_is_retryable_and_leaves_nothing(
    kind: str, stall: float, web: Web, held: list[bytes], tmp_path: Path
) -> None:
    web.ranges, web.cut, web.stall = False, 150_000, stall
    with environment({"MAE_STORAGE_TIMEOUT": "0.4"}):
        with pytest.raises(
            StorageError, match=f"cannot read http://127.0.0.1:.*a.{kind}"
        ) as caught:
            open_source(web.url(f"a.{kind}"), cache_dir=tmp_path / "cache")
        with pytest.raises(StorageError):
            transfer.download(web.url(f"a.{kind}"), tmp_path / "copy")
    assert caught.value.retryable
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".locks"]
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(("status", "retryable"), [(503, True), (500, True), (403, False)])
def test_a_server_that_fails_is_not_taken_for_a_missing_file(
    status: int, retryable: bool, web: Web, held: list[bytes], tmp_path: Path
) -> None:
    web.status = status
    with pytest.raises(StorageError, match=str(status)) as caught:
        open_source(web.url("a.tar.gz"), cache_dir=tmp_path)
    assert caught.value.retryable == retryable


def test_a_missing_file_and_a_server_that_is_not_there_are_told_apart(
    web: Web, held: list[bytes], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="there is no data source"):
        open_source(web.url("none.tar.gz"), cache_dir=tmp_path)
    web.server_close()
    web.shutdown()
    with pytest.raises(StorageError) as caught:
        open_source(web.url("a.tar.gz"), cache_dir=tmp_path)
    assert caught.value.retryable
