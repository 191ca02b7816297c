"""inference: embeddings of every kind of model, neighbors, and the least certain first."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mae_runners import load_model
from mae_runners.actions import export, inference
from mae_runners.metrics.neighbors import nearest
from mae_skill.errors import SpecError
from mae_skill.origin import Origin, OriginKind
from mae_skill.rules import check_rules
from PIL import Image

from tests.support.deploy import (
    make_context,
    make_model,
    make_spec,
    save_checkpoint,
    write_digits,
)

SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2, "patch_size": 8}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"), per_class=3, size=40)


@pytest.fixture(scope="module", params=["finetune", "pretrain"])
def checkpoint(request, tmp_path_factory):
    model = make_model("vit_tiny_patch16", request.param, [32, 48], **SMALL)
    return save_checkpoint(model, tmp_path_factory.mktemp("model") / f"{request.param}.pth")


def infer(folder, checkpoint, digits, **values):
    spec = make_spec(
        inference__checkpoint=str(checkpoint), dataset__test_data_sources=str(digits), **values
    )
    inference.run(spec, make_context("inference", folder))
    return folder / "inference"


def rows_of(path):
    with path.open() as stream:
        return list(csv.reader(stream))


@pytest.mark.parametrize("kind", ["pooled", "tokens", "patches"])
def test_embeddings_are_written_as_numpy_and_parquet_for_every_stage(
    tmp_path, checkpoint, digits, kind
):
    from pyarrow import parquet

    folder = infer(tmp_path, checkpoint, digits, inference__features=kind)
    array = np.load(folder / "embeddings.npy")
    paths = [row[1] for row in rows_of(folder / "embeddings.csv")[1:]]
    wanted = load_model(checkpoint).embed(paths, kind)
    np.testing.assert_allclose(array, wanted, atol=1e-5)
    assert kind != "patches" or array.shape[1:3] == (4, 6)

    table = parquet.read_table(folder / "embeddings.parquet")
    assert table["path"].to_pylist() == paths
    kept = np.array(table["embedding"].to_pylist(), dtype=np.float32)
    np.testing.assert_array_equal(kept.reshape(array.shape), array)
    assert table.schema.metadata[b"shape"].decode() == str(list(array.shape[1:]))
    assert (folder / "results.csv").exists() == (checkpoint.stem == "finetune")


def test_a_fine_tuned_model_gives_embeddings_only_when_asked(tmp_path, checkpoint, digits):
    folder = infer(tmp_path, checkpoint, digits)
    assert (folder / "embeddings.npy").exists() == (checkpoint.stem == "pretrain")
    none = infer(tmp_path / "none", checkpoint, digits, inference__features="none")
    assert not (none / "embeddings.npy").exists()


def test_neighbors_are_the_most_similar_others_in_a_table_and_a_picture(
    tmp_path, checkpoint, digits
):
    folder = infer(tmp_path, checkpoint, digits, inference__neighbors=2)
    plain = infer(tmp_path / "plain", checkpoint, digits)
    header, *rows = rows_of(folder / "neighbors.csv")
    assert header == ["path", "neighbor_1", "cosine_1", "neighbor_2", "cosine_2"]
    paths = [row[0] for row in rows]
    vectors = load_model(checkpoint).embed(paths)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2.0)
    for place, row in enumerate(rows):
        order = np.argsort(-cosines[place])[:2]
        assert [row[1], row[3]] == [paths[at] for at in order]
        assert [float(row[2]), float(row[4])] == pytest.approx(cosines[place][order], abs=1e-4)
    with Image.open(folder / "neighbors.png") as picture:
        assert picture.width > 3 * 100
    if checkpoint.stem == "finetune":  # the head reads the same features
        assert rows_of(folder / "results.csv") == rows_of(plain / "results.csv")


def test_neighbors_in_parts_are_the_neighbors():
    features = torch.randn(37, 8, generator=torch.Generator().manual_seed(0))
    whole, cosines = nearest(features, 5)
    parts, same = nearest(features, 5, queries=4, bank=7)
    assert torch.equal(whole, parts)
    torch.testing.assert_close(cosines, same)
    assert not (whole == torch.arange(37).unsqueeze(1)).any()


def test_the_least_certain_come_first(tmp_path, digits):
    file = save_checkpoint(
        make_model("vit_tiny_patch16", "finetune", 32, **SMALL), tmp_path / "m.pth"
    )
    folder = infer(tmp_path, file, digits, inference__sort="uncertainty")
    header, *rows = rows_of(folder / "results.csv")
    first, second = header.index("probability"), header.index("probability_2")
    leads = [float(row[first]) - float(row[second]) for row in rows]
    assert leads == sorted(leads)
    assert len(set(leads)) > 1
    plain = rows_of(infer(tmp_path / "plain", file, digits) / "results.csv")
    assert sorted(plain) == sorted([header, *rows])


def test_pictures_with_names_and_answers_are_among_the_files_of_a_classifier(tmp_path, digits):
    model = make_model("vit_tiny_patch16", "finetune", 32, **SMALL)
    saved = save_checkpoint(model, tmp_path / "m.pth")
    spec = make_spec(inference__checkpoint=str(saved), dataset__test_data_sources=str(digits))
    result = inference.run(spec, make_context("inference", tmp_path))
    files = [Path(one) for one in result["artefacts"]]
    assert [one.name for one in files] == ["results.csv", "answers.png", "uncertain.png"]
    lines_of = {"answers": 2, "uncertain": 3}  # name, class; and the next class
    for file in files[1:]:
        with Image.open(file) as picture:
            assert picture.size == (6 * 128 + 5 * 8, 2 * (128 + 15 * lines_of[file.stem]) + 8)


def test_what_a_file_cannot_give_is_refused_by_name(tmp_path, digits):
    file = save_checkpoint(
        make_model("vit_tiny_patch16", "finetune", 32, **SMALL), tmp_path / "m.pth"
    )
    spec = make_spec(export__checkpoint=str(file), dataset__val_data_sources=str(digits))
    export.run(spec, make_context("export", tmp_path))
    onnx = tmp_path / "export" / "model.onnx"
    with pytest.raises(SpecError, match="gives logits, not pooled"):
        infer(tmp_path, onnx, digits, inference__neighbors=1)
    with pytest.raises(SpecError, match="not so many other images"):
        infer(tmp_path, file, digits, inference__neighbors=12)

    given = {
        "train.stage": "finetune",
        "model.task": "segmentation",
        "inference.features": "pooled",
        "inference.checkpoint": "m.pth",
    }
    origins = {key: Origin(OriginKind.OVERRIDE) for key in given}
    errors, _ = check_rules("inference", make_spec(**given).model_dump(), origins)
    assert [error.field for error in errors] == ["inference.features"]


@pytest.mark.parametrize(
    "asked", [{"features": "pooled"}, {"neighbors": 3}, {"features": "tokens"}]
)
def test_embeddings_and_neighbors_that_were_asked_for_are_in_the_report_of_every_stage(
    tmp_path, checkpoint, digits, asked
):
    values = {f"inference__{name}": value for name, value in asked.items()}
    folder = infer(tmp_path, checkpoint, digits, **values)
    gallery = json.loads((folder / "pictures/gallery.json").read_text())
    assert "neighbors" in {sheet["kind"] for sheet in gallery["sheets"]}
    (points, *_) = (one["points"] for one in gallery["maps"] if one["method"] == "PCA")
    assert len(points) == 12
    if checkpoint.stem == "finetune":  # the answers are beside them still
        assert "answers" in {sheet["kind"] for sheet in gallery["sheets"]}


def test_a_map_of_images_of_unknown_classes_is_colored_by_the_answers(tmp_path, digits):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(digits.rglob("*.png"))):
        (flat / f"{number}.png").write_bytes(path.read_bytes())
    model = make_model("vit_tiny_patch16", "finetune", [32, 48], **SMALL)
    saved = save_checkpoint(model, tmp_path / "model.pth")
    folder = infer(tmp_path, saved, flat, inference__features="pooled")
    gallery = json.loads((folder / "pictures/gallery.json").read_text())
    (found, *_) = gallery["maps"]
    assert "Colors: answer of the model." in found["note"]
    labels = {row["path"]: row["label"] for row in csv.DictReader((folder / "results.csv").open())}
    for name, (_, _, label) in zip(found["names"], found["points"], strict=True):
        (said,) = (one for path, one in labels.items() if path.endswith(f"/{name}"))
        assert found["classes"][label] == said
