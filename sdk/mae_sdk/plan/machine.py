"""A plan for a machine that one is not on: ``--on 8xA100-80G,nodes=4 --images 1.28M``.

The machine is described, not asked: its GPUs are those of a table, and the data are counted by the
caller. Time is what the estimator says of one GPU, and what the gradients take between them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from mae_skill.dotted import get_dotted
from mae_skill.errors import UsageError
from mae_skill.estimate import WAITS
from mae_skill.gpus import GPUS, Gpu
from mae_skill.spelling import nearest

from mae_sdk.run.platform import Resources

CORES_PER_GPU = 12
"""Of a node whose cores are not given."""
NETWORK_GB = 25.0
"""Between nodes, GB per second and direction, where it is not given: 200 Gbit/s."""
FRAMEWORK_MB = 600.0
"""What CUDA and the framework take of a GPU beside the run."""
LARGE_DISK_GB = 500.0
SLOWED = 1.25
"""A step with its exchange, to one without, from which on a plan says so."""
FRAGMENTED = 1.15
"""Memory that is held, to memory that is used."""

_MIB = 2**20
"""The unit of the estimates; GB are 10⁹ bytes here, as makers of GPUs and disks count."""

_ON = re.compile(r"(\d+)X([A-Z]*\d+[A-Z]*)(?:-(\d+)GB?)?((?:,[A-Z]+=[\d.]+)*)")
_PROPERTIES = ("nodes", "cores", "network")
_SCALES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}


@dataclass(frozen=True)
class Machine:
    """Nodes of GPUs.

    Attributes:
        gpus: of a node.  name: in `mae_skill.gpus.GPUS`.  memory_gb: of a GPU.
        cores: of a node.  network_gb: GB per second between nodes.
        assumed: what was taken of a card that comes with several sizes of memory; empty where the
            size was said.
    """

    gpus: int
    name: str
    memory_gb: int
    nodes: int = 1
    cores: int = 0
    network_gb: float = NETWORK_GB
    assumed: str = ""

    @classmethod
    def of(cls, text: str) -> Machine:
        """The machine of ``8xA100-80G,nodes=4,cores=96,network=25``.

        Raises:
            UsageError: it is written otherwise, or names no known GPU.
        """
        found = _ON.fullmatch(text.strip().replace(" ", "").upper())
        if found is None:
            raise UsageError(
                "not a machine",
                field="on",
                got=text,
                expected="COUNTxGPU[-MEMORYG][,nodes=N][,cores=N][,network=GB_A_SECOND]",
                hint=f"8xA100-80G,nodes=4; a GPU is one of {', '.join(GPUS)}",
            )
        count, name, memory, rest = found.groups()
        name = name.removeprefix("RTX")
        gpu = GPUS.get(name)
        if gpu is None or (memory and int(memory) not in gpu.memory_gb):
            sizes = {one: "/".join(map(str, row.memory_gb)) for one, row in GPUS.items()}
            raise UsageError(
                "no such GPU in the table",
                field="on",
                got=text,
                expected=", ".join(f"{one}-{size}G" for one, size in sizes.items()),
                hint="name one that is in the table",
            )
        more = dict(item.lower().split("=") for item in rest.split(",") if item)
        if unknown := sorted(set(more) - set(_PROPERTIES)):
            near = nearest(unknown[0], _PROPERTIES)
            raise UsageError(
                "not a property of a machine",
                field="on",
                got=f"{unknown[0]}={more[unknown[0]]}",
                expected=" or ".join(f"{one}=NUMBER" for one in _PROPERTIES),
                hint=f"did you mean {near}?" if near else f"leave {unknown[0]} out",
            )
        for key in ("nodes", "cores"):
            if not more.get(key, "1").isdecimal():
                raise UsageError(
                    "not a whole number",
                    field="on",
                    got=f"{key}={more[key]}",
                    expected=f"{key}=4",
                    hint="write a whole number of at least 1",
                )
        cards = [f"{name}-{size}G" for size in gpu.memory_gb]
        assumed = (
            f"on={text}: taken as {cards[0]}; there is {' and '.join(cards[1:])} too: "
            f"--on {count}x{cards[1]} plans for it"
            if len(cards) > 1 and not memory
            else ""
        )
        machine = cls(
            gpus=int(count),
            name=name,
            memory_gb=int(memory) if memory else gpu.memory_gb[0],
            nodes=int(more.get("nodes", 1)),
            cores=int(more.get("cores", CORES_PER_GPU * int(count))),
            network_gb=float(more.get("network", NETWORK_GB)),
            assumed=assumed,
        )
        if min(machine.gpus, machine.nodes, machine.cores) < 1 or machine.network_gb <= 0:
            raise UsageError(
                "a machine has at least one GPU, node and core, and some network",
                field="on",
                got=text,
                expected="numbers above 0, such as 8xA100-80G,nodes=4",
                hint="raise the number that is 0, or leave nodes, cores and network out",
            )
        return machine

    @property
    def gpu(self) -> Gpu:
        return GPUS[self.name]

    @property
    def has_bf16(self) -> bool:
        return float(self.gpu.capability) >= 8

    @property
    def world(self) -> int:
        """GPUs of all nodes."""
        return self.gpus * self.nodes

    def resources(self) -> Resources:
        """As a platform would tell them."""
        return Resources(
            gpus=self.gpus,
            device=self.name,
            cores=self.cores,
            nodes=self.nodes,
            where=f"a node of {self.gpus}x{self.name}",
        )


def count_of(text: str) -> int:
    """The number of ``1.28M``, ``300K`` or ``1281167``.

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:E\+?\d{1,2})?)([KMBG]?)", str(text).strip().upper())
    exact = Decimal(found[1]) * _SCALES[found[2]] if found else Decimal(0)
    number = int(exact)
    if number < 1 or number != exact:
        raise UsageError(
            "not a number of images",
            field="images",
            got=text,
            expected="1.28M",
            hint="write it in digits, or as 1.28M",
        )
    return number


