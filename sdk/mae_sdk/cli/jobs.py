"""``mae jobs …``: every job of a results root, from any machine that can read it."""

from __future__ import annotations

import shlex
import warnings
from typing import TYPE_CHECKING

import click

from mae_sdk import answers
from mae_sdk.cli.common import (
    MAX_LINES,
    TERMINAL,
    bounded,
    dumps,
    emit,
    ended_text,
    environment,
    figure_lines,
    flat_lines,
    json_option,
    next_for,
    pairs,
    print_log,
    results_root_option,
    root_flag,
    say,
    size,
    status_text,
    table,
)
from mae_sdk.cli.live import follow, leave_as

if TYPE_CHECKING:
    from mae_sdk.job import Job

STATES = ("PENDING", "RUNNING", *TERMINAL, "UNKNOWN")

MAX_NAMES = 8
"""Damaged jobs that a warning names."""

_job_argument = click.argument("job_id", metavar="JOB")


@click.group()
def jobs() -> None:
    """Jobs: list, best, status, logs, wait, cancel, resume, delete, prune, metrics, show.

    JOB is an id or an unambiguous prefix of one.
    """


def _job(identifier: str, results_root: str | None) -> Job:
    from mae_sdk import Skill

    return Skill().job(identifier, results_root=results_root)


@jobs.command("list")
@click.option(
    "--state", type=click.Choice(STATES, case_sensitive=False), help="Only jobs in this state."
)
@click.option("--all", "everything", is_flag=True, help="AutoML trials too.")
@click.option("--action", help="Only jobs of this action.")
@click.option("--stage", help="Only jobs whose model is of this stage: pretrain, finetune.")
@click.option("--arch", help="Only jobs of this architecture.")
@click.option("--metric", help="Only jobs that report this metric; BEST is of it.")
@click.option(
    "--sort",
    type=click.Choice(answers.JOB_COLUMNS, case_sensitive=False),
    default="created",
    show_default=True,
    help="The column to sort by; created: the newest first; best: each metric by itself, the best "
    "first.",
)
@click.option("--reverse", is_flag=True, help="Sort the other way round.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=30, show_default=True, help="The first N."
)
@results_root_option
@json_option
def list_(
    state: str | None,
    everything: bool,
    action: str | None,
    stage: str | None,
    arch: str | None,
    metric: str | None,
    sort: str,
    reverse: bool,
    limit: int,
    results_root: str | None,
    as_json: bool,
) -> None:
    """The newest jobs first, with what they trained and how good it became."""
    from mae_sdk import Skill

    listed = Skill().jobs(results_root=results_root, all=everything)
    only = answers.JobFilter(
        state and state.upper(), action, stage, arch, metric, sort.lower(), reverse
    )
    document = answers.jobs(listed, limit=limit, only=only)

    damaged = document.get("unreadable", [])
    if damaged:
        more = " …" if len(damaged) > MAX_NAMES else ""
        say(f"warning: the record of {', '.join(damaged[:MAX_NAMES])}{more} cannot be read")

    rows, root = document["jobs"], root_flag(results_root)
    if not rows:
        text, command = "no jobs here", f"mae plan train --train-datasets URI{root}"
        if listed:
            count = "1 job" if len(listed) == 1 else f"{len(listed)} jobs"
            text, command = f"none of the {count} here is asked for", f"mae jobs list{root}"
    else:
        heads = ("JOB", *(name.replace("_", " ").upper() for name in answers.JOB_COLUMNS[1:]))
        text = table([_cells(row) for row in rows], heads)
        if sort.lower() == "best":
            ranks = dict.fromkeys(answers.rank_of(row) for row in rows)
            text += f"\neach by itself: {'; '.join(ranks)}" if len(ranks) > 1 else ""
        command = f"mae jobs status {rows[0]['id']}{root}"
    if document["total"] > limit:
        text += f"\n… {document['total'] - limit} more: --limit {document['total']}"
    emit(document, as_json=as_json, text=text, next_commands=[command])


def _cells(row: answers.Document) -> list[object]:
    """A job in the table: figures with four digits, times to the second."""
    shown = dict(row)
    if isinstance(row["best"], float):
        shown["best"] = f"{row['best']:.4g}{answers.in_doubt(row)}"
    elif row["best"] is None and row.get("doubts"):  # of a model that it took, say
        shown["best"] = answers.in_doubt(row)
    if row["judged_on"]:
        shown["judged_on"] = answers.near(row["judged_on"])
    if row["created"]:
        shown["created"] = row["created"][:19]
    return [shown[name] for name in answers.JOB_COLUMNS]


@jobs.command()
@_job_argument
@results_root_option
@json_option
def status(job_id: str, results_root: str | None, as_json: bool) -> None:
    """State, progress, the newest metrics; the reason when it failed."""
    _print_status(_job(job_id, results_root), results_root, as_json)


def _print_status(job: Job, results_root: str | None, as_json: bool) -> None:
    document = answers.status(job)
    emit(
        document,
        as_json=as_json,
        text=status_text(document),
        next_commands=next_for(job, document["state"], results_root),
    )


