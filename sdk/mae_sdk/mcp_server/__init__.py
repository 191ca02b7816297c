"""The MCP server behind ``mae mcp``: the SDK's calls as tools, over stdio.

Tool schemas derive from the bundle's own schemas (`plan_schema`), so another bundle gets its own
tools with no line changed. Launching and stopping need ``confirmed=true``; everything else is
marked read-only. Answers are those of `mae_sdk.answers`, bounded; they say how to get the rest and
name the sensible next calls. `protocol` serves them, and the files of jobs (`resources`).
"""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mae_skill.dotted import field_nodes, flatten
from mae_skill.errors import (
    JobCanceledError,
    JobFailedError,
    MaeError,
    StillRunningError,
    UsageError,
)

from mae_sdk import answers
from mae_sdk.mcp_server.words import spoken

if TYPE_CHECKING:
    from mae_sdk.job import Job
    from mae_sdk.skill import Skill

Arguments = dict[str, Any]

MAX_LINES = 60
MAX_LOG_LINES = 2000
DEFAULT_JOBS = 30
MAX_JOBS = 500
MAX_ITEMS = 60
"""Items of a list or mapping in an answer; more are counted, not shown."""
MAX_TEXT = 4096
"""Characters of a text: a longer argument is refused, a longer text in an answer is cut."""
MAX_ARGUMENTS = 1 << 20
"""Characters of all arguments of a call together, as JSON."""
MAX_DEPTH = 64
"""Lists and mappings inside one another, in an argument."""
DEFAULT_WAIT, MAX_WAIT = 60, 3600
"""Seconds of one call of `wait`."""
MAX_ERROR_TEXT = 600
"""The same, in an error: what it echoes may be the caller's."""

_TEXT = {"type": "string"}
_ROOT = {
    "results_root": {
        "type": "string",
        "description": "Where jobs are: a folder or URL. "
        "Default: MAE_RESULTS_ROOT, else ./mae-results.",
    }
}
_JOB = {"job_id": {"type": "string", "description": "A job id or an unambiguous prefix."}, **_ROOT}
_JOB_FILTER: dict[str, Any] = {
    "state": {"type": "string", "description": "Only jobs in this state."},
    "action": {"type": "string", "description": "Only jobs of this action."},
    "stage": {"type": "string", "description": "Only jobs whose model is of this stage."},
    "arch": {"type": "string", "description": "Only jobs of this architecture."},
    "metric": {"type": "string", "description": "Only jobs that report it; best is of it."},
    "sort": {
        "type": "string",
        "enum": list(answers.JOB_COLUMNS),
        "description": "The column to sort by; created: the newest first; best: each metric by "
        "itself, the best first.",
    },
    "reverse": {"type": "boolean", "description": "Sort the other way round."},
}
_CONFIRMED = {
    "confirmed": {"type": "boolean", "description": "Must be true: the person has agreed to this."}
}
_MACHINE = {
    "on": {
        "type": "string",
        "description": "Plan for a machine that one is not on: 8xA100-80G,nodes=4. Not launched.",
    },
    "images": {
        "type": "string",
        "description": "Number of training images where there are none here: 1.28M.",
    },
    "price": {"type": "string", "description": "With on: 2.5/gpuh, or 30/h for a node."},
}
_PLAN_OPTIONS: dict[str, Any] = {
    "spec": {
        "type": "object",
        "description": "A whole or partial spec. Default: the action's template.",
    },
    "train_datasets": {
        "type": ["string", "array"],
        "items": _TEXT,
        "description": "Training images: a folder, an archive or a pattern such as "
        "shards/{000..015}.tar, local or s3://, or a list of them.",
    },
    "eval_dataset": {
        "type": ["string", "array"],
        "items": _TEXT,
        "description": "Validation images, likewise.",
    },
    "inference_dataset": {
        "type": ["string", "array"],
        "items": _TEXT,
        "description": "Images to predict, likewise.",
    },
    "sources": {
        "type": "object",
        "description": "Data sources of other names, as the bundle's data_sources have them: "
        "name to URI.",
    },
    "parent_job_id": {"type": "string", "description": "The job whose model this one takes."},
    "checkpoint": {
        "type": "string",
        "description": "best (default), latest or epoch:N of the parent.",
    },
    "foreign_parent": {
        "type": "boolean",
        "description": "Take the model of a parent that was made with another bundle.",
    },
    "ptm": {"type": "string", "description": "Pretrained weights: a path or URL."},
    "automl_policy": {
        "type": "string",
        "enum": ["auto", "on", "off"],
        "description": "Training is AutoML unless off.",
    },
    "request": {
        "type": "string",
        "description": "The person's own words: 'no search', 'just train', 'turn off AutoML' "
        "and the like turn AutoML off for this run. The plan says what was understood.",
    },
    "recipe": {
        "type": "string",
        "description": "A published recipe as the base, or auto: what is open is fitted to data, "
        "device and budget.",
    },
    "budget": {
        "type": "string",
        "description": "Time of a run that the auto recipe works to: 10m, 2h, 8gpuh.",
    },
    "platform": {
        "type": "string",
        "description": "Where the job runs; the tool platforms lists them. Default: local.",
    },
    "platform_options": {
        "type": "object",
        "description": "Settings of the platform, such as partition of slurm.",
    },
    "idempotency_key": {
        "type": "string",
        "description": "The same key returns the first job made with it and starts nothing twice; "
        "notices name what a call asks for otherwise.",
    },
    **_ROOT,
}


