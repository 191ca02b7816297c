"""One page from pretraining to engine: a job, all that it came from, and how that was judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_sdk.report import curves, deployed, first_screen, gallery, judged, page, search
from mae_sdk.report.blocks import Card, Link, Section, Table
from mae_sdk.report.facts import Facts, evaluations, facts_of, parents
from mae_sdk.report.markup import seconds
from mae_sdk.report.outcome import outcome

MAX_EVALUATIONS = 8


@dataclass
class Part:
    """One job of the chain."""

    id: str
    heading: str
    state: str
    cards: list[Card]
    sections: list[Section]


def render_chain(job: Job, home: str = "") -> str:
    """The page of a job and its parents.

    Args:
        home: the page of all jobs, where there is one.

    Raises:
        NotFoundError, DataError: there is no such job, or its record cannot be read.
    """
    line = [facts_of(one) for one in parents(job)]
    line = with_evaluations(line)
    share = gallery.BUDGET // max(len(line), 1)
    parts = [_part(facts, share) for facts in line]
    first, last = line[0], next(facts for facts in line if facts.id == job.id)
    title = f"From {_inside(first_screen.heading(first))} to {_inside(first_screen.heading(last))}"
    return page.fill(
        "chain.html.j2",
        f"{title} · {job.id}",
        heading=title,
        home=home,
        outcome=outcome(last, line),
        summary=summary(line),
        chain=steps(line),
        parts=parts,
    )


def _inside(heading: str) -> str:
    """A heading in a sentence: its first letter small, names as they are."""
    return heading[:1].lower() + heading[1:]


def steps(line: list[Facts]) -> list[list[Link]]:
    """Every job of the chain with the evaluations of it, from which nothing came."""
    found: list[list[Link]] = []
    for facts in line:
        link = Link(first_screen.heading(facts), f"#{facts.id}")
        if facts.action == "evaluate" and found:
            found[-1].append(link)
        else:
            found.append([link])
    return found


def with_evaluations(line: list[Facts]) -> list[Facts]:
    """The chain with the evaluations of its models, each after the job that it judged."""
    ids = {facts.id for facts in line}
    judged_by: dict[str, list[Facts]] = {}
    for other in evaluations(line[-1].job):
        record = other.record
        parent = str(record.get("parent_automl") or record.get("parent"))
        if other.id not in ids and parent in ids:
            judged_by.setdefault(parent, []).append(facts_of(other))
    found: list[Facts] = []
    for facts in line:
        found += [facts, *judged_by.get(facts.id, [])[:MAX_EVALUATIONS]]
    return found


def summary(line: list[Facts]) -> Table:
    """Every job in a row: what it was, on what, with what result."""
    rows: list[list[Any]] = []
    for facts in line:
        result, data = first_screen.result(facts), first_screen.data(facts)
        measure = result.title.removeprefix("So far: ")
        measure = measure.removeprefix("Result: ").removeprefix("Result")
        measure = "" if facts.state == records.ERROR else measure
        mark = "↳ " if facts.action == "evaluate" and rows else ""  # it judges the job above
        rows.append(
            [
                Link(mark + first_screen.heading(facts), f"#{facts.id}"),
                f"{measure} {result.figure}".strip(),
                first_screen.how_sure(facts, result),
                data.figure if data.title == "Data" else "–",
                facts.state,
                "–" if facts.seconds is None else seconds(facts.seconds),
            ]
        )
    head = ["job", "result", "how sure", "data", "state", "ran"]
    return Table(head, rows, "The chain in short", (5,), stacked=True)


def _part(facts: Facts, budget: int) -> Part:
    found: list[Section | None] = []
    if facts.is_study:
        found += search.sections(facts)
    if facts.action in ("export", "gen_trt_engine"):
        found += deployed.sections(facts)
    if facts.action == "evaluate":
        found += judged.sections(facts)
    found += [curves.curves(facts), *gallery.sections(facts, budget), curves.checkpoints(facts)]
    sections = [one for one in found if one is not None]
    for section in sections:
        section.prefix = facts.id
    cards = [card for card in first_screen.cards(facts) if card.title != "Next"]
    return Part(facts.id, first_screen.heading(facts), facts.state, cards, sections)
