"""What the commands share: options, data on stdout, talk on stderr.

`mae --help` loads this file, so it imports click and the standard library only.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from mae_skill.errors import UsageError
from mae_skill.spelling import json_printable, nearest
from mae_skill.spelling import one_line as one_line_of

from mae_sdk import answers

if TYPE_CHECKING:
    from mae_skill.errors import MaeError

    from mae_sdk.job import Job

ACTIONS = ("train", "evaluate", "inference", "export", "gen_trt_engine")

TERMINAL = ("COMPLETE", "ERROR", "CANCELED")

MAX_LINES = 60
"""Lines that a person or an agent gets unasked; every cut says how to see the rest."""

FOLLOW_SECONDS = 0.5
"""Between two readings of a log that is followed."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


def json_option(command: _Command) -> _Command:
    """``--json``, on every command."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="One JSON document on stdout, errors as one JSON object on stderr.",
    )(command)


def results_root_option(command: _Command) -> _Command:
    """``--results-root``, where jobs are."""
    return click.option(
        "--results-root",
        metavar="URI",
        default=None,
        help="Where jobs are: a folder or a URL. Default: $MAE_RESULTS_ROOT, else ./mae-results.",
    )(command)


def skill_dir_option(command: _Command) -> _Command:
    """``--skill-dir``, another bundle."""
    return click.option(
        "--skill-dir", metavar="DIR", help="Another bundle. Default: the packaged one."
    )(command)


def did_you_mean(word: str, known: Sequence[str]) -> str | None:
    """``did you mean 'x'?``, or None when nothing is near."""
    near = nearest(word, known)
    return f"did you mean {near!r}?" if near else None


def environment(settings: Iterable[str]) -> dict[str, str]:
    """``NAME=VALUE`` texts as a mapping.

    Raises:
        UsageError: one has no name or no ``=``, or a name has two values.
    """
    from mae_skill.dotted import once

    pairs = []
    for item in settings:
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise UsageError(
                "not an environment setting", field="--env", got=item, expected="NAME=VALUE"
            )
        pairs.append((name, value))
    return once(pairs, "env.")


def emit(
    document: Mapping[str, Any], *, as_json: bool, text: str, next_commands: Sequence[str] = ()
) -> None:
    """Print one answer.

    Args:
        document: what ``--json`` prints, with ``next`` added.
        text: what a person reads.
        next_commands: the sensible next commands; for people below the answer.
    """
    if as_json:
        click.echo(dumps({**document, "next": list(next_commands)} if next_commands else document))
        return
    click.echo(text)
    if next_commands:
        click.echo("\nnext:\n" + "\n".join(f"  {command}" for command in next_commands))


def say(text: str) -> None:
    """Talk: to stderr, never among the data."""
    click.echo(text, err=True)


def dumps(document: Any) -> str:
    """Strict JSON (no NaN), indented; paths and other foreign values as text."""
    text = json.dumps(answers.plain(document), indent=2, allow_nan=False, ensure_ascii=_ascii())
    return json_printable(text)


def one_line(document: Any) -> str:
    """Strict JSON on one line, also for readers to whom Unicode's line separators end a line."""
    text = json.dumps(answers.plain(document), allow_nan=False, ensure_ascii=_ascii())
    return json_printable(text)


def _ascii() -> bool:
    """Whether the output cannot hold every character: then JSON escapes those that are no ASCII."""
    return (sys.stdout.encoding or "utf-8").lower().replace("-", "") != "utf8"


def print_error(error: MaeError, *, as_json: bool) -> None:
    """One error (with all its problems) on stderr: text, or one line of JSON for machines."""
    if as_json:
        sys.stderr.write(one_line(error.to_dict()) + "\n")
    else:
        sys.stderr.write(f"error [{error.code}] {error}\n")


def bounded(lines: Sequence[str], *, more: str, limit: int = MAX_LINES) -> str:
    """At most ``limit`` lines, then how to get the rest."""
    if len(lines) <= limit:
        return "\n".join(lines)
    return "\n".join([*lines[:limit], f"… {len(lines) - limit} more: {more}"])


def table(rows: Iterable[Sequence[Any]], head: Sequence[str]) -> str:
    """Plain aligned columns: readable in a terminal, a log and a model's context alike."""
    cells = [[one_line_of(str(cell)) if cell is not None else "-" for cell in row] for row in rows]
    widths = [max([len(title), *(len(row[i]) for row in cells)]) for i, title in enumerate(head)]
    lines = [
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        for row in [list(head), *cells]
    ]
    return "\n".join(lines)


def pairs(items: Mapping[str, Any], indent: str = "") -> str:
    """``key  value`` lines, aligned."""
    width = max((len(key) for key in items), default=0)
    return "\n".join(f"{indent}{key.ljust(width)}  {show(value)}" for key, value in items.items())