def price_of(text: str, machine: Machine) -> float:
    """The price of an hour of the whole machine, of ``2.5/gpuh`` or ``30/h`` (a node).

    Raises:
        UsageError: it is written otherwise.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)/(gpuh|h)", str(text).strip().lower())
    if found is None:
        raise UsageError(
            "not a price",
            field="price",
            got=text,
            expected="2.5/gpuh, or 30/h a node",
            hint="write the price of an hour of a GPU or a node, such as 2.5/gpuh",
        )
    return float(found[1]) * (machine.world if found[2] == "gpuh" else machine.nodes)


def exchange_seconds(gradient_bytes: float, machine: Machine) -> float:
    """Seconds in which a ring adds up the gradients of all GPUs, at the data sheets' bandwidth.

    A GPU sends and receives 2 (n - 1) / n times the gradients; the GPUs of a node share its
    network. Latency is left out: it counts for small models only.
    """
    within = 2 * (machine.gpus - 1) / machine.gpus * gradient_bytes / (machine.gpu.link_gb * 1e9)
    if machine.nodes == 1:
        return within
    between = 2 * (machine.nodes - 1) / machine.nodes * gradient_bytes / (machine.network_gb * 1e9)
    return within + between


def step_seconds(work: float, exchange: float, beside: float = 0.0) -> float:
    """A step with its exchange, which hides behind the backward pass: two thirds of the work.

    Args:
        work: of the passes.  beside: what is done beside them, behind which nothing hides.
    """
    return max(work, work / 3 + exchange) + beside


def _taken(machine: Machine, made: Any) -> Machine:
    """The part of a machine that a plan's run takes."""
    return replace(machine, gpus=made.launch["processes"], nodes=made.nodes)


def _exchange_of(machine: Machine, made: Any) -> float | None:
    """Seconds of a step's exchange in a plan; None where its step is not known."""
    parameters = (made.estimates.get("parameters") or {}).get("total")
    size = made.estimates.get("exchange_mb") or (parameters or 0) * 4 / 2**20
    if not made.seconds.get("step_parts") or not size:
        return None
    taking = _taken(machine, made)
    return exchange_seconds(size * 2**20, taking) if taking.world > 1 else 0.0