@dataclass(frozen=True)
class ToolSpec:
    """One tool: its description, and the function that answers a call."""

    name: str
    description: str
    properties: Mapping[str, Any]
    required: tuple[str, ...]
    call: Callable[[Skill, Arguments], answers.Document]
    read_only: bool = True
    destructive: bool = False
    idempotent: bool = True

    @property
    def input_schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": dict(self.properties),
            "required": list(self.required),
            "additionalProperties": False,
        }


def plan_schema(skill: Skill) -> dict[str, Any]:
    """Properties of the plan and run tools.

    The bundle's actions, and the spec fields that its schemas mark popular.
    """
    from mae_sdk.plan.score import of_action

    try:
        bundle = skill.bundle
    except MaeError as error:
        about = f"the bundle cannot be served: {error}"[:MAX_TEXT]
        return {
            "action": {**_TEXT, "description": about},
            "spec_overrides": {"type": "object", "additionalProperties": True},
            **_PLAN_OPTIONS,
            "automl": automl_schema(),
        }
    actions = bundle.actions
    fields: dict[str, Any] = {}
    unserved: dict[str, str] = {}
    for action in actions:
        # A bundle with one bad action serves the others.
        with contextlib.suppress(MaeError):
            fields.update(popular_fields(bundle.schema(action)))
        problems = of_action(bundle, action)["problems"]
        if problems:
            unserved[action] = f"{problems[0]['field']}: {problems[0]['message']}"
    about = "; ".join(f"{action} cannot be served: {why}" for action, why in unserved.items())
    return {
        "action": {
            "type": "string",
            "enum": actions,
            **({"description": about[:MAX_TEXT]} if about else {}),
        },
        "spec_overrides": {
            "type": "object",
            "properties": fields,
            "additionalProperties": True,
            "description": "Dotted spec keys to values. Any field is accepted; "
            "the popular ones are listed.",
        },
        **_PLAN_OPTIONS,
        "automl": automl_schema(),
    }


def automl_schema() -> dict[str, Any]:
    """JSON Schema of the AutoML options; text such as ``"8"`` is taken too: no type is stated."""
    from mae_sdk.automl.options import accepted, properties

    options = {
        name: {
            "description": f"{accepted(node)}: {node['description']}",
            "default": node["default"],
        }
        for name, node in properties().items()
    }
    return {
        "type": "object",
        "properties": options,
        "additionalProperties": True,
        "description": "AutoML options; `range.KEY` is the range of one parameter.",
    }


