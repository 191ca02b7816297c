"""Every command that the reference pages print runs as printed: only places, job ids and sizes are
put in."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.docs import ROOT, fences
from tests.support.hub import serve
from tests.support.images import make_tarball, write_imagefolder

ARCH = [
    "model.arch=vit_tiny_patch16",
    "model.embed_dim=48",
    "model.depth=2",
    "model.num_heads=3",
    "dataset.augmentation.input_size=32",
]
QUICK = ["train.num_epochs=1", "dataset.batch_size=20"]
PAGES = [
    "data",
    "train",
    "evaluate",
    "inference",
    "export",
    "tao-deploy-mask-auto-encoder",
    "tao-run-automl",
]


class Place:
    """A folder with the documented layout of data, a results root, and jobs to go on from."""

    def __init__(self, root: Path, hub: str) -> None:
        self.root = root
        for name, count, start in (("train", 6, 0), ("eval", 3, 6)):
            folder = write_imagefolder(
                root / "pictures" / name, classes=10, per_class=count, size=32, start=start
            )
            for split in {"train": ["train"], "eval": ["val", "test"]}[name]:
                make_tarball(folder, root / "data" / name / f"images_{split}.tar.gz")
        for number in range(16):
            shard = root / "pictures" / f"shard-{number}"
            write_imagefolder(shard, classes=10, per_class=1, size=32, start=9 + number)
            make_tarball(shard, root / "shards" / f"train-{number:03}.tar")
        self.write_tables()
        self.environment = {
            **os.environ,
            "MAE_RESULTS_ROOT": str(root / "results"),
            "MAE_CACHE_DIR": str(root / "cache"),
            "HF_ENDPOINT": hub,
            "HF_TOKEN": "hf_documented",
        }
        self.environment["PATH"] = f"{Path(sys.executable).parent}:{self.environment['PATH']}"
        train = [
            *("mae", "run", "train", "--automl-policy", "off", "--wait", *ARCH, *QUICK),
            *("--train-datasets", f"{root}/data/train", "--eval-dataset", f"{root}/data/eval"),
        ]
        self.pretrained = self.run(train)["job_id"]
        labels = ["train.stage=finetune", "model.num_classes=10"]
        self.trained = self.run([*train, *labels])["job_id"]
        self.exported = self.run(["mae", "run", "export", "--parent", self.trained, "--wait"])[
            "job_id"
        ]

    def write_tables(self) -> None:
        """Pictures in one flat folder, with a table of a label each, and one of two of fourteen."""
        images = self.root / "data" / "images"
        images.mkdir()
        one, several = ["path,label"], ["path,labels"]
        for number, picture in enumerate(sorted((self.root / "pictures" / "train").rglob("*.png"))):
            name = f"{number:02}.png"
            shutil.copyfile(picture, images / name)
            one.append(f"{name},{picture.parent.name}")
            several.append(f"{name},sign-{number % 14}|sign-{(number + 5) % 14}")
        (self.root / "labels.csv").write_text("\n".join(one))
        (self.root / "data" / "labels.csv").write_text("\n".join(several))

    def run(self, words: list[str]) -> Any:
        done = subprocess.run(
            [*words, "--json"],
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.root,
            timeout=900,
        )
        assert done.returncode == 0, (
            f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        )
        return json.loads(done.stdout) if done.stdout.strip() else None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serve() as hub:
        yield Place(tmp_path_factory.mktemp("documented"), hub.url)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_as_printed(place: Place, page: str) -> None:
    text = "\n".join(fences(ROOT / "references" / f"{page}.md", "bash")).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("mae ")]
    assert lines
    job = place.trained
    parent = place.pretrained if page == "train" else place.trained
    for line in lines:
        if "gen_trt_engine" in line:
            continue  # needs a builder for engines; tests/long/rtx runs it
        line = line.replace("s3://bucket/", f"{place.root}/")
        line = re.sub(r"(?<![\w/])/data/", f"{place.root}/data/", line)
        words = shlex.split(line, comments=True)
        values = {
            "TRAIN": f"{place.root}/data/train/images_train.tar.gz",
            "VAL": f"{place.root}/data/eval/images_val.tar.gz",
            "TRAIN_JOB": place.trained,
            "EXPORT_JOB": place.exported,
            "PRETRAIN_JOB": place.pretrained,
            "JOB": parent if "--parent" in words else job,
            "IMAGES": f"{place.root}/data/images",
            "URI": f"{place.root}/data/eval",
        }
        words = [values.get(word, word) for word in words]
        if words[1] in ("run", "plan") and words[2] == "train":
            words += ARCH + QUICK
            words += ["--wait"] if words[1] == "run" and "--wait" not in words else []
        found = place.run(words)
        if words[1] == "run":
            assert found["state"] == "COMPLETE"
            job = found["job_id"]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", ["train", "evaluate", "inference", "export"])
def test_an_action_by_hand_runs_as_printed(place: Place, page: str) -> None:
    text = (ROOT / "references" / f"{page}.md").read_text(encoding="utf-8")
    found = list(map(shlex.split, re.findall(rf"`(mae {page} -e [^`\n]+)`", text)))
    assert len(found) == 1
    checkpoint = next((place.root / "results" / place.trained / "train").glob("*_latest.pth"))
    pictures = place.root / "pictures"
    values = {
        "/data/train": str(pictures / "train"),
        "/data/val": str(pictures / "eval"),
        "/data/test": str(pictures / "eval"),
        "/data/out": str(place.root / "by-hand"),
        "model.pth": str(checkpoint),
        "model.onnx": str(place.root / "by-hand.onnx"),
    }
    words = []
    for word in found[0]:
        key, sign, value = word.partition("=")
        words.append(f"{key}={values.get(value, value)}" if sign else word)
    (place.root / "spec.yaml").write_text(
        f"model: {{arch: vit_tiny_patch16, num_classes: 10}}\nresults_dir: {place.root / 'out'}\n"
    )
    more = {
        "train": [*ARCH, *QUICK],
        "evaluate": ["train.stage=finetune"],
        "inference": ["train.stage=finetune"],
        "export": ["train.stage=finetune"],
    }
    done = subprocess.run(
        [*words, *more[page]],
        capture_output=True,
        text=True,
        env=place.environment,
        cwd=place.root,
        timeout=900,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