@jobs.command()
@_job_argument
@click.option("-f", "--follow", "following", is_flag=True, help="Keep printing until the job ends.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0),
    default=MAX_LINES,
    show_default=True,
    help="The last N lines; 0 = all.",
)
@results_root_option
@json_option
def logs(job_id: str, following: bool, lines: int, results_root: str | None, as_json: bool) -> None:
    """The end of a job's log."""
    job = _job(job_id, results_root)
    text = job.logs()
    document = answers.logs(job.id, text, lines)
    if as_json and not following:
        click.echo(dumps(document))
        return
    earlier = document["total_lines"] - len(document["lines"])
    if earlier:
        say(f"… {earlier} earlier lines: -n 0")
    print_log(job, text, document["lines"], following=following, as_json=as_json)


@jobs.command()
@_job_argument
@click.option(
    "--timeout",
    type=float,
    default=None,
    metavar="SECONDS",
    help="Stop waiting (exit 9, still_running); the job goes on.",
)
@results_root_option
@json_option
def wait(job_id: str, timeout: float | None, results_root: str | None, as_json: bool) -> None:
    """Stay until a job ends. Exit 0 complete, 5 failed (3: for its data), 6 canceled."""
    job = _job(job_id, results_root)
    follow(job, as_json=as_json, timeout=timeout)
    _print_status(job, results_root, as_json)
    leave_as(job)


@jobs.command()
@click.argument("job_id", metavar="[JOB]", required=False)
@click.option("--all", "everything", is_flag=True, help="Every job that is pending or running.")
@results_root_option
@json_option
def cancel(job_id: str | None, everything: bool, results_root: str | None, as_json: bool) -> None:
    """Stop a job: every process of it, with a grace period. A job that has ended stays as it is."""
    if everything == (job_id is not None):
        raise click.UsageError("give one JOB, or --all")
    if job_id is None:
        _cancel_all(results_root, as_json)
        return
    job = _job(job_id, results_root)
    job.cancel()
    document = answers.state(job)
    emit(
        document,
        as_json=as_json,
        text=pairs(document),
        next_commands=next_for(job, document["state"], results_root),
    )


def _cancel_all(results_root: str | None, as_json: bool) -> None:
    """Cancel every job that is pending or running; a study cancels its trials."""
    from mae_sdk import Skill

    document, error = answers.cancel_all(Skill().jobs(results_root=results_root))
    rows = [[row["id"], row["state"], row.get("error")] for row in document["canceled"]]
    emit(
        document,
        as_json=as_json,
        text=table(rows, ("JOB", "STATE", "ERROR")) if rows else "no job is pending or running",
        next_commands=[f"mae jobs list{root_flag(results_root)}"],
    )
    if error is not None:
        raise error


@jobs.command()
@_job_argument
@results_root_option
@json_option
def delete(job_id: str, results_root: str | None, as_json: bool) -> None:
    """Remove a job that has ended, with its results and trials. It cannot be undone."""
    from mae_sdk.job import children_of, orphaned

    job = _job(job_id, results_root)
    children = children_of(job.folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are said in this command's own way
        job.delete()
    if children:
        say(f"notice: {orphaned(job.id, children)}")
    root = root_flag(results_root)
    document = {"deleted": job.id}
    emit(document, as_json=as_json, text=pairs(document), next_commands=[f"mae jobs list{root}"])


@jobs.command()
@click.option(
    "--state",
    "states",
    type=click.Choice(TERMINAL, case_sensitive=False),
    multiple=True,
    help="Jobs that ended so; may be repeated. Default: ERROR and CANCELED, beside --keep all.",
)
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="DAYS",
    help="Only jobs that were created more days ago.",
)
@click.option(
    "--keep",
    metavar="JOB",
    multiple=True,
    help="A job that stays, with those whose model it took; may be repeated: all others go.",
)
@click.option("--yes", is_flag=True, help="Remove them. Without it nothing is removed.")
@results_root_option
@json_option
def prune(
    states: tuple[str, ...],
    older_than: float,
    keep: tuple[str, ...],
    yes: bool,
    results_root: str | None,
    as_json: bool,
) -> None:
    """What could be removed: jobs that failed or were canceled, with their trials; with --keep all
    that have ended but these.

    Nothing is removed without --yes. A job whose model another job took stays.
    """
    from mae_sdk import Skill

    listed = Skill().jobs(results_root=results_root)
    wanted = [state.upper() for state in states]
    staying = [_job(name, results_root).id for name in keep]
    document = answers.prunable(listed, states=wanted, older_than=older_than * 86400, keep=staying)
    rows = [[row["id"], row["state"], row["created"], _size(row)] for row in document["prune"]]
    text = table(rows, ("JOB", "STATE", "CREATED", "SIZE")) if rows else "nothing to remove"
    text += "".join(f"\nstays  {name}: {why}" for name, why in document["kept"].items())
    root = root_flag(results_root)
    commands = [f"mae jobs list{root}"]
    if yes:
        document = {**document, "removed": answers.remove(listed, document)}
        text += f"\nremoved {len(document['removed'])} jobs, {size(document['bytes'])}" * bool(rows)
    elif rows:
        text += f"\n{len(rows)} jobs, {size(document['bytes'])}: nothing is removed without --yes"
        options = "".join(f" --state {state}" for state in wanted)
        options += "".join(f" --keep {name}" for name in staying)
        options += f" --older-than {older_than:g}" if older_than else ""
        commands.insert(0, f"mae jobs prune{options} --yes{root}")
    emit(document, as_json=as_json, text=text, next_commands=commands)


