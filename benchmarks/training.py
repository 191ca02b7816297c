"""Training steps per second on this machine against the implementations users can pick today:
`python benchmarks/training.py [-o FILE]`.

Every pair runs in this one process, its rounds interleaved so that a change in the machine's load
meets both sides, on the same images, masks
and precision, forward and backward; the figure is the median over rounds of the ratio of times,
with the quartiles as its spread. Peak memory is what building and training one side alone adds to
the resident set of a fresh process (Linux).

- FCMAE: ours against the same network run dense with masked cells set to zero, by PyTorch's own
layers (convnextv2_tiny, 224 px, batch 8).
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mae_runners.models import build_from_config
from mae_runners.models.masking import random_masking

Step = Callable[[], None]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CASES = ("fcmae_0.6", "fcmae_0.75", "vit_base", "hiera_tiny")
TARGETS = {"fcmae_0.6": 2.5, "fcmae_0.75": 3.2, "vit_base": 0.95, "hiera_tiny": 1.2}


@dataclass(frozen=True)
class Setting:
    """Where and how the steps of a case run; `benchmarks/gpu.sh` uses others than the defaults."""

    batch: int = 8
    device: str = "cpu"
    precision: str = "fp32"  # fp32, or the type that autocast computes in: bf16, fp16
    optimizer: bool = False  # AdamW after each backward pass (fused), for both sides
    small: bool = False  # shapes that show that the code runs, and nothing else

    @property
    def size(self) -> int:
        """Pixels a side of the images."""
        return 64 if self.small else 224

    def arch(self, family: str) -> str:
        """The architecture of a family."""
        usual = {
            "convnextv2": "convnextv2_tiny",
            "vit": "vit_base_patch16",
            "hiera": "hiera_tiny_224",
        }
        little = {
            "convnextv2": "convnextv2_atto",
            "vit": "vit_tiny_patch16",
            "hiera": "hiera_tiny_224",
        }
        return (little if self.small else usual)[family]

    def decoder(self, depth: int) -> dict[str, Any]:
        """Shape of the decoder."""
        shape = (
            {"decoder_embed_dim": 64, "decoder_num_heads": 4}
            if self.small
            else {"decoder_embed_dim": 512, "decoder_num_heads": 16}
        )
        return {
            **shape,
            "decoder_mlp_ratio": 4.0,
            "decoder_depth": min(depth, 2) if self.small else depth,
        }


def config(family: str, mask_ratio: float, depth: int, setting: Setting) -> dict[str, Any]:
    """Plain arguments of the recipe's autoencoder."""
    base = {
        "arch": setting.arch(family),
        "input_size": [setting.size] * 2,
        "mask_ratio": mask_ratio,
        "norm_pix_loss": True,
    }
    return {**base, **setting.decoder(depth)}


def step_of(model: Any, loss: Callable[[], torch.Tensor], setting: Setting) -> Step:
    """One forward and backward pass, and the optimizer's step where it belongs to the setting."""
    optimizer = (
        torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True) if setting.optimizer else None
    )
    scaler = torch.amp.GradScaler(setting.device, enabled=setting.precision == "fp16")

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(
            setting.device, dtype=DTYPES[setting.precision], enabled=setting.precision != "fp32"
        ):
            value = loss()
        scaler.scale(value).backward()
        if optimizer is not None:
            scaler.step(optimizer)
            scaler.update()

    return step


