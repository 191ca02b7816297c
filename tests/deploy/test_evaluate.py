import csv
import json

import numpy as np
import pytest
import torch
from mae_runners.__main__ import main
from mae_runners.actions import evaluate, export, inference
from mae_runners.deploy import artifact, runtimes
from mae_runners.metrics.classification import ClassificationMetrics, class_metrics
from mae_runners.metrics.splits import stratified_folds
from mae_skill.errors import CheckpointError, DataError, NotFoundError, SpecError
from mae_skill.origin import Origin, OriginKind
from PIL import Image

from tests.support.deploy import (
    CLASSES,
    make_context,
    make_model,
    make_spec,
    save_checkpoint,
    write_digits,
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"), per_class=6)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    return save_checkpoint(
        make_model("vit_tiny_patch16", "finetune", 64, depth=2),
        tmp_path_factory.mktemp("model") / "model.pth",
    )


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return save_checkpoint(
        make_model("vit_tiny_patch16", "pretrain", 64, depth=2),
        tmp_path_factory.mktemp("model") / "model.pth",
    )


def evaluate_on(folder, checkpoint, source, context=None, **values):
    spec = make_spec(
        evaluate__checkpoint=str(checkpoint),
        dataset__val_data_sources=source and str(source),
        **values,
    )
    result = evaluate.run(spec, context or make_context("evaluate", folder))
    return result, json.loads((folder / "evaluate" / "metrics.json").read_text())


def infer(folder, checkpoint, source, **values):
    spec = make_spec(
        inference__checkpoint=str(checkpoint), dataset__test_data_sources=str(source), **values
    )
    return inference.run(spec, make_context("inference", folder))


def test_metrics_from_a_confusion_matrix_are_the_textbook_ones():
    confusion = np.array([[3, 1, 0], [2, 2, 0], [0, 0, 0]])
    sums = ClassificationMetrics(3, confusion=True)
    for truth, guess in np.ndindex(3, 3):
        count = int(confusion[truth, guess])
        sums.add(9.0 * torch.eye(3)[[guess] * count], torch.tensor([truth] * count).long())
    assert np.array_equal(sums.confusion, confusion) and sums.images == 8
    found = sums.summary("images")
    assert found["ACC_all"] == 5 / 8 and "ACC_top5" not in found
    figures = class_metrics(confusion, ["a", "b", "c"])
    assert figures["mean_class_accuracy"] == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert figures["per_class"]["a"] == {
        "precision": 3 / 5,
        "recall": 3 / 4,
        "f1": pytest.approx(6 / 9),
        "images": 4,
    }
    assert "per-class accuracy" in figures["definitions"]["recall"]
    never = class_metrics(np.array([[4, 0], [3, 0]]), ["a", "b"])["per_class"]["b"]
    assert never == {"precision": None, "recall": 0.0, "f1": None, "images": 3}
    assert figures["per_class"]["c"] == {"precision": None, "recall": None, "f1": None, "images": 0}


def test_loss_and_top_five_accuracy_are_those_of_the_whole_set_however_it_is_cut():
    logits, labels = torch.randn(50, 9), torch.randint(0, 9, (50,))
    sums = ClassificationMetrics(9)
    for part in torch.arange(50).split(7):
        sums.add(logits[part], labels[part])
    sums.add(logits[:0], labels[:0])
    ranks = [int((row > row[label]).sum()) for row, label in zip(logits, labels, strict=True)]
    assert sums.summary("images") == {
        "val_loss": pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels))),
        "ACC_all": sum(rank == 0 for rank in ranks) / 50,
        "ACC_top5": sum(rank < 5 for rank in ranks) / 50,
    }
    with pytest.raises(DataError, match="no validation image"):
        ClassificationMetrics(9).summary("images")


