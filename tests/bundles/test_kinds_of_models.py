"""Which field of a child of another bundle takes the model that its parent left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill, answers
from mae_sdk.job import Job
from mae_skill.errors import UsageError
from mae_skill.reader import dump_yaml

Made = Callable[..., tuple[Skill, Job]]

WRITER = """
import os, sys
for name in sys.argv[2:]:
    path = os.path.join(sys.argv[1], name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "w").write(name)
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A bundle whose ``pack`` leaves files, and a job of it that did."""
    monkeypatch.setenv("MAE_RESULTS_ROOT", str(tmp_path / "results"))

    def write(leaves: list[str], pack: Any = None, templates: Any = None, **more: Any) -> Any:
        folder = tmp_path / "bundle"
        (folder / "references").mkdir(parents=True)
        (folder / "write.py").write_text(WRITER)
        command = ["python3", "{bundle_dir}/write.py", "{job_dir}", *leaves]
        entry = {"command": command, **(pack or {})}
        info = {"name": "small", "actions": {"pack": entry, "use": {"command": "tool"}}, **more}
        (folder / "references" / "skill_info.yaml").write_text(dump_yaml(info))
        for action, template in (templates or {}).items():
            path = folder / "references" / f"spec_template_{action}.yaml"
            path.write_text(dump_yaml(template))
        skill = Skill(folder)
        return skill, skill.create_job("pack").wait(60)

    return write


def child(field: str) -> dict[str, Any]:
    return {"use": {field: "parent_model"}}


@pytest.mark.parametrize(
    ("field", "more"),
    [
        ("use.onnx_model", {}),
        ("use.onnx.path", {}),
        ("use.exported", {"spec_params": {"pack": {"pack.exported": "create_onnx_file"}}}),
        ("use.exported", {"pack": {"outputs": {"pack.exported": "file"}, "result": "pack/m.onnx"}}),
        ("use.network", {"templates": {"use": {"use": {"network": "net.onnx"}}}}),
    ],
)
def test_a_field_takes_an_onnx_file_where_the_bundle_says_so(
    made: Made, field: str, more: dict[str, Any]
) -> None:
    params = {**more.get("spec_params", {}), **child(field)}
    skill, parent = made(["pack/m.onnx", "pack/m.onnx.data"], **{**more, "spec_params": params})
    plan = skill.plan("use", parent_job_id=parent.id)
    assert plan.spec["use"] == _nested(field, f"{parent.folder}/pack/m.onnx")
    assert [step.action for step in answers.after(parent)] == ["use"]


def _nested(field: str, value: str) -> dict[str, Any]:
    _, *sections, last = field.split(".")
    found: Any = {last: value}
    for section in reversed(sections):
        found = {section: found}
    return dict(found)


@pytest.mark.parametrize("field", ["use.checkpoint", "use.network", "export_onnx.model"])
def test_another_field_takes_no_onnx_file(made: Made, field: str) -> None:
    skill, parent = made(["pack/m.onnx"], spec_params=child(field))
    with pytest.raises(UsageError, match="leaves a model of kind onnx") as caught:
        skill.plan("use", parent_job_id=parent.id)
    assert caught.value.expected == "a job that leaves checkpoint"


def test_of_several_models_the_stated_result_is_handed_on(made: Made) -> None:
    leaves = ["pack/a.onnx", "pack/b.onnx", "pack/c.engine", "pack/b.onnx.data"]
    params = child("use.onnx_model")
    skill, parent = made(leaves, {"result": "pack/b.onnx"}, spec_params=params)
    plan = skill.plan("use", parent_job_id=parent.id)
    assert plan.spec["use"]["onnx_model"] == f"{parent.folder}/pack/b.onnx"


def test_a_stated_checkpoint_is_the_model_beside_an_onnx_file(made: Made) -> None:
    leaves = ["pack/a.onnx", "pack/b.pth"]
    params = child("use.checkpoint")
    skill, parent = made(leaves, {"result": "pack/b.pth"}, spec_params=params)
    plan = skill.plan("use", parent_job_id=parent.id)
    assert plan.spec["use"]["checkpoint"] == f"{parent.folder}/pack/b.pth"


def test_of_several_onnx_files_the_one_that_the_spec_names_is_handed_on(made: Made) -> None:
    params = {"pack": {"pack.onnx_model": "create_onnx_file"}, **child("use.onnx_model")}
    skill, parent = made(["pack/model.onnx", "pack/part.onnx"], spec_params=params)
    plan = skill.plan("use", parent_job_id=parent.id)
    assert plan.spec["use"]["onnx_model"] == f"{parent.folder}/pack/model.onnx"
