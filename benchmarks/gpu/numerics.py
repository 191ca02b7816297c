"""Whether a GPU gives the numbers of the CPU: losses and gradients in every precision, compiled,
against the peers, and through the runner."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mae_runners.models import build_from_config, load_pretrained
from mae_runners.models.conversion import to_our_names
from mae_runners.models.masking import random_masking
from PIL import Image
from torch import Tensor

from benchmarks import training
from benchmarks.gpu.report import Check, attempt
from benchmarks.training import DTYPES, Setting

FAMILIES = {"vit": 0.75, "convnextv2": 0.6, "hiera": 0.6}


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest value, in double precision on the CPU."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return float((a - b).abs().max()) / max(float(a.abs().max()), float(b.abs().max()), 1e-300)


def disturb(parameters: Iterable[Tensor], scale: float = 0.05) -> None:
    """Seeded noise on every parameter: zero biases and a zero GRN hide mistakes."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in parameters:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise.to(parameter), alpha=scale)


def made(family: str) -> tuple[Any, Tensor, Tensor]:
    """A small model of the family on the CPU, images and noise."""
    torch.manual_seed(0)
    model = build_from_config(training.config(family, FAMILIES[family], 2, Setting(small=True)))
    disturb(model.parameters())
    return model, torch.randn(4, 3, 64, 64), torch.rand(4, model.num_units)


