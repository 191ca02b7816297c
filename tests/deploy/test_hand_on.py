"""Models that go on: folders that timm and transformers load, and their way back in."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mae_runners import load_model
from mae_runners.actions import evaluate, export
from mae_runners.data.transforms import EvalTransform
from mae_runners.deploy.mmseg_format import to_detectron, to_mmseg
from mae_runners.models import (
    build_classifier,
    build_from_config,
    build_segmenter,
    load_pretrained,
)
from mae_runners.models.checkpoint import CheckpointMeta
from mae_runners.models.pretrained import load_described
from mae_skill.errors import SpecError, UsageError
from mae_skill.origin import Origin, OriginKind
from mae_skill.rules import Facts, check_rules
from mae_skill.weights.fit import only_decodes
from PIL import Image

from tests.support.deploy import (
    CLASSES,
    make_context,
    make_model,
    make_spec,
    of_bands,
    save_checkpoint,
    write_digits,
)

SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2}
MEAN = [0.4, 0.5, 0.6, 0.3, 0.45, 0.55]
STD = [0.2, 0.3, 0.25, 0.15, 0.35, 0.28]
# arch, stage, input size, more of the model
TIMM = [
    ("vit_tiny_patch16", "finetune", [32, 48], {"patch_size": 8, "depth": 2}),
    ("vit_tiny_patch16", "finetune", 32, {**SMALL, "global_pool": False}),
    ("vit_tiny_patch16", "pretrain", 32, {**SMALL, "mlp_ratio": 2.0}),
    ("convnextv2_atto", "finetune", [32, 64], {}),
    ("convnextv2_atto", "pretrain", 32, {"patch_size": 1}),
    ("hiera_tiny_224", "finetune", 32, {"patch_size": 2}),
    ("hiera_tiny_224", "pretrain", [32, 64], {}),
    ("vit_tiny_patch16", "finetune", 32, {**SMALL, "channels": 1}),
    ("vit_tiny_patch16", "pretrain", 32, {**SMALL, "channels": 6}),
    ("convnextv2_atto", "finetune", 32, {"channels": 4}),
    ("convnextv2_atto", "pretrain", 64, {"channels": 1}),
    ("hiera_tiny_224", "finetune", 32, {"channels": 6}),
    ("hiera_tiny_224", "pretrain", 64, {"channels": 4}),
]
TRANSFORMERS = [
    ("vit_tiny_patch16", "finetune", 32, {**SMALL, "global_pool": False}),
    ("vit_tiny_patch16", "pretrain", 32, {**SMALL, "patch_size": 8, "decoder_mlp_ratio": 2.0}),
    ("convnextv2_atto", "finetune", 32, {"patch_size": 2}),
    ("convnextv2_atto", "pretrain", 64, {}),
    ("hiera_tiny_224", "finetune", 32, {}),
    ("hiera_tiny_224", "pretrain", 32, {"patch_size": 2}),
    ("vit_tiny_patch16", "finetune", 32, {**SMALL, "global_pool": False, "channels": 6}),
    ("vit_tiny_patch16", "pretrain", 32, {**SMALL, "channels": 4}),
    ("convnextv2_atto", "finetune", 32, {"channels": 1}),
    ("convnextv2_atto", "pretrain", 64, {"channels": 6}),
    ("hiera_tiny_224", "finetune", 32, {"channels": 4}),
    ("hiera_tiny_224", "pretrain", 64, {"channels": 6}),
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"), per_class=2, size=40)


def names(case):
    return "-".join(str(part) for part in case)


def exported(folder: Path, digits: Path, format: str, case, **more):
    """The model of a case, the folder that the export action makes of it, and the result."""
    arch, stage, size, shape = case
    folder.mkdir(exist_ok=True)
    shape = dict(shape)
    channels = shape.pop("channels", 3)
    model = make_model(arch, stage, size, channels, **shape)
    colors = {"mean": MEAN[:channels]} | ({"std": STD[:channels]} if channels != 3 else {})
    file = save_checkpoint(model, folder / "model.pth", center_crop=0.9, **colors)
    source = digits if channels == 3 else of_bands(digits, channels)
    spec = make_spec(
        export__checkpoint=str(file),
        export__format=format,
        dataset__val_data_sources=str(source),
        **more,
    )
    result = export.run(spec, make_context("export", folder))
    return model, folder / "export" / format, result


@pytest.fixture(scope="module")
def made(tmp_path_factory, digits):
    """Exports of the cases, each made once: model, folder, result, checkpoint."""
    done = {}

    def get(format: str, case):
        key = (format, names(case))
        if key not in done:
            folder = tmp_path_factory.mktemp("made")
            done[key] = (*exported(folder, digits, format, case), folder / "model.pth")
        return done[key]

    return get


def pictures(model, count=3):
    torch.manual_seed(1)
    return torch.randn(count, model.config.get("in_chans", 3), *model.input_size)


def close(ours, theirs):
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("case", TIMM, ids=names)
def test_timm_answers_from_the_folder_as_the_model_does(made, case):
    model, folder, result, checkpoint = made("timm", case)
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    assert result["kpis"]["parity_cosine"] > 0.9999

    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = pictures(model)
    with torch.inference_mode():
        if case[1] == "finetune":
            close(model(images), theirs(images))
        elif case[0].startswith("vit"):
            close(model.encode(images), theirs(images))
        elif case[0].startswith("convnext"):
            theirs.reset_classifier(0, reset_other=True)
            close(model.encode(images), theirs(images))
        else:  # what fine-tuning in this project would start from
            spec = make_spec(model__arch=case[0], model__num_classes=4)
            tuned = build_classifier(spec.model, case[2], images.shape[1])
            load_pretrained(tuned, checkpoint)
            tuned.eval()
            close(tuned.encoder.forward_features(images), theirs.forward_features(images))
    if case[1] == "finetune":
        assert theirs.pretrained_cfg["label_names"] == CLASSES


@pytest.mark.parametrize("size", [32, [32, 48]], ids=str)
def test_timm_prepares_pictures_to_the_last_bit(made, size):
    _, folder, *_ = made("timm", ("vit_tiny_patch16", "finetune", size, {**SMALL, "patch_size": 8}))
    model = timm.create_model(f"local-dir:{folder}")
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)

    for picture in ((57, 91), (200, 60), (48, 48), (35, 333), (36, 54)):
        pixels = np.random.default_rng(0).integers(0, 256, (*picture, 3), dtype=np.uint8)
        assert (transform(Image.fromarray(pixels)) - prepared(pixels, size)).abs().max() < 1e-6


@pytest.mark.parametrize("kernel", ["bilinear", "lanczos"])
@pytest.mark.parametrize("format", ["timm", "transformers"])
def test_the_filter_of_resizing_goes_along_and_comes_back(tmp_path, digits, format, kernel):
    from transformers import AutoImageProcessor

    case = TRANSFORMERS[0]
    arch, stage, size, shape = case
    file = save_checkpoint(
        make_model(arch, stage, size, **shape),
        tmp_path / "model.pth",
        center_crop=0.8,  # 40 pixels, of which transformers cuts what evaluation does
        eval_interpolation=kernel,
    )
    spec = make_spec(
        export__checkpoint=str(file),
        export__format=format,
        dataset__val_data_sources=str(digits),
    )
    export.run(spec, make_context("export", tmp_path))
    folder = tmp_path / "export" / format
    assert f"resized ({kernel}, antialiased" in (folder / "README.md").read_text()
    if format == "timm":
        config = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{folder}"))
        assert config["interpolation"] == kernel
        prepare = timm.data.create_transform(**config, is_training=False)
    else:
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")

        def prepare(picture):
            return processor(picture, return_tensors="pt")["pixel_values"][0]

    ours, other = load_model(folder), load_model(folder)
    assert ours.meta.eval_interpolation == kernel
    other._fit.filter = Image.Resampling.BICUBIC
    picture = Image.effect_noise((83, 57), 90).convert("RGB")
    wanted = prepare(picture)
    assert (wanted - ours.preprocess(picture)[0]).abs().max() < 1e-6
    assert (wanted - other.preprocess(picture)[0]).abs().max() > 1e-2


GRAY = {"timm": TIMM[7], "transformers": TRANSFORMERS[8]}
SIX = {"timm": TIMM[11], "transformers": TRANSFORMERS[6]}


@pytest.mark.parametrize("format", ["timm", "transformers"])
def test_gray_pictures_are_prepared_as_evaluation_does(tmp_path, made, format):
    from mae_runners.deploy.transformers_format import preprocessor
    from transformers import AutoImageProcessor

    _, folder, *_ = made(format, GRAY[format])
    assert "a gray" in (folder / "README.md").read_text()
    folder = shutil.copytree(folder, tmp_path / format)
    if format == "transformers":  # 40 pixels, of which it cuts what evaluation does
        config = json.loads((folder / "config.json").read_text())
        config["mae"]["center_crop"] = 0.8
        saved = CheckpointMeta.from_dict(config["mae"], "config.json")
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor(saved)))
    ours = load_model(folder)
    if format == "timm":
        config = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{folder}"))
        prepare = timm.data.create_transform(**config, is_training=False)
    else:
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")

        def prepare(picture):
            return processor(picture, return_tensors="pt")["pixel_values"][0]

    for size in ((57, 83), (48, 48), (36, 54)):
        pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        picture = Image.fromarray(pixels)
        theirs = prepare(picture)
        assert theirs.shape == (1, 32, 32)
        assert (theirs - ours.preprocess(picture)[0]).abs().max() < 1e-6


@pytest.mark.parametrize("format", ["timm", "transformers"])
def test_of_other_channels_the_card_says_what_prepares_pictures_and_it_does(made, format):
    import transformers

    _, folder, *_ = made(format, SIX[format])
    card = (folder / "README.md").read_text()
    assert "6 channels; resized" in card
    assert "cannot prepare pictures of 6 channels" in card
    assert 'load_model("FOLDER").preprocess(pictures)' in card
    assert "transform = " not in card
    assert "AutoImageProcessor" not in card

    ours = load_model(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 57, 83, 6), dtype=np.uint8)
    images = ours.preprocess(list(pixels))
    with torch.inference_mode():
        if format == "timm":
            logits = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(images)
        else:
            kind = transformers.AutoModelForImageClassification
            logits = kind.from_pretrained(folder).eval()(images).logits
    answers = np.stack([answer.probabilities for answer in ours.predict(list(pixels))])
    assert np.abs(logits.softmax(dim=1).numpy() - answers).max() < 1e-5


@pytest.mark.parametrize(
    ("format", "values", "words"),
    [
        ("timm", {"dataset.channels": 4}, "pictures of 4 channels"),
        ("transformers", {"dataset.channels": 6}, "pictures of 6 channels"),
        ("timm", {"dataset.value_range": [0, 4095]}, "another value range"),
        ("timm", {"dataset.channels": 1}, None),
        ("mmseg", {"dataset.channels": 4}, None),
    ],
    ids=str,
)
def test_the_plan_says_which_pictures_their_processors_cannot_prepare(format, values, words):
    given = {"model.arch": "convnextv2_atto", "export.checkpoint": "m.pth", **values}
    given |= {"train.stage": "finetune", "export.format": format}
    origins = {key: Origin(OriginKind.PARENT) for key in given}
    errors, warnings = check_rules("export", make_spec(**given).model_dump(), origins)
    assert errors == []
    said = [warning.message for warning in warnings if warning.field == "export.format"]
    assert len(said) == (words is not None)
    assert all(words in message for message in said)


def prepared(pixels, size, crop=0.9):
    """What evaluation makes of a picture for `exported`'s models."""
    spec = make_spec(
        dataset__augmentation__input_size=size, dataset__augmentation__center_crop=crop
    )
    image = torch.from_numpy(EvalTransform(spec.dataset.augmentation).fit(pixels).copy())
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.229, 0.224, 0.225])
    return (image.permute(2, 0, 1) / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)


