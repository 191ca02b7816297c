"""Specs drawn at random, as text: families × stages × schedulers with fields, words, bounds, YAML
and Unicode changed; and what must hold of each.
"""

from __future__ import annotations

import functools
import io
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from mae_skill.archs import hw
from mae_skill.bundle import Bundle
from mae_skill.dotted import field_nodes, set_dotted
from mae_skill.errors import MaeError
from mae_skill.reader import dump_yaml, parse_yaml
from mae_skill.resolve import Resolution, layers_of, resolve
from mae_skill.spec import ExperimentSpec

BUNDLE = Bundle.load()
ACTIONS = ("train", "train", "train", "train", "evaluate", "inference", "export", "gen_trt_engine")
ARCHS = ("vit_tiny_patch16", "vit_small_patch16", "convnextv2_atto", "hiera_tiny_224")
FIELDS = {action: field_nodes(BUNDLE.schema(action)) for action in set(ACTIONS)}
WORDS = (
    *("", " ", "???", "on", "off", "null", "~", "auto", "none", "x", "FP16", "fp32,fp16", "012"),
    *("2e-4", "1e999", ".inf", "-.nan", "0x1F", "1:30", "=", "<<", "!!bool x", "!x", "&a", "*a"),
    *("${train.optim.lr}", "${nope}", "${.lr}", "${oc.env:HOME}", "${model_name}", "${", "$"),
    *("\0", "\ud800", "\udce9", "é", "e\u0301", "😀", "\u202e", "\ufeff", "\u2028", "a\nb", "\t"),
    *("http://[::1", "s3://", "s3://bucket/x", "/nowhere", "~nobody/x", "x" * 5000, "../..", "-"),
    *("rand-m9-mstd0.5-inc1", "rand-x", "augmix-w0", "v0", "original-m1", "3a"),
    *("encoder", "head", "blocks", "blocks.0", "blocks.99", "stages.1", "encoder.norm", "neck"),
    *("env:NO_SUCH_VARIABLE", "best", "1.0", "10.0", "8.6", "AdamW", "finetune", "Cosine"),
)
NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 16, 31, 32, 33, 64, 96, 100, 224, 255, 256, 1000, 65536, 2**31, 2**32),
    *(2**63, 10**18, 10**30, 10**400, 0.0, -0.0, 0.1, 0.5, 0.75, 0.999999, 1.0, 1.5, 2.0, 1e-9),
    *(1e-300, 1e9, 1e38, 1e300, float("inf"), float("-inf"), float("nan")),
)


def a_value(rng: random.Random, node: Mapping[str, Any], depth: int = 0) -> Any:
    """A value at or around what a schema node accepts, or anything."""
    kind = rng.random()
    if kind < 0.35:
        near: list[Any] = [node.get("default"), *node.get("enum", ())]
        for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            if name in node:
                bound = node[name]
                near += [bound, bound + 1, bound - 1, float(bound), str(bound), bound / 2]
        value = rng.choice(near)
        return value.upper() if isinstance(value, str) and rng.random() < 0.2 else value
    if kind < 0.6:
        return rng.choice(NUMBERS)
    if kind < 0.85:
        return rng.choice(WORDS)
    if kind < 0.9:
        return rng.choice([None, True, False])
    if depth > 2:
        return []
    many = [a_value(rng, node, depth + 1) for _ in range(rng.choice([0, 1, 2, 2, 3, 3, 4]))]
    return many if kind < 0.97 else {rng.choice(["a", "lr", "0", "é"]): item for item in many}


def a_spec(rng: random.Random, action: str) -> dict[str, Any]:
    """Sections: a good spec with up to four fields changed."""
    spec: dict[str, Any] = {}
    stage = rng.choice(["pretrain", "finetune"])
    set_dotted(spec, "model.arch", rng.choice(ARCHS))
    set_dotted(spec, "train.stage", stage)
    set_dotted(spec, "train.optim.lr_scheduler", rng.choice(["MultiStep", "cosine", "poly"]))
    set_dotted(spec, "dataset.augmentation.input_size", rng.choice([32, 64, 224, [64, 96]]))
    set_dotted(spec, "dataset.train_data_sources", "/data")
    if stage == "finetune":
        set_dotted(spec, "model.task", rng.choice(["classification", "segmentation"]))
        set_dotted(spec, "model.num_classes", 3)
    if action in ("evaluate", "inference", "export"):
        set_dotted(spec, f"{action}.checkpoint", "/model.pth")
    if action == "gen_trt_engine":
        set_dotted(spec, "gen_trt_engine.onnx_file", "/model.onnx")
    fields = FIELDS[action]
    for _ in range(rng.choice([0, 1, 1, 1, 2, 2, 3, 4])):
        key = rng.choice(list(fields))
        value = a_value(rng, fields[key])
        kind = rng.random()
        if kind < 0.04:
            key, value = key.rpartition(".")[0] or key, a_value(rng, {})
        elif kind < 0.1:
            key = key[:-1] + rng.choice(["", "é", key[-1] * 2])
        try:
            set_dotted(spec, key, value)
        except MaeError:
            continue
    return spec


