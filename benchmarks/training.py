"""Training steps per second on this machine against the implementations users can pick today: `python benchmarks/training.py [-o FILE]`.

Every pair runs in this one process, its rounds interleaved so that a change in the machine's load meets both sides, on the same images,
masks
and precision, forward and backward; the figure is the median over rounds of the ratio of times, with the quartiles as its spread.
Peak memory is what building and training one side alone adds to the resident set of a fresh process (Linux).

- FCMAE: ours against the same network run dense with masked cells set to zero (convnextv2_tiny, 224 px, batch 8).
- ViT-MAE: against `transformers.ViTMAEForPreTraining`; Hiera-MAE: against `hiera-transformer`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mae_runners.models import build_from_config
from mae_runners.models.masking import draw_mask

Step = Callable[[], None]
DECODER = {"decoder_num_heads": 16, "decoder_mlp_ratio": 4.0, "decoder_embed_dim": 512}
CASES = ("fcmae_0.6", "fcmae_0.75", "vit_base", "hiera_tiny")
TARGETS = {"fcmae_0.6": 2.5, "fcmae_0.75": 3.2, "vit_base": 0.95, "hiera_tiny": 1.2}


def config(arch: str, mask_ratio: float, depth: int) -> dict[str, Any]:
    """Plain arguments of the recipe's autoencoder at 224 px."""
    base = {"arch": arch, "input_size": [224, 224], "mask_ratio": mask_ratio, "norm_pix_loss": True}
    return {**base, **DECODER, "decoder_depth": depth}


def step_of(model: Any, loss: Callable[[], torch.Tensor]) -> Step:
    """One forward and backward pass."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        loss().backward()

    return step


def plain(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """A linear layer as `nn.Linear` runs it."""
    return F.linear(x, layer.weight, layer.bias)


def dense_block(block: Any, x: torch.Tensor, cover: torch.Tensor | None) -> torch.Tensor:
    """One ConvNeXt V2 block on ``[B, C, H, W]``, with torch's own depthwise convolution and linear layers."""
    conv, mlp = block.conv_dw, block.mlp
    y = F.conv2d(x, conv.weight, conv.bias, padding=3, groups=x.shape[1]).permute(0, 2, 3, 1)
    y = mlp.act(plain(mlp.fc1, block.norm(y)))
    seen = y if cover is None else y * cover.permute(0, 2, 3, 1)
    response = seen.norm(p=2, dim=(1, 2), keepdim=True)
    y = torch.addcmul(mlp.grn.bias, y, 1 + mlp.grn.weight * response / (response.mean(dim=-1, keepdim=True) + 1e-6))
    y = x + plain(mlp.fc2, y).permute(0, 3, 1, 2)
    return y if cover is None else y * cover


