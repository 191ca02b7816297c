"""A plan looks at the weights that it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mae_runners.models import checkpoint, load_pretrained
from mae_sdk import Plan, Skill
from mae_skill.errors import CheckpointError, MaeError
from safetensors.torch import save_file

from tests.support.deploy import make_model, save_checkpoint
from tests.support.folders import add_checkpoints, job_folder
from tests.support.images import make_tarball, write_imagefolder
from tests.support.models import build, classifier_config, mae_config, write_vit_tiny

FIELD = "train.pretrained_model_path"

SMALL = {"arch": "vit_tiny_patch16", "image_size": 64}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    pictures = write_imagefolder(root / "pictures", classes=3, per_class=4)
    make_tarball(pictures, root / "data" / "images_train.tar.gz")
    return root / "data"


def plan(data: Path, **options: Any) -> Plan:
    overrides = {**SMALL, **options.pop("spec_overrides", {})}
    return Skill().plan(
        "train",
        train_datasets=str(data),
        spec_overrides=overrides,
        automl_policy="off",
        **options,
    )


def test_a_plan_says_in_one_line_what_it_takes(data: Path, tmp_path: Path) -> None:
    made = plan(data, ptm=str(write_vit_tiny(tmp_path / "same.pth", img_size=96)))
    (line,) = [line for line in made.notices if "of the backbone" in line]
    assert line.startswith("train.pretrained_model_path: 100.0% of the backbone (148 entries")
    assert "adapted: encoder.pos_embed 6×6 → 4×4" in line
    assert "left out: head.weight, head.bias" in line
    assert "fresh: 27 entries" not in line and "decoder_pred" in line
    assert not [item for item in made.warnings if "backbone" in str(item)]


def test_a_plan_refuses_another_model_and_names_it(data: Path, tmp_path: Path) -> None:
    with pytest.raises(MaeError) as caught:
        plan(data, ptm=str(write_vit_tiny(tmp_path / "other.pth", init_values=1e-5)))
    assert "LayerScale" in str(caught.value) and "no place for blocks.0.ls1.gamma" in str(
        caught.value
    )


def test_a_plan_warns_of_a_head_without_names(data: Path, tmp_path: Path) -> None:
    made = plan(
        data,
        ptm=str(write_vit_tiny(tmp_path / "file.pth", global_pool="avg")),
        spec_overrides={"train.stage": "finetune", "model.num_classes": 3},
    )
    assert [item for item in made.warnings if "the file does not name them" in str(item)]


def broken(path: Path, kind: str) -> Path:
    if kind == "int8":
        shape = {"img_size": 64, "embed_dim": 192, "depth": 12, "num_heads": 3}
        state = timm.models.vision_transformer.VisionTransformer(**shape).state_dict()
        state["blocks.3.mlp.fc1.weight"] = state["blocks.3.mlp.fc1.weight"].to(torch.int8)
        torch.save(state, path)
    elif kind == "cut off":
        write_vit_tiny(path)
        path.write_bytes(path.read_bytes()[:-5000])
    elif kind == "safetensors":
        save_file({"a": torch.zeros(100)}, path)
        path.write_bytes(path.read_bytes()[:-8])
    elif kind == "module":
        torch.save(torch.nn.Linear(2, 2), path)
    else:
        path.write_bytes({"empty": b"", "page": b"\n<html>", "text": b"not found"}[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "got"),
    [
        ("empty", "empty"),
        ("page", "a web page"),
        ("text", "text, not weights"),
        ("cut off", "a zip archive without its end"),
        ("safetensors", "392 bytes of values; its header says 400"),
        ("module", "it needs torch.nn.modules.linear.Linear"),
        ("int8", "int8"),
    ],
)
def test_a_plan_refuses_a_file_as_the_run_does(
    kind: str, got: str, data: Path, tmp_path: Path
) -> None:
    file = broken(tmp_path / "file.pth", kind)
    with pytest.raises(CheckpointError) as planned:
        plan(data, ptm=str(file))
    assert planned.value.got.startswith(got) and planned.value.field == FIELD
    with pytest.raises(CheckpointError) as run:
        load_pretrained(build(mae_config("vit_tiny_patch16", (64, 64))), file)
    assert (run.value.message, run.value.got) == (planned.value.message, planned.value.got)
    assert "weights_only" not in str(run.value.got)


def test_a_plan_refuses_an_encrypted_file_without_its_key(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_bytes(b"MAESEAL2" + bytes(100))
    with pytest.raises(CheckpointError, match="is encrypted"):
        plan(data, ptm=str(tmp_path / "file.pth"))
    made = plan(data, ptm=str(tmp_path / "file.pth"), env={"MAE_ENCRYPTION_KEY": "a key of a job"})
    assert not [line for line in made.notices if "of the backbone" in line]


def test_a_plan_knows_which_rows_of_a_head_stay_fresh(data: Path, tmp_path: Path) -> None:
    names = sorted(item.name for item in (data.parent / "pictures").iterdir())
    spec = {"train.stage": "finetune", "model.num_classes": 3}
    for theirs, said in (
        (names, "head: all 3 classes by name; "),
        ([names[1], "x", "y"], f"head: 1 of 3 classes by name; fresh: {names[0]}, {names[2]}; "),
        (["x", "y", "z"], "head: fresh: none of its classes (x, y, z) is among the data's; "),
    ):
        model = build(classifier_config("vit_tiny_patch16", (64, 64), num_classes=3))
        meta = checkpoint.CheckpointMeta.for_model(model, classes=theirs).to_dict()
        state = checkpoint.model_state(model)
        torch.save({"state_dict": state, "mae": meta}, tmp_path / "own.pth")
        made = plan(data, ptm=str(tmp_path / "own.pth"), spec_overrides=spec)
        (line,) = [line for line in made.notices if "of the backbone" in line]
        assert said in line
        report = load_pretrained(model, tmp_path / "own.pth", classes=names)
        assert line == f"{FIELD}: {report.line}"


def test_a_refusal_does_not_say_that_all_matched(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        plan(data, ptm=str(write_vit_tiny(tmp_path / "file.pth", init_values=1e-5)))
    assert "100" not in caught.value.message
    with pytest.raises(CheckpointError) as caught:
        plan(
            data,
            ptm=str(write_vit_tiny(tmp_path / "file.pth", class_token=False, global_pool="avg")),
        )
    assert "its 16 positions have no class token's among them" in caught.value.message


@pytest.mark.parametrize(
    ("arch", "hint"),
    [
        ("vit_tiny_patch16", "set model.patch_size to the file's, 8, or to the model's own, 16"),
        ("vit_small_patch16", "set model.arch to vit_tiny_patch16 and model.patch_size to 8"),
    ],
)
def test_weights_of_other_patches_are_called_by_their_architecture(
    arch: str, hint: str, data: Path, tmp_path: Path
) -> None:
    file = write_vit_tiny(tmp_path / "file.pth", patch_size=8, img_size=64)
    with pytest.raises(CheckpointError) as caught:
        plan(data, ptm=str(file), spec_overrides={"arch": arch})
    assert caught.value.got == "vit_tiny_patch16 with patches of 8 pixels"
    assert str(caught.value.hint).startswith(hint)


def test_a_model_without_its_last_norm_has_no_setting_to_change(tmp_path: Path) -> None:
    file = write_vit_tiny(tmp_path / "file.pth", final_norm=False, global_pool="avg")
    with pytest.raises(CheckpointError, match="lacks a part") as caught:
        Skill().plan(
            "export",
            spec_overrides={
                **SMALL,
                "export.checkpoint": str(file),
                "train.stage": "finetune",
                "model.num_classes": 3,
            },
        )
    assert str(caught.value.hint).startswith("no setting makes up for it")


def problems(action: str, **options: Any) -> list[tuple[str, str]]:
    with pytest.raises(MaeError) as caught:
        Skill().plan(action, **options)
    found = getattr(caught.value, "problems", None) or [caught.value]
    return [(str(one.field), one.message) for one in found]


def test_one_cause_is_one_error_of_the_plan(data: Path, tmp_path: Path) -> None:
    pictures = str(data.parent / "pictures")
    classifier = str(
        save_checkpoint(make_model(SMALL["arch"], "finetune", 64), tmp_path / "model.pth")
    )
    for action, source in (
        ("evaluate", {"eval_dataset": pictures}),
        ("inference", {"inference_dataset": pictures}),
        ("export", {}),
    ):
        asked = {f"{action}.checkpoint": classifier, "model.task": "segmentation"}
        ((field, said),) = problems(action, spec_overrides=asked, **source)
        assert field == "model.task" and "made with another value" in said
    segments = {"train.stage": "finetune", "model.task": "segmentation", "model.num_classes": 3}
    ((field, said),) = problems(
        "train", train_datasets=pictures, ptm=classifier, spec_overrides={**SMALL, **segments}
    )
    assert field == "model.task" and "is a classifier, and no masks belong to the" in said
    ((field, _),) = problems("train", train_datasets=pictures, spec_overrides={**SMALL, **segments})
    assert field == "dataset.segmentation.train_mask_sources", "the data, without a classifier"

    for engine, model in (
        ("no.engine", "no.pth"),
        (classifier, classifier),
        ("no.engine", pictures),
    ):
        both = {"inference.trt_engine": engine, "inference.checkpoint": model}
        ((field, said),) = problems("inference", inference_dataset=pictures, spec_overrides=both)
        assert (field, said) == ("inference.trt_engine", "inference.checkpoint is given too")


def test_another_architecture_than_the_parents_is_told_once(data: Path, tmp_path: Path) -> None:
    root = tmp_path / "jobs"
    folder = job_folder(root, "p1", "train", spec={"model": {"arch": SMALL["arch"]}})
    add_checkpoints(folder, [0.5], whole=True, arch=SMALL["arch"], stage="pretrain")
    other = {"model.arch": "convnextv2_atto", "train.stage": "finetune", "model.num_classes": 3}
    ((field, said),) = problems(
        "train",
        train_datasets=str(data.parent / "pictures"),
        parent_job_id="p1",
        results_root=str(root),
        spec_overrides={"image_size": 64, **other},
    )
    assert field == "model.arch" and "the parent job p1 was made with another value" in said


def test_a_parent_and_the_model_of_another_are_one_error_that_names_both(
    data: Path, tmp_path: Path
) -> None:
    root, about = tmp_path / "jobs", {"arch": "convnextv2_atto", "stage": "finetune"}
    folder = job_folder(root, "f1", "train", spec={"model": {"arch": "convnextv2_atto"}})
    add_checkpoints(folder, [0.5], whole=True, said=about, **about)
    other = save_checkpoint(make_model(SMALL["arch"], "pretrain", 64), tmp_path / "other.pth")
    with pytest.raises(MaeError) as caught:
        Skill().plan(
            "evaluate",
            eval_dataset=str(data.parent / "pictures"),
            parent_job_id="f1",
            results_root=str(root),
            spec_overrides={"evaluate.checkpoint": str(other)},
        )
    found = getattr(caught.value, "problems", None) or [caught.value]
    hints = [str(one.hint) for one in found if "made with another value" in one.message]
    assert hints == [
        "the value is that of the parent job: leave out --parent, or evaluate.checkpoint"
    ]
