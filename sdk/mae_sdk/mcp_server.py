"""The MCP server behind ``mae mcp``: the SDK's calls as tools, over stdio.

Tool schemas derive from the bundle's own schemas (`plan_schema`), so another bundle gets its own
tools with no line changed. Launching and stopping need ``confirmed=true``; everything else is
marked read-only. Answers are bounded, say how to get the rest, and name the sensible next calls.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mae_skill.dotted import field_nodes, flatten
from mae_skill.errors import MaeError, UsageError

if TYPE_CHECKING:
    from mae_sdk import Skill

MAX_LINES = 60
MAX_ITEMS = 60
"""Items of a list or mapping in an answer; more are counted, not shown."""
_TEXT = {"type": "string"}
_ROOT = {
    "results_root": {
        "type": "string",
        "description": "Where jobs live: a folder or URL. "
        "Default: MAE_RESULTS_ROOT, else ./mae-results.",
    }
}
_JOB = {"job_id": {"type": "string", "description": "A job id or an unambiguous prefix."}, **_ROOT}
_CONFIRMED = {
    "confirmed": {"type": "boolean", "description": "Must be true: the person has agreed to this."}
}
_PLAN_OPTIONS: dict[str, Any] = {
    "spec": {
        "type": "object",
        "description": "A whole or partial spec. Default: the action's template.",
    },
    "train_datasets": {
        "type": ["string", "array"],
        "items": _TEXT,
        "description": "Folder or archive of training images, local or s3://.",
    },
    "eval_dataset": {"type": "string", "description": "Folder or archive of validation images."},
    "inference_dataset": {
        "type": "string",
        "description": "Folder or archive of images to predict.",
    },
    "parent_job_id": {"type": "string", "description": "The job whose model this one takes."},
    "checkpoint": {
        "type": "string",
        "description": "best (default), latest or epoch:N of the parent.",
    },
    "ptm": {"type": "string", "description": "Pretrained weights: a path or URL."},
    "automl_policy": {
        "type": "string",
        "enum": ["auto", "on", "off"],
        "description": "Training is AutoML unless off.",
    },
    "request": {
        "type": "string",
        "description": "The person's own words; 'no HPO' or 'plain training' turn AutoML off "
        "for this run.",
    },
    "recipe": {"type": "string", "description": "A published recipe as the base."},
    "platform": {"type": "string", "description": "Where the job runs. Default: local."},
    "idempotency_key": {
        "type": "string",
        "description": "The same key returns the same job and starts nothing twice.",
    },
    **_ROOT,
}


@dataclass(frozen=True)
class ToolSpec:
    """One tool: its description, and the function that answers (arguments → JSON document)."""

    name: str
    description: str
    properties: Mapping[str, Any]
    required: tuple[str, ...]
    call: Callable[[Skill, dict[str, Any]], Any]
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
    """Properties of the plan and run tools: the bundle's actions, and the spec fields that its
    schemas mark popular."""
    bundle = skill.bundle
    actions = list(bundle.info["actions"])
    fields: dict[str, Any] = {}
    for action in actions:
        fields.update(popular_fields(bundle.schema(action)))
    return {
        "action": {"type": "string", "enum": actions},
        "spec_overrides": {
            "type": "object",
            "properties": fields,
            "additionalProperties": True,
            "description": "Dotted spec keys to values; any field is accepted, "
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
    """Dotted key → JSON Schema of the fields named in ``popular`` or carrying ``popular: true``,
    stripped of annotations."""

    listed = schema.get("popular")
    names = (
        {*listed}
        if isinstance(listed, list)
        else set(flatten(listed))
        if isinstance(listed, dict)
        else set()
    )
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
        key: {word: node[word] for word in keep if word in node}
        for key, node in field_nodes(schema).items()
        if key in names or node.get("popular") is True
    }


def _plan(skill: Skill, arguments: dict[str, Any]) -> Any:
    given = dict(arguments)
    full = given.pop("full", False)
    document = skill.plan(**given).to_dict()
    if not full:
        document["provenance"] = {
            key: value
            for key, value in document["provenance"].items()
            if value["origin"] != "template"
        }
        document["more"] = "full=true lists the origin of every value, the template's too"
    return {
        **document,
        "next": [
            "run, with the same arguments and confirmed=true, once the person agrees",
            "explain key=FIELD",
        ],
    }


def _confirm(arguments: dict[str, Any], does: str) -> dict[str, Any]:
    given = dict(arguments)
    if given.pop("confirmed", False) is not True:
        raise UsageError(
            f"{does} needs confirmed=true",
            field="confirmed",
            expected="true",
            hint="show the plan to the person first",
        )
    return given


def _run(skill: Skill, arguments: dict[str, Any]) -> Any:
    given = _confirm(arguments, "launching a job")
    job = skill.create_job(**given)
    calls = [
        f"status job_id={job.id}",
        f"logs job_id={job.id}",
        f"cancel job_id={job.id} confirmed=true",
    ]
    return {"job_id": job.id, "state": str(job.state), "folder": str(job.folder), "next": calls}


def _job(skill: Skill, arguments: dict[str, Any]) -> Any:
    return skill.job(arguments["job_id"], results_root=arguments.get("results_root"))


def _status(skill: Skill, arguments: dict[str, Any]) -> Any:
    job = _job(skill, arguments)
    found = job.status()
    state = str(job.state)
    after = {
        "COMPLETE": [f"metrics job_id={job.id}", f"plan action=… parent_job_id={job.id}"],
        "ERROR": [f"logs job_id={job.id}"],
    }
    made = [str(path) for path in job.files()]
    following = after.get(state, [f"status job_id={job.id}", f"logs job_id={job.id}"])
    return {
        "id": job.id,
        **(found if isinstance(found, dict) else {"status": found}),
        "state": state,
        **({"files": made} if made else {}),
        "next": following,
    }


def _logs(skill: Skill, arguments: dict[str, Any]) -> Any:
    job = _job(skill, arguments)
    lines = job.logs().splitlines()
    count = arguments.get("lines", MAX_LINES)
    more = {"more": f"lines={min(2000, len(lines))} shows more"} if len(lines) > count else {}
    return {
        "id": job.id,
        "lines": lines[-count:],
        "total_lines": len(lines),
        **more,
        "next": [f"status job_id={job.id}"],
    }


def _metrics(skill: Skill, arguments: dict[str, Any]) -> Any:
    job = _job(skill, arguments)
    return {
        "id": job.id,
        "metrics": job.metrics(),
        "next": [f"plan action=… parent_job_id={job.id}"],
    }


def _cancel(skill: Skill, arguments: dict[str, Any]) -> Any:
    job = _job(skill, _confirm(arguments, "canceling a job"))
    job.cancel()
    return {"id": job.id, "state": str(job.state), "next": [f"status job_id={job.id}"]}


def _jobs(skill: Skill, arguments: dict[str, Any]) -> Any:
    found = skill.jobs(results_root=arguments.get("results_root"))
    rows = [
        {"id": job.id, "action": job.record.get("action"), "state": str(job.state)} for job in found
    ]
    limit = arguments.get("limit", 30)
    more = {"more": f"limit={min(500, len(rows))} shows more"} if len(rows) > limit else {}
    return {
        "jobs": rows[:limit],
        "total": len(rows),
        **more,
        "next": ["status job_id=JOB", "inspect source=URI"],
    }


def _explain(skill: Skill, arguments: dict[str, Any]) -> Any:
    from mae_skill.explain import explain

    found: Any = explain(skill.bundle.schema(arguments.get("action", "train")), arguments["key"])
    document = found if isinstance(found, dict) else found.to_dict()
    return {**document, "next": ["plan with spec_overrides"]}


def _inspect(skill: Skill, arguments: dict[str, Any]) -> Any:
    from mae_sdk.data import inspect_source

    return {
        **inspect_source(arguments["source"]),
        "next": ["plan action=train train_datasets=SOURCE"],
    }


def tools(skill: Skill) -> list[ToolSpec]:
    """Every tool that the server offers for this bundle."""
    options = plan_schema(skill)
    action = {"type": "string", "enum": list(skill.bundle.info["actions"]), "default": "train"}
    lines = {
        "lines": {
            "type": "integer",
            "minimum": 1,
            "maximum": 2000,
            "default": MAX_LINES,
            "description": "The last N lines.",
        }
    }
    return [
        ToolSpec(
            "plan",
            "What a job would do: spec, data, AutoML, cost, warnings. Starts and writes nothing.",
            {
                **options,
                "full": {
                    "type": "boolean",
                    "default": False,
                    "description": "Also the origin of every value left as it was.",
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
        ToolSpec(
            "status",
            "State, progress and newest figures of a job; the reason when it failed.",
            _JOB,
            ("job_id",),
            _status,
        ),
        ToolSpec("logs", "The end of a job's log.", {**_JOB, **lines}, ("job_id",), _logs),
        ToolSpec("metrics", "The figures of a job.", _JOB, ("job_id",), _metrics),
        ToolSpec(
            "jobs",
            "The jobs of a results root.",
            {**_ROOT, "limit": {"type": "integer", "minimum": 1, "maximum": 500, "default": 30}},
            (),
            _jobs,
        ),
        ToolSpec(
            "cancel",
            "Stop every process of a job. Needs confirmed=true. Its checkpoints stay, "
            "and it can be resumed.",
            {**_JOB, **_CONFIRMED},
            ("job_id", "confirmed"),
            _cancel,
            read_only=False,
            destructive=True,
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
            "A data source: counts, classes, sizes, unreadable files by name.",
            {"source": _TEXT},
            ("source",),
            _inspect,
        ),
    ]


def answer(skill: Skill, tool: ToolSpec, arguments: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """One call → (JSON document, whether it is an error).

    A user's error is a document, never a crash of the server.
    """
    from jsonschema import Draft202012Validator

    try:
        for problem in Draft202012Validator(tool.input_schema).iter_errors(arguments):
            if problem.path and problem.path[0] == "spec_overrides" and len(problem.path) > 1:
                continue  # a value of the spec, which the resolver judges as for everybody
            raise UsageError(
                problem.message, field=".".join(str(part) for part in problem.path) or tool.name
            )
        document = tool.call(skill, dict(arguments))
    except MaeError as error:
        return error.to_dict(), True
    document = json.loads(_dumps(document))
    whole = (
        tool.name in ("logs", "jobs") or arguments.get("full") is True
    )  # these have a limit of their own
    return document if whole else bounded(document), False


def bounded(value: Any, limit: int = MAX_ITEMS) -> Any:
    """A JSON document whose lists and mappings have at most ``limit`` items, with the number of
    those left out."""
    if isinstance(value, dict):
        kept = {key: bounded(item, limit) for key, item in list(value.items())[:limit]}
        return kept if len(value) <= limit else {**kept, "…": f"{len(value) - limit} more"}
    if isinstance(value, list):
        shown = [bounded(item, limit) for item in value[:limit]]
        return shown if len(value) <= limit else [*shown, f"… {len(value) - limit} more"]
    return value


def _dumps(document: Any) -> str:
    from mae_sdk.cli.render import dumps

    return dumps(document)


def serve(skill_dir: str | None = None) -> None:
    """Serve over stdio until the client leaves."""
    import anyio

    anyio.run(_serve, skill_dir)


async def _serve(skill_dir: str | None) -> None:
    from importlib.metadata import version

    import anyio
    import mcp_types as types
    from mcp.server.lowlevel import Server
    from mcp.server.stdio import stdio_server

    from mae_sdk import Skill

    skill = Skill(skill_dir)
    offered = {tool.name: tool for tool in tools(skill)}

    async def on_list_tools(context: Any, params: Any) -> Any:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=tool.name,
                    description=tool.description,
                    input_schema=tool.input_schema,
                    annotations=types.ToolAnnotations(
                        read_only_hint=tool.read_only,
                        destructive_hint=tool.destructive,
                        idempotent_hint=tool.idempotent,
                        open_world_hint=False,
                    ),
                )
                for tool in offered.values()
            ]
        )

    async def on_call_tool(context: Any, params: Any) -> Any:
        tool = offered.get(params.name)
        if tool is None:
            document, failed = (
                UsageError("no such tool", got=params.name, expected=", ".join(offered)).to_dict(),
                True,
            )
        else:
            document, failed = await anyio.to_thread.run_sync(
                answer, skill, tool, params.arguments or {}
            )
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=json.dumps(document, ensure_ascii=False))],
            structured_content=document,
            is_error=failed,
        )

    server = Server(
        skill.bundle.info.get("name", "mae"),
        version=version("mae-skill"),
        instructions="Plan; show the plan to the person; run with confirmed=true; status, metrics; "
        "then the next action by parent_job_id.",
        on_list_tools=on_list_tools,
        on_call_tool=on_call_tool,
    )
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())