@pytest.mark.parametrize("case", [TIMM[0], *TIMM[2:6], *TIMM[7:12]], ids=names)
def test_a_timm_folder_comes_back_in_as_the_model_it_was(made, case):
    model, folder, *_ = made("timm", case)
    again, saved, _ = load_described(folder, None, make_spec(), "inference.checkpoint")
    assert saved.mean == MEAN[: case[3].get("channels", 3)]
    assert saved.center_crop == 0.9

    fresh = build_from_config(model.config).eval()
    report = load_pretrained(fresh, folder / "model.safetensors")
    assert report.share == 1.0
    images = pictures(model)
    with torch.inference_mode():
        for other in (again, fresh):
            if case[1] == "finetune":
                close(model(images), other(images))
            close(model.encode(images), other.encode(images))


def test_a_folder_is_evaluated_without_a_word_on_its_model(tmp_path, made, digits):
    _, folder, _, checkpoint = made("timm", TIMM[1])
    results = [
        evaluate.run(
            make_spec(dataset__val_data_sources=str(digits), evaluate__checkpoint=str(path)),
            make_context("evaluate", tmp_path / path.stem),
        )["kpis"]
        for path in (folder, checkpoint)
    ]
    accuracy = [{name: kpi for name, kpi in r.items() if "acc" in name} for r in results]
    assert accuracy[0]
    assert accuracy[0] == accuracy[1]


