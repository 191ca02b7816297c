"""The MCP server, over stdio, with the SDK's own client."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio

from tests.support.images import write_imagefolder


def talk(conversation: Any, environment: dict[str, str], *words: str) -> Any:
    """Start ``mae mcp``, run ``conversation(client)`` against it, return what it returns."""
    from mcp.client import Client
    from mcp.client.stdio import StdioServerParameters

    async def go() -> Any:
        command = str(Path(sys.executable).with_name("mae"))
        async with Client(
            StdioServerParameters(command=command, args=["mcp", *words], env=environment)
        ) as client:
            return await conversation(client)

    return anyio.run(go)


def test_an_agent_explains_inspects_plans_and_is_stopped_before_an_unconfirmed_launch(
    tmp_path: Path,
) -> None:
    data = write_imagefolder(tmp_path / "data", classes=2, per_class=3, size=32)
    environment = {**os.environ, "MAE_RESULTS_ROOT": str(tmp_path / "results")}
    plan = {
        "action": "train",
        "train_datasets": str(data),
        "automl_policy": "off",
        "spec_overrides": {"model.arch": "vit_tiny_patch16", "dataset.augmentation.input_size": 32},
    }

    async def conversation(client: Any) -> dict[str, Any]:
        found: dict[str, Any] = {
            "tools": {tool.name: tool for tool in (await client.list_tools()).tools}
        }
        found["explain"] = await client.call_tool("explain", {"key": "train.mask_ratio"})
        found["inspect"] = await client.call_tool("inspect", {"source": str(data)})
        found["plan"] = await client.call_tool("plan", plan)
        found["unconfirmed"] = await client.call_tool("run", {**plan, "confirmed": False})
        found["wrong"] = await client.call_tool(
            "plan", {**plan, "spec_overrides": {"train.num_epoch": 3}}
        )
        found["unknown"] = await client.call_tool("status", {"job_id": "nothere"})
        found["jobs"] = await client.call_tool("jobs", {})
        return found

    found = talk(conversation, environment)
    tools = found["tools"]
    assert set(tools) == {
        "platforms",
        "plan",
        "run",
        "status",
        "logs",
        "metrics",
        "report",
        "jobs",
        "cancel",
        "explain",
        "inspect",
        "wait",
        "show",
        "resume",
        "delete",
        "prune",
        "best",
        "validate",
        "get_spec",
        "doctor",
    }
    assert all(tools[name].annotations.read_only_hint for name in ("wait", "best", "validate"))
    assert all(tools[name].annotations.destructive_hint for name in ("delete", "prune"))
    assert tools["plan"].annotations.read_only_hint is True
    assert tools["cancel"].annotations.destructive_hint is True
    assert tools["run"].annotations.read_only_hint is False
    assert "confirmed" in tools["run"].input_schema["required"]
    assert tools["plan"].input_schema["properties"]["spec_overrides"]["properties"], (
        "the popular fields come from the schema"
    )

    for name in ("explain", "inspect", "plan", "jobs"):
        assert not found[name].is_error, found[name]
        assert found[name].structured_content["next"]
    plan_shown = found["plan"].structured_content
    assert plan_shown["action"] == "train" and len(json.dumps(plan_shown)) < 10_000
    assert "full=true" in plan_shown["more"] and "train.seed" not in plan_shown["provenance"]
    assert found["jobs"].structured_content["total"] == 0
    assert found["unconfirmed"].is_error
    assert json.loads(found["unconfirmed"].content[0].text)["field"] == "confirmed"
    assert found["wrong"].is_error
    assert "num_epochs" in found["wrong"].content[0].text
    assert json.loads(found["unknown"].content[0].text)["code"] == "not_found"
    assert not (tmp_path / "results").exists(), "nothing was started or written"


def test_a_confirmed_launch_is_followed_to_its_figures_and_another_is_canceled(
    tmp_path: Path,
) -> None:
    from mcp import MCPError

    from tests.support.toy_bundle.make import write_bundle

    bundle = write_bundle(tmp_path / "bundle")
    data = write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1).parent
    environment = {**os.environ, "MAE_RESULTS_ROOT": str(tmp_path / "results")}
    run = {
        "action": "train",
        "train_datasets": str(data),
        "automl_policy": "off",
        "confirmed": True,
    }

    async def conversation(client: Any) -> dict[str, Any]:
        async def call(tool: str, **arguments: Any) -> Any:
            answer = await client.call_tool(tool, arguments)
            assert not answer.is_error, answer
            return answer.structured_content

        async def ended(job: str) -> Any:
            with anyio.fail_after(60):
                while (status := await call("status", job_id=job))["state"] not in (
                    "COMPLETE",
                    "ERROR",
                    "CANCELED",
                ):
                    await anyio.sleep(0.1)
            return status

        found: dict[str, Any] = {
            "launched": await call("run", **run, spec_overrides={"train.rate": 0.25})
        }
        job = found["launched"]["job_id"]
        found["waited"] = await call("wait", job_id=job, seconds=60)
        found["status"] = await ended(job)
        found["logs"] = await call("logs", job_id=job, lines=1)
        found["metrics"] = await call("metrics", job_id=job)
        listed = (await client.list_resources()).resources
        found["resources"] = {str(one.uri): one for one in listed}
        log = await client.read_resource(f"mae://job/{job}/log.txt")
        found["log"] = log.contents[0].text
        try:
            await client.read_resource(f"mae://job/{job}/../../secret.txt")
        except MCPError as error:
            found["outside"] = str(error)
        slow = await call("run", **run, spec_overrides={"train.fault": "sleep"})
        told: list[tuple[float, float | None, str | None]] = []

        async def tell(done: float, total: float | None, text: str | None) -> None:
            told.append((done, total, text))

        arguments = {"job_id": slow["job_id"], "seconds": 1}
        answer = await client.call_tool("wait", arguments, progress_callback=tell)
        found["waiting"], found["told"] = answer.structured_content, told
        with anyio.move_on_after(0.5) as scope:
            await client.call_tool("wait", {"job_id": slow["job_id"], "seconds": 600})
        found["given up"] = scope.cancelled_caught
        found["goes on"] = (await call("status", job_id=slow["job_id"]))["state"]
        refused = await client.call_tool("cancel", {"job_id": slow["job_id"], "confirmed": False})
        found["refused"] = json.loads(refused.content[0].text)
        await call("cancel", job_id=slow["job_id"], confirmed=True)
        found["canceled"] = await ended(slow["job_id"])
        found["jobs"] = await call("jobs", limit=1)
        return found

    found = talk(conversation, environment, "--skill-dir", str(bundle))
    job = found["launched"]["job_id"]
    assert found["launched"]["next"][0] == f"status job_id={job}"
    assert (
        found["status"]["state"] == "COMPLETE"
        and found["status"]["next"][0] == f"metrics job_id={job}"
    )
    assert found["waited"]["state"] == "COMPLETE" and found["waited"]["folder"]
    assert f"mae://job/{job}/log.txt" in found["resources"] and found["log"]
    assert "folder" in found["outside"]
    assert found["waiting"]["state"] in ("PENDING", "RUNNING") and found["waiting"]["waiting"]
    assert found["told"] and all(isinstance(text, str) for _, _, text in found["told"])
    assert found["given up"] and found["goes on"] == "RUNNING"  # the job is left as it is
    assert len(found["logs"]["lines"]) == 1
    assert found["metrics"]["metrics"] == {"score": 0.25}
    assert found["refused"]["field"] == "confirmed"
    assert found["canceled"]["state"] == "CANCELED"
    assert (
        len(found["jobs"]["jobs"]) == 1
        and found["jobs"]["total"] == 2
        and "limit=2" in found["jobs"]["more"]
    )


def test_a_long_answer_is_cut_and_says_how_much_is_left() -> None:
    from mae_sdk.mcp_server import bounded

    shown = bounded(
        {"unreadable": [f"{i}.jpg" for i in range(100)], "classes": {str(i): i for i in range(61)}}
    )
    assert len(shown["unreadable"]) == 61 and shown["unreadable"][-1] == "… 40 more"
    assert shown["classes"]["…"] == "1 more"
