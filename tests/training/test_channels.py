"""Pictures of many bands and depths, from pretraining to the exported file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mae_runners.__main__ import main
from mae_runners.models import build_classifier, build_mae
from mae_runners.models.build import build_segmenter
from mae_runners.models.pretrained import load_pretrained, targets
from mae_sdk.skill import Skill
from mae_skill.errors import SpecError
from mae_skill.spec import ExperimentSpec
from mae_skill.weights.parameters import target_of
from PIL import Image

from tests.support import odd_pictures as odd
from tests.support.training import PLAIN, read, spec, train, write_spec

RNG = np.random.default_rng(1)
SIZES = {"vit_tiny_patch16": 64, "convnextv2_atto": 64, "hiera_tiny_224": 64}
DOTTED = {key.replace(".", "__"): value for key, value in PLAIN.items()}


def bands(root: Path, count: int = 5, each: int = 3) -> Path:
    """12-bit pictures of two classes, brighter in one."""
    for label in (0, 1):
        (root / str(label)).mkdir(parents=True)
        for number in range(each):
            values = RNG.integers(0, 2000, (40, 40, count)) + 2000 * label
            data = odd.tiff(values.astype(np.uint16), planarconfig="contig")
            (root / str(label) / f"{number}.tif").write_bytes(data)
    return root


def act(action: str, made: dict, folder: Path, **changes: str) -> int:
    document = {**made, "results_dir": str(folder)}
    path = write_spec(document, folder.parent / f"{folder.name}.{action}.json")
    return main([action, "-e", str(path), *(f"{k}={v}" for k, v in changes.items())])


def test_twelve_bits_of_five_bands_go_from_pretraining_to_an_onnx_file(tmp_path: Path) -> None:
    data = bands(tmp_path / "data")
    fields = {"dataset__channels": 5, "dataset__value_range": "auto", "train__num_epochs": 1}
    pretrain = spec(data, tmp_path / "pre", **fields)
    assert train(pretrain) == 0
    weights = tmp_path / "pre" / "train" / "vit_tiny_patch16_latest.pth"
    meta = torch.load(weights, weights_only=True)["mae"]
    low, high = meta["value_range"]
    assert low < 30 and 3960 < high < 4000 and meta["model"]["in_chans"] == 5
    assert len(meta["mean"]) == 5
    (listed,) = read(tmp_path / "pre", "train/checkpoints.json")["checkpoints"]
    assert (listed["channels"], listed["value_range"]) == (5, [low, high])

    tuned = spec(
        data,
        tmp_path / "fine",
        "finetune",
        model__num_classes=2,
        train__pretrained_model_path=str(weights),
        dataset__val_data_sources=str(data),
        dataset__augmentation__auto_aug=None,
        **fields,
        **DOTTED,
    )
    warned = Skill().plan("train", spec=tuned, automl_policy="off").warnings
    (told,) = [one.message for one in warned if one.field == "dataset.value_range"]
    assert told.startswith("auto, which measures these pictures, here; ")
    assert train(tuned) == 0
    model = tmp_path / "fine" / "train" / "vit_tiny_patch16_latest.pth"

    # The range and the channels come from the model, whatever the spec leaves out.
    plain = spec(data, tmp_path / "eval", "finetune", model__num_classes=2)
    plain["dataset"]["val_data_sources"] = plain["dataset"].pop("train_data_sources")
    given = {"evaluate.checkpoint": str(model)}
    assert act("evaluate", plain, tmp_path / "eval", **given) == 0
    found = json.loads((tmp_path / "eval" / "evaluate" / "metrics.json").read_text())
    in_training = read(tmp_path / "fine", "train/result.json")["kpis"]
    assert found["ACC_all"] == pytest.approx(in_training["ACC_all"])

    assert act("export", plain, tmp_path / "out", **{"export.checkpoint": str(model)}) == 0
    result = read(tmp_path / "out", "export/result.json")
    assert result["parity"]["source"] == "dataset.val_data_sources"
    import onnx

    graph = onnx.load(tmp_path / "out" / "export" / "model.onnx").graph
    assert graph.input[0].type.tensor_type.shape.dim[1].dim_value == 5
    wrong = {"evaluate.checkpoint": str(model), "dataset.value_range": "[0,9]"}
    assert act("evaluate", plain, tmp_path / "wrong", **wrong) == SpecError.exit_code


def made_spec(arch: str, channels: int, stage: str, task: str = "classification") -> ExperimentSpec:
    return ExperimentSpec.model_validate(
        {
            "model": {"arch": arch, "num_classes": 4, "task": task, "decoder_embed_dim": 32},
            "train": {"stage": stage},
            "dataset": {"channels": channels, "augmentation": {"input_size": SIZES[arch]}},
        }
    )


@pytest.mark.parametrize("arch", SIZES)
def test_every_family_takes_every_number_of_channels(arch: str) -> None:
    size = SIZES[arch]
    for channels in (1, 5):
        images = torch.randn(2, channels, size, size)
        made = made_spec(arch, channels, "pretrain")
        mae = build_mae(made.model, made.train, size, channels)
        noise = torch.rand(2, mae.num_units)
        mae(images, noise).loss.backward()
        assert mae.reconstruct(images, noise).shape == images.shape
        tasks = [(made, mae)]
        made = made_spec(arch, channels, "finetune")
        tasks.append((made, build_classifier(made.model, size, channels)))
        made = made_spec(arch, channels, "finetune", "segmentation")
        tasks.append((made, build_segmenter(made.model, size, channels)))
        for one, model in tasks:
            shapes = {name: tuple(value.shape) for name, value in targets(model).items()}
            assert dict(target_of(one.model_dump(mode="json")).shapes) == shapes


@pytest.mark.parametrize("arch", SIZES)
def test_a_stem_of_rgb_is_adapted_as_timm_does(arch: str, tmp_path: Path) -> None:
    size = SIZES[arch]
    made = made_spec(arch, 3, "finetune")
    source = build_classifier(made.model, size)
    torch.save({"model": source.encoder.state_dict()}, tmp_path / "rgb.pth")
    stem = next(v for k, v in source.named_parameters() if v.ndim == 4 and v.shape[1] == 3)
    place = next(k for k, v in source.named_parameters() if v is stem)

    gray = build_classifier(made.model, size, 1)
    report = load_pretrained(gray, tmp_path / "rgb.pth")
    assert f"{place} 3 → 1 channels (summed over RGB)" in report.summary()
    torch.testing.assert_close(gray.state_dict()[place], stem.detach().sum(1, keepdim=True))
    five = build_classifier(made.model, size, 5)
    assert "3 → 5 channels (RGB repeated" in load_pretrained(five, tmp_path / "rgb.pth").summary()
    want = stem.detach()[:, [0, 1, 2, 0, 1]] * 3 / 5
    torch.testing.assert_close(five.state_dict()[place], want)


def test_the_plan_says_how_a_stem_is_adapted_and_counts_the_parameters(tmp_path: Path) -> None:
    Image.fromarray(odd.ramp(np.uint16, 0, 65535)).save(tmp_path / "a.png")
    made = made_spec("vit_tiny_patch16", 3, "finetune")
    model = build_classifier(made.model, 64)
    torch.save({"model": model.encoder.state_dict()}, tmp_path / "rgb.pth")

    def plan(**fields: object):  # type: ignore[no-untyped-def]
        return Skill().plan(
            "train",
            train_datasets=str(tmp_path),
            ptm=str(tmp_path / "rgb.pth"),
            automl_policy="off",
            spec_overrides={
                "arch": "vit_tiny_patch16",
                "image_size": 64,
                "train.stage": "pretrain",
                **fields,
            },
        )

    one, three = plan(**{"dataset.channels": 1}), plan()
    assert "3 → 1 channels (summed over RGB)" in json.dumps(one.to_dict(), ensure_ascii=False)
    assert str(one.estimates["parameters"]) != str(three.estimates["parameters"])
    with pytest.raises(SpecError, match="has 2 values for 5 channels"):
        plan(**{"dataset.channels": 5, "dataset.augmentation.mean": [0.5, 0.5]})
    with pytest.raises(SpecError, match="low end is not below the high one"):
        plan(**{"dataset.value_range": [9, 1]})


def pair(root: Path, turn: int, shape: tuple[int, int], side: tuple[int, int]) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    exif = Image.Exif()
    exif[0x0112] = turn
    values = RNG.integers(0, 255, (*side, 3)).astype(np.uint8)
    Image.fromarray(values).save(root / "images" / "a.png", exif=exif)
    Image.fromarray(RNG.integers(0, 2, shape).astype(np.uint8)).save(root / "annotations" / "a.png")
    return root


@pytest.mark.parametrize(
    ("turn", "shape", "side", "exif", "fits"),
    [
        (6, (40, 64), (64, 40), True, True),  # drawn on the picture as it is shown
        (6, (64, 40), (64, 40), True, False),
        (6, (64, 40), (64, 40), False, True),
        (3, (64, 40), (64, 40), True, False),  # nobody can tell
        (3, (64, 40), (64, 40), False, True),
        (1, (64, 40), (64, 40), True, True),
    ],
)
def test_a_turned_image_needs_a_mask_that_is_turned_with_it(
    turn: int,
    shape: tuple[int, int],
    side: tuple[int, int],
    exif: bool,
    fits: bool,
    tmp_path: Path,
) -> None:
    from mae_runners.data import build_segmentation_dataset
    from mae_sdk.data import inspect_masks
    from mae_sdk.data.reading import Reading
    from mae_skill.errors import DataError
    from mae_skill.spec import DatasetSpec

    where = pair(tmp_path / "d", turn, shape, side)
    report = inspect_masks(where, reading=Reading(exif=exif))
    assert report["unreadable"]["count"] == int(not fits)
    dataset = build_segmentation_dataset(
        str(where),
        None,
        role="val",
        train=False,
        dataset=DatasetSpec.model_validate(
            {"exif_orientation": exif, "segmentation": {"reduce_zero_label": False}}
        ),
        num_classes=2,
        seed=0,
    )
    if fits:
        assert dataset.load(0, 0)["mask"].shape == shape
    else:
        with pytest.raises(DataError, match="exif_orientation=false"):
            dataset.load(0, 0)
