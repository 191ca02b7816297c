"""What a trained model costs to use: metrics that a study may weigh against accuracy."""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import torch

VARIABLE = "MAE_TRIAL_METRICS"
"""The metrics of the study that this run is a trial of, joined by commas; set by the study."""
SECONDS = 1.0
MIN_REPEATS, MAX_REPEATS = 5, 50


def asked_for(
    model: Any, input_size: int | list[int], device: torch.device, stage: str, whole: bool = True
) -> dict[str, float]:
    """``parameters`` and ``latency_ms``, those of them that the study names; empty outside one.

    Args:
        whole: whether this rank holds the whole model; else it cannot run it alone.
    """
    names = os.environ.get(VARIABLE, "").split(",")
    found: dict[str, float] = {}
    if "parameters" in names:
        found["parameters"] = float(sum(parameter.numel() for parameter in model.parameters()))
    if "latency_ms" in names and whole:
        found["latency_ms"] = latency_ms(model, input_size, device, stage)
    return found


@torch.inference_mode()
def latency_ms(model: Any, input_size: int | list[int], device: torch.device, stage: str) -> float:
    """Median milliseconds of one image ``[1, C, H, W]`` through the model in float32, after a
    warm-up; of the encoder alone when pretraining."""
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    images = torch.zeros(1, model.in_chans, height, width, device=device)
    was_training = model.training
    model.eval()
    run = model.encode if stage == "pretrain" else model
    times: list[float] = []
    try:
        run(images)
        began = time.perf_counter()
        while len(times) < MIN_REPEATS or (
            len(times) < MAX_REPEATS and time.perf_counter() - began < SECONDS
        ):
            started = time.perf_counter()
            run(images)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append((time.perf_counter() - started) * 1e3)
    finally:
        model.train(was_training)
    return statistics.median(times)
