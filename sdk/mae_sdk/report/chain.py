"""One page of several jobs: from pretraining to engine, a job, all that it came from and how that
was judged; or jobs that somebody names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_sdk.report import curves, deployed, first_screen, gallery, judged, page, ranking, search
from mae_sdk.report.blocks import Card, Link, Section, Table
from mae_sdk.report.facts import Facts, evaluations, facts_of, parents
from mae_sdk.report.markup import seconds, together
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
    first, last = line[0], next(facts for facts in line if facts.id == job.id)
    title = f"From {_inside(first_screen.heading(first))} to {_inside(first_screen.heading(last))}"
    return _page(
        line,
        f"{title} · {job.id}",
        heading=title,
        home=home,
        kind="1 job" if len(line) == 1 else f"a chain of {len(line)} jobs",
        outcome=outcome(last, line),
        summary=summary(line, "The chain in short"),
        chain=steps(line),
    )


def render_jobs(jobs: Sequence[Job]) -> tuple[str, str]:
    """The page of jobs that need not belong together, in their order: which is best, and in what
    they differ; and the sentences that it begins with.

    Raises:
        NotFoundError, DataError: there is no such job, or its record cannot be read.
    """
    line = [facts_of(one) for one in {job.id: job for job in jobs}.values()]
    title = "1 job" if len(line) == 1 else f"{len(line)} jobs"
    differ, best = ranking.differences(line), ranking.ranking_of(line)
    said = ranking.sentence(best, differ, line)
    text = _page(
        line,
        f"{title} · {', '.join(facts.id for facts in line)}",
        heading=title,
        home="",
        kind=", ".join(facts.id for facts in line),
        outcome=said,
        compared=ranking.blocks(best, differ, line) if len(line) > 1 else [],
        summary=summary(line, "The jobs in short", names={f.id: differ.name(f.id) for f in line}),
        chain=[],  # nothing comes from another: the table links to each
    )
    return text, said


def _page(line: list[Facts], title: str, **more: Any) -> str:
    share = gallery.BUDGET // max(len(line), 1)
    parts = [_part(facts, share) for facts in line]
    return page.fill("chain.html.j2", title, parts=parts, **{"compared": (), **more})


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


def summary(line: list[Facts], caption: str, *, names: Mapping[str, str] | None = None) -> Table:
    """Every job in a row: what it was, on what, with what result.

    Args:
        names: of jobs that are no chain, what tells each from the others, by its id: both are in
            its row.
    """
    rows: list[list[Any]] = []
    for facts in line:
        result, data = first_screen.result(facts), first_screen.data(facts)
        measure = result.title.removeprefix("So far: ")
        measure = measure.removeprefix("Result: ").removeprefix("Result")
        measure = "" if facts.state == records.ERROR else measure
        # An evaluation of a chain judges the job above.
        mark = "↳ " if facts.action == "evaluate" and rows and names is None else ""
        title = f"{mark}{first_screen.heading(facts)}"
        if names is not None:
            title = " · ".join(filter(None, (title, names[facts.id]))) + f" ({facts.id})"
        rows.append(
            [
                Link(title, f"#{facts.id}"),
                together(f"{measure} {result.figure}".strip()),
                together(first_screen.how_sure(facts, result)),
                data.figure if data.title == "Data" else "–",
                facts.state,
                "–" if facts.seconds is None else seconds(facts.seconds),
            ]
        )
    head = ["job", "result", "how sure", "data", "state", "ran"]
    return Table(head, rows, caption, (5,), stacked=True)


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
