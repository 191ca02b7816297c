"""What a notebook shows of a plan, a job and a study: the first screen, in a frame of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mae_skill.dotted import get_dotted
from mae_skill.spelling import count_of
from markupsafe import Markup

from mae_sdk.job import Job
from mae_sdk.jobs.metrics import mapping
from mae_sdk.jobs.status import is_number
from mae_sdk.report import details, first_screen, page
from mae_sdk.report.blocks import Block, Card, Section, Table
from mae_sdk.report.facts import base, facts_of, shown
from mae_sdk.report.markup import number, seconds

_UNCHOSEN = ("default", "template")


def frame(html: str, height: int) -> str:
    """A page as an element of another one: neither its style nor anything else of it gets out."""
    return str(
        Markup(
            '<iframe title="mae" sandbox srcdoc="{}" style="width:100%;height:{}px;'
            'border:1px solid #8884;border-radius:8px"></iframe>'
        ).format(html, height)
    )


def job_html(job: Job) -> str:
    """The first screen of a job's report, and its first curves or, of a study, its comparison."""
    facts = facts_of(job)
    sections = page.body(facts)
    first = [one for one in sections if one.title in ("Curves", "Best against the spec as given")]
    html = page.render(facts, {}, sections=first[:1])
    return frame(html, 640 if first else 440)


def plan_html(plan: Mapping[str, Any]) -> str:
    """A plan as `Plan.to_dict` gives it: what it does, on what, at what cost."""
    action, stage = str(plan.get("action")), str(plan.get("stage") or "")
    cards = [_doing(plan), _reading(plan), _costing(plan)]
    if said := plan.get("warnings"):
        title = "Warning" if len(said) == 1 else f"{len(said)} warnings"
        cards.append(Card(title, "", _said(said), tone="warning", listed=True))
    notes = details.noted(_said(plan.get("notes")))
    html = page.fill(
        "report.html.j2",
        f"Plan of {action}",
        above=str(plan.get("job_id")),
        heading=f"Plan: {first_screen.word(action, stage).lower()}",
        state="PLAN",
        below="Nothing was started.",
        chain=[],
        mailed=False,
        whole="",
        whole_command="",
        cards=cards,
        sections=[one for one in (_changes(plan), _search(plan), notes) if one is not None],
        home="",
    )
    return frame(html, 620)


def _doing(plan: Mapping[str, Any]) -> Card:
    policy = mapping(plan.get("policy"))
    lines = [f"AutoML {'on' if policy.get('enabled') else 'off'}: {policy.get('reason')}"]
    if mapping(plan.get("parent")).get("id"):
        lines.append(f"model from {mapping(plan['parent'])['id']}")
    count = plan.get("processes")
    processes = "1 process" if count == 1 else f"{count} processes"
    lines.append(f"platform {plan.get('platform')}, {processes}")
    shown = first_screen.word(str(plan.get("action")), str(plan.get("stage") or ""))
    return Card("What", shown, lines)


def _reading(plan: Mapping[str, Any]) -> Card:
    lines, total, trained = [], 0, False
    for key, seen in mapping(plan.get("sources")).items():
        images, last = mapping(seen).get("images"), key.rsplit(".", 1)[-1]
        trained |= last == "train_data_sources"
        if isinstance(images, int) and (last == "train_data_sources" or not trained):
            total += images
        uri = mapping(seen).get("uri")
        place = base(uri[0] if isinstance(uri, list) and uri else uri)
        which = first_screen.role(last, str(plan.get("action")))
        lines.append(f"{which}: {count_of(images, 'image')} ({place})")
    return Card("Data", count_of(total, "image") if total else "not counted", lines)


def _costing(plan: Mapping[str, Any]) -> Card:
    estimates = mapping(plan.get("estimates"))
    time = mapping(estimates.get("time"))
    lines = []
    total = mapping(estimates.get("parameters")).get("total")
    if is_number(total):
        lines.append(f"{total / 1e6:.1f} M parameters")
    memory = mapping(estimates.get("memory_mb")).get("total")
    if is_number(memory):
        lines.append(f"{number(memory)} MB per process")
    if plan.get("steps_per_epoch"):
        batch = plan.get("effective_batch")
        lines.append(f"{plan['steps_per_epoch']} steps per epoch, batch {batch}")
    known = next(
        (value for key, value in time.items() if key.endswith("seconds") and is_number(value)), None
    )
    return Card("Cost", "not known" if known is None else f"about {seconds(known)}", lines)


def _said(warnings: Any) -> list[str]:
    found = []
    for one in warnings if isinstance(warnings, list) else []:
        field, message = mapping(one).get("field"), mapping(one).get("message")
        found.append(f"{field}: {message}" if field else str(message or one))
    return found[:12]


def _changes(plan: Mapping[str, Any]) -> Section | None:
    rows = []
    for key, origin in mapping(plan.get("provenance")).items():
        about = mapping(origin)
        if about.get("origin") in _UNCHOSEN or key == "results_dir":
            continue
        note = f" ({about['note']})" if about.get("note") else ""
        value = get_dotted(mapping(plan.get("spec")), str(key))
        rows.append([str(key), shown(value), f"{about.get('origin')}{note}"])
    if not rows:
        return None
    return Section("Chosen fields", [Table(["field", "value", "comes from"], rows)])


def _search(plan: Mapping[str, Any]) -> Section | None:
    automl = mapping(plan.get("automl"))
    if not automl:
        return None
    rows = [[str(key), shown(value)] for key, value in mapping(automl.get("knobs")).items()]
    blocks: list[Block] = [Table(["parameter", "range"], rows)]
    lead = f"{count_of(automl.get('max_trials'), 'trial')} for {automl.get('metric')}"
    return Section("The search", blocks, lead)