def as_text(rng: random.Random, spec: Mapping[str, Any]) -> str:
    """The spec as YAML or JSON."""
    try:
        text = json.dumps(spec) if rng.random() < 0.3 else dump_yaml(spec)
    except Exception:  # what no file can say: half characters
        text = json.dumps(spec, default=str)
    return text


def _duplicate(rng: random.Random, text: str) -> str:
    lines = text.splitlines()
    at = rng.randrange(len(lines)) if lines else 0
    return "\n".join([*lines[: at + 1], *lines[at : at + 1], *lines[at + 1 :]])


def _insert(words: tuple[str, ...]) -> Callable[[random.Random, str], str]:
    def change(rng: random.Random, text: str) -> str:
        at = rng.randrange(len(text) + 1)
        return text[:at] + rng.choice(words) + text[at:]

    return change


def _tag(rng: random.Random, text: str) -> str:
    tags = ("!!bool", "!!int", "!!float", "!!str", "!!null", "!!set", "!!python/name:os.system")
    return text.replace(": ", f": {rng.choice((*tags, '!x', '! ', '&a', '*a', '<<: *a'))} ", 1)


CHANGES: tuple[Callable[[random.Random, str], str], ...] = (
    _duplicate,
    _tag,
    _insert(("\t", "\n", "  ", "{", "]", ":", "- ", "? ", "#", '"', "'", "|", ">", "%", "@", "`")),
    _insert(("&a ", "*a", "<<: *a\n", "<<: {x: 1}", "---\n", "...\n", "\ufeff", "é", "\x07", "😀")),
    lambda rng, text: text[: rng.randrange(len(text) + 1)],
    lambda rng, text: f"base: &base {{seed: 3}}\n{text}\nmore:\n  <<: [*base, *base]\n",
    lambda rng, text: text.replace("train:", "train:\n  <<: {num_epochs: 2}", 1),
    lambda rng, text: rng.choice(["- ", "x: ", "[", "# "]) + text,
)


def draw(seed: int) -> tuple[str, str]:
    """The action and the text of one spec."""
    rng = random.Random(seed)
    action = rng.choice(ACTIONS)
    text = as_text(rng, a_spec(rng, action))
    for _ in range(rng.choice([0, 0, 0, 1, 1, 2])):
        text = rng.choice(CHANGES)(rng, text)
    return action, text


def judge(action: str, text: str) -> Resolution | MaeError:
    """The verdict: a resolution without errors, or a clean error.

    Anything but a `MaeError` comes through.
    """
    try:
        document = parse_yaml(text, "spec.yaml")
        if not isinstance(document, Mapping):
            return MaeError("no mapping")
        found = resolve(BUNDLE, action, layers_of(BUNDLE, action, document))
    except MaeError as error:
        clean(error)
        return error
    for problem in found.errors:
        clean(problem)
    return found.errors[0] if found.errors else found


def clean(error: MaeError) -> None:
    """An error says what is wrong, in JSON, of bounded size."""
    document = json.dumps(error.to_dict(), allow_nan=False)
    assert error.message
    assert error.exit_code in (2, 3, 4, 7, 8)
    assert len(document) < 300_000
    assert "Traceback" not in document


def runner_takes(action: str, found: Resolution, build: bool) -> None:
    """What a plan accepts, the runner's models accept; written and read again, it is the same.

    Args:
        build: build the model too, without memory, and what training needs beside it.
    """
    spec = ExperimentSpec.model_validate(found.spec)
    text = dump_yaml(found.spec)
    text.encode()
    assert parse_yaml(text) == found.spec
    if build and action == "train":
        _build(spec)


def _build(spec: ExperimentSpec) -> None:
    import torch
    from mae_runners.data.transforms import TrainTransform
    from mae_runners.models.build import build_classifier, build_mae, build_segmenter

    size = spec.dataset.augmentation.input_size
    with torch.device("meta"):
        if spec.train.stage == "pretrain":
            model: Any = build_mae(spec.model, spec.train, size)
        elif spec.model.task == "segmentation":
            model = build_segmenter(spec.model, size)
        else:
            model = build_classifier(spec.model, size)
    if spec.train.freeze:
        model.freeze(spec.train.freeze)
    transform = TrainTransform(spec.dataset.augmentation, spec.train.stage == "finetune")
    if max(hw(size)) <= 512 and spec.model.task == "classification":
        for key in range(3):
            transform(_picture(), "drawn.png", key)


@functools.cache
def _picture() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.effect_noise((40, 30), 50).convert("RGB").save(file, "png")
    return file.getvalue()


def many(first: int, count: int, every: int = 20) -> Counter[str]:
    """Draw and judge ``count`` specs, and build every so-manieth that is accepted.

    Raises:
        AssertionError: one is a traceback, or is accepted and refused by the runner; it holds the
            seed.
    """
    found: Counter[str] = Counter()
    for seed in range(first, first + count):
        action, text = draw(seed)
        try:
            verdict = judge(action, text)
            if isinstance(verdict, MaeError):
                found["refused"] += 1
                continue
            found["accepted"] += 1
            build = found["accepted"] % every == 0
            found["built"] += build
            runner_takes(action, verdict, build)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    return found
