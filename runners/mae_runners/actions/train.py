"""``mae train``: pretraining or fine-tuning, from data to checkpoints.

python -m mae_runners train -e spec.yaml train.num_epochs=2
"""

from __future__ import annotations

from typing import Any

from mae_sdk.jobs.checkpoints import CheckpointIndex

from mae_runners.context import RunContext
from mae_runners.tasks.base import make_task
from mae_runners.training import latency as cost
from mae_runners.training import position as resume
from mae_runners.training.loop import Loop


def run(spec: Any, context: RunContext) -> dict[str, Any]:
    """Trains; returns ``{"kpis", "artefacts", "best"}``. Files: checkpoints, ``checkpoints.json``, ``metrics.csv``, ``derived.json``,
    TensorBoard logs and pictures under the action's folder."""
    found = resume.find(
        context.action_dir,
        spec.train.resume_training_checkpoint_path,
        spec.model_dump(mode="json"),
        context,
    )
    task = make_task(spec, context, found is None)
    loop = Loop(task, spec, context, found)
    kpis = loop.run()
    if not context.is_main:
        return {}
    whole = (
        context.world_size == 1 or spec.train.distributed_strategy != "fsdp"
    )  # one rank alone cannot run a sharded model
    costs = cost.asked_for(
        loop.task.model,
        spec.dataset.augmentation.input_size,
        context.device,
        spec.train.stage,
        whole,
    )
    if costs:
        kpis = {**kpis, **costs}
        context.status.running("what the model costs", kpi=costs)
    index = CheckpointIndex(context.action_dir)
    best = index.choose("best")
    return {
        "kpis": kpis,
        "artefacts": [entry["file"] for entry in index.read()["checkpoints"]],
        "best": best.entry,
    }
