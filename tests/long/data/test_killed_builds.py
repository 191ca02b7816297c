"""Processes that build one cache entry together and are killed at any moment: never a wrong byte,
never a rest that stays."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from mae_sdk.data import cache, open_source

from tests.support.images import make_tarball

ROUNDS = 40


@pytest.fixture(scope="module", params=["tar", "tar.gz", "zip"])
def archive(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[bytes]]:
    folder, rng = tmp_path_factory.mktemp("pictures"), random.Random(1)
    for i in range(300):
        (folder / f"{i:04d}.jpg").write_bytes(rng.randbytes(rng.randrange(200_000)))
    made = make_tarball(folder, tmp_path_factory.mktemp("archive") / f"a.{request.param}")
    return made, [path.read_bytes() for path in sorted(folder.iterdir())]


def _build(path: str, root: str, want: list[bytes]) -> None:
    source = open_source(path, cache_dir=root)
    os._exit(0 if [source.read(i) for i in range(len(source))] == want else 3)


def test_builders_that_are_killed_harm_neither_the_others_nor_the_next(
    archive: tuple[Path, list[bytes]], tmp_path: Path
) -> None:
    path, want = archive
    context = multiprocessing.get_context("fork")
    started = time.perf_counter()
    assert len(open_source(path, cache_dir=tmp_path / "timing")) == len(want)
    alone = time.perf_counter() - started
    unfinished = 0
    for number in range(ROUNDS):
        rng, root = random.Random(number), tmp_path / str(number)
        children = [
            context.Process(target=_build, args=(str(path), str(root), want)) for _ in range(3)
        ]
        for child in children:
            child.start()
        doomed = children[: rng.choice([1, 2, 3, 3])]
        began, moments = time.perf_counter(), sorted(rng.uniform(0, alone) for _ in doomed)
        for child, moment in zip(
            doomed, moments, strict=True
        ):  # each at any moment of the time one build takes by itself
            time.sleep(max(0.0, began + moment - time.perf_counter()))
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
        for child in children:
            child.join(120)
            assert child.exitcode in ((0, -signal.SIGKILL) if child in doomed else (0,)), number
        if not cache.list_entries(root):
            assert doomed == children
            unfinished += 1
        source = open_source(path, cache_dir=root)
        assert [source.read(i) for i in range(len(source))] == want
        assert len(cache.list_entries(root)) == 1
        assert sorted(entry.name for entry in root.iterdir() if entry.name.startswith(".")) == [
            ".locks"
        ]
        del source
        cache.clear_cache(root)
    print(f"{unfinished} of {ROUNDS} rounds ended with no entry at all")
    assert unfinished, "no kill came before the entry was whole: the test showed nothing"


def _fill(paths: list[str], root: str, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(30):
        if rng.random() < 0.3:
            cache.clear_cache(root)
        path = rng.choice(paths)
        source = open_source(path, cache_dir=root)
        i = rng.randrange(len(source))
        if source.read(i)[:8] != f"{Path(path).stem[0]}{i:07d}".encode():
            os._exit(3)
    os._exit(0)


def test_readers_builders_eviction_and_clearing_at_once_give_the_right_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for name in "abcd":
        folder = tmp_path / name
        folder.mkdir()
        for i in range(40):
            (folder / f"{i:04d}.jpg").write_bytes(f"{name}{i:07d}".encode() + os.urandom(20_000))
        paths.append(str(make_tarball(folder, tmp_path / f"{name}.tar.gz")))
    monkeypatch.setenv("MAE_CACHE_MAX_GB", "0.002")  # two of the four fit
    root = tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_fill, args=(paths, str(root), seed)) for seed in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * 4
    assert cache.clear_cache(root) > 0
    assert [path.name for path in root.iterdir()] == [".locks"]