def gradients(model: Any) -> dict[str, Tensor]:
    """The gradients by parameter name."""
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def backward(
    model: Any, images: Tensor, noise: Tensor, *, precision: str = "fp32", call: Any = None
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one pass on the model's device."""
    device = next(model.parameters()).device
    dtype = next(model.parameters()).dtype
    model.zero_grad(set_to_none=True)
    with torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32"):
        loss = (model if call is None else call)(images.to(device, dtype), noise.to(device)).loss
    loss.backward()
    return float(loss.detach()), gradients(model)


def cosine(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Cosine of all gradients as one vector."""
    x, y = (
        torch.cat([grads[name].detach().double().cpu().flatten() for name in sorted(a)])
        for grads in (a, b)
    )
    return float(torch.nn.functional.cosine_similarity(x, y, dim=0))


def double_precision(family: str, device: str, precision: str) -> Check:
    """The device's loss and gradients against double precision on the CPU: fp32 to rounding, bf16
    in direction."""
    model, images, noise = made(family)
    loss, grads = backward(model.double(), images, noise)
    expected = {name: grad.clone() for name, grad in grads.items()}
    found_loss, found = backward(model.float().to(device), images, noise, precision=precision)
    error = abs(found_loss - loss) / loss
    if precision == "fp32":
        worst = max(relative(found[name], grad) for name, grad in expected.items())
        return Check(
            f"{family} {precision} against fp64",
            error < 1e-5 and worst < 1e-3,
            {"loss": error, "gradients": worst},
        )
    alike = cosine(found, expected)
    return Check(
        f"{family} {precision} against fp64",
        error < 2e-2 and alike > 0.99,
        {"loss": error, "cosine": alike},
    )


def scaled_training(family: str, device: str) -> Check:
    """Ten fp16 steps with a gradient scaler: finite, and the loss falls."""
    model, images, noise = made(family)
    model.to(device)
    images, noise = images.to(device), noise.to(device)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.float16):
            loss = model(images, noise).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(float(loss))
    finite = all(np.isfinite(losses)) and all(
        bool(torch.isfinite(p).all()) for p in model.parameters()
    )
    figures = {"first": losses[0], "last": losses[-1], "scale": scaler.get_scale()}
    return Check(
        f"{family} fp16 with gradient scaler",
        finite and losses[-1] < losses[0] and scaler.get_scale() >= 1.0,
        figures,
    )


def compiled(family: str, device: str, backend: str) -> Check:
    """The compiled model's loss and gradients against the eager one's."""
    model, images, noise = made(family)
    model.to(device)
    loss, grads = backward(model, images, noise)
    expected = {name: grad.clone() for name, grad in grads.items()}
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found_loss, found = backward(model, images, noise, call=torch.compile(model, backend=backend))
    breaks = torch._dynamo.utils.counters["graph_break"]
    worst = max(relative(found[name], grad) for name, grad in expected.items())
    error = abs(found_loss - loss) / loss
    figures = {
        "loss": error,
        "gradients": worst,
        "graph_breaks": [reason[:80] for reason in breaks],
    }
    return Check(f"{family} compiled against eager", error < 1e-5 and worst < 1e-3, figures)


def against_peer(family: str, device: str) -> Check:
    """Loss and gradients against the peer's with its weights and masks, fp32 on the device."""
    setting = Setting(small=True, device=device)
    torch.manual_seed(1)
    ours, images, noise = made(family)
    if family == "convnextv2":
        expected_loss = training.masked_dense_loss(
            ours.to(device), images.to(device), noise.to(device)
        )
        expected_loss.backward()
        expected = {name: grad.clone() for name, grad in gradients(ours).items()}
        return judged(family, "masked-dense", ours, images, noise, float(expected_loss), expected)
    peer = (training.vit_peer if family == "vit" else training.hiera_peer)(setting)
    disturb((p for p in peer.parameters() if p.requires_grad), 0.02)
    state = peer.state_dict()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peer.pth"
        torch.save({"model": state} if family == "vit" else {"model_state": state}, path)
        load_pretrained(ours, path)
    peer.to(device)
    if family == "vit":
        loss = peer(images.to(device), noise=noise.to(device)).loss
    else:
        hidden = random_masking(noise, FAMILIES[family]).hidden_map
        loss = peer(images.to(device), mask=~hidden.to(device))[0]
    loss.backward()
    expected = to_our_names(gradients(peer))
    return judged(
        family,
        "transformers" if family == "vit" else "hiera-transformer",
        ours.to(device),
        images,
        noise,
        float(loss),
        expected,
    )


def judged(
    family: str,
    peer: str,
    ours: Any,
    images: Tensor,
    noise: Tensor,
    expected_loss: float,
    expected: dict[str, Tensor],
) -> Check:
    """Ours against what the peer gave."""
    loss, found = backward(ours, images, noise)
    found = {
        name if name in expected else name.removeprefix("encoder."): grad
        for name, grad in found.items()
    }
    shared = found.keys() & expected.keys()
    worst = max(relative(found[name], expected[name]) for name in shared)
    error = abs(loss - expected_loss) / expected_loss
    passed = error < 1e-4 and worst < 2e-3 and len(shared) == len(found)
    return Check(
        f"{family} fp32 against {peer}",
        passed,
        {"loss": error, "gradients": worst, "parameters": len(shared)},
    )


def write_images(folder: Path, count: int = 16) -> Path:
    """Smooth random pictures in two class folders."""
    generator = np.random.default_rng(0)
    for number in range(count):
        target = folder / f"class_{number % 2}" / f"{number:03}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((64, 64), Image.Resampling.BICUBIC).save(target)
    return folder


def run_training(
    data: Path, results: Path, family: str, device: str, **changes: Any
) -> tuple[int, list[float], str]:
    """A pretraining of two epochs by the runner: exit code, training losses by epoch, the end of
    its output."""
    shape: dict[str, Any] = {
        "arch": Setting(small=True).arch(family),
        "decoder_embed_dim": 64,
        "decoder_depth": 1,
    }
    spec = {
        "model": {**shape, **({} if family == "convnextv2" else {"decoder_num_heads": 4})},
        "dataset": {
            "train_data_sources": str(data),
            "batch_size": 8,
            "num_workers_per_gpu": 0,
            "augmentation": {"input_size": 64},
        },
        "train": {
            "num_epochs": 2,
            "accelerator": "cpu" if device == "cpu" else "gpu",
            "precision": "fp32",
            "mask_ratio": 0.5,
        },
        "results_dir": str(results),
    }
    for name, value in changes.items():
        spec[name.split("__")[0]][name.split("__")[1]] = value
    path = results.with_suffix(".json")
    path.write_text(json.dumps(spec))
    command = [sys.executable, "-m", "mae_runners", "train", "-e", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    return done.returncode, losses_of(results), (done.stdout + done.stderr)[-600:]


def losses_of(results: Path) -> list[float]:
    """The training loss of each epoch, from `status.json`."""
    status = results / "status.json"
    rows = [json.loads(line) for line in status.read_text().splitlines()] if status.exists() else []
    found = {
        row["epoch"]: row["kpi"]["train_loss"]
        for row in rows
        if "train_loss" in (row.get("kpi") or {}) and "epoch" in row
    }
    return [float(found[epoch]) for epoch in sorted(found)]


def through_the_runner(
    data: Path, folder: Path, family: str, device: str, name: str, changes: dict[str, Any]
) -> Check:
    """The train action runs to its end with finite losses."""
    code, losses, output = run_training(
        data, folder / f"{family}-{name}", family, device, **changes
    )
    passed = code == 0 and len(losses) == 2 and all(np.isfinite(losses))
    return Check(
        f"runner: {family} {name}",
        passed,
        {"losses": [round(loss, 4) for loss in losses]},
        None if passed else output,
    )


def several_ranks(data: Path, folder: Path, device: str, strategy: str, ranks: int) -> Check:
    """As many images per step on several devices as on one: the same loss."""
    name = f"runner: vit {strategy} on {ranks} devices"
    if device != "cpu" and torch.cuda.device_count() < 2:
        return Check(name, None, reason="this machine has one GPU")
    precision = "bf16" if strategy == "fsdp" else "fp32"
    single = run_training(
        data, folder / f"{strategy}-one", "vit", device, train__precision=precision
    )
    changes = {
        "train__num_gpus": ranks,
        "train__distributed_strategy": strategy,
        "dataset__batch_size": 8 // ranks,
    }
    several = run_training(
        data, folder / f"{strategy}-several", "vit", device, train__precision=precision, **changes
    )
    if single[0] or several[0] or len(single[1]) != 2 or len(several[1]) != 2:
        return Check(
            name,
            False,
            reason=(single[2] if single[0] else several[2]) or "no losses in status.json",
        )
    error = max(abs(a - b) / a for a, b in zip(single[1], several[1], strict=True))
    return Check(name, error < (2e-2 if strategy == "fsdp" else 1e-4), {"loss": error})


def run(device: str, smoke: bool) -> list[Check]:
    """All checks; the smoke run tries each kind once."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    families = list(FAMILIES)
    checks: list[tuple[str, Callable[[], Check]]] = []
    for family in families:
        for precision in ("fp32", "bf16"):
            checks.append(
                (
                    f"{family} {precision}",
                    lambda f=family, p=precision: double_precision(f, device, p),
                )
            )
        checks.append((f"{family} fp16", lambda f=family: scaled_training(f, device)))
        checks.append(
            (
                f"{family} compiled",
                lambda f=family: compiled(f, device, "aot_eager" if smoke else "inductor"),
            )
        )
        checks.append((f"{family} peer", lambda f=family: against_peer(f, device)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_images(folder / "images")
        variants: dict[str, dict[str, Any]] = {"fp32": {}}
        if not smoke:
            variants |= {kind: {"train__precision": kind} for kind in ("bf16", "fp16")}
            variants |= {"bf16 compiled": {"train__precision": "bf16", "train__compile": True}}
        for family in families[:1] if smoke else families:
            for kind, changes in variants.items():
                checks.append(
                    (
                        f"runner {family} {kind}",
                        lambda f=family, k=kind, c=changes: through_the_runner(
                            data, folder, f, device, k, c
                        ),
                    )
                )
        ranks = (
            2 if device == "cpu" else max(2, 2 ** int(np.log2(max(1, torch.cuda.device_count()))))
        )
        for strategy in ("ddp",) if device == "cpu" else ("ddp", "fsdp"):
            checks.append(
                (
                    f"runner {strategy}",
                    lambda s=strategy: several_ranks(data, folder, device, s, min(ranks, 8)),
                )
            )
        return [attempt(label, check) for label, check in checks]
