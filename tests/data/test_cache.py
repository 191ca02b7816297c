"""The cache: atomic, verified, locked across processes, bounded in size."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
from mae_sdk.data import cache, open_source
from mae_skill.errors import NotFoundError, StorageError

from tests.support.images import make_tarball, write_imagefolder
from tests.support.proxy import FaultProxy
from tests.support.s3 import S3Server, environment


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return make_tarball(write_imagefolder(tmp_path / "images", 2, 3), tmp_path / "a.tar.gz")


def test_the_second_opening_fetches_nothing(s3: S3Server, archive: Path, tmp_path: Path) -> None:
    (s3.bucket("cache") / "a.tar.gz").write_bytes(archive.read_bytes())
    with FaultProxy(s3.endpoint) as proxy, environment({"AWS_ENDPOINT_URL": proxy.endpoint}):
        open_source("s3://cache/a.tar.gz", cache_dir=tmp_path / "c")
        first = len(proxy.requests)
        open_source("s3://cache/a.tar.gz", cache_dir=tmp_path / "c")
        assert not any(
            method == "GET" and "a.tar.gz" in path for method, path in proxy.requests[first:]
        )
        (s3.root / "cache" / "a.tar.gz").write_bytes(
            make_tarball(tmp_path / "images", tmp_path / "b.tar.gz", wrapper="w").read_bytes()
        )
        assert (
            open_source("s3://cache/a.tar.gz", cache_dir=tmp_path / "c").members[0].startswith("w/")
        )


def _open_in_child(path: str, root: str, barrier, queue) -> None:  # type: ignore[no-untyped-def]
    barrier.wait()
    source = open_source(path, cache_dir=root)
    queue.put([source.read(i) for i in range(len(source))])


def test_processes_that_race_share_one_fetch(archive: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(4), context.Queue()
    children = [
        context.Process(
            target=_open_in_child, args=(str(archive), str(tmp_path / "c"), barrier, queue)
        )
        for _ in range(4)
    ]
    for child in children:
        child.start()
    results = [queue.get(timeout=30) for _ in children]
    for child in children:
        child.join()
    assert all(result == results[0] and len(result) == 6 for result in results)
    assert len(cache.list_entries(tmp_path / "c")) == 1


def test_a_killed_fetch_is_never_taken_for_complete_and_its_rest_is_swept(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "c"
    real = cache.write_pack

    def dies(folder: Path, *args: object) -> None:
        real(folder, *args)  # type: ignore[arg-type]
        (folder / "index.json").unlink()
        os._exit(9)

    monkeypatch.setattr(cache, "write_pack", dies)
    child = multiprocessing.get_context("fork").Process(
        target=open_source, args=(str(archive), str(root))
    )
    child.start()
    child.join()
    assert child.exitcode == 9
    assert cache.list_entries(root) == []
    assert any(path.name.startswith(".") and path.name != ".locks" for path in root.iterdir())
    monkeypatch.setattr(cache, "write_pack", real)
    assert len(open_source(archive, cache_dir=root)) == 6
    assert sorted(path.name for path in root.iterdir() if path.name.startswith(".")) == [".locks"]


@pytest.mark.parametrize("part", ["data.bin", "names.bin", "table.npy", "index.json"])
def test_a_damaged_entry_is_fetched_again(part: str, archive: Path, tmp_path: Path) -> None:
    source = open_source(archive, cache_dir=tmp_path / "c")
    want = [source.read(i) for i in range(len(source))]
    del source
    path = tmp_path / "c" / cache.list_entries(tmp_path / "c")[0].key / part
    path.write_bytes(path.read_bytes()[:-3])
    again = open_source(archive, cache_dir=tmp_path / "c")
    assert [again.read(i) for i in range(len(again))] == want


def test_a_flipped_bit_in_the_data_is_an_error_and_never_wrong_bytes(
    archive: Path, tmp_path: Path
) -> None:
    source = open_source(archive, cache_dir=tmp_path / "c")
    path = tmp_path / "c" / cache.list_entries(tmp_path / "c")[0].key / "data.bin"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    with path.open("r+b") as handle:
        handle.write(data)
    with pytest.raises(StorageError, match="damaged"):
        source.read(0)


def test_the_longest_unused_entry_goes_first_and_one_in_use_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "c"
    paths = []
    for i in range(3):
        paths.append(
            make_tarball(
                write_imagefolder(tmp_path / f"i{i}", 1, 2, start=2 * i), tmp_path / f"{i}.tar"
            )
        )
    kept = open_source(paths[0], cache_dir=root)
    open_source(paths[1], cache_dir=root)
    for age, entry in enumerate(cache.list_entries(root)):
        os.utime(root / entry.key / "index.json", (1000 - age, 1000 - age))
    size = max(entry.bytes for entry in cache.list_entries(root))
    monkeypatch.setenv("MAE_CACHE_MAX_GB", str(2.2 * size / 1e9))
    open_source(paths[2], cache_dir=root)
    left = {Path(entry.source).name for entry in cache.list_entries(root)}
    assert left == {"0.tar", "2.tar"}
    assert len(kept.read(0)) > 0


def test_clearing_spares_what_is_in_use_and_names_what_is_unknown(
    archive: Path, tmp_path: Path
) -> None:
    root = tmp_path / "c"
    source = open_source(archive, cache_dir=root)
    assert cache.clear_cache(root) == 0
    assert len(source.read(0)) > 0
    del source
    assert cache.cache_info(root)["used_bytes"] == cache.clear_cache(root) > 0
    assert cache.list_entries(root) == []
    with pytest.raises(NotFoundError):
        cache.clear("abc", root)


def test_a_full_disk_is_said_and_not_retried(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    real = shutil.disk_usage
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: real(path)._replace(free=100))
    with pytest.raises(StorageError, match="no room in the cache") as caught:
        open_source(archive, cache_dir=tmp_path / "c")
    assert not caught.value.retryable
    assert "MAE_CACHE_DIR" in str(caught.value)


def test_a_plain_tar_on_a_local_disk_is_indexed_where_it_is_and_a_change_is_noticed(
    tmp_path: Path,
) -> None:
    folder = write_imagefolder(tmp_path / "images", 2, 3)
    path = make_tarball(folder, tmp_path / "a.TAR")
    root = tmp_path / "c"
    source = open_source(path, cache_dir=root)
    want = [file.read_bytes() for file in sorted(folder.rglob("*.png"))]
    assert [source.read(i) for i in range(6)] == want
    assert sum(entry.bytes for entry in cache.list_entries(root)) < path.stat().st_size / 4
    assert cache.clear_cache(root) == 0  # in use
    whole = path.read_bytes()
    assert whole.count(want[2]) == 1
    with path.open("r+b") as handle:  # in place, as a careless copy over it would
        handle.seek(whole.index(want[2]))
        handle.write(b"other")
    assert source.read(1) == want[1]
    with pytest.raises(StorageError, match="changed after its archive") as caught:
        source.read(2)
    assert caught.value.got == str(path) and caught.value.retryable
    again = open_source(path, cache_dir=root)  # another time of change: another entry
    assert again.read(2) == b"other" + want[2][5:]
    del source, caught  # an exception holds the frames it came through
    path.unlink()
    assert again.read(0) == want[0]  # it holds the file open
    assert cache.clear_cache(root) > 0


def test_an_entry_of_a_tar_that_was_replaced_within_one_tick_is_not_used(tmp_path: Path) -> None:
    path = make_tarball(write_imagefolder(tmp_path / "one", 1, 3), tmp_path / "a.tar")
    stamp = path.stat()
    open_source(path, cache_dir=tmp_path / "c")
    other = write_imagefolder(tmp_path / "two", 1, 4, start=5)
    make_tarball(other, path)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    source = open_source(path, cache_dir=tmp_path / "c")
    assert [source.read(i) for i in range(len(source))] == [
        file.read_bytes() for file in sorted(other.rglob("*.png"))
    ]
