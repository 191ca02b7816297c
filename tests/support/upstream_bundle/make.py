"""Writes a bundle in upstream's dialect, whose runner knows nothing of this project: it reads JSON,
keeps its own status file and checkpoints below ``results_dir/<action>``, and starts its own
workers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

INFO = """
network_arch: lamp
automl_enabled: true
container_image: registry.example/lamp:1  # not used here
data_format: odvg
gpu_spec_key: train.num_gpus
notes: for people
surprise: 1
actions:
  train:
    command: python3 {bundle_dir}/runner.py train -e {config_path}
    config_format: json
    mode: config
    inputs:
      dataset.sources[0].image_dir: {type: folder}
      dataset.sources[0].list_file: {type: file}
      dataset.labels: {type: file, optional: true}
      train.pretrained: {type: file, optional: true}
      train.resume: {type: file, optional: true}
    outputs:
      results_dir: {type: folder}
    upload_excludes: [inputs/]
    metric: val_acc
    metric_direction: maximize
  evaluate:
    command: python3 {bundle_dir}/runner.py evaluate -e {config_path}
    config_format: json
    inputs:
      evaluate.checkpoint: {type: file}
    outputs:
      results_dir: {type: folder}
  export:
    command: python3 {bundle_dir}/runner.py export -e {config_path}
    config_format: json
    outputs:
      results_dir: {type: folder}
      export.onnx_file: {type: file}
  tune:
    execution: {type: python_script, script: runner.py, args: [tune, -e, "{config_path}"]}
    config_format: json
    inputs: {tune.checkpoint: {type: file}}
    outputs:
      tune.output_dir: {type: folder}
    metric: cost
    metric_direction: minimize
    metric_file: metrics.json
data_sources:
  train:
    dataset.sources[0].image_dir:
      {source: train_datasets, path: images.tar.gz, runtime: extracted_folder}
    dataset.sources[0].list_file: {source: train_datasets, path: "lists/{split}.txt"}
    dataset.folders: {source: train_datasets, path: images.tar.gz, list: true}
    dataset.labels: {source: train_datasets, path: labels.json, optional: true}
    dataset.val:
      source: eval_dataset
      multiple_sources: true
      optional: true
      mapping:
        image_dir: {path: images.tar.gz}
        caption: {path: captions.json, optional: true}
        boxes: {path_from_format: {coco: boxes.json, "*": boxes.txt}}
        unpacked: {path: images.tar.gz, runtime: extracted_folder}
        suffix: {optional: true}
    dataset.calibration: {source: calibration_dataset, path: calibration.npy, optional: true}
    dataset.annotations:
      source: train_datasets
      path_from_format: {coco: annotations.json, odvg: annotations.jsonl, "*": other.txt}
spec_params:
  train:
    encryption_key: key
    results_dir: output_dir
    train.pretrained: ptm_if_no_resume_model
    train.resume: resume_model
    dataset.name: LampDataset
  evaluate:
    evaluate.checkpoint: parent_model
  export:
    export.checkpoint: parent_model
    export.onnx_file: create_onnx_file
  tune:
    tune.checkpoint: parent_model
key_defaults: {train.mode: warm}
spec_shorthand_keys: {num_epochs: train.num_epochs, learning_rate: train.lr}
"""

RUNNER = r"""
import json, os, sys, time
action, path = sys.argv[1], sys.argv[3]
spec = json.load(open(path))
own = spec.get(action, {})
top = own.get("output_dir") or os.path.join(spec["results_dir"], action)
os.makedirs(top, exist_ok=True)
status = os.path.join(top, "status.json")


def say(state, message="", **more):
    with open(status, "a") as file:
        line = {"date": "1/2/2026", "time": "3:4:5", "status": state, "verbosity": "INFO"}
        file.write(json.dumps({**line, "message": message, **more}) + "\n")


say("STARTED", "Starting")
if action == "train":
    seen = sorted(name for name in os.environ if name.endswith("RANK") or name == "WORLD_SIZE")
    print("ranks", seen, "devices", os.environ.get("CUDA_VISIBLE_DEVICES"), own.get("gpu_ids"))
    start = 0
    if own.get("resume"):
        start = int(open(own["resume"]).read()) + 1
    for epoch in range(start, own["num_epochs"]):
        if own["fault"] == "epoch1" and epoch == 1 and not start:
            sys.exit(3)
        if own["fault"] == "says failure" and epoch == 1:
            say("FAILURE", "the loss is no number")
            sys.exit(0)
        value = own["lr"] * (1 + epoch - 2 * max(0, epoch - own["peak"]))
        say("RUNNING", epoch=epoch, max_epoch=own["num_epochs"] - 1, graphical={"loss": 1 - value},
            kpi={"val_acc": str(value)})
        open(os.path.join(top, f"model_epoch_{epoch:03d}_step_{epoch * 10:05d}.pth"), "w").write(
            str(epoch))
        open(os.path.join(top, "lamp_model_latest.pth"), "w").write(str(epoch))