def test_transformers_opens_a_timm_folder_too(made):
    from transformers import AutoModelForImageClassification

    model, folder, *_ = made("timm", TIMM[0])
    theirs = AutoModelForImageClassification.from_pretrained(folder).eval()
    images = pictures(model)
    with torch.inference_mode():
        close(model(images), theirs(images).logits)


@pytest.mark.parametrize("case", TRANSFORMERS, ids=names)
def test_transformers_answers_from_the_folder_as_the_model_does(made, case):
    import transformers

    model, folder, result, _ = made("transformers", case)
    assert result["kpis"]["parity_cosine"] > 0.9999
    kind = "AutoModelForImageClassification"
    if case[1] == "pretrain":
        conv = case[0].startswith("convnext")
        kind = "AutoModel" if conv else "AutoModelForPreTraining"
    theirs = getattr(transformers, kind).from_pretrained(folder).eval()
    images = pictures(model)
    with torch.inference_mode():
        if case[1] == "finetune":
            close(model(images), theirs(images).logits)
            assert list(theirs.config.id2label.values()) == CLASSES
        elif kind == "AutoModel":
            close(model.encode(images), theirs(images).last_hidden_state.mean(dim=(2, 3)))
        else:
            noise = torch.rand(len(images), model.num_units)
            close(model(images, noise).loss, theirs(images, noise=noise).loss)


