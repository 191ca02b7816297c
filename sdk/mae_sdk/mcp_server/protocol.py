"""The protocol: the tools and the files of jobs, served over stdio."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import anyio
import mcp_types as types
from mae_skill.errors import MaeError, UsageError
from mcp import MCPError
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from mae_sdk.mcp_server import MAX_ERROR_TEXT, MAX_TEXT, answer, resources, tell, tools
from mae_sdk.skill import Skill

_INSTRUCTIONS = (
    "Plan; show the plan to the person; run with confirmed=true; wait; "
    "then the next action by parent_job_id. Files of jobs are resources."
)


def serve(skill_dir: str | None = None) -> None:
    """Serve over stdio until the client leaves."""
    # The protocol has the stream to itself, as it is; answers are cleaned one by one.
    sys.stdout = getattr(sys.stdout, "stream", sys.stdout)
    anyio.run(_serve, skill_dir)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # calls that were given up may still wait for a network: nobody waits for them


class _GivenUp(BaseException):
    """Raised inside a call whose client no longer wants the answer.

    No `Exception`: no handler of ordinary errors on the way may swallow it.
    """


async def _in_thread(work: Callable[[], Any], *, to_its_end: bool, progress: Any = None) -> Any:
    """What `work` gives, from a thread of its own.

    Args:
        progress: an asynchronous function of done, total and text, for `tell`.
        to_its_end: a canceled call is waited for, as one that launches a job has to be; otherwise
            the work stops at the next line of Python that it runs.
    """
    done = anyio.Event()
    token = anyio.lowlevel.current_token()
    result: list[Any] = []
    over = threading.Lock()

    def report(done: float, total: float | None, text: str) -> None:
        with contextlib.suppress(RuntimeError):  # the server has ended
            anyio.from_thread.run(progress, done, total, text, token=token)

    def run() -> None:
        tell.set(None if progress is None else report)
        with contextlib.suppress(_GivenUp):
            try:
                result.append(work())
            finally:
                over.acquire()  # from here on nobody raises anything in this thread
        with contextlib.suppress(RuntimeError):  # the server has ended
            anyio.from_thread.run_sync(done.set, token=token)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    with anyio.CancelScope(shield=to_its_end):
        try:
            await done.wait()
        except anyio.get_cancelled_exc_class():
            if over.acquire(blocking=False):
                stop = ctypes.pythonapi.PyThreadState_SetAsyncExc
                stop(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_GivenUp))
                over.release()
            raise
    return result[0]


class Handlers:
    """What the server answers to each kind of request about one bundle and its jobs."""

    def __init__(self, skill: Skill) -> None:
        self.skill = skill
        self.offered = {tool.name: tool for tool in tools(skill)}

    async def list_tools(self, context: Any, params: Any) -> Any:
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
                for tool in self.offered.values()
            ]
        )

    async def call_tool(self, context: Any, params: Any) -> Any:
        tool = self.offered.get(params.name)
        if tool is None:
            name = params.name[:200]
            unknown = UsageError("no such tool", got=name, expected=", ".join(self.offered))
            document, failed = unknown.to_dict(), True
        else:
            arguments = params.arguments or {}
            document, failed = await _in_thread(
                lambda: answer(self.skill, tool, arguments),
                to_its_end=not tool.read_only,
                progress=context.session.report_progress,
            )
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=json.dumps(document, ensure_ascii=False))],
            structured_content=document,
            is_error=failed,
        )

    async def list_resources(self, context: Any, params: Any) -> Any:
        rows = await _in_thread(lambda: resources.listed(self.skill), to_its_end=False)
        found = [
            types.Resource(
                uri=row["uri"], name=row["name"], mime_type=row["mime"], size=row["size"]
            )
            for row in rows
        ]
        return types.ListResourcesResult(resources=found)

    async def list_resource_templates(self, context: Any, params: Any) -> Any:
        template = types.ResourceTemplate(
            uri_template=resources.TEMPLATE,
            name="job file",
            description="A file of a job's folder: text, or a picture.",
        )
        return types.ListResourceTemplatesResult(resource_templates=[template])

    async def read_resource(self, context: Any, params: Any) -> Any:
        def work() -> dict[str, Any] | MaeError:
            try:
                return resources.read(self.skill, str(params.uri)[:MAX_TEXT])
            except MaeError as error:
                return error

        found = await _in_thread(work, to_its_end=False)
        if isinstance(found, MaeError):
            raise MCPError(types.INVALID_PARAMS, str(found)[:MAX_ERROR_TEXT])
        place = {"uri": found["uri"], "mime_type": found["mime"]}
        content: Any = (
            types.TextResourceContents(**place, text=found["text"])
            if "text" in found
            else types.BlobResourceContents(
                **place, blob=base64.b64encode(found["blob"]).decode("ascii")
            )
        )
        return types.ReadResourceResult(contents=[content])


def introduction(skill: Skill) -> tuple[str, str]:
    """The server's name and instructions; of a bundle that cannot be read, what is wrong with it: a
    client sees no more of a server that ends."""
    try:
        return skill.bundle.name, _INSTRUCTIONS
    except MaeError as error:
        return "mae", f"The bundle cannot be served: {error}"[:MAX_ERROR_TEXT]


async def _serve(skill_dir: str | None) -> None:
    skill = Skill(skill_dir)
    handlers = Handlers(skill)
    name, instructions = introduction(skill)
    server = Server(
        name,
        version=version("mae-skill"),
        instructions=instructions,
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
        on_list_resources=handlers.list_resources,
        on_list_resource_templates=handlers.list_resource_templates,
        on_read_resource=handlers.read_resource,
    )
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())