def popular_fields(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key → JSON Schema of the popular fields, without annotations.

    A field is popular by ``popular: true``, or because the schema's own ``popular`` names it: a
    list of keys, or a spec that holds them.
    """
    listed = schema.get("popular") or []
    names = set(flatten(listed)) if isinstance(listed, dict) else set()
    if isinstance(listed, list):
        names = {one for one in listed if isinstance(one, str)}
    keep = (
        "type",
        "enum",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "default",
        "description",
        "items",
    )
    return {
        key: {word: answers.plain(node[word]) for word in keep if word in node}
        for key, node in field_nodes(schema).items()
        if key in names or node.get("popular") is True
    }


def _plan(skill: Skill, arguments: Arguments) -> answers.Document:
    given = dict(arguments)
    full = given.pop("full", False)
    document = answers.plan(skill.plan(**given), full=full)
    if not full:
        document["more"] = "full=true lists the origin of every value, the template's too"
    launch = (
        f"run, with the same arguments, idempotency_key={document['idempotency_key']} and "
        "confirmed=true, once the person agrees: it launches this plan under its job_id"
    )
    return {**document, "next": [launch, "explain key=FIELD"]}


def _confirmed(arguments: Arguments, does: str) -> Arguments:
    """The arguments of a confirmed call.

    Raises:
        UsageError: it is not confirmed.
    """
    given = dict(arguments)
    if given.pop("confirmed", False) is not True:
        raise UsageError(
            f"{does} needs confirmed=true",
            field="confirmed",
            expected="true",
            hint="show the plan to the person first",
        )
    return given


def _run(skill: Skill, arguments: Arguments) -> answers.Document:
    job = skill.create_job(**_confirmed(arguments, "launching a job"))
    calls = [
        f"status job_id={job.id}",
        f"wait job_id={job.id}",
        f"logs job_id={job.id}",
        f"cancel job_id={job.id} confirmed=true",
    ]
    return {**answers.launched(job), "next": calls}


def _platforms(skill: Skill, arguments: Arguments) -> answers.Document:
    document = answers.platforms(arguments.get("name"))
    if arguments.get("name") is None:
        for row in document["platforms"]:
            row["options"] = list(row["options"])  # with NAME each has its text
    return {**document, "next": ["plan action=train platform=NAME platform_options={...}"]}


def _job(skill: Skill, arguments: Arguments) -> Job:
    return skill.job(arguments["job_id"], results_root=arguments.get("results_root"))


def _status(skill: Skill, arguments: Arguments) -> answers.Document:
    job = _job(skill, arguments)
    document = answers.status(job)
    calls = [f"status job_id={job.id}", f"logs job_id={job.id}"]
    if document["state"] == "COMPLETE":
        calls = [f"metrics job_id={job.id}", *map(_step_call, answers.after(job))]
    elif document["state"] == "ERROR":
        calls = [f"logs job_id={job.id}"]
    return {**document, "next": calls}


def _step_call(step: answers.Step) -> str:
    """The call that plans a next job; what is to be filled in stands in capitals."""
    words = [f"plan action={step.action}"]
    words += [f"parent_job_id={step.parent}"] if step.parent else []
    words += [f"{name}=URI" for name in step.sources]
    words += [f"spec_overrides={json.dumps(dict(step.overrides))}"] if step.overrides else []
    words += [f"recipe={step.recipe}"] if step.recipe else []
    words += [f"automl_policy={step.policy}"] if step.policy else []
    return " ".join(words)


def _logs(skill: Skill, arguments: Arguments) -> answers.Document:
    job = _job(skill, arguments)
    count = arguments.get("lines", MAX_LINES)
    document = answers.logs(job.id, job.logs(), count)
    total = document["total_lines"]
    if total > count:
        document["more"] = f"lines={min(MAX_LOG_LINES, total)} shows more"
    return {**document, "next": [f"status job_id={job.id}"]}


tell: ContextVar[Callable[[float, float | None, str], None] | None] = ContextVar("tell")
"""How the call that runs now tells its progress to its client; None where nobody listens."""


def _wait(skill: Skill, arguments: Arguments) -> answers.Document:
    """Stay with a job until its end, the time given, or the client's cancellation."""

    from mae_sdk.jobs.status import counted

    job = _job(skill, arguments)
    deadline = time.monotonic() + arguments.get("seconds", DEFAULT_WAIT)
    say, last = tell.get(None), None
    while True:
        try:
            job.wait(timeout=max(0.0, min(0.5, deadline - time.monotonic())))
            break
        except (JobFailedError, JobCanceledError):
            break
        except StillRunningError:
            pass
        line = job.status()["progress"]
        if say is not None and line != last:
            last = line
            done, total, _ = counted(line)
            say(done or 0, total, _progress_text(line))
        if time.monotonic() >= deadline:
            document = {**answers.status(job), "waiting": "it goes on"}
            return {**document, "next": [f"wait job_id={job.id}", f"logs job_id={job.id}"]}

    document = answers.ended(job)
    calls = [f"logs job_id={job.id}"]
    if document["state"] == "COMPLETE":
        calls = [f"report job_id={job.id}", *map(_step_call, answers.after(job))]
    return {**document, "next": calls}


def _progress_text(line: Mapping[str, Any]) -> str:
    """The newest status line in a few words, with its figures."""
    from mae_sdk.jobs.status import is_number

    kpi = line.get("kpi")
    found = kpi.items() if isinstance(kpi, Mapping) else ()
    figures = [f"{name} {value:.4g}" for name, value in found if is_number(value)]
    return "  ".join([str(line.get("message") or "waiting to start"), *figures[:6]])[:400]


def _show(skill: Skill, arguments: Arguments) -> answers.Document:
    job = _job(skill, arguments)
    return {**answers.show(job), "next": [f"status job_id={job.id}"]}


def _resume(skill: Skill, arguments: Arguments) -> answers.Document:
    given = _confirmed(arguments, "resuming a job")
    job = _job(skill, given).resume(given.get("env") or {}, lost=given.get("lost", False))
    return {**answers.resumed(job), "next": [f"wait job_id={job.id}"]}


def _delete(skill: Skill, arguments: Arguments) -> answers.Document:
    job = _job(skill, _confirmed(arguments, "deleting a job"))
    job.delete()
    return {"deleted": job.id, "next": ["jobs"]}


def _best(skill: Skill, arguments: Arguments) -> answers.Document:
    names = ("action", "stage", "arch", "metric")
    only = answers.JobFilter(**{name: arguments[name] for name in names if name in arguments})
    listed = skill.jobs(results_root=arguments.get("results_root"), all=arguments.get("all", False))
    document = answers.best(
        skill.bundle,
        listed,
        limit=arguments.get("limit", 5),
        only=only,
        direction=arguments.get("direction"),
    )
    first = document["best"][0]["id"]
    _, *others = answers.on_the_same_images(document["best"]) or [first]
    page = f"report job_id={first}" + (f" others={','.join(others)}" if others else "")
    return {**document, "next": [f"metrics job_id={first}", page]}


def _prune(skill: Skill, arguments: Arguments) -> answers.Document:
    listed = skill.jobs(results_root=arguments.get("results_root"))
    document = answers.prunable(
        listed,
        states=arguments.get("states"),
        older_than=86400 * arguments.get("older_than_days", 0),
        keep=[
            skill.job(name, arguments.get("results_root")).id for name in arguments.get("keep", ())
        ],
    )
    if arguments.get("confirmed") is not True:
        return {
            **document,
            "next": ["prune confirmed=true, once the person agrees: it removes them"],
        }
    return {**document, "removed": answers.remove(listed, document), "next": ["jobs"]}


def _validate(skill: Skill, arguments: Arguments) -> answers.Document:
    from mae_skill.resolve import raise_all

    from mae_sdk.plan.layers import resolve_spec

    action = arguments["action"]
    given = arguments.get("spec_overrides") or {}
    count = arguments.get("count", True)
    found, _ = resolve_spec(skill.bundle, action, arguments["spec"], given, count=count)
    raise_all(found.errors, action)
    return {
        **answers.valid(found, skill.bundle.data_rows(action)),
        "next": [f"plan action={action}"],
    }


def _get_spec(skill: Skill, arguments: Arguments) -> answers.Document:
    action = arguments.get("action", "train")
    return {"action": action, "spec": skill.bundle.template(action), "next": ["explain key=FIELD"]}


def _doctor(skill: Skill, arguments: Arguments) -> answers.Document:
    from mae_sdk.run.doctor import examine

    return {**examine(arguments.get("results_root")), "next": ["platforms"]}


def _metrics(skill: Skill, arguments: Arguments) -> answers.Document:
    job = _job(skill, arguments)
    calls = [*map(_step_call, answers.after(job))] if job.state == "COMPLETE" else []
    return {**answers.metrics(job), "next": [*calls, f"status job_id={job.id}"]}


def _cancel(skill: Skill, arguments: Arguments) -> answers.Document:
    given = _confirmed(arguments, "canceling a job")
    if given.get("all", False) == ("job_id" in given):
        raise UsageError("give job_id, or all=true", field="job_id", expected="one of the two")
    if "job_id" not in given:
        document, error = answers.cancel_all(skill.jobs(results_root=given.get("results_root")))
        if error is not None:
            raise error
        return {**document, "next": ["jobs"]}
    job = _job(skill, given)
    job.cancel()
    return {**answers.state(job), "next": [f"status job_id={job.id}"]}


def _jobs(skill: Skill, arguments: Arguments) -> answers.Document:
    limit = arguments.get("limit", DEFAULT_JOBS)
    only = answers.JobFilter(**{k: v for k, v in arguments.items() if k in _JOB_FILTER})
    listed = skill.jobs(results_root=arguments.get("results_root"))
    document = answers.jobs(listed, limit=limit, only=only)
    if document["total"] > limit:
        document["more"] = f"limit={min(MAX_JOBS, document['total'])} shows more"
    return {**document, "next": ["status job_id=JOB", "inspect source=URI"]}


def _report(skill: Skill, arguments: Arguments) -> answers.Document:
    job = _job(skill, arguments)
    root = arguments.get("results_root")
    named = dict.fromkeys(arguments.get("others", ()))
    others = [one for name in named if (one := skill.job(name, results_root=root)).id != job.id]
    document = answers.report(
        job, arguments.get("output"), chain=arguments.get("chain", False), others=others
    )
    return {**document, "next": [f"metrics job_id={job.id}"]}


def _explain(skill: Skill, arguments: Arguments) -> answers.Document:
    document = answers.explain(skill.bundle, arguments["key"], arguments.get("action", "train"))
    return {**document, "next": ["plan with spec_overrides"]}


def _inspect(skill: Skill, arguments: Arguments) -> answers.Document:
    given = dict(arguments)
    train, evaluation = given.pop("train", None), given.pop("eval", None)
    settings = given.get("spec_overrides")
    both = train is not None and evaluation is not None
    if both == ("source" in given) or (train is None) != (evaluation is None):
        raise UsageError("give source, or train and eval", field="source")
    if both:
        if {"other", "masks"} & set(given):
            raise UsageError("other and masks go with one source", field="source")
        found = answers.inspect_splits(train, evaluation, **given)
        if not found["verdict"]["usable"]:
            return found
        step = answers.first_training(found["splits"]["train"], spec_overrides=settings)
        return {**found, "next": [_step_call(step)]}
    document = answers.inspect(**given)
    if again := answers.reading_masks(document):
        images, masks = shlex.split(again)[2::2]
        return {**document, "next": [f"inspect source={images} masks={masks}"]}
    if not document["verdict"]["usable"]:
        return document
    step = answers.first_training(document, masks=given.get("masks"), spec_overrides=settings)
    return {
        **document,
        "next": [_step_call(step).replace("train_datasets=URI", "train_datasets=SOURCE")],
    }


def tools(skill: Skill) -> list[ToolSpec]:
    """Every tool that the server offers for this bundle."""
    return [*_launching(skill), *_watching(), *_keeping(), *_choosing(), *_asking(skill)]


def _launching(skill: Skill) -> list[ToolSpec]:
    """The plan and the launch."""
    options = plan_schema(skill)
    return [
        ToolSpec(
            "plan",
            "What a job would do: spec, data, AutoML, cost, warnings. Starts and writes nothing.",
            {
                **options,
                **_MACHINE,
                "full": {
                    "type": "boolean",
                    "default": False,
                    "description": "Also the origin of every value left as it was.",
                },
                "count": {
                    "type": "boolean",
                    "default": True,
                    "description": "Fetch data behind a URL, to count and judge them.",
                },
            },
            ("action",),
            _plan,
        ),
        ToolSpec(
            "run",
            "Launch a job with the options of plan. Needs confirmed=true. "
            "The job outlives this server.",
            {**options, **_CONFIRMED},
            ("action", "confirmed"),
            _run,
            read_only=False,
            idempotent=False,
        ),
    ]


def _watching() -> list[ToolSpec]:
    """What a job does and did."""
    lines = {
        "lines": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_LOG_LINES,
            "default": MAX_LINES,
            "description": "The last N lines.",
        }
    }
    return [
        ToolSpec(
            "status",
            "State, progress and newest metrics of a job; the reason when it failed.",
            _JOB,
            ("job_id",),
            _status,
        ),
        ToolSpec(
            "wait",
            "Stay with a job until it ends, or for so many seconds: its metrics, files and what "
            "was left out. Reports progress. Canceling the call leaves the job as it is.",
            {
                **_JOB,
                "seconds": {
                    "type": "number",
                    "minimum": 0,
                    "maximum": MAX_WAIT,
                    "default": DEFAULT_WAIT,
                    "description": "How long at most; call it again where the job goes on.",
                },
            },
            ("job_id",),
            _wait,
        ),
        ToolSpec("show", "The whole record of a job.", _JOB, ("job_id",), _show),
        ToolSpec("logs", "The end of a job's log.", {**_JOB, **lines}, ("job_id",), _logs),
        ToolSpec("metrics", "The metrics of a job.", _JOB, ("job_id",), _metrics),
        ToolSpec(
            "report",
            "Write a job's report, one HTML file for a person: result, curves, pictures, tables; "
            "with others, one page of all with a row for each.",
            {
                **_JOB,
                "others": {
                    "type": "array",
                    "items": {"type": "string", "maxLength": 200},
                    "maxItems": 100,
                    "description": "Further job ids to show on the same page.",
                },
                "output": {
                    "type": "string",
                    "description": "The .html to write. Default: report.html in the job's folder.",
                },
                "chain": {
                    "type": "boolean",
                    "default": False,
                    "description": "One page with all the jobs that it came from.",
                },
            },
            ("job_id",),
            _report,
            read_only=False,
        ),
    ]