def show(value: Any, limit: int = 160) -> str:
    """A value on one line; on a terminal at most `limit` characters of it."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, float):
        text = f"{value:.6g}"
    else:
        text = json.dumps(value, default=str, ensure_ascii=False)
    text = one_line_of(text.replace("\n", " "))
    if len(text) <= limit or not sys.stdout.isatty():  # what is piped is read whole
        return text
    return text[: limit - 1] + "…"


def sentence(item: dict[str, Any] | str) -> str:
    """A notice, or a warning with its field and hint."""
    if isinstance(item, str):
        return item
    text = f"{item['field']}: {item['message']}" if item.get("field") else item["message"]
    return f"{text} ({item['hint']})" if item.get("hint") else text


def seconds(value: float | None) -> str:
    """``95`` → ``1m35s``."""
    if value is None:
        return "unknown"
    if 0 < value < 1:
        return f"{value * 1000:.0f}ms"
    if value < 10:
        return f"{value:.1f}s"

    total = round(value)
    if total < 60:
        return f"{total}s"
    hours, rest = divmod(total, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{left:02d}s"


def size(count: float | None) -> str:
    """Bytes in decimal units, as plans, reports and makers of disks count them."""
    if count is None:
        return "unknown"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def flat_lines(value: Any, prefix: str = "") -> list[str]:
    """``a.b  value`` lines of a nested document."""
    if isinstance(value, dict):
        return [
            line
            for key, item in value.items()
            for line in flat_lines(item, f"{prefix}.{key}" if prefix else str(key))
        ]
    return [f"{prefix}  {show(value)}"]


_TOLD = frozenset(["error", "files", "progress", "best", "study", "notes", "warnings"])
"""What `status_text` says in words of its own."""


def _reason(failure: Mapping[str, Any]) -> dict[str, Any]:
    """Why a job failed: each thing once, what its error got and expected among them."""
    error = failure.get("error") or {}
    found = {key: value for key, value in failure.items() if value and key != "error"}
    more = ("field", "got", "expected", "problems")
    return found | {key: error[key] for key in more if error.get(key) not in (None, "", [])}


def status_text(document: dict[str, Any]) -> str:
    """What a person reads of `answers.status`."""
    from mae_sdk.jobs.metrics import study_lines

    shown = {
        key: seconds(value) if key.endswith("_seconds") else value
        for key, value in document.items()
        if value not in (None, [], {}) and key not in _TOLD
    }
    line = document.get("progress") or {}
    if line.get("message") and line["message"] == (document["error"] or {}).get("message"):
        line = {**line, "message": "failed"}  # of what is said below
    shown |= progress_of(line)
    if best := document.get("best"):
        shown["best"] = "  ".join(
            f"{name} {show(value['value'])} ({place_of(value)})" for name, value in best.items()
        )
    said = [
        f"{kind}: {one_line_of(str(one))}"
        for kind in ("note", "warning")
        for one in document.get(f"{kind}s") or ()
    ]
    text = "\n".join([pairs(shown), *study_lines(document.get("study") or {}), *said])
    if document["error"]:
        text += "\nerror:\n" + pairs(_reason(document["error"]), "  ")
    return text


def place_of(figure: Mapping[str, Any]) -> str:
    """Where a figure is from: ``epoch 3``, or the step of a runner that counts by steps."""
    from mae_sdk.jobs.metrics import is_placed

    if not is_placed(figure):
        return "whole run"
    unit = "step" if figure.get("epoch") is None else "epoch"
    return f"{unit} {figure.get(unit)}"


def progress_of(line: Mapping[str, Any]) -> dict[str, str]:
    """The newest status line in words: ``progress``, and the metrics that it reports, ``newest``.

    Epochs are numbered from 0, as in file names; how many are done is said beside it, where the
    lines of another bundle's runner tell it.
    """
    epoch, epochs = line.get("epoch"), line.get("max_epoch")
    parts = [str(line["message"])] if line.get("message") else []
    if isinstance(epoch, int):
        of = f" of {epochs}" if epochs else ""
        parts = parts if "kpi" not in line else []  # of an epoch's own line it is said here
        from_one = isinstance(epochs, int) and epoch >= epochs  # as runners of other makes count
        done = line.get("epochs_done", epoch + 1)  # of another bundle, where it is known
        from_one = done is None if "epochs_done" in line else from_one
        last = f" (the last is epoch {epoch})" if done != epoch else ""
        parts.append(
            f"epoch {epoch}{of}" if from_one or epoch < 0 else f"{done}{of} epochs done{last}"
        )
        if line.get("step") is not None:
            steps = f" of {line['max_step']}" if line.get("max_step") else ""
            parts.append(f"step {line['step']}{steps}")
        if line.get("time_per_epoch") is not None:
            parts.append(f"{seconds(line['time_per_epoch'])} of training an epoch")
        if line.get("eta"):
            parts.append(f"about {seconds(line['eta'])} left")
    elif isinstance(step := line.get("step"), int):
        of = f" of {line['max_step']}" if line.get("max_step") else ""
        parts = parts if "kpi" not in line else []
        parts.append(f"{step}{of} steps done")
    if line.get("date") and line.get("time"):
        parts.append(f"at {line['date']} {line['time']} UTC")
    found = {"progress": ", ".join(parts)} if parts else {}
    if kpi := line.get("kpi"):
        found["newest"] = "  ".join(f"{name} {show(value)}" for name, value in kpi.items())
    return found


def root_flag(results_root: str | None) -> str:
    """`` --results-root X`` where one was given, so that suggested commands work as printed."""
    if not results_root:
        return ""
    from mae_sdk.storage import urls

    return f" --results-root {shlex.quote(urls.seal(results_root))}"


def next_for(job: Job, state: str, results_root: str | None) -> list[str]:
    """The sensible next commands for a job in this state."""
    from mae_sdk.jobs import records

    root = root_flag(results_root)
    if state in ("PENDING", "RUNNING"):
        return [
            f"mae jobs status {job.id}{root}",
            f"mae jobs wait {job.id}{root}",
            f"mae jobs logs {job.id} -f{root}",
        ]
    if state in ("ERROR", "CANCELED") and (study := records.study_of(job.record)):
        return [f"mae jobs logs {job.id}{root}", f"mae jobs status {study}{root}"]
    if state == "ERROR":
        if not answers.fails_again(job.record):
            return [f"mae jobs logs {job.id}{root}", f"mae jobs resume {job.id}{root}"]
        again = answers.inspections(job.record, job.folder)
        return [f"mae jobs logs {job.id}{root}", f"mae jobs show {job.id}{root}", *again]
    if state == "CANCELED":
        return [f"mae jobs resume {job.id}{root}"]
    if state == "UNKNOWN":
        return [f"mae jobs show {job.id}{root}", f"mae jobs logs {job.id}{root}"]
    reading = [f"mae jobs metrics {job.id}{root}"]
    record = job.record
    if record["action"] in ("export", "gen_trt_engine", "inference"):
        reading = [f"mae jobs show {job.id}{root}"]
    if record.get("kind") == "automl":
        reading.append(f"mae jobs list --all{root}")
    if record["action"] in ("train", "evaluate", "inference"):
        reading.append(f"mae report {job.id}{root}")
    return [*reading, *(answers.command_of(step, root) for step in answers.after(job))]


def print_log(job: Job, text: str, shown: Sequence[str], *, following: bool, as_json: bool) -> None:
    """Print the end of a log, and with `following` what is added until the job ends."""
    for line in shown:
        _print_log_line(line, as_json)

    printed = len(text)
    while following:
        ended = job.state in TERMINAL
        text = job.logs()
        # Whole lines only: the rest of a line that is being written comes with the next reading.
        end = len(text) if ended else text.rfind("\n") + 1
        for line in text[printed:end].splitlines():
            _print_log_line(line, as_json)
        printed = max(printed, end)
        if ended:
            return
        time.sleep(FOLLOW_SECONDS)


def _print_log_line(line: str, as_json: bool) -> None:
    click.echo(one_line({"line": line}) if as_json else line)
    sys.stdout.flush()


def one_or_several(given: Sequence[str]) -> str | list[str] | None:
    """What an option that may be repeated holds: one, a list, or None where it is not given."""
    return given[0] if len(given) == 1 else list(given) or None


def figure_lines(document: Mapping[str, Any], told: Collection[str] = ()) -> list[str]:
    """The figures of a job as lines, then the metrics that no epoch has reported.

    A warning of the run and of its data is one line; what has been `told` is none.
    """
    from mae_sdk.jobs.metrics import is_placed, lines

    of_run, notes = (
        [str(text) for text in document.get(kind, ()) if str(text) not in told]
        for kind in ("warnings", "notes")
    )
    of_data = [str(text) for text in document.get("data_warnings", ())]
    document = {**document, "warnings": of_run, "notes": notes}

    by_epoch = {name for name, now in document.get("last", {}).items() if is_placed(now)}
    metrics = document.get("metrics") or {}
    rest = {name: value for name, value in metrics.items() if name not in by_epoch}
    warned = [f"data: {text}" for text in of_data if text not in {*of_run, *told}]
    return [*lines(document), *flat_lines(rest), *warned]


_LAUNCHED = ("job_id", "action", "state", "folder")


def ended_text(document: dict[str, Any], told: Collection[str] = ()) -> str:
    """What a person reads of a job that was launched and, where it was waited for, has ended:
    its figures, what was left out, the warnings that the launch has not `told`, its files."""
    text = [pairs({name: document[name] for name in _LAUNCHED}), *figure_lines(document, told)]
    if named := document.get("files"):
        more = document.get("more_files")
        text += ["files:", *(f"  {path}" for path in named)]
        text += [f"  … {more} more: mae jobs show {document['job_id']}"] if more else []
    return "\n".join(text)
