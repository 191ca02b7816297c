"""What was made for deployment: parity with the model, sizes, the speed of each runtime."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from mae_sdk import answers
from mae_sdk.jobs.metrics import mapping
from mae_sdk.jobs.status import is_number
from mae_sdk.report.blocks import Block, Code, Section, Table, Text
from mae_sdk.report.facts import Facts, base, evaluations, facts_of, parents, shown
from mae_sdk.report.judged import SPEED_HEAD, speed_notes, speed_rows
from mae_sdk.report.markup import number, percent, size


def sections(facts: Facts) -> list[Section]:
    """Parity, files, speed and the artifact's own description."""
    found = [parity(facts), files(facts), speeds(facts), description(facts)]
    return [one for one in found if one is not None]


def parity(facts: Facts) -> Section | None:
    """Each figure of the comparison beside its bound."""
    report = mapping(facts.result.get("parity"))
    if not report:
        return None
    bounds = mapping(report.get("thresholds"))
    rows: list[list[Any]] = [
        [
            "lowest cosine of an image",
            number(report.get("cosine_min"), 8),
            f"≥ {number(bounds.get('min_cosine'), 6)}" if bounds else "–",
        ],
        ["mean cosine", number(report.get("cosine_mean"), 8), ""],
        [
            "largest difference",
            number(report.get("max_abs"), 3),
            f"≤ {number(bounds.get('max_abs'), 3)}" if bounds else "–",
        ],
    ]
    if is_number(report.get("top1_agreement")):
        bound = bounds.get("min_top1_agreement")
        rows.append(
            [
                "same answer",
                percent(report["top1_agreement"]),
                f"≥ {percent(bound)}" if bounds else "–",
            ]
        )
    names = report.get("names")
    worst = report.get("worst_image")
    caption = "What was measured beside what is allowed"
    blocks: list[Block] = [Table(["figure", "measured", "bound"], rows, caption, (1, 2))]
    if isinstance(names, list) and isinstance(worst, int) and 0 <= worst < len(names):
        which = f"The image that differs most: {base(names[worst])}."
        if len(names) > 1 and len(set(map(str, names))) == 1:  # crops of one picture
            which = f"The crop that differs most: {worst + 1} of {len(names)}, all of "
            which += f"{base(names[worst])}."
        blocks.append(Text(which, "note"))
    if report.get("calibration"):
        blocks.append(Text(f"Calibrated on {report['calibration']}.", "note"))
    verdict = "passed" if report.get("passed") else "not passed"
    inputs = report.get("images")
    count = f"{inputs} inputs: " if isinstance(inputs, int) else ""
    what = "The graph that the engine was built from, in ONNX Runtime, compared with its fp32 form"
    what = what if facts.action == "gen_trt_engine" else "Compared with the model"
    lead = f"{what} on {count}{report.get('images_from') or 'images'}; {verdict}."
    return Section("Parity", blocks, lead)


def files(facts: Facts) -> Section | None:
    """The files that were written, with their sizes."""
    rows = []
    made_of = facts.setting("gen_trt_engine.onnx_file")
    named = [(path, path.name) for path in facts.job.files()]
    named += (
        [(Path(made_of), f"{base(made_of)}, which it was built from")]
        if isinstance(made_of, str)
        else []
    )
    for path, name in named:
        with contextlib.suppress(OSError, ValueError):
            rows.append([name, size(path.stat().st_size)])
    if not rows:
        return None
    return Section("Files", [Table(["file", "size"], rows, "", (1,))])


def speeds(facts: Facts) -> Section | None:
    """Latency by runtime and batch, as evaluations of what was made, and of the model that it was
    made of, have measured it."""
    wanted = _made_of(facts)
    rows: list[list[Any]] = []
    notes: list[str] = []
    runtimes: dict[str, None] = {}
    for job in evaluations(facts.job):
        other = facts_of(job, job.record, "")
        if {other.record.get("parent"), other.record.get("parent_automl")} & wanted:
            measured = mapping(other.judged.get("speed"))
            model = mapping(other.judged.get("model"))
            of = f"{model.get('kind')}, {model.get('precision')}"
            place = str(measured.get("device"))
            at = other.created[:16].replace("T", " ")
            found = [[of, place, *row, job.id, at] for row in speed_rows(measured)]
            rows += found
            notes += [f"{job.id}: {note}" for note in speed_notes(measured)]
            if found:
                own = other.record.get("parent") == facts.id
                runtimes[f"{of}{' (this file)' if own else ''}"] = None
    command = answers.command_of(answers.evaluation(facts.job), facts.root_flag)
    again = f"mae report {facts.id}{facts.root_flag}"
    if not rows:
        lead = "Not measured yet: an evaluation does it, and then mae report shows it here."
        return Section("Speed", [Code(f"{command}\n{again}")], lead)
    head = ["runtime", "device", "batch", *SPEED_HEAD, "job", "created (UTC)"]
    table = Table(head, rows, "As evaluations measured it", tuple(range(2, 8)))
    lead = f"Measured of: {'; '.join(runtimes)}."
    blocks: list[Block] = [table]
    if not any(name.endswith("(this file)") for name in runtimes):
        lead += " This file itself has not been measured: its speed is another; this measures it:"
        blocks = [Code(command), table]
    blocks += [Text(note, "warning") for note in notes]
    blocks.append(Text(f"With evaluations that end later: {again}", "note"))
    return Section("Speed", blocks, lead)


def _made_of(facts: Facts) -> set[str]:
    """The job itself and those that it came from, up to the one that trained the model."""
    found: set[str] = set()
    for job in reversed(parents(facts.job)):
        record = job.record
        found.add(job.id)
        if record["action"] not in ("export", "gen_trt_engine"):
            break
        found |= {str(record[key]) for key in ("parent", "parent_automl") if record.get(key)}
    return found


def description(facts: Facts) -> Section | None:
    """What the file says of itself."""
    about = mapping(facts.result.get("meta")) or mapping(facts.result.get("engine"))
    # Of an engine the profile says which batches; what the ONNX file took says nothing more.
    hidden = ("classes", "batch") if "profile" in about else ("classes",)
    rows = [
        [key, "any" if key == "batch" and value == -1 else shown(value)]
        for key, value in about.items()
        if value not in (None, [], {}, "") and key not in hidden
    ]
    classes = about.get("classes")
    if isinstance(classes, list) and classes:
        rows.append(["classes", f"{len(classes)}: {shown(', '.join(map(str, classes)), 160)}"])
    if not rows:
        return None
    usage = mapping(facts.result.get("usage"))
    told: list[Block] = [Text(f"{name}: {text}") for name, text in usage.items()]
    table = Table(["field", "value"], rows, "What the file says of itself")
    return Section("Description", [*told, table])