def _keeping() -> list[ToolSpec]:
    """The jobs of a root, and what becomes of one of them."""
    return [
        ToolSpec(
            "jobs",
            "The jobs of a results root, with stage, architecture and best metric.",
            {
                **_ROOT,
                **_JOB_FILTER,
                "limit": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": MAX_JOBS,
                    "default": DEFAULT_JOBS,
                },
            },
            (),
            _jobs,
        ),
        ToolSpec(
            "cancel",
            "Stop every process of a job. Needs confirmed=true. "
            "Its checkpoints stay, and it can be resumed.",
            {
                **_JOB,
                "all": {
                    "type": "boolean",
                    "default": False,
                    "description": "In place of job_id: every job that is pending or running.",
                },
                **_CONFIRMED,
            },
            ("confirmed",),
            _cancel,
            read_only=False,
            destructive=True,
        ),
        ToolSpec(
            "resume",
            "A new attempt of a job in the same folder, from its newest checkpoint. "
            "Needs confirmed=true.",
            {
                **_JOB,
                "env": {
                    "type": "object",
                    "additionalProperties": _TEXT,
                    "description": "Environment of the job, which no record holds.",
                },
                "lost": {
                    "type": "boolean",
                    "description": "The machine of a job in state UNKNOWN is gone for good.",
                },
                **_CONFIRMED,
            },
            ("job_id", "confirmed"),
            _resume,
            read_only=False,
            idempotent=False,
        ),
        ToolSpec(
            "delete",
            "Remove a job that has ended, with its results and trials, for ever. "
            "Needs confirmed=true.",
            {**_JOB, **_CONFIRMED},
            ("job_id", "confirmed"),
            _delete,
            read_only=False,
            destructive=True,
        ),
    ]