def pace_of(machine: Machine, made: Any) -> float:
    """A plan's step with its exchange of gradients over one without, by which whatever is fitted to
    a budget has the same step as the plan."""
    parts, seconds = made.seconds.get("step_parts"), _exchange_of(machine, made)
    if seconds is None:
        return 1.0
    alone = max(parts["work"] + parts["beside"], parts["images"])
    busy = step_seconds(parts["work"], seconds, parts["beside"])
    return float(max(busy, parts["images"]) / alone)


def exchange(machine: Machine, made: Any) -> dict[str, Any]:
    """Make the exchange of gradients part of a plan's step; what it takes, where that is known.

    ``loader_images_per_second`` are what the GPUs train on where they never wait for images, and
    ``loader_cores_per_node`` the cores that decode as many; ``cores_images_per_second_per_node`` is
    what all cores of a node give.
    """
    parts, seconds = made.seconds.get("step_parts"), _exchange_of(machine, made)
    if seconds is None:
        return {}
    taking = _taken(machine, made)
    compute = parts["work"] + parts["beside"]
    busy = step_seconds(parts["work"], seconds, parts["beside"])
    step = made.seconds["seconds_per_step"] = max(busy, parts["images"])
    found = {"exchange_seconds_per_step": round(seconds, 4), "seconds_per_step": round(step, 4)}
    if made.effective_batch:
        nodes = made.nodes
        rate, cores = made.effective_batch / busy, machine.cores
        found["loader_images_per_second"] = round(rate)
        found["loader_images_per_second_per_node"] = round(rate / nodes)
        found["loader_cores_per_node"] = math.ceil(rate / nodes * parts["load"])
        found["cores_images_per_second_per_node"] = round(cores / parts["load"])
    if step == busy:  # the loader has as long as the exchange takes
        made.notices[:] = [text for text in made.notices if not text.startswith(WAITS)]
    if step == busy > SLOWED * compute:
        network = f"network={machine.network_gb:g} (GB per second between nodes)"
        between = "" if taking.nodes == 1 else f", or say with --on what there is: {network}"
        made.notices.append(
            f"a step of {step * 1e3:.0f} ms computes for {compute * 1e3:.0f} ms and waits for the "
            "exchange of gradients: raise dataset.batch_size or train.accum_grad_batches" + between
        )
    return found


def notes_of(machine: Machine, made: Any) -> list[str]:
    """What of the machine lies idle, or cannot do what the spec asks for."""
    notes = []
    used = made.launch["processes"] * made.nodes
    if used < machine.world:
        notes.append(
            f"the run uses {used} of the {machine.world} GPUs; the hours and the price count all: "
            f"train.num_gpus={machine.gpus} train.num_nodes={machine.nodes} uses them"
        )
    precision = get_dotted(made.spec, "train.precision")
    if precision == "bf16" and not machine.has_bf16:
        notes.append(
            f"{machine.name} computes no bf16 (compute capability {machine.gpu.capability}, from "
            "8.0 on): PyTorch emulates it slowly; train.precision=fp16 is its half precision"
        )
    return notes


