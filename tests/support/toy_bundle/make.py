"""Writes the toy bundle into a folder: schemas, templates, and the shell runner."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

RUNNER = r"""
action=$1; config=$2; job=$3
rate=$(sed -n 's/^ *rate: //p' "$config"); fault=$(sed -n 's/^ *fault: //p' "$config")
[ "$fault" = exit ] && { echo "it broke"; exit 1; }
[ "$fault" = sleep ] && sleep 100
[ "$fault$MAE_ATTEMPT" = once1 ] && sleep 100
[ "$fault" = slow ] && sleep 0.2
[ "$fault" = show ] && env
[ "$fault" = leak ] && { env; echo "no access with $MAE_ENCRYPTION_KEY to $DATABASE" >&2; exit 1; }
if [ "$action" = measure ]; then
  echo noise
  echo '{"seconds_per_step": 0.125, "steps": 3, "device": "paper"}'
  exit
fi
device=${CUDA_VISIBLE_DEVICES:-none}
echo "attempt $MAE_ATTEMPT secret ${MAE_ENCRYPTION_KEY:-none} rate $rate device $device"
line='{"status": "RUNNING", "message": "", "epoch": 0, "time_per_step": 0.25, '
line="$line"'"kpi": {"score": %s}}\n'
printf "$line" "${rate:-0}" >> "$job/status.json"
mkdir -p "$job/$action"
if [ "$action" = train ]; then
  echo weights > "$job/train/model_epoch_000.pth"
  sum=$(sha256sum "$job/train/model_epoch_000.pth" | cut -d' ' -f1)
  index="$job/train/checkpoints.json"
  entry='"file": "model_epoch_000.pth", "epoch": 0, "step": 1, "size": 8'
  best='{"metric": "score", "direction": "maximize"}'
  printf '{"best": %s, "checkpoints": [{%s, ' "$best" "$entry" > "$index"
  printf '"metrics": {"score": %s}, "sha256": "%s"}]}' "$rate" "$sum" >> "$index"
fi
[ "$fault" = slow ] && sleep 0.2
echo '{}' > "$job/$action/result.json"
"""


def schema(action: str) -> dict[str, Any]:
    """The JSON Schema of an action."""
    text = {"type": ["string", "null"], "default": None}
    rate = {
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "default": 0.5,
        "search": {"low": 0.01, "high": 1.0, "log": True},
    }
    sections: dict[str, Any] = {
        "train": {
            "rounds": {"type": "integer", "minimum": 1, "default": 1},
            "rate": rate,
            "shade": {"type": "string", "enum": ["light", "dark"], "default": "light"},
            "fault": {"type": "string", "default": ""},
            "start_from": text,
            "resume": text,
            "num_gpus": {"type": "integer", "default": 1},
        },
        "data": {"folder": text},
    }
    if action == "check":
        sections["check"] = {"model": text}
    default = {
        name: {key: node["default"] for key, node in fields.items()}
        for name, fields in sections.items()
    }
    properties: dict[str, Any] = {
        name: {"type": "object", "additionalProperties": False, "properties": fields}
        for name, fields in sections.items()
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "default": {"out": None, "encryption_key": None, **default},
        "automl_default_parameters": ["train.rate"],
        "automl_metrics": [
            {"when": {"train.shade": "light"}, "metric": "score", "direction": "maximize"}
        ],
        "properties": {"out": text, "encryption_key": text, **properties},
    }


def write_bundle(folder: Path) -> Path:
    """The bundle in `folder`, ready to be loaded."""
    shutil.copytree(HERE / "references", folder / "references")
    (folder / "schemas").mkdir()
    info = folder / "references" / "skill_info.yaml"
    runner = folder / "runner.sh"
    runner.write_text(RUNNER)
    info.write_text(info.read_text().replace("runner.sh", f"'{runner}'"))
    from mae_skill.reader import dump_yaml

    for action in ("train", "check"):
        content = schema(action)
        (folder / "schemas" / f"{action}.schema.json").write_text(json.dumps(content))
        (folder / "references" / f"spec_template_{action}.yaml").write_text(
            dump_yaml(content["default"])
        )
    return folder
