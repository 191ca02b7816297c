"""A job's way through the SDK: spec resolved, plan made, folder written, given to a platform.

Each of the four rooms is passed once, and none is entered again after its step is over. What the
later ones read of the plan's declarations is listed, so that a new call back is seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import mae_skill.resolve
import pytest
from mae_sdk import Skill, launch

from tests.support.images import write_imagefolder
from tests.support.toy_bundle.make import write_bundle

# Room → the step that passes it, and the modules that nothing enters when that step is over. The
# plan calls `resolve` and hands it its own looks at data; so `resolve` is over before the plan is.
STEPS = {
    "resolve": "mae_skill.resolve.resolve",
    "plan": "mae_sdk.plan.make.make_plan",
    "folder": "mae_sdk.launch._create",
    "platform": "mae_sdk.run.platform.submit",
}
ROOMS = {
    "resolve": ("mae_skill.resolve", "mae_skill.merge", "mae_skill.schema_check"),
    "plan": ("mae_sdk.plan",),
    "folder": ("mae_sdk.launch", "mae_sdk.jobs.config_file"),
    "platform": ("mae_sdk.run",),
}
READ = {
    "mae_skill.resolve.raise_all",  # what was found is raised
    "mae_sdk.plan.plan",  # the plan itself, which is what is handed on
    "mae_sdk.plan.automl_policy.to_dict",
    "mae_sdk.plan.cost.cost_key",
    "mae_sdk.plan.inferred_fields.function_of",
    "mae_sdk.plan.launch_record.device_key",
    "mae_sdk.plan.launch_record.gpu_ids_key",
    "mae_sdk.plan.launch_record.task_of_several",  # whether this process may launch at all
    "mae_sdk.plan.sources.is_images",
}


def passed(call: Callable[[], Any]) -> tuple[list[str], list[str]]:
    """The rooms in the order in which their steps end, and the calls into a room that was left."""
    rooms = {step: room for room, step in STEPS.items()}
    left: list[str] = []
    back: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        module, function = str(frame.f_globals.get("__name__")), frame.f_code.co_name
        name = f"{module}.{function}"
        if event == "return" and name in rooms:
            left.append(rooms[name])
        elif event == "call" and not function.startswith("<") and not {module, name} & READ:
            back.extend(
                f"{room}: {name}" for room in left if f"{module}.".startswith(dotted(ROOMS[room]))
            )

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return left, back


def dotted(modules: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{module}." for module in modules)


@pytest.fixture
def create(tmp_path: Path) -> Callable[[], Any]:
    write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1)
    skill = Skill(write_bundle(tmp_path / "bundle"))
    data, root = str(tmp_path / "data"), str(tmp_path / "jobs")

    def job() -> Any:
        return skill.create_job(
            "train", train_datasets=data, automl_policy="off", results_root=root
        )

    return job


def test_a_job_passes_each_room_once_and_never_turns_back(create: Callable[[], Any]) -> None:
    left, back = passed(create)
    assert left == ["resolve", "plan", "folder", "platform"]
    assert back == []


def test_a_step_that_turns_back_is_found(
    create: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = launch.record_of

    def turned(*given: Any) -> Any:
        mae_skill.resolve.nested({})
        return written(*given)

    monkeypatch.setattr(launch, "record_of", turned)
    assert passed(create)[1] == ["resolve: mae_skill.resolve.nested"]
