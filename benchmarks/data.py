"""Measurements of data reading: ``python benchmarks/data.py [-o FILE] [--quick] [--only NAME]``,
where NAME is fetch, objects, decode or loader.

Each ratio sets us against the usual way, alternately in one run on one machine, and is given with
median and spread; ``benchmarks/results/data.json`` holds those of a whole run.

* fetch: a 250 MB tar.gz of 4,000 files on a real S3 server (rclone) to the first readable image,
  against "download, then extract" (``s3fs.get_file``, ``tarfile.extractall``); wall time, disk, and
  peak memory above idle; at 0 and at 20 ms injected latency.
* objects: 1,000 objects of 4 KB at 20 ms, against one at a time.
* decode: JPEG 500 × 375 → RandomResizedCrop 224 + flip, images per second on one core, against
  Pillow + torchvision.
* loader: the same from files to normalized batches with one worker process, images per second of
  all processor time that was spent.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.images import jpeg  # noqa: E402
from tests.support.s3 import S3Server, environment  # noqa: E402


def spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "runs": len(values),
    }


def disk(path: Path) -> int:
    return sum(f.stat().st_blocks * 512 for f in path.rglob("*") if f.is_file())


class PeakMemory:
    """The largest resident size above the start of the block, sampled every 5 ms."""

    def __enter__(self) -> PeakMemory:
        self.start = self.peak = self._now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _now(self) -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.peak = max(self.peak, self._now())

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def above(self) -> float:
        return (self.peak - self.start) / 1e6


@contextmanager
def behind(endpoint: str, latency: float) -> Iterator[str]:
    """The endpoint itself, or a proxy in a process of its own that delays each request."""
    if not latency:
        yield endpoint
        return
    command = [sys.executable, "-m", "tests.support.proxy", endpoint, str(latency)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().strip()
        process.terminate()


def make_archive(path: Path, files: int, total: int) -> None:
    """Photographs hardly compress: each file is one JPEG, its comment filled with random bytes up
    to the wanted size."""
    import io
    import random

    rng = random.Random(0)
    base = [jpeg(i) for i in range(16)]
    each = total // files
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for i in range(files):
            data = base[i % 16]
            filler = rng.randbytes(max(0, min(65000, each - len(data) - 4)))
            data = data[:2] + b"\xff\xfe" + (len(filler) + 2).to_bytes(2, "big") + filler + data[2:]
            info = tarfile.TarInfo(f"class_{i % 10}/{i:05d}.jpg")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def fetch_usual(url: str, folder: Path) -> None:
    import s3fs

    fs = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    fs.get_file(url, str(folder / "a.tar.gz"))
    with tarfile.open(folder / "a.tar.gz") as archive:
        archive.extractall(folder / "out", filter="data")
    first = next((folder / "out").rglob("*.jpg"))
    first.read_bytes()


def fetch_ours(url: str, folder: Path) -> None:
    from mae_sdk.data import open_source

    source = open_source(url, cache_dir=folder)
    source.read(0)


def fresh_memory(folder: Path) -> float:
    """Peak above idle in MB, in a process of its own: memory that earlier rounds left in this one
    would hide it."""
    code = (
        "import sys; from pathlib import Path; import s3fs, numpy\n"
        "from benchmarks.data import PeakMemory, fetch_ours\n"
        "with PeakMemory() as peak: fetch_ours('s3://bench/a.tar.gz', Path(sys.argv[1]))\n"
        "print(peak.above)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    shutil.rmtree(folder)
    return float(done.stdout.split()[-1])


def fetch(rounds: int, megabytes: int, files: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, S3Server(Path(name), etag=False) as server:
        root = Path(name)
        make_archive(server.bucket("bench") / "a.tar.gz", files, megabytes * 1_000_000)
        size = (server.root / "bench" / "a.tar.gz").stat().st_size
        for latency in (0.0, 0.02):
            times: dict[str, list[float]] = {"usual": [], "ours": []}
            disks: dict[str, list[float]] = {"usual": [], "ours": []}
            memory: list[float] = []
            with (
                behind(server.endpoint, latency) as endpoint,
                environment({**server.env, "AWS_ENDPOINT_URL": endpoint}),
            ):
                for number in range(rounds + 1):
                    for way, call in (("usual", fetch_usual), ("ours", fetch_ours)):
                        folder = root / way
                        folder.mkdir()
                        os.sync()
                        started = time.perf_counter()
                        call("s3://bench/a.tar.gz", folder)
                        seconds = time.perf_counter() - started
                        print(
                            f"{way} at {latency * 1000:.0f} ms: {seconds:.2f} s",
                            file=sys.stderr,
                            flush=True,
                        )
                        if number:  # the first round warms imports and the server's page cache
                            times[way].append(seconds)
                            disks[way].append(disk(folder) / 1e6)
                        shutil.rmtree(folder)
                memory.append(fresh_memory(root / "memory"))
            result[f"{int(latency * 1000)} ms"] = {
                "archive_mb": round(size / 1e6, 1),
                "files": files,
                "usual_seconds": spread(times["usual"]),
                "ours_seconds": spread(times["ours"]),
                "time_ratio": spread(
                    [o / u for o, u in zip(times["ours"], times["usual"], strict=True)]
                ),
                "disk_ratio": spread(
                    [o / u for o, u in zip(disks["ours"], disks["usual"], strict=True)]
                ),
                "peak_memory_mb_above_idle": spread(memory),
            }
    return result


def objects(rounds: int, count: int) -> dict[str, Any]:
    from mae_sdk.data import open_source

    with tempfile.TemporaryDirectory() as name, S3Server(Path(name), etag=False) as server:
        folder = server.bucket("bench") / "loose"
        folder.mkdir()
        for i in range(count):
            (folder / f"{i:05d}.jpg").write_bytes(os.urandom(4096))
        usual, ours = [], []
        with (
            behind(server.endpoint, 0.02) as endpoint,
            environment({**server.env, "AWS_ENDPOINT_URL": endpoint}),
        ):
            import s3fs

            for number in range(rounds):
                fs = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
                started = time.perf_counter()
                for path in fs.find("bench/loose"):
                    fs.cat_file(path, start=0, end=4096)
                usual.append(time.perf_counter() - started)
                started = time.perf_counter()
                source = open_source("s3://bench/loose", cache_dir=Path(name) / f"cache{number}")
                ours.append(time.perf_counter() - started)
                assert len(source) == count
        return {
            "objects": count,
            "usual_seconds": spread(usual),
            "ours_seconds": spread(ours),
            "speed_ratio": spread([u / o for u, o in zip(usual, ours, strict=True)]),
        }


def augmentation(**changed: Any) -> Any:
    """The spec's defaults, with a crop and a flip as torchvision's beside them."""
    from mae_skill.spec import AugmentationSpec

    values: dict[str, Any] = {
        "min_scale": 0.2, "max_scale": 1.0, "min_ratio": 0.75, "max_ratio": 4 / 3,
        "color_jitter": 0.0, "auto_aug": None, "interpolation": "bilinear", "re_prob": 0.0,
    }  # fmt: skip
    return AugmentationSpec(**{**values, **changed})


def decode(rounds: int, count: int) -> dict[str, Any]:
    import io

    import cv2
    import numpy as np
    import torch
    from mae_runners.data.transforms import TrainTransform
    from PIL import Image
    from torchvision import transforms as tv

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    pipeline = tv.Compose(
        [
            tv.RandomResizedCrop(224, scale=(0.2, 1.0)),
            tv.RandomHorizontalFlip(),
            tv.ToTensor(),
            tv.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )

    def usual(data: bytes, i: int) -> Any:
        return pipeline(Image.open(io.BytesIO(data)).convert("RGB"))

    def way(aug: Any) -> Callable[[bytes, int], Any]:
        transform = TrainTransform(aug, finetune=False)
        return lambda data, i: torch.from_numpy(
            np.ascontiguousarray(transform(data, "x", i).transpose(2, 0, 1))
        )

    small = [jpeg(i) for i in range(64)]
    large = [jpeg(i, 2000, 1500) for i in range(6)]
    ours = way(augmentation())

    def rate(call: Callable[[bytes, int], Any], pictures: list[bytes], total: int) -> float:
        started = (
            time.thread_time()
        )  # this core's own seconds: other processes on the machine do not count
        for i in range(total):
            call(pictures[i % len(pictures)], i)
        return total / (time.thread_time() - started)

    kinds = {
        "JPEG 500x375": (usual, ours, small, count),
        "JPEG 500x375, interpolation random": (
            usual,
            way(augmentation(interpolation="random")),
            small,
            count,
        ),
        "JPEG 2000x1500, reduced_decode": (
            usual,
            way(augmentation(reduced_decode=True)),
            large,
            max(12, count // 20),
        ),
    }
    result = {}
    for name, (theirs, mine, pictures, total) in kinds.items():
        rate(theirs, pictures, 8), rate(mine, pictures, 8)
        pairs = [
            (rate(theirs, pictures, total), rate(mine, pictures, total)) for _ in range(rounds)
        ]
        result[name] = {
            "torchvision_images_per_core_second": spread([a for a, _ in pairs]),
            "ours_images_per_core_second": spread([b for _, b in pairs]),
            "speed_ratio": spread([b / a for a, b in pairs]),
        }
    return result


def loader(rounds: int, count: int) -> dict[str, Any]:
    import resource

    import torch
    from mae_runners.data import FunctionalSampler, build_dataset, build_loader, to_input
    from torch.utils.data import DataLoader
    from torchvision import transforms as tv
    from torchvision.datasets import ImageFolder

    torch.set_num_threads(1)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

    def spent() -> float:
        return sum(
            usage.ru_utime + usage.ru_stime
            for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for i in range(count):
            path = root / f"class_{i % 4}" / f"{i:05d}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(jpeg(i % 64))
        pipeline = [
            tv.RandomResizedCrop(224, scale=(0.2, 1.0)),
            tv.RandomHorizontalFlip(),
            tv.ToTensor(),
            tv.Normalize(mean, std),
        ]
        theirs = ImageFolder(str(root), tv.Compose(pipeline))
        mine = build_dataset(
            str(root),
            train=True,
            stage="pretrain",
            augmentation=augmentation(),
            seed=0,
            num_units=196,
        )

        def usual() -> int:
            return sum(
                len(images)
                for images, _ in DataLoader(theirs, batch_size=64, shuffle=True, num_workers=1)
            )

        def ours() -> int:
            batches = build_loader(mine, FunctionalSampler(len(mine), 0), 64, 1, persistent=False)
            return sum(len(to_input(batch["image"], mean, std)) for batch in batches)

        def rate(call: Callable[[], int]) -> float:
            before = spent()
            assert call() == count
            return count / (spent() - before)

        rate(usual), rate(ours)
        pairs = [(rate(usual), rate(ours)) for _ in range(rounds)]
    return {
        "images": count,
        "usual_images_per_core_second": spread([a for a, _ in pairs]),
        "ours_images_per_core_second": spread([b for _, b in pairs]),
        "speed_ratio": spread([b / a for a, b in pairs]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: shows that it runs, proves nothing"
    )
    parser.add_argument("--rounds", type=int, help="how often each way is timed")
    parser.add_argument("--only", choices=["fetch", "objects", "decode", "loader"])
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 5)
    jobs: dict[str, Callable[[], dict[str, Any]]] = {
        "fetch": lambda: fetch(
            rounds, 20 if options.quick else 250, 300 if options.quick else 4000
        ),
        "objects": lambda: objects(min(rounds, 3), 60 if options.quick else 1000),
        "decode": lambda: decode(rounds, 64 if options.quick else 600),
        "loader": lambda: loader(rounds, 128 if options.quick else 1200),
    }
    out: Path | None = options.output
    report = json.loads(out.read_text()) if out and out.exists() and options.only else {}
    cores = len(os.sched_getaffinity(0))
    report["machine"] = {
        "cpu": platform.processor() or platform.machine(),
        "cores": cores,
        "python": platform.python_version(),
    }
    for name, job in jobs.items():
        if options.only in (None, name):
            report[name] = job()
            print(json.dumps({name: report[name]}, indent=1))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
