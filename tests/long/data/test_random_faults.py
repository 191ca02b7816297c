"""Faults at random requests and random places of their answers: the right bytes, or one clear
retryable error and nothing left behind."""

from __future__ import annotations

import random
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from mae_sdk.data import Source, open_source
from mae_sdk.storage import retry
from mae_skill.errors import StorageError

from tests.support.images import make_tarball
from tests.support.proxy import FaultProxy
from tests.support.s3 import S3Server, environment

ROUNDS = 40
PASSING = ["drop", "reset", "truncate", "short", "stall", "500", "503", "SlowDown"]
KINDS = {
    "tar": "a.tar",
    "tar.gz": "a.tar.gz",
    "tar.zst": "a.tar.zst",
    "tar.xz": "a.tar.xz",
    "zip": "a.zip",
    "loose objects": "loose",
}
QUICK = {"MAE_STORAGE_TIMEOUT": "0.5"}


@pytest.fixture(scope="module")
def stored(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """The sources in the bucket ``random``: name → what it holds. The archives span some nine
    blocks of a ranged read."""
    rng = random.Random(0)
    bucket = s3_server.bucket("random")
    held = {}
    for name, sizes in (
        ("large", [rng.randrange(600_000) for _ in range(90)]),
        ("small", [rng.randrange(9000) for _ in range(250)]),
    ):
        folder = tmp_path_factory.mktemp(name)
        for i, size in enumerate([0, *sizes]):
            path = folder / f"class_{i % 4}" / f"{i:04d}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(rng.randbytes(size))
        held[name] = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
        if name == "small":
            folder.rename(bucket / "loose")
        else:
            for kind, file in KINDS.items():
                if kind != "loose objects":
                    make_tarball(folder, bucket / file)
    return {file: held["small" if file == "loose" else "large"] for file in KINDS.values()}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        retry, "time", SimpleNamespace(sleep=lambda seconds: time.sleep(seconds / 20))
    )


def contents(source: Source) -> list[bytes]:
    return [source.read(i) for i in range(len(source))]


def left(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if ".locks" not in path.parts]


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_fails_wherever_the_bytes_are_right_or_the_error_is_clear(
    kind: str, s3: S3Server, stored: dict[str, list[bytes]], tmp_path: Path
) -> None:
    url = f"s3://random/{KINDS[kind]}"
    want, right, refused, faults = stored[KINDS[kind]], 0, 0, 0
    for number in range(ROUNDS):
        rng = random.Random(f"{kind} {number}")
        share, kinds = rng.choice([0.02, 0.1, 0.3, 0.7]), rng.sample(PASSING, rng.randint(1, 4))
        hits: list[str] = []

        def decide(
            method: str, path: str, request: int, rng=rng, share=share, kinds=kinds, hits=hits
        ) -> str | None:  # type: ignore[no-untyped-def]
            if rng.random() >= share:
                return None
            hits.append(rng.choice(kinds))
            return hits[-1]

        cache = tmp_path / str(number)
        with (
            FaultProxy(s3.endpoint, decide=decide, stall_seconds=1, cut=rng.random) as proxy,
            environment({**QUICK, "AWS_ENDPOINT_URL": proxy.endpoint}),
        ):
            try:
                assert contents(open_source(url, cache_dir=cache)) == want, (number, hits)
                right += 1
            except StorageError as error:
                assert error.retryable, (number, hits)
                assert url in str(error), (number, hits)
                assert left(cache) == [], (number, hits)
                refused += 1
        faults += len(hits)
        assert contents(open_source(url, cache_dir=cache)) == want, (number, hits)
    print(f"{kind}: {faults} faults in {ROUNDS} rounds, {right} right, {refused} refused")
    assert faults > ROUNDS / 2
    assert right
    assert refused


@pytest.mark.parametrize("fault", [*PASSING, "ExpiredToken"])
@pytest.mark.parametrize("kind", ["tar.gz", "zip", "loose objects"])
def test_what_fails_for_good_midway_is_said_and_a_second_try_finishes(
    kind: str, fault: str, s3: S3Server, stored: dict[str, list[bytes]], tmp_path: Path
) -> None:
    url = f"s3://random/{KINDS[kind]}"
    for number in range(5):
        rng = random.Random(f"{kind} {fault} {number}")
        healthy = rng.randrange(1, 6 if kind != "loose objects" else 200)
        reads: list[str] = []

        def decide(
            method: str, path: str, request: int, healthy=healthy, reads=reads
        ) -> str | None:  # type: ignore[no-untyped-def]
            if method != "GET" or "list-type" in path:
                return None
            reads.append(path)
            return fault if len(reads) > healthy else None

        cache = tmp_path / str(number)
        with (
            FaultProxy(s3.endpoint, decide=decide, stall_seconds=0.8, cut=rng.random) as proxy,
            environment({**QUICK, "AWS_ENDPOINT_URL": proxy.endpoint}),
            pytest.raises(StorageError) as caught,
        ):
            open_source(url, cache_dir=cache)
        assert len(reads) > healthy
        assert caught.value.retryable
        assert url in str(caught.value)
        assert ("credentials have expired" in str(caught.value)) == (fault == "ExpiredToken")
        assert left(cache) == []
        assert contents(open_source(url, cache_dir=cache)) == stored[KINDS[kind]]