def masked_dense_loss(model: Any, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """FCMAE the usual way without a sparse library: dense layers and a mask after each, GRN over visible cells; channels-last memory, its
    best layout."""
    mask = draw_mask(noise, model.mask_ratio)
    shown = (~mask.hidden_map).to(images.dtype).view(-1, 1, *model.units)
    encoder = model.encoder
    x = encoder.stem(images).contiguous(memory_format=torch.channels_last)
    for number, stage in enumerate(encoder.stages):
        side = 8 >> number
        cover = shown.repeat_interleave(side, 2).repeat_interleave(side, 3)
        x = (stage.downsample(x) if number else x) * cover
        for block in stage.blocks:
            x = dense_block(block, x, cover)
    x = plain(model.proj, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    x = x * shown + model.mask_token.view(1, -1, 1, 1) * (1 - shown)
    for block in model.decoder:
        x = dense_block(block, x, None)
    x = plain(model.pred, x.permute(0, 2, 3, 1).flatten(1, 2))
    target = images.unfold(2, 32, 32).unfold(3, 32, 32).permute(0, 2, 3, 4, 5, 1).flatten(1, 2).flatten(2)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    loss = (x - target).square().mean(-1)
    return (loss * mask.hidden_map).sum() / mask.hidden_map.sum()


def sides(case: str, batch: int) -> dict[str, Callable[[], Step]]:
    """Builders of our step and the peer's."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, 224, 224)

    def ours(arch: str, mask_ratio: float, depth: int) -> tuple[Any, torch.Tensor]:
        model = build_from_config(config(arch, mask_ratio, depth))
        return model, torch.rand(batch, model.num_units)

    if case.startswith("fcmae"):
        ratio = float(case.split("_")[1])

        def build(loss: Callable[..., torch.Tensor]) -> Step:
            model, noise = ours("convnextv2_tiny", ratio, 1)
            return step_of(model, lambda: loss(model, images, noise))

        return {
            "ours": lambda: build(lambda model, x, noise: model(x, noise).loss),
            "masked-dense": lambda: build(masked_dense_loss),
        }
    if case == "vit_base":

        def build_ours() -> Step:
            model, noise = ours("vit_base_patch16", 0.75, 8)
            return step_of(model, lambda: model(images, noise).loss)

        def build_peer() -> Step:
            from transformers import ViTMAEConfig, ViTMAEForPreTraining

            peer = ViTMAEForPreTraining(ViTMAEConfig(norm_pix_loss=True, mask_ratio=0.75))
            return step_of(peer, lambda: peer(images).loss)

        return {"ours": build_ours, "transformers": build_peer}

    def build_hiera() -> Step:
        model, noise = ours("hiera_tiny_224", 0.6, 8)
        return step_of(model, lambda: model(images, noise).loss)

    def build_hiera_peer() -> Step:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from hiera.hiera_mae import mae_hiera_tiny_224
        peer = mae_hiera_tiny_224()
        return step_of(peer, lambda: peer(images, mask_ratio=0.6)[0])

    return {"ours": build_hiera, "hiera-transformer": build_hiera_peer}


def peak_memory(case: str, side: str, batch: int) -> float:
    """Peak resident set of training steps, less what the process needs before them, in MiB; in a process of its own."""
    command = [sys.executable, __file__, "--memory", case, side, "--batch", str(batch), "--threads", str(torch.get_num_threads())]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure_memory(case: str, side: str, batch: int) -> float:
    """As `peak_memory`, in this process."""
    import hiera.hiera_mae  # noqa: F401
    import transformers.models.vit_mae.modeling_vit_mae  # noqa: F401 (so that imports are not counted for one side only)

    before, _ = _resident()
    step = sides(case, batch)[side]()
    for _ in range(3):
        step()
    return max(0.0, _resident()[1] - before)


def _resident() -> tuple[float, float]:
    """Resident set of this process now and at its peak, in MiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(lines["VmRSS"].split()[0]) / 1024, float(lines["VmHWM"].split()[0]) / 1024


def timed(step: Step) -> float:
    """Seconds of one step; with one thread its processor time, which other work on the machine hardly moves."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    step()
    return clock() - start


def quantiles(values: list[float]) -> list[float]:
    """First quartile, median, third quartile."""
    return torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()


def measure(case: str, batch: int, rounds: int) -> dict[str, Any]:
    """Times, ratio and memory of one case."""
    steps = {name: build() for name, build in sides(case, batch).items()}
    for step in steps.values():
        step()
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        order = list(steps.items())
        for name, step in order if number % 2 else reversed(order):
            times[name].append(timed(step))
    peer = next(name for name in steps if name != "ours")
    ratios = [b / a for a, b in zip(times["ours"], times[peer], strict=True)]
    low, middle, high = quantiles(ratios)
    return {
        "case": case,
        "peer": peer,
        "batch": batch,
        "rounds": rounds,
        "speedup": round(middle, 3),
        "speedup_quartiles": [round(low, 3), round(high, 3)],
        "target": TARGETS[case],
        "seconds": {name: round(quantiles(values)[1], 4) for name, values in times.items()},
        "peak_mib": {name: round(peak_memory(case, name, batch)) for name in steps},
    }


def machine() -> dict[str, Any]:
    """Processor model, threads and versions; nothing that names the machine."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        model = next(
            (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), model
        )
    from importlib.metadata import version

    packages = ("torch", "timm", "transformers", "hiera-transformer")
    return {"cpu": model, "threads": torch.get_num_threads(), "cores": os.cpu_count(), **{name: version(name) for name in packages}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=CASES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        print(measure_memory(*options.memory, options.batch))
        return
    results = []
    for case in options.cases:
        result = measure(case, options.batch, options.rounds)
        results.append(result)
        low, high = result["speedup_quartiles"]
        memory = ", ".join(f"{name} {value} MiB" for name, value in result["peak_mib"].items())
        verdict = "reached" if result["speedup"] >= result["target"] else "MISSED"
        figures = f"{case:12} {result['speedup']:.2f}× ({low:.2f}–{high:.2f}) over {result['peer']}"
        print(f"{figures}; target {result['target']}× {verdict}; peak {memory}", flush=True)
    if options.output:
        report = {"command": "python benchmarks/training.py", "machine": machine(), "results": results}
        options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
