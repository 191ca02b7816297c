"""`load_model`: one object for pictures, whatever the model was kept as."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mae_runners import load_model
from mae_runners.actions import export
from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_skill.errors import NotFoundError, UsageError
from PIL import Image

from tests.support.deploy import (
    CLASSES,
    make_context,
    make_model,
    make_spec,
    save_checkpoint,
    write_digits,
)
from tests.support.jobs import write

SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2, "patch_size": 8}
CASE = ("vit_tiny_patch16", "finetune", 32)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"), per_class=2, size=40)


@pytest.fixture(scope="module")
def kept(tmp_path_factory, digits):
    """One classifier as a checkpoint, an ONNX file and two folders."""
    folder = tmp_path_factory.mktemp("kept")
    model = make_model(*CASE, **SMALL, global_pool=False)
    file = save_checkpoint(model, folder / "model.pth", mean=[0.4, 0.5, 0.6], center_crop=0.8)
    paths = {"checkpoint": file}
    for format in ("onnx", "timm", "transformers"):
        spec = make_spec(
            export__checkpoint=str(file),
            export__format=format,
            dataset__val_data_sources=str(digits),
        )
        export.run(spec, make_context("export", folder))
        name = "model.onnx" if format == "onnx" else format
        paths[format] = folder / "export" / name
    return paths


@pytest.fixture(scope="module")
def files(digits):
    return sorted(digits.rglob("*.png"))


@pytest.mark.parametrize("form", ["checkpoint", "onnx", "timm", "transformers"])
def test_every_form_of_a_model_predicts_alike(kept, files, form):
    wanted = load_model(kept["checkpoint"]).predict(files)
    model = load_model(kept[form], batch_size=3)
    found = model.predict(files)
    assert model.classes == CLASSES
    assert [row.label for row in found] == [row.label for row in wanted]
    for ours, theirs in zip(wanted, found, strict=True):
        np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-5)
        assert theirs.probability == theirs.probabilities.max()


def test_a_picture_is_a_path_bytes_an_image_an_array_or_a_tensor(kept, files):
    model, path = load_model(kept["checkpoint"]), files[0]
    array = np.asarray(Image.open(path).convert("RGB"))
    alike = [
        path,
        str(path),
        path.read_bytes(),
        Image.open(path),
        array,
        torch.from_numpy(array.copy()).permute(2, 0, 1),
    ]
    together = model.predict(alike)
    assert len({row.probability for row in together}) == 1
    assert all(model.predict(one)[0].label == together[0].label for one in alike)
    assert len(model.predict(np.stack([array] * 3))) == 3


def test_predictions_are_those_of_the_inference_action(kept, digits, files, tmp_path):
    import csv

    from mae_runners.actions import inference

    spec = make_spec(
        inference__checkpoint=str(kept["checkpoint"]), dataset__test_data_sources=str(digits)
    )
    inference.run(spec, make_context("inference", tmp_path))
    with (tmp_path / "inference/results.csv").open() as stream:
        rows = {Path(row["path"]).resolve(): row for row in csv.DictReader(stream)}
    for path, found in zip(files, load_model(kept["timm"]).predict(files), strict=True):
        assert rows[path.resolve()]["label"] == found.label
        assert float(rows[path.resolve()]["probability"]) == pytest.approx(
            found.probability, abs=2e-5
        )


@pytest.mark.parametrize(
    ("arch", "size", "shape"),
    [
        ("vit_tiny_patch16", [32, 48], SMALL),
        ("convnextv2_atto", 32, {"patch_size": 2}),
        ("hiera_tiny_224", 32, {"patch_size": 2}),
    ],
)
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_embeddings_are_pooled_tokens_or_a_grid(tmp_path, files, arch, size, shape, stage):
    model = make_model(arch, stage, size, **shape)
    loaded = load_model(save_checkpoint(model, tmp_path / "model.pth"))
    pooled = loaded.embed(files[:3])
    patches, tokens = loaded.embed(files[:3], "patches"), loaded.embed(files[:3], "tokens")

    assert pooled.shape == (3, model.encoder.num_features)
    assert patches.shape[1] * patches.shape[2] + arch.startswith("vit") == tokens.shape[1]
    height, width = loaded.meta.input_size
    assert patches.shape[1] * width == patches.shape[2] * height
    with torch.inference_mode():
        close = model.encode(loaded.preprocess(files[:3])).numpy()
    np.testing.assert_allclose(pooled, close, atol=1e-5)
    if stage == "pretrain":  # the mean over the patches is what pooling is
        np.testing.assert_allclose(patches.mean(axis=(1, 2)), pooled, atol=1e-5)


def test_an_autoencoder_fills_in_what_is_hidden_and_a_classifier_says_that_it_cannot(
    tmp_path, kept, files
):
    model = make_model("vit_tiny_patch16", "pretrain", 32, **SMALL)
    loaded = load_model(save_checkpoint(model, tmp_path / "model.pth"))
    found = loaded.reconstruct(files[:3])
    assert found.original.shape == found.masked.shape == found.reconstructed.shape == (3, 32, 32, 3)
    hidden = (found.original != found.masked).any(axis=3)
    visible = ~hidden.reshape(3, 4, 8, 4, 8).any(axis=(2, 4))
    assert 2 <= visible[0].sum() <= 6  # of 16 units a quarter, but for gray ones
    shown = visible.repeat(8, axis=1).repeat(8, axis=2)
    assert (found.original[shown] == found.reconstructed[shown]).all()
    assert (loaded.reconstruct(files[:3]).masked == found.masked).all()
    assert (loaded.reconstruct(files[:3], seed=1).masked != found.masked).any()

    with pytest.raises(UsageError, match="cannot predict"):
        loaded.predict(files[0])
    with pytest.raises(UsageError, match="cannot reconstruct"):
        load_model(kept["checkpoint"]).reconstruct(files[0])
    with pytest.raises(UsageError, match="cannot embed"):
        load_model(kept["onnx"]).embed(files[0])


ARRAY = np.zeros((5, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("pictures", "says", "got"),
    [
        (None, "not pictures: of the type NoneType", "NoneType"),
        (5, "not pictures: of the type int", "int"),
        ({"a.png": ARRAY}, "not pictures: of the type dict", "dict"),
        ([], "no pictures", "nothing"),
        (np.zeros((0, 5, 6, 3), np.uint8), "no pictures", "nothing"),
        ([ARRAY, None], "not a picture: of the type NoneType", "NoneType"),
        ([[ARRAY]], "not a picture: of the type list", "list"),
        (np.full((5, 6, 3), np.nan, np.float32), "all are NaN or infinite", "float32 [5, 6, 3]"),
        (np.zeros(5, np.uint8), "1 dimensions", "uint8 [5]"),
        (ARRAY[None, None], "4 dimensions", "uint8 [1, 5, 6, 3]"),
        (ARRAY[:, :, :2], "2 bands", "uint8 [5, 6, 2]"),
        (np.dstack([ARRAY, ARRAY]), "6 bands", "uint8 [5, 6, 6]"),
        (np.array([ARRAY, ARRAY[:2]], object), "values of the type object", "object [2]"),
        (ARRAY > 0, "values of the type bool", "bool [5, 6, 3]"),
        (ARRAY[:0], "no pixels", "uint8 [0, 6, 3]"),
        (torch.zeros(3, 5, 6), "whose range its type does not say", "float32 [3, 5, 6]"),
        (torch.zeros(3, 5, 6).bfloat16(), "whose range its type", "bfloat16 [3, 5, 6]"),
        (torch.zeros(5, 6, requires_grad=True), "whose range its type", "float32 [5, 6]"),
    ],
)
@pytest.mark.parametrize("asks", ["predict", "embed", "preprocess"])
def test_what_is_no_picture_is_named_with_what_it_is_and_what_was_expected(
    kept, pictures, says, got, asks
):
    with pytest.raises(UsageError) as caught:
        getattr(load_model(kept["checkpoint"]), asks)(pictures)
    assert says in caught.value.message
    assert caught.value.got == got and caught.value.expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", None),
        ("source", 5),
        ("source", ""),
        ("source", ["model.pth"]),
        ("batch_size", 0),
        ("batch_size", -1),
        ("batch_size", "3"),
        ("batch_size", True),
        ("device", "gpu"),
        ("device", 5),
    ],
)
def test_an_argument_of_load_model_that_is_none_is_refused_by_its_name(kept, field, value):
    given = {"source": kept["checkpoint"], field: value}
    with pytest.raises(UsageError) as caught:
        load_model(given.pop("source"), **given)
    assert caught.value.field == field and caught.value.expected


def test_what_is_no_picture_and_no_model_is_named(kept, tmp_path):
    model = load_model(kept["checkpoint"])
    with pytest.raises(NotFoundError, match="no picture at"):
        model.predict(tmp_path / "missing.png")
    with pytest.raises(UsageError, match="is a folder, not a picture"):
        model.predict(tmp_path)
    with pytest.raises(UsageError, match="not a picture"):
        model.predict(np.zeros((4, 4, 3), dtype=np.float32))
    with pytest.raises(UsageError, match="no pictures"):
        model.predict([])
    with pytest.raises(NotFoundError, match="neither a file or folder nor a job"):
        load_model("train-000000000000", results_root=tmp_path)


def test_a_job_is_a_model_by_its_id_and_by_its_folder(tmp_path, files):
    model = make_model(*CASE, **SMALL)
    job = write(tmp_path, "true", name="train-1")
    (job / "train").mkdir()
    file = save_checkpoint(model, job / "train" / "model_epoch_000.pth")
    CheckpointIndex(job / "train").add(file, epoch=0, step=1, metrics={})
    wanted = load_model(file).predict(files[:2])
    for source in (job, job.name):
        found = load_model(source, results_root=tmp_path, checkpoint="latest").predict(files[:2])
        assert [row.label for row in found] == [row.label for row in wanted]


def test_a_segmenter_gives_the_class_of_every_pixel_at_the_pictures_own_size(tmp_path, files):
    from mae_runners.models import build_segmenter

    spec = make_spec(
        model__arch="convnextv2_atto",
        model__task="segmentation",
        model__num_classes=4,
        model__segmentation__channels=16,
    )
    torch.manual_seed(0)
    model = build_segmenter(spec.model, 32).eval()
    loaded = load_model(save_checkpoint(model, tmp_path / "model.pth"))
    (labels,) = loaded.predict(files[0])
    assert labels.shape == Image.open(files[0]).size[::-1]
    assert set(np.unique(labels)) <= set(range(4))


def test_importing_the_package_loads_no_torch():
    code = "import sys, mae_runners; mae_runners.load_model; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