elif action == "evaluate":
    say("RUNNING", kpi={"val_acc": 0.25 + int(open(own["checkpoint"]).read())})
elif action == "export":
    open(own["onnx_file"], "w").write(open(own["checkpoint"]).read())
elif action == "tune":
    json.dump({"cost": own["alpha"] ** 2, "other": {"deep": 1}},
              open(os.path.join(top, "metrics.json"), "w"))
say("SUCCESS", "done")
"""


def _node(kind: str, default: Any, **more: Any) -> dict[str, Any]:
    return {"type": kind, "title": kind, "default": default, **more}


def schema(action: str) -> dict[str, Any]:
    """The schema of an action, in upstream's words."""
    given = "???" if action == "train" else None
    sections: dict[str, Any] = {
        "dataset": {
            "sources": _node("list", [{"image_dir": given, "list_file": given, "weight": 1.0}]),
            "folders": _node("list", []),
            "labels": _node("string", ""),
            "val": _node("list", [{"image_dir": given, "caption": None, "suffix": ".txt"}]),
            "calibration": _node("string", None),
            "annotations": _node("string", given),
            "name": _node("categorical", "OtherDataset", enum=["OtherDataset", "OldDataset"]),
        },
        "train": {
            "num_epochs": _node("int", 2, minimum=5, maximum=10),
            "lr": _node("float", 0.1, minimum=0.0, maximum=1.0, automl_enabled=True),
            "mode": _node("categorical", "cold", enum=["cold", "warm"]),
            "peak": _node("int", 9),
            "fault": _node("string", ""),
            "pretrained": _node("string", ""),
            "resume": _node("string", ""),
            "num_gpus": _node("int", 1),
            "gpu_ids": _node("list_2", [0]),
            "results_dir": _node("string", "${results_dir}/train"),
        },
    }
    if action == "tune":
        sections[action] = {
            "checkpoint": _node("string", "???"),
            "output_dir": _node("string", "artifacts"),
            "alpha": _node("float", 0.5, minimum=0.0, maximum=1.0, automl_enabled=True),
        }
    elif action != "train":
        sections[action] = {"checkpoint": _node("string", "???")}
    if action == "export":
        sections[action]["onnx_file"] = _node("string", "???")
    default = {
        name: {key: node["default"] for key, node in nodes.items()}
        for name, nodes in sections.items()
    }
    properties: dict[str, Any] = {
        name: {"type": "collection", "properties": nodes, "default": default[name]}
        for name, nodes in sections.items()
    }
    properties |= {
        "results_dir": _node("string", "/results"),
        "encryption_key": _node("string", ""),
    }
    properties["split"] = _node("string", "all")
    searched = "tune.alpha" if action == "tune" else "train.lr"
    return {
        "type": "object",
        "x_tao_schema": True,
        "default": {**default, "results_dir": "/results", "encryption_key": "", "split": "all"},
        "automl_default_parameters": [searched],
        "properties": properties,
        "odd_word": True,
    }


def write_bundle(folder: Path) -> Path:
    """The bundle in `folder`, ready to be loaded."""
    from mae_skill.reader import dump_yaml

    for name in ("references", "schemas"):
        (folder / name).mkdir(parents=True)
    (folder / "runner.py").write_text(RUNNER)
    (folder / "SKILL.md").write_text("---\nname: lamp\ndescription: A lamp.\n---\n# Lamp\n")
    (folder / "references" / "skill_info.yaml").write_text(INFO)
    for action in ("train", "evaluate", "export", "tune"):
        content = schema(action)
        (folder / "schemas" / f"{action}.schema.json").write_text(json.dumps(content))
        (folder / "references" / f"spec_template_{action}.yaml").write_text(
            dump_yaml(content["default"])
        )
    return folder


def write_data(folder: Path) -> Path:
    """Data as the bundle's rows name it."""
    import tarfile

    (folder / "lists").mkdir(parents=True)
    for name in (
        "lists/all.txt",
        "labels.json",
        "boxes.txt",
        "annotations.jsonl",
        "calibration.npy",
    ):
        (folder / name).write_text("{}")
    with tarfile.open(folder / "images.tar.gz", "w:gz") as archive:
        archive.add(folder / "labels.json", "inside/labels.json")
    return folder