def _choosing() -> list[ToolSpec]:
    """Which jobs can go, and which are the best."""
    return [
        ToolSpec(
            "prune",
            "Which jobs could be removed: those that failed or were canceled, and no other took "
            "their model. With confirmed=true they are.",
            {
                **_ROOT,
                "states": {
                    "type": "array",
                    "items": {"type": "string", "enum": ["COMPLETE", "ERROR", "CANCELED"]},
                    "maxItems": 3,
                    "description": "Jobs that ended so. Default: ERROR and CANCELED, beside keep "
                    "all.",
                },
                "keep": {
                    "type": "array",
                    "items": {"type": "string", "maxLength": 200},
                    "maxItems": 1000,
                    "description": "Jobs that stay, with those whose model they took: all others "
                    "go.",
                },
                "older_than_days": {
                    "type": "number",
                    "minimum": 0,
                    "maximum": 36500,
                    "description": "Only jobs that were created more days ago.",
                },
                **_CONFIRMED,
            },
            (),
            _prune,
            read_only=False,
            destructive=True,
        ),
        ToolSpec(
            "best",
            "Which model is best: the best job of every action, stage and metric, or the best few "
            "by one metric.",
            {
                **_ROOT,
                **{name: _JOB_FILTER[name] for name in ("action", "stage", "arch", "metric")},
                "direction": {
                    "type": "string",
                    "enum": ["minimize", "maximize"],
                    "description": "With metric: which is better, for jobs that do not know it.",
                },
                "all": {"type": "boolean", "description": "AutoML trials too."},
                "limit": {"type": "integer", "minimum": 1, "maximum": MAX_JOBS, "default": 5},
            },
            (),
            _best,
        ),
    ]