def plain(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """A linear layer as `nn.Linear` runs it."""
    return F.linear(x, layer.weight, layer.bias)


def dense_block(block: Any, x: torch.Tensor, cover: torch.Tensor | None) -> torch.Tensor:
    """One ConvNeXt V2 block on ``[B, C, H, W]``, with torch's own depthwise convolution and linear
    layers."""
    conv, mlp = block.conv_dw, block.mlp
    y = F.conv2d(x, conv.weight, conv.bias, padding=3, groups=x.shape[1]).permute(0, 2, 3, 1)
    y = mlp.act(plain(mlp.fc1, block.norm(y)))
    seen = y if cover is None else y * cover.permute(0, 2, 3, 1)
    response = seen.norm(p=2, dim=(1, 2), keepdim=True)
    y = torch.addcmul(
        mlp.grn.bias,
        y,
        1 + mlp.grn.weight * response / (response.mean(dim=-1, keepdim=True) + 1e-6),
    )
    y = x + plain(mlp.fc2, y).permute(0, 3, 1, 2)
    return y if cover is None else y * cover


def masked_dense_loss(model: Any, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """FCMAE the usual way without a sparse library: dense layers and a mask after each, GRN over
    visible cells; channels-last memory, its
    best layout."""
    mask = random_masking(noise, model.mask_ratio)
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
    target = (
        images.unfold(2, 32, 32)
        .unfold(3, 32, 32)
        .permute(0, 2, 3, 4, 5, 1)
        .flatten(1, 2)
        .flatten(2)
    )
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    loss = (x - target).square().mean(-1)
    return (loss * mask.hidden_map).sum() / mask.hidden_map.sum()


def sides(case: str, setting: Setting, *, compiled: bool = False) -> dict[str, Callable[[], Step]]:
    """Builders of our step and the peer's; ``compiled``: by `torch.compile`."""
    torch.manual_seed(0)
    images = torch.randn(setting.batch, 3, setting.size, setting.size).to(setting.device)

    def compile_if(function: Any) -> Any:
        return (
            torch.compile(function, backend="aot_eager" if setting.small else "inductor")
            if compiled
            else function
        )

    def ours(family: str, mask_ratio: float, depth: int) -> tuple[Any, torch.Tensor]:
        model = build_from_config(config(family, mask_ratio, depth, setting)).to(setting.device)
        return model, torch.rand(setting.batch, model.num_units, device=setting.device)

    def build_ours(family: str, mask_ratio: float, depth: int) -> Step:
        model, noise = ours(family, mask_ratio, depth)
        call = compile_if(model)
        return step_of(model, lambda: call(images, noise).loss, setting)

    if case.startswith("fcmae"):
        ratio = float(case.split("_")[1])

        def build_dense() -> Step:
            model, noise = ours("convnextv2", ratio, 1)
            loss = compile_if(masked_dense_loss)
            return step_of(model, lambda: loss(model, images, noise), setting)

        return {"ours": lambda: build_ours("convnextv2", ratio, 1), "masked-dense": build_dense}
    if case == "vit_base":

        def build_peer() -> Step:
            peer = vit_peer(setting).to(setting.device)
            call = compile_if(peer)
            return step_of(peer, lambda: call(images).loss, setting)

        return {"ours": lambda: build_ours("vit", 0.75, 8), "transformers": build_peer}

    def build_hiera_peer() -> Step:
        peer = hiera_peer(setting).to(setting.device)
        call = compile_if(peer)
        return step_of(peer, lambda: call(images, mask_ratio=0.6)[0], setting)

    return {"ours": lambda: build_ours("hiera", 0.6, 8), "hiera-transformer": build_hiera_peer}


def vit_peer(setting: Setting) -> Any:
    """The ViT-MAE of `transformers` in the setting's shape."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    decoder = setting.decoder(8)
    shape: dict[str, Any] = {
        "image_size": setting.size,
        "layer_norm_eps": 1e-6,  # as published
        "decoder_hidden_size": decoder["decoder_embed_dim"],
        "decoder_num_attention_heads": decoder["decoder_num_heads"],
        "decoder_intermediate_size": 4 * decoder["decoder_embed_dim"],
        "decoder_num_hidden_layers": decoder["decoder_depth"],
    }
    if setting.small:
        shape |= {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    return ViTMAEForPreTraining(ViTMAEConfig(norm_pix_loss=True, mask_ratio=0.75, **shape))


def hiera_peer(setting: Setting) -> Any:
    """The Hiera-MAE of `hiera-transformer` in the setting's shape."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from hiera.hiera_mae import mae_hiera_tiny_224
    decoder = {
        name: value for name, value in setting.decoder(8).items() if name != "decoder_mlp_ratio"
    }
    return mae_hiera_tiny_224(input_size=(setting.size, setting.size), **decoder)


def peak_memory(case: str, side: str, batch: int) -> float:
    """Peak resident set of training steps, less what the process needs before them, in MiB; in a
    process of its own."""
    command = [
        sys.executable,
        __file__,
        "--memory",
        case,
        side,
        "--batch",
        str(batch),
        "--threads",
        str(torch.get_num_threads()),
    ]
    return float(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    )


def measure_memory(case: str, side: str, batch: int) -> float:
    """As `peak_memory`, in this process."""
    import hiera.hiera_mae  # noqa: F401
    import transformers.models.vit_mae.modeling_vit_mae  # noqa: F401 (so that imports are not counted for one side only)

    before, _ = _resident()
    step = sides(case, Setting(batch))[side]()
    for _ in range(3):
        step()
    return max(0.0, _resident()[1] - before)


def _resident() -> tuple[float, float]:
    """Resident set of this process now and at its peak, in MiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(lines["VmRSS"].split()[0]) / 1024, float(lines["VmHWM"].split()[0]) / 1024


def timed(step: Step) -> float:
    """Seconds of one step; with one thread its processor time, which other work on the machine
    hardly moves."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    step()
    return clock() - start


def quantiles(values: list[float]) -> list[float]:
    """First quartile, median, third quartile."""
    return (
        torch.tensor(values, dtype=torch.float64)
        .quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
        .tolist()
    )


def measure(case: str, batch: int, rounds: int) -> dict[str, Any]:
    """Times, ratio and memory of one case."""
    steps = {name: build() for name, build in sides(case, Setting(batch)).items()}
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
            (
                line.split(":")[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            model,
        )
    from importlib.metadata import version

    packages = ("torch", "timm", "transformers", "hiera-transformer")
    return {
        "cpu": model,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        **{name: version(name) for name in packages},
    }


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
        report = {
            "command": "python benchmarks/training.py",
            "machine": machine(),
            "results": results,
        }
        options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
