"""What a plan knows of a file of weights, from its names and shapes alone."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mae_runners.models import build_classifier, build_mae, build_segmenter, checkpoint
from mae_runners.models.pretrained import target_of as target_of_model
from mae_skill.archs import ARCHS
from mae_skill.errors import CheckpointError
from mae_skill.spec import ExperimentSpec
from mae_skill.weights import header, pytorch_file
from mae_skill.weights.fit import fit
from mae_skill.weights.names import form_of
from mae_skill.weights.parameters import target_of
from mae_skill.weights.pytorch_file import Stub
from safetensors.torch import save_file

STAGES = ("pretrain", "finetune", "segmentation")
SOME = ("vit_tiny_patch16", "convnextv2_atto", "hiera_base_plus_224")


def spec_of(arch: str, stage: str, **model: Any) -> ExperimentSpec:
    values: dict[str, Any] = {
        "model": {"arch": arch, "num_classes": 7, **model},
        "train": {"stage": "pretrain" if stage == "pretrain" else "finetune"},
    }
    if stage == "segmentation":
        values["model"]["task"] = "segmentation"
    multiple = ARCHS[arch].size_multiple
    values["dataset"] = {"augmentation": {"input_size": [2 * multiple, 3 * multiple]}}
    return ExperimentSpec.model_validate(values)


def model_of(spec: ExperimentSpec) -> Any:
    size = spec.dataset.augmentation.input_size
    with torch.device("meta"):
        if spec.train.stage == "pretrain":
            return build_mae(spec.model, spec.train, size)
        if spec.model.task == "segmentation":
            return build_segmenter(spec.model, size)
        return build_classifier(spec.model, size)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("arch", SOME)  # tests/long/parity has the others
def test_the_plan_knows_every_parameter_that_the_runner_builds(arch: str, stage: str) -> None:
    spec = spec_of(arch, stage)
    found, built = target_of(spec.model_dump(mode="json")), target_of_model(model_of(spec))
    assert dict(found.shapes) == dict(built.shapes)
    assert found.heads == built.heads and found.row == built.row and found.kind == built.kind


@pytest.mark.parametrize("arch", SOME)
def test_another_patch_is_known_too(arch: str) -> None:
    spec = spec_of(arch, "pretrain", patch_size=2)
    found, built = target_of(spec.model_dump(mode="json")), target_of_model(model_of(spec))
    assert dict(found.shapes) == dict(built.shapes) and found.row == built.row
    assert found.any_patch and built.any_patch


def test_shape_overrides_and_token_pooling_are_known_too() -> None:
    shape = {"embed_dim": 96, "depth": 5, "num_heads": 4, "mlp_ratio": 3.0, "global_pool": False}
    spec = spec_of("vit_tiny_patch16", "finetune", **shape)
    found, built = target_of(spec.model_dump(mode="json")), target_of_model(model_of(spec))
    assert dict(found.shapes) == dict(built.shapes) and found.heads == built.heads == (4,)
    assert found.token_pool and built.token_pool


class Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch harmed",)


def test_a_header_is_read_without_torch_and_without_running_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    half = torch.zeros(2, 3, dtype=torch.float16)
    tensors = {"a": half, "b": torch.nn.Parameter(torch.zeros(4))}
    stubs = {"a": Stub((2, 3), "float16"), "b": Stub((4,), "float32")}
    for new in (True, False):
        torch.save({"model": tensors, "epoch": 3}, "file.pth", _use_new_zipfile_serialization=new)
        assert header.look(Path("file.pth")) == {"model": stubs, "epoch": 3}
        torch.save({**tensors, "x": Harm()}, "file.pth", _use_new_zipfile_serialization=new)
        with pytest.raises(CheckpointError) as caught:
            header.look(Path("file.pth"))
        assert caught.value.got == "it needs posix.system"
    assert not Path("harmed").exists()
    save_file({"a": half}, "named.pth")
    assert header.look(Path("named.pth")) == {"a": Stub((2, 3), "float16")}


def test_a_pickle_may_name_what_the_runner_loads_and_nothing_else(tmp_path: Path) -> None:
    import argparse
    import pathlib

    import numpy as np
    from torch._weights_only_unpickler import _get_allowed_globals

    loaded = [*_get_allowed_globals(), "argparse.Namespace", "pathlib.PosixPath"]
    reader = pytorch_file._Reader(io.BytesIO(), tmp_path / "file.pth")
    for name in loaded:
        reader.find_class(*name.rsplit(".", 1))
    plain = {"a": np.float64(3), "b": np.zeros(2), "c": argparse.Namespace(), "d": {1}}
    torch.save({**plain, "p": pathlib.PurePosixPath()}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="more than weights"):
        header.look(tmp_path / "file.pth")
    torch.save(plain, tmp_path / "file.pth")
    assert set(header.look(tmp_path / "file.pth") or ()) == set(
        checkpoint.read(tmp_path / "file.pth")
    )


def changed(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_a_file_that_is_cut_off_is_told_by_its_length(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "file.pth"
    for cut in (500, 3000):
        if kind == "safetensors":
            save_file({"a": torch.zeros(1000)}, file)
        else:
            torch.save({"a": torch.zeros(1000)}, file, _use_new_zipfile_serialization=kind == "zip")
        assert header.look(file) == {"a": Stub((1000,), "float32")}
        changed(file, lambda content: content[:-cut])  # noqa: B023
        with pytest.raises(CheckpointError, match="damaged"):
            header.look(file)


def test_the_form_of_an_entry_is_the_same_in_the_header_and_in_the_file(tmp_path: Path) -> None:
    forms = {
        "int8": torch.zeros(2, dtype=torch.int8),
        "bfloat16": torch.zeros(3, dtype=torch.bfloat16),
        "float8_e4m3fn": torch.zeros(2).to(torch.float8_e4m3fn),
        "float32, sparse": torch.eye(2).to_sparse(),
        "float32, without values": torch.empty(2, device="meta"),
        "complex64": torch.zeros(2, dtype=torch.complex64),
        "bool": torch.zeros(2, dtype=torch.bool),
    }
    torch.save(forms, tmp_path / "file.pth")
    for found in (header.look(tmp_path / "file.pth"), checkpoint.read(tmp_path / "file.pth")):
        assert found is not None
        assert {name: form_of(value) for name, value in found.items()} == {n: n for n in forms}


@pytest.mark.parametrize(
    ("lacks", "got", "hint"),
    [
        ("blocks.7.", "vit_tiny_patch16 without blocks.7", "incomplete"),
        ("blocks.7.attn.qkv.w", "vit_tiny_patch16 without blocks.7.attn.qkv.weight", "incomplete"),
        ("", "vit_tiny_patch16 for pictures of 5 channels", "set dataset.channels to 5"),
    ],
)
def test_a_file_of_this_architecture_is_told_by_what_it_differs_in(
    lacks: str, got: str, hint: str
) -> None:
    spec = spec_of("vit_tiny_patch16", "finetune")
    state = {
        name.removeprefix("encoder."): value
        for name, value in model_of(spec).state_dict().items()
        if not lacks or lacks not in name
    }
    if not lacks:
        kernel = state["patch_embed.proj.weight"]
        state["patch_embed.proj.weight"] = kernel.new_empty(kernel.shape[0], 5, *kernel.shape[2:])
    refusal = fit(state, target_of(spec.model_dump(mode="json")), "a.pth", "ptm").refusal
    assert refusal is not None and refusal.got == got and hint in str(refusal.hint)
