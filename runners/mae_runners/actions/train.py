"""``mae train``: pretraining or fine-tuning, from data to checkpoints.

python -m mae_runners train -e spec.yaml train.num_epochs=2
"""

from __future__ import annotations

from typing import Any

from mae_sdk.files import remove_leftovers
from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_sdk.jobs.metrics import last_and_best
from mae_sdk.jobs.status import read_status
from mae_skill.spec import ExperimentSpec

from mae_runners.context import RunContext
from mae_runners.tasks.base import Task
from mae_runners.tasks.classify import ClassificationTask
from mae_runners.tasks.multi_label import MultiLabelTask
from mae_runners.tasks.pretrain import PretrainTask
from mae_runners.tasks.segment import SegmentationTask
from mae_runners.training import latency, position
from mae_runners.training.loop import TrainLoop


def run(spec: ExperimentSpec, context: RunContext) -> dict[str, Any]:
    """Trains. Files in the action's folder: checkpoints, ``checkpoints.json``, ``metrics.csv``,
    ``derived.json``, TensorBoard logs and images.

    Returns:
        ``{"kpis", "artefacts", "best", "best_metrics"}``, ``left_out`` where images were
        unreadable, and ``doubts`` where nothing was learned; empty on ranks above 0.
    """
    if context.is_main:  # what a killed run has left; no other run may be in this folder
        for folder in {context.results_dir, context.action_dir}:
            remove_leftovers(folder, links=True)
    stored = position.find(
        context.action_dir,
        spec.train.resume_training_checkpoint_path,
        spec.model_dump(mode="json"),
        context,
    )
    task = make_task(spec, context, stored is None)
    loop = TrainLoop(task, spec, context, stored)
    kpis = loop.run()
    left_out = loop.left_out()
    if not context.is_main:
        return {}

    # One rank alone cannot run a sharded model.
    whole = context.world_size == 1 or spec.train.distributed_strategy != "fsdp"
    input_size = spec.dataset.augmentation.input_size
    costs = latency.asked_for(task.model, input_size, context.device, spec.train.stage, whole)
    if costs:
        kpis = {**kpis, **costs}
        context.status.running("what the model costs", kpi=costs)

    index = CheckpointIndex(context.action_dir)
    doubts = task.doubts()
    for one in doubts:
        context.warn(one)
    return {
        "kpis": kpis,
        "artefacts": [entry["file"] for entry in index.read()["checkpoints"]],
        "best": index.choose("best").entry,
        "best_metrics": _best(task, context),
        **({"left_out": left_out} if left_out else {}),
        **({"doubts": doubts} if doubts else {}),
    }


def _best(task: Task, context: RunContext) -> dict[str, Any]:
    """The best value of every metric over all epochs and attempts, said beside the last one."""
    lines = read_status(context.results_dir / "status.json")
    last, best = last_and_best(lines, task.metrics_about())
    for name, top in best.items():
        shown = f"best {name} {top['value']:.4g} at epoch {top['epoch']} (step {top['step']})"
        context.log(f"{shown}; last {last[name]['value']:.4g}")
    return best


def make_task(spec: ExperimentSpec, context: RunContext, pretrained: bool = True) -> Task:
    """The task of ``train.stage``, ``model.task`` and ``model.multi_label``; ``pretrained`` as in
    `Task`."""
    if spec.train.stage == "pretrain":
        return PretrainTask(spec, context, pretrained)
    if spec.model.task == "segmentation":
        return SegmentationTask(spec, context, pretrained)
    if spec.model.multi_label:
        return MultiLabelTask(spec, context, pretrained)
    return ClassificationTask(spec, context, pretrained)
