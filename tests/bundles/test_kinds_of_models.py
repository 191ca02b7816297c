"""Which field of a child of another bundle takes the model that its parent left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill, answers
from mae_sdk.job import Job
from mae_sdk.jobs.checkpoint_names import Judged, choose_by_name, newest_in
from mae_skill.errors import CheckpointError, NotFoundError, UsageError
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

    def write(
        leaves: list[str], pack: Any = None, templates: Any = None, use: Any = None, **more: Any
    ) -> Any:
        folder = tmp_path / "bundle"
        (folder / "references").mkdir(parents=True)
        (folder / "write.py").write_text(WRITER)
        command = ["python3", "{bundle_dir}/write.py", "{job_dir}", *leaves]
        entry = {"command": command, **(pack or {})}
        info = {"name": "small", "actions": {"pack": entry, "use": use or {"command": "tool"}}}
        info |= more
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


JUDGED = Judged("acc", "maximize", {1: 0.5, 2: 0.9, 20: 0.9, 30: 0.5})
HF = [
    f"go/checkpoint-{step}/{file}"
    for step in (10, 20, 30)
    for file in ("model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt")
]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (HF, ("go/checkpoint-20/model.safetensors", "go/checkpoint-30/model.safetensors")),
        (
            [f"go/epoch_{at}/{one}.pt" for at in (1, 2) for one in ("model", "opt", "scheduler")],
            ("go/epoch_2/model.pt", "go/epoch_2/model.pt"),
        ),
        (
            [f"go/{at}/{one}.safetensors" for at in (1, 2) for one in ("opt", "weights")],
            ("go/2/weights.safetensors", "go/2/weights.safetensors"),
        ),
        (
            [f"go/{one}_epoch_{at}.pth" for at in (1, 2) for one in ("net", "optimizer", "loss")],
            ("go/net_epoch_2.pth", "go/net_epoch_2.pth"),
        ),
        (
            [f"go/r50_epoch_{at}{one}.pth" for at in (1, 2) for one in ("", "_opt", "_scaler")],
            ("go/r50_epoch_2.pth", "go/r50_epoch_2.pth"),
        ),
        (
            [f"go/epoch_{at}_ema.pth" for at in (1, 2)] + ["go/epoch_1.pth", "go/epoch_2.pth"],
            ("go/epoch_2.pth", "go/epoch_2.pth"),
        ),
        (
            [f"go/{name}_2.pt" for name in ("model", "discriminator")],
            ("go/model_2.pt", "go/model_2.pt"),
        ),
        (
            [f"go/checkpoint-30/{one}" for one in ("pytorch_model.bin", "optimizer.pt", "rng.pth")],
            ("go/checkpoint-30/pytorch_model.bin", "go/checkpoint-30/pytorch_model.bin"),
        ),
        # The model with all its state in one file, a loss that is a value, and states alone.
        (["go/1/model_optim_rng.pt"], ("go/1/model_optim_rng.pt", "go/1/model_optim_rng.pt")),
        (
            ["go/epoch_1_loss_0.2.pth", "go/epoch_2_loss_0.1.pth", "go/other.pth"],
            ("go/epoch_2_loss_0.1.pth", "go/epoch_2_loss_0.1.pth"),
        ),
        (["go/opt_1.pt"], ("go/opt_1.pt", "go/opt_1.pt")),
        # A restart saves in a folder, or under a version, of its own.
        (
            ["go/version_0/epoch=2.ckpt", "go/version_1/epoch=2.ckpt"],
            ("go/version_1/epoch=2.ckpt", "go/version_1/epoch=2.ckpt"),
        ),
    ],
)
def test_the_model_is_chosen_among_what_a_runner_saves_beside_it(
    names: list[str], chosen: tuple[str, str], tmp_path: Path
) -> None:
    best, latest = chosen
    assert choose_by_name(names, "best", "j", JUDGED)[0] == best
    assert choose_by_name(names, "latest", "j")[0] == latest
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert newest_in(tmp_path, "go") == tmp_path / latest


def test_of_an_epoch_the_model_is_chosen_and_the_averaged_copy_is_said() -> None:
    assert choose_by_name(HF, "epoch:20", "j")[0] == "go/checkpoint-20/model.safetensors"
    names = ["go/model_epoch_002.pth", "go/model_epoch_002_ema.pth", "go/model_best_002.pth"]
    chosen, why = choose_by_name(names, "epoch:2", "j")
    assert chosen == "go/model_epoch_002.pth"
    assert why == "epoch 2, by its name; model_epoch_002_ema.pth beside it is an averaged copy"
    assert choose_by_name(["go/model_2_ema.pth"], "latest", "j")[0] == "go/model_2_ema.pth"


def test_two_models_of_one_epoch_are_refused_with_both_names(tmp_path: Path) -> None:
    names = ["go/epoch_2/decoder.pt", "go/epoch_2/encoder.pt"]
    for policy in ("best", "latest", "epoch:2"):
        with pytest.raises(NotFoundError, match="several files of one checkpoint") as caught:
            choose_by_name(names, policy, "j", JUDGED)
        assert caught.value.hint == ", ".join(names)
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert newest_in(tmp_path, "go") is None


@pytest.mark.parametrize(
    ("kind", "leaves", "value"),
    [
        ("folder", ["m.safetensors"], "checkpoint-20"),
        ("file", ["m.safetensors"], "checkpoint-20/m.safetensors"),
        ("folder", ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"], None),
        (None, ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"], None),
    ],
)
def test_a_field_takes_the_folder_of_a_model_where_it_is_declared_or_the_model_is_in_shards(
    made: Made, kind: str | None, leaves: list[str], value: str | None
) -> None:
    inputs = {"use.adapter": {"type": kind}} if kind else {}
    use = {"command": "tool {config_path}", "inputs": inputs}
    files = [f"pack/checkpoint-{at}/{name}" for at in (10, 20) for name in leaves]
    skill, parent = made(files, spec_params=child("use.adapter"), use=use)
    plan = skill.plan("use", parent_job_id=parent.id)
    expected = f"{parent.folder}/pack/{value or 'checkpoint-20'}"
    assert plan.spec["use"]["adapter"] == expected


def test_a_model_in_shards_is_refused_where_a_file_is_declared(made: Made) -> None:
    files = [f"pack/ckpt-3/m-0000{at}-of-00002.safetensors" for at in (1, 2)]
    use = {"command": "tool {config_path}", "inputs": {"use.adapter": {"type": "file"}}}
    skill, parent = made(files, spec_params=child("use.adapter"), use=use)
    with pytest.raises(CheckpointError, match="is in 2 files, and this field takes one") as caught:
        skill.plan("use", parent_job_id=parent.id)
    assert caught.value.got == files


@pytest.mark.parametrize(
    ("beside", "taken"),
    [
        # An output that was written, and a checkpoint of a training, go before the result.
        ("pack/model.pth", "pack/model.pth"),
        ("pack/model_epoch_1.pth", "pack/model_epoch_1.pth"),
        # Any other file of weights does not.
        ("pack/backbone.pth", "model.json"),
        ("pack/metrics.txt", "model.json"),
    ],
)
def test_a_result_of_another_make_goes_before_files_that_nothing_names(
    made: Made, beside: str, taken: str
) -> None:
    pack = {"outputs": {"model_file": {"type": "file"}}, "result": "{results_dir}/model.json"}
    skill, parent = made(["model.json", beside], pack, spec_params=child("use.checkpoint"))
    plan = skill.plan("use", parent_job_id=parent.id)
    assert plan.spec["use"]["checkpoint"] == f"{parent.folder}/{taken}"


def test_an_epoch_of_a_model_that_is_the_result_is_refused(made: Made) -> None:
    params = child("use.checkpoint")
    skill, parent = made(["pack/model.json"], {"result": "pack/model.json"}, spec_params=params)
    with pytest.raises(NotFoundError, match="is the result of its pack, of no epoch") as caught:
        skill.plan("use", parent_job_id=parent.id, checkpoint="epoch:99")
    assert caught.value.field == "checkpoint"
    assert skill.plan("use", parent_job_id=parent.id, checkpoint="latest").spec
