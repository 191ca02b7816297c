"""A job's report as one HTML page that needs nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache, partial
from pathlib import Path
from typing import Any

from mae_skill.spelling import printable
from markupsafe import Markup

from mae_sdk.job import Job, beside
from mae_sdk.jobs.secrets import known, redact
from mae_sdk.report import (
    curves,
    deployed,
    details,
    first_screen,
    gallery,
    judged,
    search,
)
from mae_sdk.report.blocks import Bar, Link, Section
from mae_sdk.report.facts import Facts, facts_of, parents

REPORT_NAME = "report.html"
REFRESH_SECONDS = 30
"""How often an open page looks for a newer one while the job runs."""


def render(
    facts: Facts,
    links: Mapping[str, str] | None = None,
    *,
    refresh: int = REFRESH_SECONDS,
    home: str = "",
    whole: str = "",
    at_home: bool = True,
    sections: list[Section] | None = None,
) -> str:
    """The page.

    Args:
        links: job id → where its own report is, for a page that is shown where those are; None: a
            file, which may be mailed without them.
        refresh: seconds after which an open page looks for a newer one, while the job runs.
        home: the page of all jobs, where there is one.
        whole: the page of the whole chain, where there is one.
        at_home: whether a file is in the job's own folder, from where others are found.
        sections: below the first screen; None: all.
    """
    target = partial(_target, facts.job, links, at_home)
    parts: dict[str, Any] = {
        "above": " · ".join(
            [facts.id, *(f"{k} {v}" for k, v in first_screen.chips(facts).items())]
        ),
        "heading": first_screen.heading(facts),
        "state": facts.state,
        "badge": facts.state_word,
        "below": _asked(facts),
        "chain": chain(facts, links, at_home=at_home),
        "mailed": links is None,
        "whole": whole,
        "whole_command": f"mae report {shlex.quote(facts.id)} --chain",
        "cards": first_screen.cards(facts),
        "sections": body(facts, target) if sections is None else sections,
        "refresh": refresh if facts.is_running else None,
        "home": home,
    }
    return fill("report.html.j2", f"{parts['heading']} · {facts.id}", **parts)


def _asked(facts: Facts) -> str:
    policy = facts.record.get("policy") or {}
    reason = policy.get("reason") if facts.action == "train" else None
    return f"AutoML {'on' if policy.get('enabled') else 'off'}: {reason}" if reason else ""


def _target(job: Job, links: Mapping[str, str] | None, at_home: bool, name: str) -> str:
    """Where the page of another job is, or a table of the job's own folder; empty where it is not
    known to be anywhere."""
    if name == search.TABLE:
        return name if links is None and at_home and (job.folder / name).is_file() else ""
    if links is not None:
        return links.get(name, "")
    other = beside(job, name) if at_home else None
    is_there = other is not None and (other.folder / REPORT_NAME).is_file()
    return f"../{name}/{REPORT_NAME}" if is_there else ""


def body(facts: Facts, target: search.Target = lambda name: "") -> list[Section]:
    """Everything below the first screen, with links to the pages of other jobs."""
    found: list[Section | None] = []
    if facts.is_study:
        found += search.sections(facts, target)
    if facts.action in ("export", "gen_trt_engine"):
        found += deployed.sections(facts)
    if facts.action != "train":
        found += judged.sections(facts)
    found.append(curves.curves(facts))
    if facts.action == "train" and not facts.is_study:
        found += judged.sections(facts)
    found += gallery.sections(facts)
    found.append(curves.checkpoints(facts))
    found += details.sections(facts)
    return [one for one in found if one is not None]


@dataclass(frozen=True)
class Place:
    """A job of the chain.

    Attributes:
        target: where its report is; empty: not known to be anywhere.
        command: what writes its report.
    """

    id: str
    text: str
    target: str
    command: str


def chain(
    facts: Facts, links: Mapping[str, str] | None = None, *, at_home: bool = True
) -> list[Place]:
    """The jobs that this one came from, oldest first, and itself; empty where it came from none.

    Arguments as of `render`.
    """
    line = parents(facts.job)
    if len(line) < 2:
        return []
    found = []
    for job in line:
        text = first_screen.heading(facts_of(job, job.record, ""))
        target = _target(facts.job, links, at_home, job.id)
        found.append(Place(job.id, text, target, f"mae report {shlex.quote(job.id)}"))
    return found


def fill(template: str, title: str, *, intervals: bool = True, **values: Any) -> str:
    """A template's page, in which no secret that this process knows stands.

    Args:
        intervals: whether the page shows any.
    """
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    said = " Intervals are at 95 %." if intervals else ""
    values.setdefault("footer", f"Written by mae at {now}.{said}")
    values.setdefault("refresh", None)
    text = _environment().get_template(template).render(title=title, style=style(), **values)
    # A name may hold what a browser would obey, such as marks that turn the direction of text.
    return printable(redact(text, known()))


@cache
def style() -> Markup:
    """The style sheet, which is ours and holds nothing of a user's."""
    return Markup((Path(__file__).parent / "templates" / "style.css").read_text(encoding="utf-8"))


@cache
def _environment() -> Any:
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.tests["bar"] = lambda value: isinstance(value, Bar)
    found.tests["link"] = lambda value: isinstance(value, Link)
    return found