def _size(row: answers.Document) -> str:
    return "elsewhere" if row["bytes"] is None else size(row["bytes"])


@jobs.command()
@click.option("--metric", help="The best by this metric, not one for every metric.")
@click.option(
    "--direction",
    type=click.Choice(("minimize", "maximize"), case_sensitive=False),
    help="With --metric: which is better, for jobs that do not know it.",
)
@click.option("--action", help="Only jobs of this action.")
@click.option("--stage", help="Only jobs whose model is of this stage: pretrain, finetune.")
@click.option("--arch", help="Only jobs of this architecture.")
@click.option("--all", "everything", is_flag=True, help="AutoML trials too.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="With --metric: the best N.",
)
@results_root_option
@json_option
def best(
    metric: str | None,
    direction: str | None,
    action: str | None,
    stage: str | None,
    arch: str | None,
    everything: bool,
    limit: int,
    results_root: str | None,
    as_json: bool,
) -> None:
    """Which model is best: the best job of every action, stage and metric."""
    from mae_sdk import Skill

    skill = Skill()
    only = answers.JobFilter(None, action, stage, arch, metric)
    listed = skill.jobs(results_root=results_root, all=everything)
    direction = direction and direction.lower()
    document = answers.best(skill.bundle, listed, limit=limit, only=only, direction=direction)
    heads = ["id", "action", "stage", "arch", "metric", "best", "of", "judged_on"]
    if len({row["skill"] for row in document["best"]}) > 1:
        heads.insert(1, "skill")
    rows = [
        [{**row, "best": f"{row['best']:.4g}{answers.in_doubt(row)}"}[name] for name in heads]
        for row in document["best"]
    ]
    titles = ["JOB", *(name.replace("_", " ").upper() for name in heads[1:])]
    text = table(rows, titles)
    text += "".join(f"\nnotice: {said}" for said in document["notices"])
    first = _job(document["best"][0]["id"], results_root)
    commands = next_for(first, first.state, results_root)
    if same := answers.on_the_same_images(document["best"]):
        names = " ".join(shlex.quote(name) for name in same)
        # Which is first is no difference yet.
        commands = [f"mae report {names}{root_flag(results_root)} -o page.html", *commands]
    emit(document, as_json=as_json, text=text, next_commands=commands)


@jobs.command()
@_job_argument
@click.option("--wait", "waiting", is_flag=True, help="Stay until it ends.")
@click.option(
    "--lost",
    is_flag=True,
    help="The machine of a job in state UNKNOWN is gone; nothing of the job runs there any more.",
)
@click.option(
    "--env",
    metavar="K=V",
    multiple=True,
    help="Environment of the job, which no record holds; may be repeated.",
)
@results_root_option
@json_option
def resume(
    job_id: str,
    waiting: bool,
    lost: bool,
    env: tuple[str, ...],
    results_root: str | None,
    as_json: bool,
) -> None:
    """A new attempt in the same folder, from its newest checkpoint."""
    job = _job(job_id, results_root).resume(environment(env), lost=lost)
    if waiting:
        follow(job, as_json=as_json)

    document = answers.resumed(job)
    text = pairs(document)
    if waiting:
        document = {**answers.ended(job), **document}
        text = ended_text(document)
    emit(
        document,
        as_json=as_json,
        text=text,
        next_commands=next_for(job, document["state"], results_root),
    )
    if waiting:
        leave_as(job)


@jobs.command()
@_job_argument
@results_root_option
@json_option
def metrics(job_id: str, results_root: str | None, as_json: bool) -> None:
    """The last and the best value of every metric; of an AutoML job its best trial and trial 0."""
    job = _job(job_id, results_root)
    document = answers.metrics(job)
    emit(
        document,
        as_json=as_json,
        text=bounded(figure_lines(document), more="--json") or "no metrics yet",
        next_commands=next_for(job, job.state, results_root),
    )


@jobs.command("show")
@_job_argument
@results_root_option
@json_option
def show_(job_id: str, results_root: str | None, as_json: bool) -> None:
    """The whole record of a job: figures, attempts, files."""
    from mae_sdk.jobs.metrics import lines

    job = _job(job_id, results_root)
    document = answers.show(job)
    rest = {name: value for name, value in document.items() if name != "figures"}
    emit(
        document,
        as_json=as_json,
        text=bounded([*lines(document["figures"]), *flat_lines(rest)], more="--json"),
        next_commands=next_for(job, document["state"], results_root),
    )
