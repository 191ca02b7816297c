"""Specs for tests: the documented long example, and specs with one field changed to anything."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from mae_skill.dotted import field_nodes, set_dotted

LONG_EXAMPLE = """
dataset:
  train_data_sources: /data/train/
  val_data_sources: /data/val/
  test_data_sources: /data/test/
  batch_size: 32
  num_workers_per_gpu: 2
  augmentation:
    input_size: 224
    mean:
      - 0.485
      - 0.456
      - 0.406
    std:
      - 0.229
      - 0.224
      - 0.225
    min_scale: 0.1
    max_scale: 2.0
    smoothing: 0.1
    color_jitter: 0.0
    auto_aug: rand-m9-mstd0.5-inc1
    mixup: 0.8
    cutmix: 1.0
    mixup_prob: 1.0
    mixup_switch_prob: 0.5
    mixup_mode: batch
model:
  arch: convnextv2_base
  num_classes: 1000
  drop_path_rate: 0.1
  global_pool: True
  decoder_depth: 1
  decoder_embed_dim: 512
train:
  stage: pretrain # finetune
  accum_grad_batches: 1
  precision: bf16
  distributed_strategy: ddp
  optim:
    type: AdamW
    monitor_name: train_loss
    lr: 2e-4
    backbone_multiplier: 0.1
    momentum: 0.9
    weight_decay: 0.05
    layer_decay: 0.75
    lr_scheduler: cosine # MultiStep
    warmup_epochs: 40
  norm_pix_loss: True
  mask_ratio: 0.75
  num_epochs: 600
"""

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers(-(2**40), 2**40)
    | st.floats(-2.0, 2.0)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        [
            "",
            "x",
            "auto",
            "AdamW",
            "finetune",
            "8.6",
            "12.0",
            "1e-4",
            "true",
            "null",
            "FP16",
            "/data",
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "lr", "0"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def put(spec: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of ``spec`` with a dotted key set."""
    found = copy.deepcopy(dict(spec))
    set_dotted(found, key, value)
    return found


def near_bounds(node: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values at and around what a schema node accepts."""
    edges: list[Any] = [node.get("default")]
    for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if name in node:
            bound = node[name]
            edges += [
                bound,
                bound + 1,
                bound - 1,
                float(bound),
                bound + 1e-9,
                bound - 1e-9,
                [bound],
                str(bound),
            ]
    edges += [
        word for option in node.get("enum", ()) for word in (option, str(option).upper(), [option])
    ]
    for size in range(4):
        edges += [[0.5] * size, [1] * size, ["x"] * size]
    return st.sampled_from(edges)


@st.composite
def mutated_specs(draw: st.DrawFn, schema: Mapping[str, Any]) -> tuple[dict[str, Any], str, Any]:
    """``(spec, key, value)``: the defaults with one field (or section, or unknown key) changed."""
    fields = field_nodes(schema)
    sections = sorted({key.rpartition(".")[0] for key in fields if "." in key})
    kind = draw(st.sampled_from(["field", "field", "field", "field", "section", "unknown"]))
    if kind == "field":
        key = draw(st.sampled_from(sorted(fields)))
        value = draw(near_bounds(fields[key]) | ANYTHING)
    elif kind == "section":
        key, value = draw(st.sampled_from(sections)), draw(ANYTHING)
    else:
        section = draw(st.sampled_from(sections))
        name = draw(st.sampled_from(["lrr", "Stage", "_", "num-epochs"]))
        key, value = f"{section}.{name}", draw(ANYTHING)
    return put(schema["default"], key, value), key, value
