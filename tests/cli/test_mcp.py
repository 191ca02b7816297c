"""The MCP server, over stdio, with the SDK's own client."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio

from tests.support.images import write_imagefolder


def talk(conversation: Any, environment: dict[str, str]) -> Any:
    """Start ``mae mcp``, run ``conversation(client)`` against it, return what it returns."""
    from mcp.client import Client
    from mcp.client.stdio import StdioServerParameters

    async def go() -> Any:
        command = str(Path(sys.executable).with_name("mae"))
        async with Client(StdioServerParameters(command=command, args=["mcp"], env=environment)) as client:
            return await conversation(client)

    return anyio.run(go)


def test_an_agent_explains_inspects_plans_and_is_stopped_before_an_unconfirmed_launch(tmp_path: Path) -> None:
    data = write_imagefolder(tmp_path / "data", classes=2, per_class=3, size=32)
    environment = {**os.environ, "MAE_RESULTS_ROOT": str(tmp_path / "results")}
    plan = {
        "action": "train",
        "train_datasets": str(data),
        "automl_policy": "off",
        "spec_overrides": {"model.arch": "vit_tiny_patch16", "dataset.augmentation.input_size": 32},
    }

    async def conversation(client: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"tools": {tool.name: tool for tool in (await client.list_tools()).tools}}
        found["explain"] = await client.call_tool("explain", {"key": "train.mask_ratio"})
        found["inspect"] = await client.call_tool("inspect", {"source": str(data)})
        found["plan"] = await client.call_tool("plan", plan)
        found["unconfirmed"] = await client.call_tool("run", {**plan, "confirmed": False})
        found["wrong"] = await client.call_tool("plan", {**plan, "spec_overrides": {"train.num_epoch": 3}})
        found["unknown"] = await client.call_tool("status", {"job_id": "nothere"})
        found["jobs"] = await client.call_tool("jobs", {})
        return found

    found = talk(conversation, environment)
    tools = found["tools"]
    assert set(tools) == {"plan", "run", "status", "logs", "metrics", "jobs", "cancel", "explain", "inspect"}
    assert tools["plan"].annotations.read_only_hint is True
    assert tools["cancel"].annotations.destructive_hint is True
    assert tools["run"].annotations.read_only_hint is False
    assert "confirmed" in tools["run"].input_schema["required"]
    assert tools["plan"].input_schema["properties"]["spec_overrides"]["properties"], "the popular fields come from the schema"

    for name in ("explain", "inspect", "plan", "jobs"):
        assert not found[name].is_error, found[name]
    assert found["plan"].structured_content["action"] == "train"
    assert found["jobs"].structured_content["total"] == 0
    assert found["unconfirmed"].is_error
    assert json.loads(found["unconfirmed"].content[0].text)["field"] == "confirmed"
    assert found["wrong"].is_error
    assert "num_epochs" in found["wrong"].content[0].text
    assert json.loads(found["unknown"].content[0].text)["code"] == "not_found"
    assert not (tmp_path / "results").exists(), "nothing was started or written"