def test_evaluate_and_inference_see_the_same_images_and_agree(finetuned, digits, tmp_path):
    result, figures = evaluate_on(tmp_path, finetuned, digits)
    infer(tmp_path, finetuned, digits)
    with (tmp_path / "inference" / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == figures["images"] == 24
    truth = [row["path"].split("/")[-2] for row in rows]
    assert sum(
        row["label"] == name for row, name in zip(rows, truth, strict=True)
    ) / 24 == pytest.approx(result["kpis"]["ACC_all"])
    with (tmp_path / "evaluate" / "confusion_matrix.csv").open() as stream:
        table = list(csv.reader(stream))
    assert table[0][1:] == CLASSES
    for row in table[1:]:
        for name, count in zip(CLASSES, row[1:], strict=True):
            assert int(count) == sum(
                t == row[0] and r["label"] == name for t, r in zip(truth, rows, strict=True)
            )
    assert all(CLASSES[int(row["class_index"])] == row["label"] for row in rows)
    for row in rows:
        assert sum(
            float(row[f"probability{rank}"]) for rank in ("", "_2", "_3", "_4")
        ) == pytest.approx(1.0, abs=1e-5)
    assert Image.open(tmp_path / "evaluate" / "confusion_matrix.png").size[0] > 200


@pytest.mark.parametrize("batch", [-1, 3])
def test_an_onnx_file_scores_as_its_checkpoint_does_whatever_its_batch(
    batch, finetuned, digits, tmp_path
):
    spec = make_spec(
        export__checkpoint=str(finetuned),
        export__batch_size=batch,
        dataset__val_data_sources=str(digits),
    )
    artifact_path = export.run(spec, make_context("export", tmp_path))["artefacts"][0]
    _, torch_figures = evaluate_on(tmp_path / "torch", finetuned, digits)
    _, onnx_figures = evaluate_on(tmp_path / "onnx", artifact_path, digits)
    assert onnx_figures["per_class"] == torch_figures["per_class"]
    assert onnx_figures["val_loss"] == pytest.approx(torch_figures["val_loss"], abs=1e-5)
    assert onnx_figures["model"]["kind"] == "onnx"
    for figures in (torch_figures, onnx_figures):
        best = figures["speed"]["best"]
        assert 0 < best["min_ms"] <= best["median_ms"] <= best["max_ms"]
        assert ("batch_1" in figures["speed"]) == (figures is torch_figures or batch == -1)


def test_as_many_classes_are_listed_as_are_asked_for(finetuned, digits, tmp_path):
    infer(tmp_path, finetuned, digits, inference__top_k=2)
    with (tmp_path / "inference" / "results.csv").open() as stream:
        header = next(csv.reader(stream))
    assert header[:4] == ["path", "label", "probability", "class_index"]
    assert header[4:] == ["label_2", "probability_2", "true_label"]


@pytest.mark.parametrize("name", ["model.ts", "model.pt2"])
def test_exports_for_other_programs_are_named_as_such(name, tmp_path):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="made for other programs"):
        runtimes.open_runtime(tmp_path / name, torch.device("cpu"))


def test_a_subset_of_the_classes_keeps_the_models_labels(finetuned, digits, tmp_path):
    part = tmp_path / "part"
    for name in ("zero", "one"):
        (part / name).mkdir(parents=True)
        for file in sorted((digits / name).iterdir()):
            (part / name / file.name).write_bytes(file.read_bytes())
    _, whole = evaluate_on(tmp_path / "a", finetuned, digits)
    _, some = evaluate_on(tmp_path / "b", finetuned, part)
    assert some["per_class"]["zero"]["recall"] == whole["per_class"]["zero"]["recall"]
    assert some["per_class"]["eight"]["images"] == 0


def test_one_class_alone_is_said_to_tell_nothing_of_the_others(finetuned, digits, tmp_path):
    (tmp_path / "part/zero").mkdir(parents=True)
    for file in (digits / "zero").iterdir():
        (tmp_path / "part/zero" / file.name).write_bytes(file.read_bytes())
    context = make_context("evaluate", tmp_path / "a")
    evaluate_on(tmp_path / "a", finetuned, tmp_path / "part", context)
    assert any("of one class alone" in warning for warning in context.warnings)

    context = make_context("evaluate", tmp_path / "b")
    evaluate_on(tmp_path / "b", finetuned, digits, context)
    assert not any("of one class alone" in warning for warning in context.warnings)


def test_classes_that_the_model_does_not_know_are_refused(finetuned, digits, tmp_path):
    (tmp_path / "data" / "martian").mkdir(parents=True)
    first = next((digits / "zero").iterdir())
    (tmp_path / "data" / "martian" / "a.png").write_bytes(first.read_bytes())
    with pytest.raises(DataError):
        evaluate_on(tmp_path, finetuned, tmp_path / "data")


PROBES = ("knn_acc", "linear_acc", "attentive_acc", "rankme", "reconstruction_loss")