def describe(
    machine: Machine, made: Any, exchanged: dict[str, Any], price: str | None
) -> dict[str, Any]:
    """What a run takes there, from the estimates of its plan.

    Args:
        exchanged: what `exchange` gave.
    """
    memory = (made.estimates.get("memory_mb") or {}).get("total")
    if made.estimates.get("memory_of") == "host":  # no GPU's
        memory = None
    time = made.estimates.get("time") or {}
    found: dict[str, Any] = {
        "gpu": f"{machine.name}, {machine.memory_gb} GB, compute capability "
        f"{machine.gpu.capability} ({machine.gpu.source})",
        "gpus": machine.world,
        "cores_per_node": machine.cores,
    }
    if memory is not None:
        needed = memory * FRAGMENTED + FRAMEWORK_MB
        found["memory_gb_per_gpu"] = round(needed * _MIB / 1e9, 1)
        found["fits"] = needed * _MIB <= machine.memory_gb * 1e9 * 0.97
    found |= exchanged
    found |= _hours(machine, time, price)
    found |= _with_loaders(machine, made, found, price)
    if disk := made.estimates.get("disk_mb"):
        found["checkpoint_gb"] = round(disk["checkpoint"] * _MIB / 1e9, 2)
        found["checkpoints_gb"] = round(disk["total"] * _MIB / 1e9, 2)
    shards = get_dotted(made.spec, "train.distributed_strategy") == "fsdp"
    what = "weights gathered twice and gradients scattered" if shards else "gradients"
    found["basis"] = (
        f"not measured; {time.get('basis', 'time not known')}; {what} in fp32 by a ring at the "
        f"data sheet's {machine.gpu.link_gb:g} GB/s within a node"
        + (f" and {machine.network_gb:g} GB/s between nodes" if machine.nodes > 1 else "")
        + ", hidden behind the backward pass as far as it lasts; memory with 15 % lost to "
        "fragments and 0.6 GB for the framework"
    )
    return found


def notice_of_disk(made: Any) -> list[str]:
    """What the checkpoints take, where that is much; the disk of this machine does not matter."""
    disk = made.estimates.get("disk_mb") or {}
    whole, each = (disk.get(key, 0) * _MIB / 1e9 for key in ("total", "checkpoint"))
    if whole < LARGE_DISK_GB:
        return []
    count = disk["checkpoints"] * disk.get("trials", 1)
    text = (
        f"{count:,} checkpoints take {whole:,.0f} GB: train.keep_checkpoints=1 "
        f"keeps the newest and the best one, {each:,.1f} GB each"
    )
    return [text]


def _hours(machine: Machine, time: dict[str, Any], price: str | None) -> dict[str, Any]:
    """Hours of the run or study, likely and from to; GPU hours and money."""
    name = "seconds_study" if "seconds_study" in time else "seconds_total"
    if name not in time:
        return {}
    hours = [value / 3600 for value in (time[name], *time[f"{name}_range"])]
    likely, least, most = map(_short, hours)
    found: dict[str, Any] = {"hours": likely, "hours_range": [least, most]}
    found["gpu_hours"] = _short(hours[0] * machine.world)
    if price is not None:
        hourly = price_of(price, machine)
        found["cost"], *found["cost_range"] = (round(value * hourly, 2) for value in hours)
    return found


def _with_loaders(
    machine: Machine, made: Any, found: dict[str, Any], price: str | None
) -> dict[str, Any]:
    """Hours and money of a run whose GPUs wait for images, had it a loader process for each core:
    the processes that a spec names are a setting, and no limit of the machine."""
    time, step = made.estimates.get("time") or {}, found.get("seconds_per_step")
    training = (time.get("parts") or {}).get("training")
    needed = found.get("loader_images_per_second")
    if not (training and step and needed and made.effective_batch) or "seconds_study" in time:
        return {}
    cores = found["cores_images_per_second_per_node"] * made.nodes
    best = made.effective_batch / min(needed, cores)
    if best > (1 - SLOWED_BY_LOADERS) * step:
        return {}
    hours = (time["seconds_total"] - training * (1 - best / step)) / 3600
    workers = math.ceil(min(found["loader_cores_per_node"], machine.cores) / machine.gpus)
    more = {"num_workers_per_gpu": workers, "hours": _short(hours)}
    if price is not None:
        more["cost"] = round(hours * price_of(price, machine), 2)
    return {"with_more_loaders": more}


SLOWED_BY_LOADERS = 0.1
"""The share of a step above which a second price is worth a line."""


def _short(hours: float) -> float:
    """Hundredths, or two digits of what is less than that."""
    return round(hours, 2) if hours >= 0.1 or not hours else float(f"{hours:.2g}")
