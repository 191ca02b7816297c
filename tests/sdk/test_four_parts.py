"""A bad input is one error with four parts: field, value, what was expected, how to mend it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mae_runners.models import LoadReport, build_classifier, build_mae
from mae_runners.tasks.base import refuse_random_head
from mae_sdk import Skill, answers
from mae_skill.errors import MaeError, SpecError
from mae_skill.resolve import nested
from mae_skill.spec import ExperimentSpec
from PIL import Image

TINY = {
    "train.stage": "finetune",
    "train.num_epochs": 1,
    "model.arch": "vit_tiny_patch16",
    "model.patch_size": 8,
    "model.num_classes": 2,
    "dataset.augmentation.input_size": 32,
    "dataset.batch_size": 4,
}
LABELS = "dataset.labels.train"
MASKS = "dataset.segmentation.train_mask_sources"


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """``train`` and ``val`` with classes, ``flat`` without."""
    for i in range(6):
        picture(tmp_path / "train" / "ab"[i % 2] / f"{i}.png", i)
        picture(tmp_path / "val" / "ab"[i % 2] / f"{i}.png", 10 + i)
        picture(tmp_path / "flat" / f"{i}.png", 20 + i)
    return tmp_path


def errors(data: Path, train: str, **fields: Any) -> list[MaeError]:
    """The errors of a plan that trains on a source; with ``ptm`` and ``eval_dataset`` as such."""
    named = {key: fields.pop(key) for key in ("ptm", "eval_dataset") if key in fields}
    named = {key: str(data / value) for key, value in named.items()}
    with pytest.raises(MaeError) as caught:
        Skill().plan(
            "train",
            train_datasets=str(data / train),
            spec_overrides={**TINY, **fields},
            automl_policy="off",
            results_root=str(data / "results"),
            **named,
        )
    return list(getattr(caught.value, "problems", ())) or [caught.value]


def errors_of(data: Path, action: str, **fields: Any) -> list[MaeError]:
    """The errors of a plan of another action."""
    with pytest.raises(MaeError) as caught:
        Skill().plan(action, spec_overrides=fields, results_root=str(data / "results"))
    return list(getattr(caught.value, "problems", ())) or [caught.value]


def page(data: Path) -> str:
    (data / "page").write_text("<html><body>log in</body></html>")
    return str(data / "page")


def assert_four_parts(found: list[MaeError]) -> None:
    for error in found:
        lacking = [
            name
            for name in ("field", "got", "expected", "hint")
            if getattr(error, name) in (None, "")
        ]
        assert not lacking, (lacking, str(error))


def table(text: str | bytes, name: str = "t.csv") -> Callable[[Path], list[MaeError]]:
    def plan(data: Path) -> list[MaeError]:
        (data / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return errors(data, "flat", **{LABELS: str(data / name)})

    return plan


def archive(content: bytes, name: str) -> Callable[[Path], list[MaeError]]:
    def plan(data: Path) -> list[MaeError]:
        (data / name).write_bytes(content)
        return errors(data, name)

    return plan


def packed(data: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as whole:
        whole.add(data / "train", "train")
    return stream.getvalue()


def masks(make: Callable[[Path, int], None] | None) -> Callable[[Path], list[MaeError]]:
    def plan(data: Path) -> list[MaeError]:
        folder = data / "masks"
        folder.mkdir()
        for i in range(6 if make else 0):
            assert make is not None
            make(folder, i)
        fields = {"model.task": "segmentation", "model.num_classes": 3, MASKS: str(folder)}
        return errors(data, "flat", **fields)

    return plan


def values(low: int, high: int, kind: str = "png") -> Callable[[Path, int], None]:
    def make(folder: Path, i: int) -> None:
        rows = np.random.default_rng(i).integers(low, high, (32, 32), dtype=np.uint8)
        Image.fromarray(rows).save(folder / f"{i}.{kind}")

    return make


def unknown_validation_class(data: Path) -> list[MaeError]:
    picture(data / "val" / "zebra" / "z.png", 99)
    return errors(data, "train", eval_dataset="val")


def constant(value_range: Any) -> Callable[[Path], list[MaeError]]:
    def plan(data: Path) -> list[MaeError]:
        for i in range(6):
            (data / "npy" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
            np.save(data / "npy" / "ab"[i % 2] / f"{i}.npy", np.full((32, 32, 3), 0.5, np.float32))
        return errors(data, "npy", **{"dataset.value_range": value_range})

    return plan


ROWS = "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(6))
BAD: dict[str, Callable[[Path], list[MaeError]]] = {
    "a table without labels": table("path,foo,bar\n" + ROWS.replace("\n", ",c\n")),
    "a table without paths": table("foo,label\n" + ROWS),
    "a table of other pictures": table("path,label\nx.png,a\ny.png,b\n"),
    "a row without a path": table("path,label\n,a\n" + ROWS),
    "an empty table": table(""),
    "a table without rows": table("path,label\n"),
    "a column twice": table("path,label,label\n" + ROWS.replace("\n", ",a\n")),
    "a picture with two labels": table("path,label\n" + ROWS + "0.png,b\n"),
    "a table in no encoding": table(bytes(range(256))),
    "a table of another kind": table("path,label\n" + ROWS, "t.txt"),
    "a table that is no Parquet": table("path,label\n" + ROWS, "t.parquet"),
    "a table that is no JSON": table("path,label\n" + ROWS, "t.jsonl"),
    "no table": lambda data: errors(data, "flat", **{LABELS: str(data / "none.csv")}),
    "no labels": lambda data: errors(data, "flat"),
    "no data": lambda data: errors(data, "none"),
    "a class that only validation has": unknown_validation_class,
    "another number of classes": lambda data: errors(data, "train", **{"model.num_classes": 9}),
    "a web page as tar": archive(b"<html><body>log in</body></html>", "h.tar.gz"),
    "a web page as zip": archive(b"<!DOCTYPE html><html></html>", "h.zip"),
    "an empty archive": archive(b"", "e.tar.gz"),
    "a truncated archive": lambda data: archive(packed(data)[:9000], "t.tar.gz")(data),
    "a damaged archive": lambda data: archive(
        packed(data)[:9000] + b"x" * 100 + packed(data)[9100:], "d.tar.gz"
    )(data),
    "no masks": masks(None),
    "a mask that is missing": masks(lambda folder, i: values(1, 4)(folder, i) if i else None),
    "a value that is no class": masks(values(7, 9)),
    "masks of one class": masks(values(1, 2)),
    "masks as JPEG": masks(values(1, 4, "jpg")),
    "masks that are none": masks(
        lambda folder, i: (folder / f"{i}.png").write_bytes(b"x") and None
    ),
    "no folder of masks": lambda data: errors(
        data, "flat", **{"model.task": "segmentation", MASKS: str(data / "none")}
    ),
    "masks that nobody names": lambda data: errors(data, "flat", **{"model.task": "segmentation"}),
    "no model": lambda data: errors_of(data, "export"),
    "no data to evaluate": lambda data: errors_of(data, "evaluate"),
    "a page as ONNX": lambda data: errors_of(
        data, "gen_trt_engine", **{"gen_trt_engine.onnx_file": page(data)}
    ),
    "a page as a checkpoint": lambda data: errors_of(
        data, "export", **{"export.checkpoint": page(data)}
    ),
    "no weights": lambda data: errors(data, "train", ptm="none.pth"),
    "a table as weights": lambda data: errors(data, "train", ptm="train/a/0.png"),
    "one value in all pictures": constant("auto"),
    "one value in all pictures, of a type without range": constant("dtype"),
    "every parameter frozen": lambda data: errors(
        data, "train", **{"train.freeze": ["encoder", "head", "fc_norm"]}
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_input_says_field_value_expected_and_how_to_mend_it(case: str, data: Path) -> None:
    assert_four_parts(BAD[case](data))


def test_a_web_page_in_the_place_of_an_archive_is_called_one(data: Path) -> None:
    (error,) = BAD["a web page as tar"](data)
    assert "a web page" in str(error.hint)


def test_pictures_of_one_value_lead_to_a_range_that_is_stated(data: Path) -> None:
    by_type = BAD["one value in all pictures, of a type without range"](data)
    assert not any("auto" in error.message for error in by_type)
    for value_range in ("auto", [0, 1]):
        (error,) = constant(value_range)(data)
        assert "is of one color alone" in error.message and "unknown format" not in str(error)


def test_the_data_are_told_before_the_number_of_classes_that_is_counted_in_them(data: Path) -> None:
    picture(data / "val" / "zebra" / "z.png", 99)
    found = errors(data, "train", eval_dataset="val", **{"model.num_classes": 3})
    assert [error.field for error in found] == ["dataset.val_data_sources", "model.num_classes"]
    assert str(found[1].hint).startswith("mend the data first")


def test_what_is_wrong_with_one_path_is_said_once_with_all_fields_that_name_it(data: Path) -> None:
    none = str(data / "none.csv")
    (error,) = errors(
        data, "flat", eval_dataset="flat", **{LABELS: none, "dataset.labels.val": none}
    )
    assert error.field == LABELS and error.message.count("cannot read") == 1
    assert error.message.endswith("(of dataset.labels.val too)")
    (gone,) = errors(data, "none", eval_dataset="none")
    assert gone.message == "no data was found (of eval_dataset too)"


def test_pictures_that_cannot_be_read_are_told_once(data: Path) -> None:
    for i in range(6):
        (data / "broken" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (data / "broken" / "ab"[i % 2] / f"{i}.png").write_bytes(b"no picture")
    (error,) = errors(data, "broken")
    assert "6 of 6 images cannot be read" in error.message
    assert "several classes" not in error.message and "of a class" not in error.message


def weights(path: Path, *, classes: list[str] | None) -> str:
    """Weights of `TINY`: of a classifier of these classes, or of an autoencoder."""
    stage = "pretrain" if classes is None else "finetune"
    spec = ExperimentSpec.model_validate(nested({**TINY, "train.stage": stage}))
    built: Any = build_mae(spec.model, spec.train, 32)
    if classes is not None:
        built = build_classifier(spec.model, 32)
    named = {} if classes is None else {"class_names": classes}
    torch.save({"state_dict": built.state_dict(), **named}, path)
    return path.name


@pytest.mark.parametrize("ptm", [None, "autoencoder"])
def test_a_frozen_head_that_no_weights_fill_is_refused(data: Path, ptm: str | None) -> None:
    named = {} if ptm is None else {"ptm": weights(data / "mae.pth", classes=None)}
    found = errors(data, "train", **{"train.freeze": ["head"]}, **named)
    assert_four_parts(found)
    assert [error.field for error in found] == ["train.freeze"]
    assert "random initial weights" in found[0].message


def test_the_run_refuses_a_frozen_head_that_its_weights_do_not_fill() -> None:
    spec = ExperimentSpec.model_validate(nested(TINY))
    model = build_classifier(spec.model, 32)
    frozen = model.freeze(["head"])
    for report in (
        None,
        LoadReport(missing=["encoder.head.weight"]),
        LoadReport(head="1; fresh: b"),
    ):
        with pytest.raises(SpecError, match="never learns what to answer") as caught:
            refuse_random_head(model, frozen, report, ["head"])
        assert_four_parts([caught.value])
    refuse_random_head(model, frozen, LoadReport(head="all 2 classes by name"), ["head"])
    refuse_random_head(model, [], None, ["encoder"])


def test_masks_are_judged_by_an_inspection_in_the_words_of_a_plan(data: Path) -> None:
    (planned,) = BAD["a value that is no class"](data)
    settings = {"model.task": "segmentation", "model.num_classes": 3}
    seen = answers.inspect(str(data / "flat"), masks=str(data / "masks"), spec_overrides=settings)
    assert f"{planned.message}; {planned.hint}" in seen["verdict"]["problems"]
    assert not seen["verdict"]["usable"]

    (data / "masks" / "0.png").unlink()
    (data / "masks" / "1.png").write_bytes(b"no picture")
    seen = answers.inspect(str(data / "flat"), masks=str(data / "masks"))
    lines = "\n".join(seen["verdict"]["problems"])
    assert "1 of 6 images have no mask" in lines and "0.png; add the masks" in lines
    assert "1.png: cannot be read as a mask" in lines
