"""Job folders as a finished job leaves them, without running one."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import yaml
from mae_sdk import files
from mae_sdk.jobs import records
from mae_sdk.jobs.checkpoints import CheckpointIndex


def job_folder(
    root: Path,
    job_id: str,
    action: str,
    state: str = "COMPLETE",
    spec: dict[str, Any] | None = None,
    **more: Any,
) -> Path:
    """A job folder in a terminal state."""
    folder = root / job_id
    record: dict[str, Any] = {
        "id": job_id,
        "action": action,
        "launch": {"command": ["true"]},
        **more,
    }
    records.new_attempt(record)
    records.advance(record, state)
    files.write_json(folder / "job.json", record)
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec or {}))
    (folder / action).mkdir()
    (folder / action / "result.json").write_text(json.dumps({"artefacts": []}))
    return folder


def add_checkpoints(
    folder: Path,
    accuracies: list[float],
    action: str = "train",
    *,
    whole: bool = False,
    said: dict[str, Any] | None = None,
    **meta: Any,
) -> CheckpointIndex:
    """One small checkpoint file per accuracy, and their index; ``whole``: files that open,
    and ``said`` is what they say of themselves."""
    index = CheckpointIndex(folder / action)
    for epoch, accuracy in enumerate(accuracies):
        path = folder / action / f"model_epoch_{epoch:03d}.pth"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights %d" % epoch)
        if whole:
            write_own_checkpoint(path, epoch, **(said or {}))
        index.add(
            path,
            epoch,
            epoch * 10,
            {"ACC_all": accuracy},
            **{"stage": "finetune", "arch": "toy", "input_size": [32, 32], **meta},
        )
    index.set_best_policy("ACC_all", "maximize")
    return index


def write_own_checkpoint(
    path: Path, epoch: int = 0, *, position: dict[str, Any] | None = None, **meta: Any
) -> None:
    """A file as ``torch.save`` writes a checkpoint of ours, without a tensor in it."""
    contents = {"mae": {"input_size": [64, 64], **meta}, "state_dict": {}, "epoch": epoch}
    contents |= {} if position is None else {"position": position}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(contents, protocol=2))


def chain(root: Path) -> None:
    """train → export → gen_trt_engine, evaluate and an AutoML job, all COMPLETE, in one root."""
    spec = {
        "train": {"stage": "finetune"},
        "model": {"arch": "toy", "num_classes": 3},
        "dataset": {"augmentation": {"input_size": 32}},
    }
    add_checkpoints(
        job_folder(root, "t1", "train", spec=spec),
        [0.2, 0.9, 0.5],
        num_classes=3,
        mean=[0.5, 0.5, 0.5],
    )
    job_folder(root, "x1", "export", spec=spec)
    (root / "x1/export/model.onnx").write_bytes(b"onnx")
    job_folder(root, "g1", "gen_trt_engine", spec=spec)
    (root / "g1/gen_trt_engine/model.engine").write_bytes(b"engine")
    job_folder(root, "e1", "evaluate", spec=spec)
    add_checkpoints(job_folder(root, "a1.t001", "train", spec=spec), [0.7])
    (job_folder(root, "a1", "train", kind="automl") / "automl").mkdir()
    (root / "a1/automl/best.json").write_text(json.dumps({"child": "a1.t001"}))
