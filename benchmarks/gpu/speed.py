"""Images a second, model FLOPs utilization and peak memory of ours and the peers: forward, backward
and fused AdamW, in one process.

Every side of a case is built once; the rounds of the sides are interleaved, and the figure is the
median over rounds of the ratio of times. The arithmetic that MFU counts is what our exact
implementation needs (matrix products and convolutions on what a mask leaves), for every side alike:
work that a peer does for masked positions is not counted in its favor.
"""

from __future__ import annotations

import gc
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import training
from benchmarks.training import Setting, Step

TARGETS = {"fcmae_0.6": 3.0, "fcmae_0.75": 3.0, "vit_base": 1.5, "hiera_tiny": 1.5}
#: Dense bf16/fp16 TFLOP/s with fp32 sums, from NVIDIA's data sheets; the first name that the
#: device's name contains.
PEAK_TFLOPS = {
    "GB200": 2500, "B200": 2250, "GH200": 989, "H200": 989, "H100 PCIe": 756, "H100 NVL": 835,
    "H100": 989, "A100": 312, "L40S": 362, "L40": 181, "L4": 121,
    "A10G": 70, "A10": 125, "RTX 4090": 165, "RTX 5090": 209,
}  # fmt: skip
STEPS = 4  # in one timing


def peak_tflops(device_name: str) -> float | None:
    """The device's dense half-precision peak, or None where it is not in the table."""
    return next((float(peak) for name, peak in PEAK_TFLOPS.items() if name in device_name), None)


def needed_flops(case: str, setting: Setting) -> float:
    """Floating-point operations of one image's forward and backward pass."""
    two = Setting(batch=2, device=setting.device, small=setting.small)
    build = training.sides(case, two)["ours"]
    with torch.backends.mkldnn.flags(enabled=False):
        step = build()
        with FlopCounterMode(display=False) as counter:
            step()
    return counter.get_total_flops() / 2


def synchronize(device: str) -> None:
    """Waits until the device has done its work."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def timed(step: Step, device: str, steps: int) -> float:
    """Seconds of one step, averaged over some that are queued together."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize(device)
    return (time.perf_counter() - start) / steps


def prepare(build: Any, device: str) -> tuple[Step, int | None]:
    """The step of one side after three runs, and its peak memory in MiB: parameters, optimizer and
    activations."""
    gc.collect()
    if device == "cpu":
        step = build()
        step()
        return step, None
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step = build()
    for _ in range(3):
        step()
    synchronize(device)
    return step, round((torch.cuda.max_memory_allocated(device) - before) / 2**20)


def measure(case: str, setting: Setting, rounds: int) -> dict[str, Any]:
    """All figures of one case.

    Sides: ours and the peer, eager and by torch.compile; what a side cannot do is said in
    ``errors``.
    """
    builders = {f"{name}{suffix}": build for suffix, on in (("", False), (" compiled", True))
                for name, build in training.sides(case, setting, compiled=on).items()}  # fmt: skip
    peer = next(name for name in builders if not name.startswith("ours"))
    steps: dict[str, Step] = {}
    peaks: dict[str, int | None] = {}
    errors: dict[str, str] = {}
    for name, build in builders.items():
        try:
            steps[name], peaks[name] = prepare(build, setting.device)
        except (
            Exception
        ) as error:  # a compiler or an allocator may fail for one side: the others still count
            if name in ("ours", peer):
                raise
            errors[name] = (
                f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
            )
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        for name, step in list(steps.items())[:: 1 if number % 2 else -1]:
            times[name].append(timed(step, setting.device, 1 if setting.small else STEPS))
    flops = needed_flops(case, setting)
    peak = (
        peak_tflops(torch.cuda.get_device_name(setting.device)) if setting.device != "cpu" else None
    )
    median = {name: training.quantiles(values)[1] for name, values in times.items()}
    figures = {
        name: {
            "images_per_s": round(setting.batch / seconds, 3),
            "tflops": round(flops * setting.batch / seconds / 1e12, 3),
            "mfu": round(flops * setting.batch / seconds / 1e12 / peak, 4)
            if peak and setting.precision != "fp32"
            else None,
            "peak_mib": peaks[name],
        }
        for name, seconds in median.items()
    }
    ratios = {
        f"{a} / {b}": ratio(times[a], times[b]) for a, b in pairs(peer) if a in times and b in times
    }
    best = max(value["median"] for name, value in ratios.items() if name.endswith(f" / {peer}"))
    return {
        "case": case,
        "peer": peer,
        "batch": setting.batch,
        "precision": setting.precision,
        "rounds": rounds,
        "gflops_per_image": round(flops / 1e9, 3),
        "peak_tflops": peak,
        "sides": figures,
        "ratios": ratios,
        "target": None if setting.small else TARGETS[case],  # tiny shapes say nothing about speed
        "speedup_over_eager_peer": best,
        "errors": errors,
    }


def pairs(peer: str) -> list[tuple[str, str]]:
    """What is compared with what: eager with eager, compiled with eager, compiled with compiled."""
    return [("ours", peer), ("ours compiled", peer), ("ours compiled", f"{peer} compiled")]


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """How many times faster ours is: median and quartiles over rounds."""
    low, middle, high = training.quantiles([b / a for a, b in zip(ours, theirs, strict=True)])
    return {"median": round(middle, 3), "low": round(low, 3), "high": round(high, 3)}


def lines(result: dict[str, Any]) -> list[str]:
    """A case for the terminal."""
    target = result["target"]
    verdict = "a rehearsal"
    speedup = result["speedup_over_eager_peer"]
    if target is not None:
        verdict = f"target {target}× {'reached' if speedup >= target else 'MISSED'}"
    out = [f"{result['case']}: {speedup:.2f}× over {result['peer']} (eager); {verdict}"]
    for name, side in result["sides"].items():
        mfu = "MFU unknown" if side["mfu"] is None else f"MFU {side['mfu']:.1%}"
        out.append(
            f"  {name:30} {side['images_per_s']:9.1f} images/s  {side['tflops']:8.2f} TFLOP/s"
            f"  {mfu}  peak {side['peak_mib']} MiB"
        )
    out += [
        f"  {name}: {value['median']:.2f}× ({value['low']:.2f}–{value['high']:.2f})"
        for name, value in result["ratios"].items()
    ]
    return out + [f"  {name}: {text}" for name, text in result["errors"].items()]
