"""What a trained model costs to use: figures that a study with several metrics weighs against accuracy."""

from __future__ import annotations

import os
import statistics
import time

import torch
from torch import nn

VARIABLE = "MAE_TRIAL_METRICS"
"""The metrics of the study that this run is a trial of, joined by commas; set by the study."""
_SECONDS, _FEWEST, _MOST = 1.0, 5, 50


def asked_for(
    model: nn.Module,
    input_size: int | list[int],
    device: torch.device,
    stage: str,
    whole: bool = True,
) -> dict[str, float]:
    """``parameters`` and ``latency_ms`` (of a model that is whole on this rank), those of them that the study names; empty outside a study."""
    names = os.environ.get(VARIABLE, "").split(",")
    found: dict[str, float] = {}
    if "parameters" in names:
        found["parameters"] = float(sum(parameter.numel() for parameter in model.parameters()))
    if "latency_ms" in names and whole:
        found["latency_ms"] = latency_ms(model, input_size, device, stage)
    return found


@torch.inference_mode()
def latency_ms(
    model: nn.Module, input_size: int | list[int], device: torch.device, stage: str
) -> float:
    """Median milliseconds of one image through the model [1, 3, H, W] in float32, after a warm-up; the encoder alone when pretraining."""
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    images = torch.zeros(1, 3, height, width, device=device)
    was_training = model.training
    model.eval()
    call = model.encode if stage == "pretrain" else model
    times: list[float] = []
    try:
        call(images)
        begun = time.perf_counter()
        while len(times) < _FEWEST or (
            len(times) < _MOST and time.perf_counter() - begun < _SECONDS
        ):
            started = time.perf_counter()
            call(images)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append((time.perf_counter() - started) * 1e3)
    finally:
        model.train(was_training)
    return statistics.median(times)