def test_transformers_prepares_pictures_to_the_last_bit_where_the_margins_are_even(made, tmp_path):
    from mae_runners.deploy.transformers_format import preprocessor
    from transformers import AutoImageProcessor

    model, folder, *_ = made("transformers", TRANSFORMERS[0])
    shutil.copy(folder / "config.json", tmp_path)
    saved = CheckpointMeta.for_model(model, mean=[0.4, 0.5, 0.6], center_crop=0.8)  # 40 pixels
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor(saved)))

    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    for picture in ((57, 83), (200, 60), (48, 48), (36, 54)):
        pixels = np.random.default_rng(0).integers(0, 256, (*picture, 3), dtype=np.uint8)
        theirs = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"][0]
        assert (theirs - prepared(pixels, 32, 0.8)).abs().max() < 1e-6


@pytest.mark.parametrize("stage", ["finetune", "pretrain"])
def test_a_vit_of_a_class_token_answers_pictures_in_transformers_as_here(tmp_path, digits, stage):
    import transformers
    from transformers import AutoImageProcessor

    shape = {**SMALL, "global_pool": False} if stage == "finetune" else SMALL
    model = make_model("vit_tiny_patch16", stage, 32, **shape)
    with torch.no_grad():
        for weight in model.parameters():  # fresh ones answer alike to every picture
            weight.add_(torch.randn_like(weight) * 0.05)
    file = save_checkpoint(model, tmp_path / "model.pth", center_crop=0.8)
    spec = make_spec(
        export__checkpoint=str(file),
        export__format="transformers",
        dataset__val_data_sources=str(digits),
    )
    export.run(spec, make_context("export", tmp_path))
    folder = tmp_path / "export" / "transformers"

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    files = sorted(digits.rglob("*.png"))[:6]
    inputs = processor([Image.open(file).convert("RGB") for file in files], return_tensors="pt")
    with torch.inference_mode():
        if stage == "finetune":
            theirs = transformers.ViTForImageClassification.from_pretrained(folder).eval()
            logits = theirs(**inputs).logits
            answers = load_model(file).predict(files)
            ours = torch.tensor(np.stack([answer.probabilities for answer in answers]))
            assert ours.std(dim=0).max() > 1e-3  # else any model's would do
            assert (logits.softmax(dim=1) - ours).abs().max() < 1e-4
            assert [theirs.config.id2label[int(i)] for i in logits.argmax(1)] == [
                answer.label for answer in answers
            ]
            return
        theirs = transformers.ViTMAEForPreTraining.from_pretrained(folder).eval()
        pixels = load_model(file).preprocess(files)
        noise = torch.rand(len(files), model.num_units)
        found = theirs(**inputs, noise=noise)
        assert (found.loss - model.eval()(pixels, noise).loss).abs() < 1e-4
        theirs.config.mask_ratio = 0.0
        theirs.vit.embeddings.config.mask_ratio = 0.0
        tokens = theirs.vit(inputs["pixel_values"], noise=noise.argsort(1).argsort(1).float())
        assert tokens.last_hidden_state.shape[1] == 1 + model.num_units
        restored = tokens.last_hidden_state[:, 1:].gather(
            1, tokens.ids_restore.unsqueeze(2).expand(-1, -1, model.config["embed_dim"])
        )
        assert (restored.mean(1) - model.encode(pixels)).abs().max() < 1e-4