def _asking(skill: Skill) -> list[ToolSpec]:
    """Specs, data and the machine, without a job."""
    action: dict[str, Any] = {"type": "string", "default": "train"}
    with contextlib.suppress(MaeError):  # the plan's schema says it, and every answer
        action["enum"] = skill.bundle.actions
    return [
        ToolSpec(
            "validate",
            "Every error of a spec at once, as plan would find them.",
            {
                "action": action,
                "spec": {"type": "object", "description": "A whole or partial spec."},
                "spec_overrides": {"type": "object", "description": "Dotted keys over it."},
                "count": {"type": "boolean", "default": True},
            },
            ("action", "spec"),
            _validate,
        ),
        ToolSpec("get_spec", "The spec template of an action.", {"action": action}, (), _get_spec),
        ToolSpec(
            "doctor",
            "What is installed, devices, disk, credentials by name, and how to get the rest.",
            _ROOT,
            (),
            _doctor,
        ),
        ToolSpec(
            "platforms",
            "Where jobs can run: what is there, what is missing, how to get it, and the settings.",
            {"name": {"type": "string", "description": "One of them, with its settings."}},
            (),
            _platforms,
        ),
        ToolSpec(
            "explain",
            "What a spec field is, when it acts, where its default comes from.",
            {"key": _TEXT, "action": action},
            ("key",),
            _explain,
        ),
        ToolSpec(
            "inspect",
            "A data source, and whether it can be trained on: counts, classes, sizes, unreadable "
            "files with their reasons.",
            {
                "source": _TEXT,
                "train": {
                    "type": "string",
                    "description": "With eval, in place of source: both parts are judged.",
                },
                "eval": {"type": "string", "description": "Validation data, with train."},
                "other": {
                    "type": "string",
                    "description": "A second source, e.g. validation: its classes are compared, "
                    "and images that are in both are named.",
                },
                "masks": {
                    "type": "string",
                    "description": "Masks of the images; 'beside' takes annotations/ beside "
                    "images/.",
                },
                "spec_overrides": {
                    "type": "object",
                    "description": "Dotted keys of a spec that say how pictures are read: "
                    "dataset.channels, dataset.value_range, dataset.exif_orientation; and which: "
                    "dataset.classes, dataset.labels.",
                },
            },
            (),
            _inspect,
        ),
    ]


