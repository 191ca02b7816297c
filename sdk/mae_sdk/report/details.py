"""The parts that every report ends with: changed fields, warnings, attempts, environment, log."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from mae_skill.bundle import Bundle
from mae_skill.conditions import acts
from mae_skill.dotted import field_nodes
from mae_skill.errors import MaeError

from mae_sdk.jobs import records
from mae_sdk.jobs.metrics import mapping
from mae_sdk.jobs.secrets import known, redact
from mae_sdk.jobs.status import is_number
from mae_sdk.report.blocks import Block, Code, Section, Table, Text
from mae_sdk.report.facts import Facts, as_list, shown
from mae_sdk.report.markup import number, percent, seconds

LOG_LINES = 30


def sections(facts: Facts) -> list[Section]:
    """Everything that is there."""
    found = [
        trained(facts),
        changed(facts),
        warnings(facts),
        notes(facts),
        data(facts),
        environment(facts),
    ]
    return [one for one in found if one is not None]


_RECIPE = (
    ("epochs", "train.num_epochs"),
    ("images at a time", "dataset.batch_size"),
    ("side of the input, pixels", "dataset.augmentation.input_size"),
    ("side of a patch, pixels", "model.patch_size"),
    ("share of the patches that is hidden", "train.mask_ratio"),
    ("loss on normalized pixels", "train.norm_pix_loss"),
    ("loss", "train.loss"),
    ("optimizer", "train.optim.type"),
    ("learning rate", "train.optim.lr"),
    ("schedule of the rate", "train.optim.lr_scheduler"),
    ("epochs of warm-up", "train.optim.warmup_epochs"),
    ("weight decay", "train.optim.weight_decay"),
    ("decay of the rate by layer", "train.optim.layer_decay"),
    ("mixup", "dataset.augmentation.mixup"),
    ("cutmix", "dataset.augmentation.cutmix"),
    ("label smoothing", "dataset.augmentation.smoothing"),
    ("precision", "train.precision"),
    ("seed", "train.seed"),
)
"""What a training was, in words, and its field: told whether it is the template's value or not."""


def trained(facts: Facts) -> Section | None:
    """How a training was done: most of it is defaults, which no changed field tells."""
    if facts.action != "train" or facts.is_study:
        return None
    changed, nodes = mapping(facts.record.get("changed")), _fields(facts)
    rows = []
    for words, key in _RECIPE:
        value = facts.setting(key)
        if value is not None and key in nodes and _acts(nodes[key], facts):
            rows.append([words, shown(value), key, "set" if key in changed else "default"])
    if facts.stage == "pretrain" and rows and not facts.record.get("skill_dir"):
        teacher = facts.setting("train.teacher.checkpoint")
        loss = "mean squared error of the hidden patches" + (" and a teacher's" if teacher else "")
        if facts.setting("train.refine.blocks"):
            loss = "contrast of two views with nearest neighbors; no loss of reconstruction"
        rows.append(["loss", loss, "train.stage", ""])
    if not rows:
        return None
    head = ["what", "value", "field", ""]
    return Section("How it was trained", [Table(head, rows, "Defaults too", stacked=True)])


def _fields(facts: Facts) -> Mapping[str, Any]:
    """The fields of training in the schema of the job's bundle; none where it cannot be read."""
    try:
        schema = Bundle.load(facts.record.get("skill_dir") or None).schema("train")
    except (MaeError, OSError):  # it was moved, or has no such action
        return {}
    return field_nodes(schema)


def _acts(node: Mapping[str, Any], facts: Facts) -> bool:
    return acts(node.get("applies_when"), facts.spec) is None


def changed(facts: Facts) -> Section | None:
    """Fields that are not the template's, with where their values come from."""
    rows = []
    for key, about in mapping(facts.record.get("changed")).items():
        entry = mapping(about)
        value = facts.setting(str(key))
        rows.append([str(key), shown(value), shown(entry.get("default")), str(entry.get("origin"))])
    if not rows:
        return None
    head = ["field", "value", "template", "comes from"]
    differ = "1 field differs" if len(rows) == 1 else f"{len(rows)} fields differ"
    table = Table(head, rows, f"{differ} from the template", stacked=True)
    return Section("Changed fields", [table])


def warnings(facts: Facts) -> Section | None:
    """The warnings that the first screen had no room for."""
    from mae_sdk.report.first_screen import MAX_LINES, warned_of

    said = warned_of(facts)[MAX_LINES:]
    return Section("More warnings", [Text(one, "warning") for one in said[:100]]) if said else None


def notes(facts: Facts) -> Section | None:
    """What the plan said of settings that nobody chose, folded."""
    return noted(facts.notes)