@pytest.mark.parametrize("described", [True, False], ids=["described", "by its names alone"])
@pytest.mark.parametrize("case", TRANSFORMERS, ids=names)
def test_a_transformers_folder_comes_back_in_as_the_model_it_was(tmp_path, made, case, described):
    model, folder, *_ = made("transformers", case)
    if not described:
        folder = shutil.copytree(folder, tmp_path / "foreign")
        config = json.loads((folder / "config.json").read_text())
        del config["mae"]
        (folder / "config.json").write_text(json.dumps(config))
        again = build_from_config(model.config).eval()
        classes = CLASSES if case[1] == "finetune" else None
        report = load_pretrained(again, folder, classes=classes)
        assert report.share == 1.0
        assert all(only_decodes(name) for name in report.missing)
    else:
        again, saved, _ = load_described(folder, None, make_spec(), "inference.checkpoint")
        assert saved.classes == (CLASSES if case[1] == "finetune" else None)
    images = pictures(model)
    with torch.inference_mode():
        close(model.encode(images), again.encode(images))
        if case[1] == "finetune":
            close(model(images), again(images))


def test_the_card_says_what_was_trained_on_what_and_leaks_no_path(tmp_path, digits):
    train = tmp_path / "job" / "train"
    train.mkdir(parents=True)
    (tmp_path / "job" / "spec.yaml").write_text(
        "train: {stage: finetune, num_epochs: 3, pretrained_model_path: /secret/base.pth}\n"
        "dataset: {train_data_sources: ['s3://bucket/pets.tar?sig=abc', /home/me/more]}\n"
    )
    entry = {"file": "model.pth", "epoch": 2, "step": 9, "metrics": {"val_top1": 0.75}}
    entry |= {"size": 1, "sha256": "0" * 64}
    (train / "checkpoints.json").write_text(json.dumps({"best": None, "checkpoints": [entry]}))
    _, folder, _ = exported(train, digits, "timm", TIMM[1], export__license="cc-by-nc-4.0")

    card = (folder / "README.md").read_text()
    front, body = card.split("---\n")[1:3]
    assert 'license: "cc-by-nc-4.0"' in front
    assert "image-classification" in front
    for words in ("pets.tar, more", "base.pth", "epochs: 3", "| val_top1 | 0.75 |", "35×35"):
        assert words in body
    for secret in ("sig=abc", "/secret", "/home/me", "bucket", str(tmp_path)):
        assert secret not in card + (folder / "config.json").read_text()


def test_a_folder_that_exists_is_replaced_only_with_permission(tmp_path, digits):
    _, folder, _ = exported(tmp_path, digits, "timm", TIMM[1])
    (folder / "stale.txt").write_text("of before")
    with pytest.raises(UsageError, match="exists already"):
        exported(tmp_path, digits, "timm", TIMM[1])
    exported(tmp_path, digits, "timm", TIMM[1], export__overwrite=True)
    assert not (folder / "stale.txt").exists()


