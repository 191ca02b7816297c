"""What upstream's own spec files hold: ``???`` before a parent's model, logging without a key."""

from __future__ import annotations

from pathlib import Path

import pytest
from mae_sdk.plan.make import STEPS, Draft
from mae_sdk.plan.request import Request
from mae_skill.bundle import Bundle
from mae_skill.merge import merge
from mae_skill.reader import read_spec
from mae_skill.resolve import layers_of, resolve

from tests.support.folders import chain

OTHERS = """
wandb:
  enable: true
train:
  pretrained_model_path: ???
evaluate:
  checkpoint: ???
  trt_engine: ???
inference:
  checkpoint: ???
  trt_engine: ???
export:
  checkpoint: ???
  onnx_file: ???
gen_trt_engine:
  onnx_file: ???
  trt_engine: ???
  tensorrt:
    data_type: fp32,fp16
    calibration:
      cal_image_dir: ???
      cal_cache_file: ???
dataset:
  augmentation:
    input_size: ???
  val_data_sources: ???
  test_data_sources: ???
"""


@pytest.mark.parametrize(
    ("action", "parent", "field"),
    [
        ("evaluate", "t1", "checkpoint"),
        ("evaluate", "g1", "trt_engine"),
        ("inference", "t1", "checkpoint"),
        ("export", "t1", "checkpoint"),
        ("gen_trt_engine", "x1", "onnx_file"),
    ],
)
def test_question_marks_never_block_what_a_parent_fills(
    tmp_path: Path, action: str, parent: str, field: str
) -> None:
    chain(tmp_path)
    file = tmp_path / "spec.yaml"
    file.write_text(OTHERS)
    options = {"spec": str(file), "parent_job_id": parent, "results_root": str(tmp_path)}
    draft = Draft(Bundle.load(), Request.of(action, options), remote=False)
    for step in STEPS:
        step(draft)
    merged = merge(draft.layers.in_order(), draft.layers.schema)
    assert str(tmp_path) in merged.spec[action][field]
    assert str(merged.provenance[f"{action}.{field}"]) == "inferred"
    assert "???" not in str(merged.spec)
    # What stays is of other actions, which this one does not read.
    assert {key.split(".")[0] for key in merged.absent} <= set(draft.bundle.actions) - {action}


BUNDLES = Path(__file__).resolve().parents[2].parent / "shared" / "bundles"


def test_every_question_mark_of_another_bundle_is_filled_or_named() -> None:
    roots = [folder for folder in sorted(BUNDLES.glob("*")) if folder.is_dir()]
    if not roots:
        pytest.skip("the public bundles are not here")
    named = 0
    for root in roots:
        bundle = Bundle.load(root)
        for action in bundle.actions:
            found = resolve(bundle, action, layers_of(bundle, action))
            missing = {error.field for error in found.errors if "must be given" in error.message}
            named += len(missing)
            section = found.spec.get(action)
            assert "???" not in str(section), (root.name, action)
    assert named > 10


def test_the_file_of_all_sections_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(OTHERS)
    assert read_spec(file)["export"]["checkpoint"] == "???"