def noted(texts: Sequence[str]) -> Section | None:
    """Notes, each ``field: what is said of it``, folded; None of none."""
    if not texts:
        return None
    count = len(texts)
    caption = f"{count} note{'s' if count != 1 else ''} on settings that nobody has set"
    rows = [list(one.partition(": ")[::2]) for one in texts]
    return Section("Notes", [Table(["field", "note"], rows, caption, collapsed=True)])


def data(facts: Facts) -> Section | None:
    """Every source: images, classes and the largest and smallest of them."""
    rows: list[list[Any]] = []
    for key, seen in facts.sources.items():
        counts = {str(n): c for n, c in mapping(seen.get("class_counts")).items()}
        ordered = sorted(counts.items(), key=lambda pair: -pair[1] if pair[1] else 0)
        ends = ordered if len(ordered) <= 6 else [*ordered[:3], ("…", ""), *ordered[-2:]]
        spread = ", ".join(f"{name}: {count}" if name != "…" else name for name, count in ends)
        uri = shown(seen.get("uri"))
        classes = number(seen.get("classes") or None)
        if masks := facts.classes_of_masks(seen):
            classes, spread = number(len(masks)), pixels(masks, mapping(seen["mask_values"]), seen)
        without = mapping(mapping(seen.get("label_file")).get("labels")).get("none")
        if is_number(without) and without:
            spread += f"; without a label: {without}"
        rows.append([key, number(seen.get("images")), classes, spread, uri])
    blocks: list[Block] = []
    if rows:
        head = ["field", "images", "classes", "images of classes", "where"]
        blocks.append(Table(head, rows, "What was counted in each source", (1, 2), stacked=True))
    left: list[list[Any]] = []
    for key, reasons in facts.left_out.items():
        for reason, about in mapping(reasons).items():
            names = [str(name) for name in as_list(mapping(about).get("files"))]
            listed = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
            left.append([key, reason, number(mapping(about).get("count")), listed])
    if left:
        head = ["field", "reason", "files", "names"]
        blocks.append(Table(head, left, "Left out", (2,), stacked=True))
    return Section("Data", blocks) if blocks else None


def pixels(
    masks: Sequence[tuple[str, int, int]], looked: Mapping[str, Any], seen: Mapping[str, Any]
) -> str:
    """How many of the pixels of masks each class has, and in how many images it is."""
    total = sum(count for _, count, _ in masks)
    ends = [*masks[:6], *masks[-2:]] if len(masks) > 8 else masks
    parts = [f"{name}: {percent(count / total)} of the pixels, {n}" for name, count, n in ends]
    if len(masks) > 8:
        parts.insert(6, "…")
    read, images = looked.get("read"), seen.get("images")
    some = is_number(read) and is_number(images) and read < images
    return ", ".join(parts) + (f" (of {read} masks that were looked at)" if some else "")


def environment(facts: Facts) -> Section:
    """Versions, device, attempts, the command, and the end of the log of a failure."""
    record = facts.record
    rows: list[list[Any]] = [[name, text] for name, text in mapping(record.get("versions")).items()]
    of_model = mapping(facts.result.get("model")) or mapping(facts.result.get("meta"))
    used = {"device": facts.result.get("device"), "precision": of_model.get("precision")}
    used |= facts.derived  # of a training, which plans them
    for name in ("device", "precision", "processes", "effective_batch", "steps_per_epoch"):
        if used.get(name) is not None:
            rows.append([name.replace("_", " "), shown(used[name])])
    rows.append(["platform", str(record.get("platform") or "local")])
    process = records.last_attempt(record)["process"]
    if process:
        rows.append(["host", process["host"]])
    if record.get("env_names"):
        rows.append(["settings given", ", ".join(record["env_names"])])
    rows.append(["command", shlex.join(record["launch"]["command"])])
    rows.append(["digest of the spec", str(record.get("spec_digest") or "")[:16]])
    blocks: list[Block] = [Table(["what", "value"], rows, "Versions and settings")]
    spans = [
        [n, state, began, "–" if span is None else seconds(span)]
        for n, state, began, span in facts.spans
    ]
    head = ["attempt", "state", "began", "ran"]
    blocks.append(Table(head, spans, "Attempts", (3,), stacked=True))
    if facts.state in (records.ERROR, records.CANCELED):
        blocks += log(facts)
    return Section("Environment", blocks)


def log(facts: Facts) -> list[Block]:
    """What matters of the log of a failure."""
    problem = facts.failure
    told = [str(line) for line in as_list(problem.get("lines"))]
    found: list[Block] = []
    if told:
        found.append(Code(redact("\n".join(told[-LOG_LINES:]), known()), "The lines that matter"))
    text = redact(facts.text("log.txt")[-20_000:], known())
    lines = [line for line in text.splitlines() if line.strip()]
    if lines:
        shown_lines = [line if len(line) < 400 else line[:400] + "…" for line in lines[-LOG_LINES:]]
        found.append(Code("\n".join(shown_lines), f"The last {len(shown_lines)} lines of the log"))
    return found