REFUSED = [
    ("timm", {"model.arch": "convnextv2_atto", "model.patch_size": 2}, "stride 2"),
    ("timm", {"model.task": "segmentation"}, "UperNet"),
    ("transformers", {"model.arch": "vit_base_patch16"}, "reads the class token"),
    (
        "transformers",
        {"model.arch": "convnextv2_atto", "dataset.augmentation.input_size": [64, 96]},
        "64×96",
    ),
    ("mmseg", {"model.arch": "hiera_tiny_224"}, "no Hiera"),
    (
        "transformers",
        {
            "model.arch": "hiera_tiny_224",
            "train.stage": "pretrain",
            "model.decoder_mlp_ratio": 2.0,
        },
        "one MLP ratio",
    ),
]


@pytest.mark.parametrize(("format", "values", "words"), REFUSED, ids=str)
def test_what_a_format_cannot_hold_is_refused_by_name_when_planned(format, values, words):
    given = {"train.stage": "finetune", "export.checkpoint": "m.pth", **values}
    spec = make_spec(**{"export.format": format}, **given).model_dump()
    origins = {key: Origin(OriginKind.PARENT) for key in given}
    errors, _ = check_rules("export", spec, origins)
    (error,) = [error for error in errors if error.field == "export.format"]
    assert words in error.message


def test_the_runner_refuses_what_a_plan_could_not_know(tmp_path, digits):
    case = ("convnextv2_atto", "pretrain", 32, {"patch_size": 2})
    with pytest.raises(SpecError, match="halves its first stage"):
        exported(tmp_path, digits, "timm", case)
    assert not (tmp_path / "export" / "timm").exists()


def test_settings_of_graphs_have_no_effect_on_a_folder_and_are_named():
    given = {"export.opset_version": 18, "export.format": "timm", "export.checkpoint": "m.pth"}
    origins = {key: Origin(OriginKind.OVERRIDE) for key in given}
    _, warnings = check_rules("export", make_spec(**given).model_dump(), origins)
    assert any(warning.field == "export.opset_version" for warning in warnings)


def test_a_folder_is_pushed_to_the_hub_with_a_token_that_no_record_holds(
    tmp_path, digits, monkeypatch
):
    from tests.support.hub import serve

    with serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
        push = {"export__push_to_hub": "lab/digits"}
        _, folder, result = exported(tmp_path, digits, "timm", TIMM[1], **push)
        assert server.models["lab/digits"] == {
            path.name: path.read_bytes() for path in folder.iterdir()
        }
        assert server.tokens == {"Bearer hf_very_secret"}
        assert server.created[0].get("visibility") == "private" or server.created[0]["private"]
        assert result["pushed"]["commit"] == server.commit_of("lab/digits")
        written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert b"hf_very_secret" not in written + json.dumps(result).encode()

        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(UsageError, match="wants a token"):
            exported(tmp_path / "again", digits, "timm", TIMM[1], **push)
        assert not (tmp_path / "again" / "export" / "timm").exists()


def test_a_push_that_cannot_be_is_refused_when_planned():
    def fault(variables=frozenset({"HF_TOKEN"}), **values):
        given = {"export.checkpoint": "m.pth", "export.push_to_hub": "lab/digits", **values}
        spec = make_spec(**given).model_dump()
        errors, _ = check_rules("export", spec, {}, Facts(variables=variables))
        return [error.message for error in errors if error.field == "export.push_to_hub"]

    assert fault() == ["only a folder goes to the hub"]
    assert fault(**{"export.format": "timm"}) == []
    assert fault(frozenset(), **{"export.format": "timm"}) == ["the hub wants a token"]
    bad = {"export.format": "timm", "export.push_to_hub": "digits"}
    assert fault(**bad) == ["not the name of a model on the hub"]


def made_segmenter(arch, **shape):
    spec = make_spec(
        model__arch=arch,
        model__task="segmentation",
        model__num_classes=4,
        model__segmentation__channels=8,
        model__segmentation__auxiliary_channels=4,
        **{f"model__{name}": value for name, value in shape.items()},
    )
    torch.manual_seed(0)
    return build_segmenter(spec.model, 32).eval()


