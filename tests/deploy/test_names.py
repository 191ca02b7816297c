"""Names of any bytes go through evaluate and inference, and come back from what these write."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from mae_runners.actions import evaluate, inference
from mae_skill.reader import dump_yaml
from mae_skill.spelling import original

from tests.support.deploy import CLASSES, make_context, make_model, make_spec, save_checkpoint
from tests.support.images import photo

FOLDERS = [b"caf\xe9", "cafe\u0301".encode(), "狗".encode(), b"\x1b[2J\nx"]
FILES = [b"a\xff.png", "\u202eb.png".encode(), b'c\\xe9,"d".png', b"new\nline.png"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for number, folder in enumerate(FOLDERS):
        place = root / os.fsdecode(folder)
        place.mkdir()
        for i, name in enumerate(FILES):
            photo(4 * number + i, 48, 40).save(place / os.fsdecode(name), "PNG")
    (root / os.fsdecode(FOLDERS[0]) / os.fsdecode(b"bad\xfe.png")).write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def classes(images: Path) -> list[str]:
    from mae_sdk.data import open_source

    return open_source(images).classes


@pytest.fixture(scope="module")
def classifier(classes: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert len(classes) == len(CLASSES) == 4
    model = make_model("vit_tiny_patch16", "finetune", 64, depth=2)
    folder = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.support.deploy.CLASSES", classes)
        return save_checkpoint(model, folder / "model.pth")


def given(images: Path) -> set[str]:
    return {str(path) for path in images.rglob("*.png") if "bad" not in path.name}


def test_classes_are_valid_text_in_one_unicode_form(classes: list[str]) -> None:
    assert r"caf\xe9" in classes and "café" in classes
    for name in classes:
        name.encode()
        assert unicodedata.is_normalized("NFC", name)
    assert os.fsencode(original(r"caf\xe9")) == FOLDERS[0]


def test_evaluate_and_inference_take_any_name(
    images: Path, classes: list[str], classifier: Path, tmp_path: Path
) -> None:
    spec = make_spec(
        evaluate__checkpoint=str(classifier),
        inference__checkpoint=str(classifier),
        dataset__val_data_sources=str(images),
        dataset__test_data_sources=str(images),
        dataset__max_corrupt_fraction=0.1,
    )
    evaluate.run(spec, make_context("evaluate", tmp_path))
    text = (tmp_path / "evaluate" / "metrics.json").read_text(encoding="utf-8")
    metrics = json.loads(text)
    json.dumps(metrics, ensure_ascii=False).encode()
    assert set(metrics["per_class"]) == set(classes)
    assert [original(path) for path in metrics["unreadable"]] == [
        str(path) for path in images.rglob("*.png") if "bad" in path.name
    ]

    inference.run(spec, make_context("inference", tmp_path))
    with (tmp_path / "inference" / "results.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {original(row["path"]) for row in rows} == given(images)
    assert {row["label"] for row in rows} <= set(classes)


def test_inference_writes_utf_8_in_an_ascii_locale(
    images: Path, classifier: Path, tmp_path: Path
) -> None:
    spec = {
        "inference": {"checkpoint": str(classifier)},
        "dataset": {
            "test_data_sources": str(images),
            "max_corrupt_fraction": 0.1,
            "num_workers_per_gpu": 0,
        },
        "train": {"accelerator": "cpu"},
        "results_dir": str(tmp_path / "results"),
    }
    (tmp_path / "spec.yaml").write_text(dump_yaml(spec), encoding="utf-8")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "mae_runners", "inference", "-e", str(tmp_path / "spec.yaml")]
    done = subprocess.run(command, env={**os.environ, **locale}, capture_output=True)
    assert done.returncode == 0, done.stderr
    said = done.stderr.decode("ascii")
    assert r"bad\xfe.png" in said and "\x1b" not in said
    results = tmp_path / "results" / "inference" / "results.csv"
    with results.open(newline="", encoding="utf-8") as stream:
        assert {original(row["path"]) for row in csv.DictReader(stream)} == given(images)