def answer(skill: Skill, tool: ToolSpec, arguments: Arguments) -> tuple[answers.Document, bool]:
    """One call → (JSON document without secrets, whether it is an error).

    An error that a user or the system causes is a document, never a crash of the server.
    """
    from mae_sdk.jobs.secrets import known, note_call, redact_tree

    try:
        document, failed = _answer(skill, tool, arguments), False
    except MaeError as error:
        document, failed = _of_one_problem(error.to_dict()), True
    except Exception as error:
        problem = answers.system_error(error)
        failed = True
        document = answers.internal_error(error) if problem is None else problem.to_dict()

    note_call(arguments)
    document = redact_tree(spoken(answers.plain(document)), known())
    # Logs and jobs have a limit of their own.
    whole = tool.name in ("logs", "jobs") or arguments.get("full") is True
    if failed:
        return bounded(document, text=MAX_ERROR_TEXT), True
    return document if whole else bounded(document), False


def _of_one_problem(document: answers.Document) -> answers.Document:
    """An error whose one problem says what field, value and mend it is about says so itself."""
    problems = document.get("problems") or []
    if len(problems) != 1:
        return document
    told = {name: problems[0][name] for name in ("field", "got", "expected", "hint")}
    return {**document, **{name: one for name, one in told.items() if document[name] is None}}


