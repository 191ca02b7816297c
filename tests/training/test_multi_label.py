"""Pictures of several classes: from a table through training, evaluation, inference and export."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mae_runners import load_model
from mae_runners.actions import evaluate, export, inference
from mae_runners.data import Mixup
from mae_runners.deploy import parity
from mae_runners.metrics.multi_label import MultiLabelMetrics, best_thresholds
from mae_runners.metrics.notable_labels import LabelMistakes, lines_of
from mae_runners.models import checkpoint
from mae_runners.tasks.losses import label_loss
from mae_sdk import Skill
from mae_sdk.data import open_source
from mae_sdk.data.label_file import LabeledSource
from mae_sdk.report import judged as judged_report
from mae_sdk.report.blocks import Table
from mae_skill.errors import DataError, MaeError
from mae_skill.spec import AugmentationSpec
from sklearn import metrics as sklearn_metrics

from tests.support.deploy import make_context, make_spec
from tests.support.training import digits_folder, read, spec, train

NAMES = ["even", "round", "small"]
LABELS = {"0": ["even", "round"], "1": ["small"], "2": ["even", "small"], "3": []}


def pictures(root: Path, per_class: int = 4) -> tuple[Path, list[tuple[str, list[str]]]]:
    """A folder of digits 0 to 3, and the labels of each."""
    made = digits_folder(root / "classes", per_class=per_class, classes=4)
    images, rows = root / "images", []
    images.mkdir()
    for picture in sorted(made.rglob("*.png")):
        name = f"{picture.parent.name}_{picture.name}"
        picture.rename(images / name)
        rows.append((name, LABELS[picture.parent.name]))
    return images, rows


def table(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def joined(path: Path, rows: list[tuple[str, list[str]]]) -> Path:
    return table(path, ["path,labels", *(f"{name},{'|'.join(of)}" for name, of in rows)])


def several(images: Path, file: Path, columns: list[str] | None = None) -> LabeledSource:
    return LabeledSource(open_source(str(images)), str(file), "train", True, columns)


def test_every_way_to_write_several_labels_reads_alike(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images, rows = pictures(tmp_path)
    flags = [[str(int(name in of)) for name in NAMES] for _, of in rows]
    files = [
        joined(tmp_path / "a.csv", rows),
        table(
            tmp_path / "b.csv",
            ["path,note," + ",".join(NAMES)]
            + [f"{p},x,{','.join(f)}" for (p, _), f in zip(rows, flags, strict=True)],
        ),
        table(
            tmp_path / "c.csv",
            ["path,label", *(f"{p},{name}" for p, of in rows for name in of or [""])],
        ),
        tmp_path / "d.jsonl",
        tmp_path / "e.parquet",
    ]
    files[3].write_text("".join(json.dumps({"path": p, "labels": of}) + "\n" for p, of in rows))
    columns = {"path": [p for p, _ in rows], "labels": [of for _, of in rows]}
    parquet.write_table(pyarrow.table(columns), files[4])
    for file in files:
        found = several(images, file)
        assert found.classes == NAMES, file
        assert found.targets(NAMES).tolist() == [[int(x) for x in flag] for flag in flags], file
        assert found.table["labels"] == {"min": 0, "max": 2, "none": sum(not of for _, of in rows)}
    # The rarest class stands for a picture where pictures are spread over classes.
    assert {found.labels[i] for i, (p, _) in enumerate(rows) if p[0] == "0"} == {1}
    assert {found.labels[i] for i, (p, _) in enumerate(rows) if p[0] == "3"} == {-1}
    assert several(images, files[1], ["small", "round"]).classes == ["round", "small"]
    with pytest.raises(DataError, match="other values than 0 and 1"):
        several(images, files[1], ["note", "small"])
    with pytest.raises(DataError, match="has no column tall"):
        several(images, files[1], ["tall"])


def planned(images: Path, file: Path | None, multi: bool, **settings: Any) -> Any:
    labels = {} if file is None else {"dataset.labels.train": str(file)}
    return Skill().plan(
        "train",
        train_datasets=str(images),
        automl_policy="off",
        spec_overrides={
            "train.stage": "finetune",
            "model.arch": "vit_tiny_patch16",
            "model.num_classes": 3,
            "model.multi_label": multi,
            **labels,
            **settings,
        },
    )


def test_settings_that_do_not_fit_the_labels_are_errors_of_the_plan(tmp_path: Path) -> None:
    images, rows = pictures(tmp_path)
    many = joined(tmp_path / "many.csv", rows)
    one = joined(tmp_path / "one.csv", [(name, ["even"] if of else ["odd"]) for name, of in rows])
    for file, multi, settings, says in (
        (many, False, {}, "model.multi_label=true"),
        (None, True, {}, "needs a table"),
        (many, True, {"dataset.balanced_sampling": True}, "cannot be drawn for one of them"),
        (many, True, {"train.loss": "dice"}, "for segmentation alone"),
    ):
        with pytest.raises(MaeError) as caught:
            planned(images, file, multi, **settings)
        assert says in str(caught.value), says
    single = planned(images, one, True, **{"model.num_classes": 2})
    assert "every picture of the table has one label" in "\n".join(map(str, single.warnings))
    plan = planned(images, many, True, **{"dataset.val_fraction": 0.25})
    assert "no class folder" not in str(plan.warnings)


def scored(images: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    truth = (torch.rand(images, 4, generator=generator) < 0.3).float()
    truth[:, 3] = 0  # a class without images
    logits = torch.randn(images, 4, generator=generator) + 1.5 * truth
    return (logits * 4).round() / 4, truth


def test_pictures_of_several_labels_are_not_chosen_by_class(tmp_path: Path) -> None:
    images, rows = pictures(tmp_path)
    file = joined(tmp_path / "a.csv", rows)
    chosen = ["even", "round", "small"]
    with pytest.raises(DataError, match="are not chosen by class") as caught:
        planned(images, file, True, **{"dataset.classes": chosen})
    assert caught.value.field == "dataset.classes"
    assert caught.value.expected == "null with model.multi_label"
    assert "columns or rows" in str(caught.value.hint)
    assert planned(images, file, True), "without them the same data are planned"


def test_every_figure_of_several_labels_is_that_of_scikit_learn() -> None:
    logits, truth = scored()
    metrics = MultiLabelMetrics(4, [0.4, 0.5, 0.6, 0.5])
    for part in torch.arange(len(truth)).split(50):
        metrics.add(logits[part], truth[part])
    found, table = metrics.summary("x"), metrics.per_class(list("abcd"))
    scores, y = logits.sigmoid().numpy(), truth.numpy().astype(int)
    said = (scores >= np.float32([0.4, 0.5, 0.6, 0.5])).astype(int)
    assert found["mAP"] == pytest.approx(
        sklearn_metrics.average_precision_score(y[:, :3], scores[:, :3], average="macro"), abs=1e-6
    )
    assert found["auroc"] == pytest.approx(
        sklearn_metrics.roc_auc_score(y[:, :3], scores[:, :3], average="macro"), abs=1e-6
    )
    assert found["f1_micro"] == pytest.approx(
        sklearn_metrics.f1_score(y, said, average="micro", zero_division=0)
    )
    assert found["f1_macro"] == pytest.approx(
        sklearn_metrics.f1_score(y[:, :3], said[:, :3], average="macro", zero_division=0)
    )
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
    assert found["val_loss"] == pytest.approx(float(loss))
    each = sklearn_metrics.f1_score(y[:, :3], said[:, :3], average=None)
    assert [table[name]["f1"] for name in "abc"] == pytest.approx(each.tolist())
    assert table["d"]["AP"] is table["d"]["f1"] is table["d"]["auroc"] is None
    assert sum(one["images"] for one in metrics.reliability) == truth.numel()


def test_the_surest_wrong_pairs_are_those_of_all_images_however_they_are_batched() -> None:
    logits, truth = scored()
    logits += torch.linspace(0, 0.01, len(logits))[:, None]  # no two are equally sure
    cuts, shares = [0.3, 0.5, 0.7, 0.9], logits.sigmoid()
    said = shares >= torch.tensor(cuts)
    off = torch.where(truth == 1, 1 - shares, shares)
    wrong = [
        (-float(off[place, label]), place, label)
        for place, label in (said != (truth == 1)).nonzero().tolist()
    ]
    for size in (7, 50, len(truth)):
        found = LabelMistakes()
        for part in torch.arange(len(truth)).split(size):
            found.add(logits[part], truth[part], part)
        pairs = found.found(cuts)
        assert [one[1:3] for one in pairs] == [one[1:] for one in sorted(wrong)[:12]], size
    off_by, place, label, has, _ = pairs[0]
    assert has == bool(truth[place, label])
    lines = lines_of(pairs[0], truth[place], cuts, "abcd")
    share = 1 - off_by if has else off_by
    assert lines[0].startswith(f"{'abcd'[label]} ({100 * share:.0f} %): ")


def test_the_chosen_thresholds_have_the_best_f1_of_all() -> None:
    logits, truth = scored()
    scores = logits.sigmoid()
    chosen = best_thresholds(scores, truth.long())
    assert chosen[3] == 0.5
    for index in range(3):
        values, y = scores[:, index].numpy(), truth[:, index].numpy().astype(int)
        best = max(sklearn_metrics.f1_score(y, values >= cut) for cut in np.unique(values))
        assert sklearn_metrics.f1_score(y, values >= chosen[index]) == pytest.approx(best)


def test_mixup_smoothing_weights_and_focus_act_on_every_class() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    augmentation = AugmentationSpec(mixup=1.0, cutmix=0.0, smoothing=0.2)
    _, targets = Mixup(augmentation, 3)(torch.rand(2, 3, 8, 8), labels, (1, 2, 0))
    share = (targets[0, 0] - 0.1) / 0.8
    assert 0 < share < 1
    assert torch.allclose(targets[0], torch.stack([share, share, share * 0]) * 0.8 + 0.1)
    assert torch.allclose(targets[0] + targets[1], torch.tensor([1.0, 1.0, 0.2]))

    logits, weights = torch.randn(2, 3), torch.tensor([2.0, 1.0, 5.0])
    p = logits.sigmoid()
    by_hand = -(weights * labels * p.log() + (1 - labels) * (1 - p).log())
    assert float(label_loss(logits, labels, weights)) == pytest.approx(float(by_hand.mean()))
    wrong = torch.where(labels == 1, 1 - p, p)
    assert float(label_loss(logits, labels, weights, 2.0)) == pytest.approx(
        float((by_hand * wrong**2).mean())
    )


def test_parity_of_several_labels_counts_answers_not_the_largest_logit() -> None:
    reference = np.array([[2.0, 1.0, -1.0], [-3.0, -2.0, 4.0]])
    bounds = parity.Thresholds(-1.0, 10.0, 0.9)
    turned = reference[:, [1, 0, 2]]
    same = parity.compare(reference, turned, bounds, logits=True, cuts=[0.0, 0.0, 0.0])
    assert same.passed and same.top1_agreement == 1.0
    other = parity.compare(reference, turned, bounds, logits=True, cuts=[1.5, 1.5, 0.0])
    assert not other.passed and "label agreement" in other.failures[0]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_a_model_of_several_labels_goes_from_training_to_an_export(tmp_path: Path) -> None:
    images, rows = pictures(tmp_path, per_class=6)
    file = joined(tmp_path / "labels.csv", rows)
    options: dict[str, Any] = {
        "model__multi_label": True,
        "dataset__labels__train": str(file),
        "dataset__val_fraction": 0.5,
        "train__class_weights": "balanced",
        "train__optim__lr": 2e-3,
        "train__optim__warmup_epochs": 0,
        "train__num_epochs": 4,
    }
    job = tmp_path / "job"
    assert train(spec(images, job, "finetune", **options)) == 0
    last = read(job, "train/result.json")["kpis"]
    assert {"mAP", "f1_macro", "f1_micro", "auroc", "ece", "val_loss"} <= last.keys()
    assert read(job, "train/checkpoints.json")["best"]["metric"] == "mAP"
    judged = read(job, "train/validation.json")
    assert judged["images"] == 12 and list(judged["per_class"]) == NAMES
    path = job / "train" / "model_epoch_003.pth"
    said = checkpoint.read_meta(checkpoint.read(path, None))
    cuts = [one["threshold"] for one in judged["per_class"].values()]
    assert said.multi_label and said.thresholds == cuts

    def ran(action: Any, name: str, folder: Path, model: Path) -> dict[str, Any]:
        role = "val" if name == "evaluate" else "test"
        made = make_spec(
            **{
                f"{name}__checkpoint": str(model),
                f"dataset__{role}_data_sources": str(images),
                f"dataset__labels__{role}": str(file),
            }
        )
        return dict(action.run(made, make_context(name, folder)))

    kpis = ran(evaluate, "evaluate", tmp_path / "torch", path)["kpis"]
    answered = ran(inference, "inference", tmp_path / "torch", path)
    assert answered["multi_label"] is True, "its page says so"
    answers = rows_of(tmp_path / "torch" / "inference" / "results.csv")
    y = np.array([[name in of for name in NAMES] for _, of in rows])
    taken = np.array([[name in row["labels"].split("|") for name in NAMES] for row in answers])
    assert kpis["f1_micro"] == pytest.approx(sklearn_metrics.f1_score(y, taken, average="micro"))
    assert [row["true_labels"] for row in answers] == [
        "|".join(name for name in NAMES if name in of) for _, of in rows
    ]
    assert rows_of(tmp_path / "torch" / "evaluate" / "results.csv") == answers

    figures = json.loads((tmp_path / "torch" / "evaluate" / "metrics.json").read_text())
    facts: Any = SimpleNamespace(judged=figures, action="evaluate", text=lambda path: "")
    bars, *others = judged_report.sections(facts)
    assert isinstance(bars.blocks[0], Table) and len(bars.blocks[0].rows) == len(NAMES)
    shown = {row[0]: row[1].share for row in bars.blocks[0].rows}
    assert shown == {name: one["AP"] for name, one in figures["per_class"].items()}
    assert [one.title for one in others] == ["Confidence", "Speed"], "no confusion matrix"

    for folder, action in ((job, "train"), (tmp_path / "torch", "evaluate")):
        sheets = read(folder, f"{action}/pictures/gallery.json")["sheets"]
        (wrong,) = [one for one in sheets if one["kind"] == "mistakes"]
        for row in wrong["rows"]:
            of = dict(rows)[Path(row["name"]).name]
            pair, predicted, true = row["lines"]
            name = pair.partition(" (")[0]
            assert true == "true: " + (", ".join(n for n in NAMES if n in of) or "no label")
            assert (name in of) is pair.endswith("has it, not given"), pair
            assert (name in predicted) is pair.endswith("given, lacks it"), pair

    made = make_spec(export__checkpoint=str(path), dataset__test_data_sources=str(images))
    exported = export.run(made, make_context("export", tmp_path))["artefacts"][0]
    again = ran(evaluate, "evaluate", tmp_path / "onnx", Path(exported))["kpis"]
    assert {key: again[key] for key in ("mAP", "f1_macro", "f1_micro")} == pytest.approx(
        {key: kpis[key] for key in ("mAP", "f1_macro", "f1_micro")}
    )
    names = ["|".join(one.labels) for one in load_model(exported).predict(sorted(images.iterdir()))]
    assert names == [row["labels"] for row in answers]