def test_a_pretrained_model_is_judged_by_probes_and_its_loss(pretrained, digits, tmp_path):
    result, figures = evaluate_on(tmp_path, pretrained, digits)
    assert result["kpis"].keys() >= set(PROBES)
    assert result["shares"]["attentive_acc"] == figures["images"]
    assert "taught and judged on 5 stratified folds of these images" in figures["protocol"]
    assert figures["most_frequent"]["share"] == pytest.approx(1 / 4)
    context = make_context("evaluate", tmp_path / "bank")
    bank = {"dataset__probe_train_data_sources": str(digits)}
    _, banked = evaluate_on(tmp_path / "bank", pretrained, digits, context, **bank)
    assert any("each its own nearest neighbor" in text for text in context.warnings)
    assert banked["knn_acc"] >= figures["knn_acc"]
    assert (
        banked["linear_acc"] == 1.0
    )  # the bank holds the very images, and four classes of six are separable
    again, _ = evaluate_on(tmp_path / "again", pretrained, digits)
    for name in PROBES:
        assert again["kpis"][name] == result["kpis"][name]


def test_more_patches_than_fit_give_no_attentive_probe_and_a_note(
    pretrained, digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(evaluate, "MOST_VALUES", 10_000)
    result, figures = evaluate_on(tmp_path, pretrained, digits)
    assert "attentive_acc" not in result["kpis"] and "linear_acc" in result["kpis"]
    assert any("no attentive probe" in note and "2 GiB" in note for note in figures["notes"])


def test_unlabeled_images_give_a_pretrained_model_its_loss_and_a_note(pretrained, digits, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, file in enumerate(sorted(digits.rglob("*.png"))[::6]):
        (flat / f"{number}.png").write_bytes(file.read_bytes())
    result, figures = evaluate_on(tmp_path, pretrained, flat)
    assert "knn_acc" not in result["kpis"]
    assert result["kpis"]["reconstruction_loss"] > 0
    assert any("no class folders" in note for note in figures["notes"])


def test_embeddings_are_deterministic_and_indexed_and_images_are_drawn(
    pretrained, digits, tmp_path
):
    for name in ("a", "b"):
        infer(tmp_path / name, pretrained, digits)
    first, second = (
        np.load(tmp_path / name / "inference" / "embeddings.npy") for name in ("a", "b")
    )
    np.testing.assert_array_equal(first, second)
    with (tmp_path / "a" / "inference" / "embeddings.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert first.shape == (len(rows), 192)
    assert np.ptp(first, axis=0).max() > 0
    picture = np.asarray(Image.open(tmp_path / "a" / "inference" / "reconstructions.png"))
    side = 3 * 64  # enlarged to be legible
    assert picture.shape[1] == 5 * (side + 2) - 2  # the last one: the loss of each patch
    first_row = picture[2 * 16 : 2 * 16 + side]  # below the titles and the image's name
    original, masked, predicted, colored = (
        first_row[:, column * (side + 2) :][:, :side] for column in range(4)
    )
    visible = (masked != 128).any(axis=2)
    assert 0.15 < visible.mean() < 0.35
    for rebuilt in (predicted, colored):
        np.testing.assert_array_equal(original[visible], rebuilt[visible])
    assert (predicted != colored).any()


def test_folds_hold_every_class_evenly():
    labels = torch.tensor([0] * 10 + [1] * 15)
    fold = stratified_folds(labels, 5, seed=1)
    for number in range(5):
        assert (labels[fold == number] == 0).sum() == 2
        assert (labels[fold == number] == 1).sum() == 3


def test_what_is_missing_or_named_twice_is_said(finetuned, digits, tmp_path):
    with pytest.raises(SpecError) as none:
        evaluate.run(
            make_spec(dataset__val_data_sources=str(digits)), make_context("evaluate", tmp_path)
        )
    assert none.value.field == "evaluate.checkpoint"
    both = make_spec(
        evaluate__checkpoint=str(finetuned),
        evaluate__trt_engine="x.engine",
        dataset__val_data_sources=str(digits),
    )
    with pytest.raises(SpecError) as two:
        evaluate.run(both, make_context("evaluate", tmp_path))
    assert two.value.field == "evaluate.trt_engine"
    with pytest.raises(NotFoundError):
        evaluate_on(tmp_path, tmp_path / "nothing.pth", digits)
    with pytest.raises(SpecError) as empty:
        evaluate_on(tmp_path, finetuned, None)
    assert empty.value.field == "dataset.val_data_sources"
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        runtimes.open_runtime(tmp_path / "broken.onnx", torch.device("cpu"))


def test_a_default_of_the_spec_never_overrides_the_checkpoint_but_a_wish_is_checked(
    finetuned, digits, tmp_path
):
    runtime = runtimes.open_runtime(finetuned, torch.device("cpu"))
    spec = make_spec(model__num_classes=7, dataset__augmentation__mean=[0.1, 0.1, 0.1])
    artifact.check_agreement(
        spec, {"model.num_classes": Origin(OriginKind.DEFAULT)}, runtime.meta, "evaluate.checkpoint"
    )
    with pytest.raises(SpecError) as caught:
        artifact.check_agreement(
            spec,
            dict.fromkeys(
                ("model.num_classes", "dataset.augmentation.mean[0]"), Origin(OriginKind.SPEC_FILE)
            ),
            runtime.meta,
            "evaluate.checkpoint",
        )
    assert {problem.field for problem in caught.value.problems} == {
        "model.num_classes",
        "dataset.augmentation.mean",
    }


@pytest.mark.parametrize("variable", ["MAE_JOB_DIR", "RANK"])
def test_the_defaults_of_a_whole_spec_give_way_too(
    variable, finetuned, digits, tmp_path, monkeypatch
):
    """A job's spec.yaml, the spec that ranks are handed, and a template that a person saved hold
    every field: what repeats the template was not chosen by anybody."""
    values = {
        "evaluate__checkpoint": str(finetuned),
        "dataset__val_data_sources": str(digits),
        "results_dir": str(tmp_path),
    }
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(make_spec(**values).model_dump(mode="json")))
    command = ["evaluate", "-e", str(path), "train.accelerator=cpu"]
    assert main(command) == 0
    assert main([*command, "model.num_classes=7"]) == 2
    monkeypatch.setenv(variable, "0" if variable == "RANK" else str(tmp_path))
    assert main([*command, "model.num_classes=7"]) == 2
    assert main(command) == 0


def test_the_crop_and_filter_of_a_models_validation_follow_it_and_others_can_be_asked_for(
    digits, tmp_path
):
    model = make_model("vit_tiny_patch16", "finetune", 64, depth=2)
    wide = save_checkpoint(model, tmp_path / "wide.pth", center_crop=1.0)
    usual = save_checkpoint(model, tmp_path / "usual.pth")

    def loss(name, checkpoint, **values):
        provenance = {key.replace("__", "."): Origin(OriginKind.OVERRIDE) for key in values}
        spec = make_spec(
            evaluate__checkpoint=str(checkpoint), dataset__val_data_sources=str(digits), **values
        )
        result = evaluate.run(spec, make_context("evaluate", tmp_path / name, provenance))
        return result["kpis"]["val_loss"]

    crop = "dataset__augmentation__center_crop"
    of_wide, of_usual = loss("a", wide), loss("b", usual)
    assert of_wide != of_usual
    assert loss("c", usual, **{crop: 1.0}) == of_wide
    assert loss("d", wide, **{crop: 0.875}) == of_usual
    spec = make_spec(export__checkpoint=str(wide), dataset__val_data_sources=str(digits))
    made = export.run(spec, make_context("export", tmp_path / "e"))["artefacts"][0]
    assert loss("f", made) == pytest.approx(of_wide, abs=1e-5)

    kernel = "dataset__augmentation__eval_interpolation"
    smooth = save_checkpoint(model, tmp_path / "smooth.pth", eval_interpolation="bilinear")
    assert loss("g", smooth) != loss("b", usual)
    assert loss("h", usual, **{kernel: "bilinear"}) == loss("g", smooth)
    assert loss("i", smooth, **{kernel: "bicubic"}) == loss("b", usual)


def test_what_could_not_be_read_is_in_the_result_of_every_action(finetuned, digits, tmp_path):
    source = tmp_path / "digits"
    for file in digits.rglob("*.png"):
        (source / file.parent.name).mkdir(parents=True, exist_ok=True)
        (source / file.parent.name / file.name).write_bytes(file.read_bytes())
    broken = sorted(source.rglob("*.png"))[0]
    broken.write_bytes(b"no picture")
    tolerant = {"dataset__max_corrupt_fraction": 0.5}
    result, figures = evaluate_on(tmp_path / "a", finetuned, source, **tolerant)
    (left,) = result["left_out"].values()
    assert left["unreadable"]["count"] == 1 and broken.name in left["unreadable"]["files"][0]
    assert len(figures["unreadable"]) == 1
    result = infer(tmp_path / "b", finetuned, source, **tolerant)
    assert result["left_out"]["dataset.test_data_sources"]["unreadable"]["count"] == 1
    whole, _ = evaluate_on(tmp_path / "c", finetuned, digits)
    assert "left_out" not in whole
