"""Sixty faults of a store while archives and loose objects are read: never a wrong byte, never a
minute of silence."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from mae_sdk.data import open_source
from mae_sdk.storage import objects, transfer
from mae_sdk.storage.ranged_file import RangedFile
from mae_skill.errors import DataError, StorageError

from tests.support.images import make_tarball
from tests.support.proxy import CODES, FAULTS, WRONG, FaultProxy
from tests.support.s3 import S3Server, environment

KINDS = [*FAULTS, *WRONG]
TIMEOUT = 2.0
COUNT = 60


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], list[bytes]]:
    """A served folder, its archives ``a.*`` beside ``loose/``, and what each holds."""
    root = tmp_path_factory.mktemp("s3")
    bucket, rng = root / "faults", random.Random(0)
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(40):
        path = folder / f"class_{number % 4}" / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(1, 30_000)))
    bucket.mkdir()
    for kind in ("tar", "tar.gz", "zip"):
        make_tarball(folder, bucket / f"a.{kind}")
    held = [path.read_bytes() for path in sorted(folder.rglob("*.png"))]
    folder.rename(bucket / "loose")
    files = {path.name: path.read_bytes() for path in bucket.iterdir() if path.is_file()}
    return root, files, held


@pytest.mark.timeout(1500)
def test_sixty_faults_give_no_wrong_byte_and_no_minute_of_silence(
    stored: tuple[Path, dict[str, bytes], list[bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, files, held = stored
    monkeypatch.setattr(RangedFile.__init__, "__defaults__", (1 << 16, 4))
    monkeypatch.setattr(objects, "FLOOR", 200)  # the proxy's trickle is ten bytes a second
    right = refused = struck = 0
    slowest = 0.0
    with S3Server(root) as server, environment(server.env):
        for number in range(COUNT):
            rng = random.Random(number)
            kind = KINDS[number % len(KINDS)]
            names = (
                ["loose"] if kind in ("again", "lost") else ["a.tar", "a.tar.gz", "a.zip", "loose"]
            )
            name = rng.choice(names)
            tar = files.get(name, b"")
            place = rng.randrange(len(tar)) if tar else 0
            other = tar[:place] + bytes([tar[place] ^ 1]) + tar[place + 1 :] if tar else b"x" * 9
            first, lasting = rng.randrange(4), rng.random() < 0.5
            seen: list[str] = []
            hits: list[str] = []

            def decide(
                method: str,
                path: str,
                request: int,
                kind: str = kind,
                first: int = first,
                lasting: bool = lasting,
                seen: list[str] = seen,
                hits: list[str] = hits,
            ) -> str | None:
                if method == "HEAD" and kind in WRONG:
                    return None
                lists = kind in ("again", "lost")
                if lists != ("list-type" in path) and kind in WRONG:
                    return None
                seen.append(path)
                chosen = len(seen) > first if lasting else len(seen) == first + 1
                if not (chosen or lists):
                    return None
                hits.append(path)
                return kind

            cache = tmp_path / str(number)
            begin = time.monotonic()
            with (
                FaultProxy(
                    server.endpoint, decide=decide, stall_seconds=9, cut=rng.random, other=other
                ) as proxy,
                environment(
                    {"AWS_ENDPOINT_URL": proxy.endpoint, "MAE_STORAGE_TIMEOUT": str(TIMEOUT)}
                ),
            ):
                try:
                    source = open_source(f"s3://faults/{name}", cache_dir=cache)
                    found = [source.read(i) for i in range(len(source))]
                    assert found == held, (number, kind, name)
                    right += 1
                except (StorageError, DataError) as error:
                    final = {"AccessDenied"} & {kind}
                    assert error.retryable or final or isinstance(error, DataError), (kind, error)
                    there = [path.name for path in cache.iterdir()] if cache.exists() else []
                    assert there in ([], [".locks"]), (kind, name)
                    refused += 1
            slowest = max(slowest, time.monotonic() - begin)
            struck += bool(hits)
    print(
        f"{COUNT} rounds, {struck} struck: {right} right, {refused} refused, 0 wrong bytes; "
        f"the slowest took {slowest:.1f} s"
    )
    assert struck > 0.9 * COUNT
    assert right > 10
    assert refused > 10
    assert slowest < 60


@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", ["stall", "trickle", "trickled head"])
def test_the_default_patience_is_less_than_a_minute(
    fault: str, stored: tuple[Path, dict[str, bytes], list[bytes]]
) -> None:
    root, _, _ = stored
    with S3Server(root) as server, environment(server.env):
        decide = lambda method, path, number: fault if method == "GET" else None  # noqa: E731
        begin = time.monotonic()
        with (
            FaultProxy(server.endpoint, decide=decide, stall_seconds=90) as proxy,
            environment({"AWS_ENDPOINT_URL": proxy.endpoint}),
            pytest.raises(StorageError),
        ):
            transfer.read_bytes("s3://faults/a.tar.gz")
        assert time.monotonic() - begin < 60


def test_every_kind_of_fault_is_among_the_sixty() -> None:
    assert len(KINDS) <= COUNT
    assert set(CODES) <= set(KINDS)
