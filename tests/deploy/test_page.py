"""The deploy page's own ``skill_info.yaml``, and what a plan says of engines beforehand."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mae_sdk import Skill
from mae_skill.bundle import Bundle
from mae_skill.onnx_file import parse_layers_precision
from mae_skill.rules import Facts, check_rules
from mae_skill.schema_check import check_schema
from mae_skill.spec import ExperimentSpec

PAGE = Bundle.load().root / "references" / "tao-deploy-mask-auto-encoder.skill_info.yaml"


def test_the_deploy_page_is_a_bundle_with_the_same_contract_as_the_whole_skill() -> None:
    deploy, whole = Bundle.load(PAGE), Bundle.load()
    assert deploy.actions == ["gen_trt_engine"]
    assert deploy.info["parent_skill"] == whole.info["name"]
    assert deploy.action("gen_trt_engine") == whole.action("gen_trt_engine")
    for table in ("spec_params", "inherit"):
        assert deploy.info[table]["gen_trt_engine"] == whole.info[table]["gen_trt_engine"]
    template = deploy.template("gen_trt_engine")
    assert deploy.template_path("gen_trt_engine").name == "spec_template_deploy_gen_trt_engine.yaml"
    assert set(template["gen_trt_engine"]) < set(whole.template("gen_trt_engine")["gen_trt_engine"])
    assert check_schema(template, deploy.schema("gen_trt_engine")) == []


def test_an_engine_can_be_planned_from_the_deploy_page_alone(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x3a\0")
    overrides = {
        "gen_trt_engine.onnx_file": str(tmp_path / "model.onnx"),
        "gen_trt_engine.tensorrt.data_type": "FP16",
    }
    plan = (
        Skill(PAGE)
        .plan("gen_trt_engine", spec_overrides=overrides, results_root=str(tmp_path))
        .to_dict()
    )
    assert plan["spec"]["gen_trt_engine"]["trt_engine"]
    assert plan["spec"]["gen_trt_engine"]["tensorrt"]["data_type"] == "fp16"
    assert not any("not checked" in str(notice) for notice in plan["notices"])


@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_a_precision_is_read_in_either_case(case: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x3a\0")
    overrides = {
        "gen_trt_engine.onnx_file": str(tmp_path / "model.onnx"),
        "gen_trt_engine.tensorrt.data_type": case("int8"),
        "gen_trt_engine.tensorrt.calibration.cal_image_dir": str(tmp_path),
        "export.data_type": case("fp16"),
        "train.precision": case("bf16"),
    }
    plan = Skill().plan("gen_trt_engine", spec_overrides=overrides, results_root=str(tmp_path))
    spec = ExperimentSpec.model_validate(plan.spec)
    assert spec.gen_trt_engine.tensorrt.data_type == "int8"
    assert (spec.export.data_type, spec.train.precision) == ("fp16", "bf16")
    assert parse_layers_precision([f"*/norm*:{case('fp32')}"]) == [("*/norm*", "fp32")]


def warnings(spec: dict[str, object], gpus: int, action: str = "gen_trt_engine") -> list[str]:
    whole = {
        "model": {},
        "dataset": {},
        "train": {},
        action: {"onnx_file": "model.onnx", "checkpoint": None, **spec},
    }
    return [str(notice) for notice in check_rules(action, whole, {}, Facts(gpus=gpus))[1]]


def test_a_plan_says_beforehand_which_library_or_gpu_an_engine_would_miss(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x3a\0")
    overrides = {
        "gen_trt_engine.onnx_file": str(tmp_path / "model.onnx"),
        "gen_trt_engine.backend": "tensorrt_rtx",
    }
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "tensorrt_rtx", None)
        plan = (
            Skill()
            .plan("gen_trt_engine", spec_overrides=overrides, results_root=str(tmp_path))
            .to_dict()
        )
    (said,) = [
        notice["message"]
        for notice in plan["warnings"]
        if notice["field"] == "gen_trt_engine.backend"
    ]
    assert "tensorrt-rtx is not installed here: the job would end with exit 7" in said
    assert "pip install 'mae-skill[tensorrt-rtx]'" in said
    assert warnings({"backend": "tensorrt_rtx"}, 0) == []  # installed, and needs no GPU
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    (said,) = warnings({"backend": "tensorrt"}, 0)
    assert (
        "no GPU" not in said
        and "there is none here" in said
        and "tensorrt_rtx builds without a GPU" in said
    )
    assert warnings({"backend": "tensorrt"}, 1) == []


@pytest.mark.parametrize("action", ["evaluate", "inference"])
def test_a_plan_says_beforehand_that_an_engine_needs_a_gpu_to_run(action: str) -> None:
    assert any("exit 7" in said for said in warnings({"trt_engine": "model.engine"}, 0, action))
    assert not any("exit 7" in said for said in warnings({"trt_engine": "model.engine"}, 1, action))
    assert not any(
        "exit 7" in said
        for said in warnings({"trt_engine": None, "checkpoint": "model.pth"}, 0, action)
    )
