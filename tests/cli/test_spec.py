"""``get-spec``, ``validate``, ``explain`` and ``diff``, for every action."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from mae_sdk.cli.common import ACTIONS
from mae_sdk.cli.main import main
from mae_skill.bundle import Bundle
from mae_skill.dotted import flatten
from mae_skill.reader import read_spec

from tests.support.folders import write_own_checkpoint
from tests.support.jobs import write

DATA = "https://host.invalid/images.tar.gz"  # with --no-count not looked at before a job runs
NEEDS = {
    "train": [f"dataset.train_data_sources={DATA}"],
    "evaluate": [
        f"dataset.val_data_sources={DATA}",
        "evaluate.checkpoint={here}/c.pth",
        "stage=finetune",
    ],
    "inference": [
        f"dataset.test_data_sources={DATA}",
        "inference.checkpoint={here}/c.pth",
        "stage=finetune",
    ],
    "export": ["export.checkpoint={here}/c.pth"],
    "gen_trt_engine": ["gen_trt_engine.onnx_file={here}/m.onnx"],
}


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(words))
    printed = capsys.readouterr()
    return int(end.value.code or 0), printed.out, printed.err


@pytest.mark.parametrize("action", ACTIONS)
def test_a_template_is_written_judged_changed_and_compared(
    action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "spec.yaml"
    write_own_checkpoint(tmp_path / "c.pth")
    images = onnx.helper.make_tensor_value_info("images", 1, ["batch", 3, 224, 224])
    graph = onnx.helper.make_graph([], "g", [images], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    needs = [word.format(here=tmp_path) for word in NEEDS[action]]
    assert call(capsys, "get-spec", action, "-o", str(file))[0] == 0
    assert read_spec(str(file)) == Bundle.load().schema(action)["default"]
    code, out, err = call(capsys, "validate", action, "-e", str(file), "--no-count", *needs)
    assert code == 0, out + err
    code, _, err = call(
        capsys,
        "validate",
        action,
        "-e",
        str(file),
        *needs,
        "--no-count",
        "--json",
        "model.archh=x",
        "dataset.batch_size=0",
    )
    problems = json.loads(err)["problems"]
    assert code == 2 and {problem["field"] for problem in problems} >= {
        "model.archh",
        "dataset.batch_size",
    }
    other = tmp_path / "other.yaml"
    other.write_text(file.read_text().replace("results_dir: null", "results_dir: /elsewhere"))
    code, out, _ = call(capsys, "diff", str(file), str(other), "--json")
    assert code == 0 and "results_dir" in out and "/elsewhere" in out


def test_fields_of_every_action_can_be_explained(capsys: pytest.CaptureFixture[str]) -> None:
    keys = sorted(
        {key for action in ACTIONS for key in flatten(Bundle.load().schema(action)["default"])}
    )
    assert len(keys) > 80
    for key in keys[::9]:  # a sample: every call loads the bundle
        code, out, err = call(capsys, "explain", key, "--json")
        assert code == 0 and json.loads(out), (key, err)
    code, _, err = call(capsys, "explain", "train.optim.lrr", "--json")
    assert code in (2, 4) and "train.optim.lr" in err


def test_recipes_are_listed_and_each_is_a_template(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "get-spec", "train", "--list-recipes", "--json")
    assert code == 0 and "mae_vit_base_pretrain" in out
    code, out, _ = call(capsys, "get-spec", "train", "--recipe", "mae_vit_base_pretrain")
    assert code == 0 and "vit_base_patch16" in out
    assert call(capsys, "get-spec", "train", "--recipe", "mae_vit_bass_pretrain")[0] in (2, 4)


def test_a_template_takes_values_and_refuses_what_cannot_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("get-spec", "train", "stage=finetune", "model.num_classes=4", "--json")
    code, out, _ = call(capsys, *words)
    plain = json.loads(call(capsys, "get-spec", "train", "--json")[1])
    found = json.loads(out)
    assert code == 0 and found["train"]["stage"] == "finetune"
    assert found["model"]["num_classes"] == 4
    assert found["dataset"] == plain["dataset"] and found.keys() == plain.keys()
    code, _, err = call(capsys, "get-spec", "train", "model.arch=resnet50", "--json")
    assert code == 2 and json.loads(err)["field"] == "model.arch"
    code, _, err = call(capsys, "get-spec", "train", "model.num_clases=4", "--json")
    assert code == 2 and "num_classes" in err


def test_a_spec_that_cannot_be_written_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(
        capsys, "get-spec", "train", "-o", str(tmp_path / "nowhere" / "spec.yaml"), "--json"
    )
    assert code == 2 and json.loads(err)["field"] == "--output"


def test_jobs_of_another_root_are_compared_by_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, epochs in (("one", 1), ("two", 2)):
        folder = write(tmp_path, "true", name=name)
        (folder / "spec.yaml").write_text(f"train: {{num_epochs: {epochs}}}\n")
    code, out, _ = call(capsys, "diff", "one", "two", "--results-root", str(tmp_path), "--json")
    assert code == 0 and [(row["a"], row["b"]) for row in json.loads(out)["changes"]] == [(1, 2)]


def test_a_valid_spec_tells_notes_on_settings_that_nobody_has_set_from_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("train: {stage: pretrain}")
    words = ["validate", "train", "-e", str(file), "--no-count", *NEEDS["train"]]
    code, out, _ = call(capsys, *words, "--json")
    found = json.loads(out)
    assert code == 0 and "train.optim.milestones" in {one["field"] for one in found["notes"]}
    assert "train.optim.milestones" not in {one["field"] for one in found["warnings"]}
    assert "note: train.optim.milestones" in call(capsys, *words)[1]
    wanted = [*words, "train.optim.milestones=[88,96]"]
    assert "warning: train.optim.milestones" in call(capsys, *wanted)[1]