def _answer(skill: Skill, tool: ToolSpec, arguments: Arguments) -> answers.Document:
    from mae_skill.schema_check import UNKNOWN, check_schema

    from mae_sdk.jobs.other_sdk import OPTIONS

    _check_size(arguments)
    for problem in check_schema(arguments, tool.input_schema):
        field = str(problem.field or tool.name)
        if field.startswith("spec_overrides."):
            continue  # a value of the spec, which the resolver judges as for everybody
        hint = (problem.hint or "").partition(" (mae explain")[0]
        if field in tool.required and field not in arguments:
            about = tool.input_schema["properties"][field].get("description")
            hint = f"give {field}" + (f": {about}" if about else "")
        raise UsageError(
            f"{problem.message} of {tool.name}" if problem.message == UNKNOWN else problem.message,
            field=field,
            got=problem.got,
            expected=problem.expected,
            hint=(OPTIONS.get(field) if problem.message == UNKNOWN else None) or hint or None,
        )
    document: answers.Document = answers.plain(tool.call(skill, dict(arguments)))
    return document


def _check_size(arguments: Arguments) -> None:
    """Refuse what no option can be.

    Raises:
        UsageError: a text is longer than `MAX_TEXT`, or holds a NUL; all arguments together are
            longer than `MAX_ARGUMENTS`; or they are nested more than `MAX_DEPTH` times.
    """
    for name, value in arguments.items():
        if not isinstance(value, str):
            continue
        if len(value) > MAX_TEXT:
            raise UsageError(
                "the text is too long",
                field=name,
                got=f"{len(value)} characters, {value[:40]}…",
                expected=f"at most {MAX_TEXT}",
            )
        if "\0" in value:
            raise UsageError("a text cannot hold NUL", field=name, got=value[:200])

    size, waiting = 0, [(arguments, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, (dict, list)):
            if depth > MAX_DEPTH:
                raise UsageError(
                    "the arguments are nested too deeply", expected=f"at most {MAX_DEPTH} times"
                )
            parts = [*value, *value.values()] if isinstance(value, dict) else value
            waiting += [(part, depth + 1) for part in parts]
        size += len(value) if isinstance(value, str) else 2
        if size > MAX_ARGUMENTS:
            raise UsageError(
                "the arguments are too long together",
                got=f"more than {MAX_ARGUMENTS} characters",
                hint="a large spec goes into a file: mae plan -e FILE",
            )


def bounded(value: Any, limit: int = MAX_ITEMS, text: int = MAX_TEXT) -> Any:
    """A document whose lists and mappings have at most `limit` items, and whose texts at most
    `text` characters; each says how much is left.
    """
    if isinstance(value, str) and len(value) > text:
        return f"{value[:text]}… {len(value) - text} more characters"
    if isinstance(value, dict):
        kept = {
            bounded(str(key), limit, text): bounded(item, limit, text)
            for key, item in list(value.items())[:limit]
        }
        return kept if len(value) <= limit else {**kept, "…": f"{len(value) - limit} more"}
    if isinstance(value, list):
        shown = [bounded(item, limit, text) for item in value[:limit]]
        return shown if len(value) <= limit else [*shown, f"… {len(value) - limit} more"]
    return value