@pytest.mark.parametrize(
    ("arch", "shape"), [("vit_tiny_patch16", {**SMALL, "patch_size": 8}), ("convnextv2_atto", {})]
)
def test_a_segmenter_goes_to_mmseg_under_its_names(tmp_path, digits, arch, shape):
    model = made_segmenter(arch, **shape)
    file = save_checkpoint(model, tmp_path / "model.pth")
    spec = make_spec(
        export__checkpoint=str(file),
        export__format="mmseg",
        dataset__val_data_sources=str(digits),
    )
    result = export.run(spec, make_context("export", tmp_path))
    assert result["kpis"]["parity_cosine"] > 0.9999

    path = tmp_path / "export" / "mmseg" / "backbone.pth"
    state = torch.load(path, weights_only=True)["state_dict"]
    assert OPENMMLAB[arch] <= set(state)
    left = set(model.state_dict()) - set(to_mmseg(model.shape.family, model.state_dict()))
    assert left == set()
    # Back in: the encoder, as of any checkpoint of OpenMMLab.
    report = load_pretrained(
        made_segmenter(arch, **{**shape, "patch_size": 8 if shape else 4}), path
    )
    assert report.share == 1.0


# From the modules of mmpretrain 1.2 (VisionTransformer, ConvNeXt) and mmseg 1.2 (UPerHead,
# FCNHead, Feature2Pyramid).
OPENMMLAB = {
    "vit_tiny_patch16": {
        "backbone.cls_token",
        "backbone.pos_embed",
        "backbone.patch_embed.projection.weight",
        "backbone.layers.0.ln1.weight",
        "backbone.layers.0.attn.qkv.bias",
        "backbone.layers.0.attn.proj.weight",
        "backbone.layers.1.ln2.bias",
        "backbone.layers.1.ffn.layers.0.0.weight",
        "backbone.layers.1.ffn.layers.1.bias",
        "neck.upsample_4x.0.weight",
        "neck.upsample_4x.1.running_mean",
        "neck.upsample_4x.3.bias",
        "neck.upsample_2x.0.weight",
        "decode_head.psp_modules.3.1.conv.weight",
        "decode_head.psp_modules.0.1.bn.running_var",
        "decode_head.bottleneck.conv.weight",
        "decode_head.conv_seg.weight",
    },
    "convnextv2_atto": {
        "backbone.downsample_layers.0.0.weight",
        "backbone.downsample_layers.0.1.bias",
        "backbone.downsample_layers.3.0.weight",
        "backbone.downsample_layers.3.1.weight",
        "backbone.stages.0.0.depthwise_conv.weight",
        "backbone.stages.2.5.norm.bias",
        "backbone.stages.1.0.pointwise_conv1.weight",
        "backbone.stages.1.0.grn.gamma",
        "backbone.stages.1.0.grn.beta",
        "backbone.stages.3.1.pointwise_conv2.bias",
        "backbone.norm0.weight",
        "backbone.norm3.bias",
        "decode_head.lateral_convs.2.bn.weight",
        "decode_head.fpn_convs.0.conv.weight",
        "decode_head.fpn_bottleneck.bn.num_batches_tracked",
        "decode_head.conv_seg.bias",
        "auxiliary_head.convs.0.conv.weight",
        "auxiliary_head.convs.0.bn.bias",
        "auxiliary_head.conv_seg.weight",
    },
}


@pytest.mark.parametrize("case", [TIMM[0], TIMM[4], TIMM[9]], ids=names)
def test_a_backbone_in_mmsegs_names_comes_back_in_as_it_was(made, case):
    model, folder, *_ = made("mmseg", case)
    again = build_from_config(model.config).eval()
    assert load_pretrained(again, folder / "backbone.pth").share == 1.0
    assert ("in_channels=4" in (folder / "README.md").read_text()) == ("channels" in case[3])
    images = pictures(model)
    with torch.inference_mode():
        for ours, theirs in zip(
            model.encoder.pyramid(images), again.encoder.pyramid(images), strict=True
        ):
            close(ours, theirs)


def test_a_vit_has_the_names_of_detectrons_vitdet(made):
    from safetensors.torch import load_file

    _, folder, *_ = made("timm", TIMM[2])
    found = to_detectron(load_file(folder / "model.safetensors"))
    assert {
        "backbone.net.pos_embed",
        "backbone.net.patch_embed.proj.weight",
        "backbone.net.blocks.0.attn.qkv.weight",
        "backbone.net.blocks.1.mlp.fc2.bias",
    } <= set(found)
    assert not any(".norm.weight" in name or ".head." in name for name in found)
