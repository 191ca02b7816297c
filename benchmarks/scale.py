"""What a pretraining takes from one GPU to 512 and to a billion images, and what breaks first.

    python benchmarks/scale.py                  every table
    python benchmarks/scale.py --network 25     with so many GB/s between nodes
    python benchmarks/scale.py --page           the table of references/scale.md
    python benchmarks/scale.py --measure        one process against two on this machine first

Nothing of the tables is measured on a GPU: a step is what the estimator says of one GPU whose
loader keeps up, and everything else follows from sizes and bandwidths, which stand below with
their reasons. `--measure` trains a small model here, the same images per step on one process and on
two, which share its cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mae_sdk import Skill
from mae_sdk.plan.machine import Machine, exchange_seconds, step_seconds

ARCHS = {"vit_base_patch16": "ViT-B", "vit_large_patch16": "ViT-L", "vit_huge_patch14": "ViT-H"}
BATCH = 64  # per GPU
PORTS = {50.0: "1 port", 400.0: "8 ports"}  # GB/s of a node, of ports of 400 Gbit/s
CORES = 96  # of a node
IMAGE_BYTES = 110e3  # of ImageNet-1k: 138 GB of 1.28 million JPEGs
SHARD_BYTES = 1e9  # a tar that is read in one sequential stream
RANGE_BYTES = 8e6  # of a request: what the reader asks for at a time
S3_REQUESTS = 5500.0  # GET a second and prefix, by the documentation of Amazon S3
NODE_GB = 12.5  # of the front network of a node: 100 Gbit/s
CHECKPOINT_MINUTES = 15.0  # lost at most to a failure
NODE_HOURS = 6_300.0  # between failures of a node: Llama 3 (2024), 419 in 54 days of 2,048 nodes
WRITE_BYTES = 300e6  # a checkpoint a second, by one rank


class Row(NamedTuple):
    """A run on some GPUs; times in seconds."""

    gpus: int
    step: float
    exchange: float
    images: float
    efficiency: float
    read_gb: float
    requests: float
    cores: float
    epoch_1k_minutes: float
    epoch_billion_hours: float
    failure_hours: float
    checkpoint_share: float


def machine_of(gpus: int, network: float) -> Machine:
    nodes = max(1, gpus // 8)
    return Machine.of(f"{min(8, gpus)}xH100-80G,nodes={nodes},cores={CORES},network={network:g}")


@cache
def one_gpu(arch: str) -> Any:
    """The plan of one GPU."""
    spec = {
        "model": {"arch": arch},
        "dataset": {"batch_size": BATCH, "num_workers_per_gpu": 12},
        "train": {"precision": "bf16"},
    }
    return Skill().plan("train", spec=spec, on="1xH100", images="1.28M", automl_policy="off")


def rows(arch: str, network: float, counts: tuple[int, ...]) -> tuple[dict[str, Any], list[Row]]:
    """The parameters and checkpoint of an architecture, and a row for each number of GPUs.

    A step is that of a GPU which never waits for its images; the row says the cores that takes.
    """
    plan = one_gpu(arch)
    parts = plan.seconds["step_parts"]
    compute = parts["work"] + parts["beside"]
    parameters = plan.estimates["parameters"]["total"]
    checkpoint = plan.estimates["disk_mb"]["checkpoint"] * 2**20
    found = []
    for gpus in counts:
        machine = machine_of(gpus, network)
        exchange = exchange_seconds(parameters * 4, machine) if gpus > 1 else 0.0
        step = step_seconds(parts["work"], exchange, parts["beside"])
        images = gpus * BATCH / step
        read = images * IMAGE_BYTES
        found.append(
            Row(
                gpus=gpus,
                step=step,
                exchange=exchange,
                images=images,
                efficiency=compute / step,
                read_gb=read / 1e9,
                requests=read / RANGE_BYTES,
                cores=images * parts["load"] / machine.nodes,
                epoch_1k_minutes=1.28e6 / images / 60,
                epoch_billion_hours=1e9 / images / 3600,
                failure_hours=NODE_HOURS / machine.nodes,
                checkpoint_share=checkpoint / WRITE_BYTES / (CHECKPOINT_MINUTES * 60),
            )
        )
    facts = {
        "parameters": parameters,
        "checkpoint_gb": checkpoint / 1e9,
        "work": parts["work"],
        "beside": parts["beside"],
        "memory_gb": plan.estimates["machine"]["memory_gb_per_gpu"],
    }
    return facts, found


def breaks_first(row: Row) -> str:
    """What a run on so many GPUs is short of."""
    short = []
    nodes = max(1, row.gpus // 8)
    if row.cores > CORES:
        short.append("cores to decode")
    if row.read_gb / nodes > NODE_GB:
        short.append("the node's network")
    if row.requests > S3_REQUESTS:
        short.append("S3 requests of one prefix")
    if row.efficiency < 0.8:
        short.append("exchange of gradients")
    if row.failure_hours < row.epoch_billion_hours:
        short.append("a failure before an epoch ends")
    return ", ".join(short) or "nothing"


def table_of_page() -> list[str]:
    """The table of references/scale.md, in Markdown."""
    titles = (
        *("model", "GPUs", "between nodes", "step", "exchange", "images/s", "efficiency"),
        *("cores a node", "read", "S3 requests/s", "epoch of 1.28 M", "epoch of 1 B", "short of"),
    )
    found = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for arch, name in ARCHS.items():
        for network, ports in PORTS.items():
            facts, made = rows(arch, network, (8, 64, 512))
            for row in made:
                if row.gpus == 8 and network != min(PORTS):
                    continue
                model = f"{name}, {facts['parameters'] / 1e6:.0f} M" if row.gpus == 8 else ""
                found.append(
                    f"| {model or '↑'} | {row.gpus} | {ports if row.gpus > 8 else '–'} | "
                    f"{row.step * 1e3:.0f} ms | {row.exchange * 1e3:.0f} ms | {row.images:,.0f} | "
                    f"{row.efficiency * 100:.0f} % | {row.cores:.0f} | {row.read_gb:.1f} GB/s | "
                    f"{row.requests:,.0f} | {_time(row.epoch_1k_minutes * 60)} | "
                    f"{_time(row.epoch_billion_hours * 3600)} | {breaks_first(row)} |"
                )
    return found


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def tables(network: float, counts: tuple[int, ...]) -> None:
    print(f"\n{network:g} GB/s between nodes")
    for arch in ARCHS:
        facts, found = rows(arch, network, counts)
        print(
            f"\n{arch}: {facts['parameters'] / 1e6:.0f} M parameters, batch {BATCH} per GPU, "
            f"{facts['work'] * 1e3:.1f} ms of passes and {facts['beside'] * 1e3:.1f} ms beside "
            f"them a step, {facts['memory_gb']:g} GB of a GPU, "
            f"checkpoint {facts['checkpoint_gb']:.2f} GB"
        )
        print(
            "GPUs | step ms | exchange ms | images/s | efficiency | read GB/s | requests/s | "
            "cores/node | epoch 1.28 M min | epoch 1 B h | failure every h | short of"
        )
        for row in found:
            print(
                f"{row.gpus} | {row.step * 1e3:.0f} | {row.exchange * 1e3:.0f} | "
                f"{row.images:,.0f} | {row.efficiency:.0%} | {row.read_gb:.2f} | "
                f"{row.requests:.0f} | {row.cores:.0f} | {row.epoch_1k_minutes:.1f} | "
                f"{row.epoch_billion_hours:.1f} | {row.failure_hours:.0f} | {breaks_first(row)}"
            )


def sizes() -> None:
    """What does not depend on the network."""
    shards = 1e9 * IMAGE_BYTES / SHARD_BYTES
    print(
        f"\na billion images: {1e9 * IMAGE_BYTES / 1e12:.0f} TB in {shards:,.0f} shards of 1 GB; "
        f"{1e9 * IMAGE_BYTES / RANGE_BYTES / 1e6:.1f} million requests an epoch"
    )
    facts, _ = rows("vit_large_patch16", min(PORTS), (1,))
    each = facts["checkpoint_gb"]
    print(
        "a sweep of 100 trials of vit_large_patch16 that keep 3 checkpoints: "
        f"{300 * each:,.0f} GB; with keep_checkpoints=1 {200 * each:,.0f} GB"
    )


def measure() -> None:
    """The same images per step on one process and on two of this machine."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.support.training import digits_folder, spec

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = digits_folder(root / "data", per_class=64)
        seconds = {}
        for ranks in (1, 2):
            made = spec(data, root / "x", train__num_gpus=ranks, train__num_epochs=3)
            made["dataset"]["batch_size"] = 32 // ranks
            made["model"] |= {"embed_dim": 192, "depth": 6, "num_heads": 3}
            del made["results_dir"]
            options = {"spec": made, "automl_policy": "off", "env": {"OMP_NUM_THREADS": "1"}}
            job = Skill().create_job("train", results_root=str(root / "r"), **options).wait(600)
            lines = [
                json.loads(line)
                for line in (job.folder / "status.json").read_text().splitlines()
                if "time_per_step" in line
            ]
            seconds[ranks] = min(float(line["time_per_step"]) for line in lines)
            print(
                f"{ranks} process{'es' * (ranks > 1)}: {seconds[ranks] * 1e3:.0f} ms a step of 32"
            )
        print(f"two processes are {seconds[1] / seconds[2]:.2f} times as fast as one")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--network", type=float, nargs="+", default=list(PORTS))
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 16, 64, 128, 256, 512])
    options = parser.parse_args()
    started = time.monotonic()
    if options.page:
        print("\n".join(table_of_page()))
        return
    if options.measure:
        measure()
    for network in options.network:
        tables(network, tuple(options.gpus))
    sizes()
    print(f"\n{time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
