"""Every task eval, run with an agent that does the right thing and with one that makes the likely
mistake: graders tell them apart."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.docs import ROOT, evals_runner

TASKS = {task["id"]: task for task in json.loads((ROOT / "evals" / "tasks.json").read_text())}
ARCH = "model.arch=vit_tiny_patch16 dataset.augmentation.input_size=32 train.num_epochs=1"
PRETRAIN = (
    f"mae run train --train-datasets flat --automl-policy off --wait train.stage=pretrain {ARCH}"
)
FINETUNE = f"mae run train --train-datasets labelled --automl-policy off --wait train.stage=finetune model.num_classes=4 {ARCH}"
ID = "| python -c 'import json,sys; print(json.load(sys.stdin)[\"job_id\"])'"
SHARED = (
    '| python -c \'import json,sys; d=json.load(sys.stdin)["shared"]; '
    'print(d["count"])\' > answer.txt'
)
UNREADABLE = (
    '| python -c \'import json,sys; d=json.load(sys.stdin)["unreadable"]; '
    'print(d["count"])\' > answer.txt'
)
FIRST = '| python -c \'import json,sys; print(json.load(sys.stdin)["jobs"][0]["id"])\''
KEY = "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567"

RIGHT = {
    "inspect-counts": "mae inspect labelled --json | python -c '"
    'import json,sys; d=json.load(sys.stdin); c=d["classes"]; n=len(c) if isinstance(c, (list, dict)) else c; '
    'json.dump({"images": d["images"], "classes": n}, open("answer.json","w"))\'',
    "template": "mae get-spec train -o all.yaml && python -c '"
    'import yaml; s={"train":{"stage":"finetune","num_epochs":2},"model":{"num_classes":4,"arch":"vit_tiny_patch16"},'
    '"dataset":{"train_data_sources":"labelled","augmentation":{"input_size":32}}}; yaml.safe_dump(s, open("spec.yaml","w"))\''
    " && mae validate train -e spec.yaml",
    "plan-only": f"mae plan train --train-datasets flat --automl-policy off --json train.stage=pretrain {ARCH} > plan.json",
    "pretrain-plain": PRETRAIN,
    "no-hpo-words": FINETUNE.replace("--automl-policy off", "--request 'Fine-tune, no HPO'"),
    "automl-default": FINETUNE.replace("--automl-policy off", "--automl max_trials=2"),
    "pretrain-then-onnx": f"P=$({PRETRAIN} --json {ID}) && F=$({FINETUNE} --parent $P --json {ID}) && E=$(mae run export --parent $F --wait --json {ID})"
    " && cp mae-results/$E/export/model.onnx model.onnx",
    "evaluate-accuracy": f"F=$({FINETUNE} --json {ID}) && E=$(mae run evaluate --parent $F --eval-dataset labelled --wait --json {ID})"
    ' && mae jobs metrics $E --json | python -c \'import json,sys; d=json.load(sys.stdin); print((d.get("metrics") or d)["ACC_all"])\' > accuracy.txt',
    "predictions": f"F=$({FINETUNE} --json {ID}) && I=$(mae run inference --parent $F --inference-dataset flat --wait --json {ID})"
    " && cp mae-results/$I/inference/results.csv results.csv",
    "class-count-recovery": f"{FINETUNE.replace('num_classes=4', 'num_classes=7')} || {FINETUNE}",
    "typo-recovery": "mae validate train -e spec.yaml; sed -i 's/num_epoch:/num_epochs:/; s/lr: fast/lr: 2.0e-4/' spec.yaml && mae validate train -e spec.yaml",
    "corrupt-archive": "if mae inspect broken.tar.gz; then echo yes > answer.txt; else echo no > answer.txt; fi",
    "negative-unlabelled": f"{FINETUNE.replace('labelled', 'flat')} 2> reason.txt",
    "negative-other-model": "echo no > answer.txt",
    "cancel": f"J=$({PRETRAIN.replace(' --wait', '').replace('num_epochs=1', 'num_epochs=10000')} --json {ID}) && sleep 1 && mae jobs cancel $J && "
    "mae jobs wait $J; true",
    "shared-images": f"mae inspect labelled --other twins --json {SHARED}",
    "new-class": "mae inspect labelled --other newcomers > said.txt; echo 4 > answer.txt",
    "bits-of-scans": "mae inspect scans > said.txt; echo 12 > answer.txt",
    "train-on-scans": f"{PRETRAIN.replace('flat', 'scans')} dataset.channels=1 dataset.value_range=auto",
    "damaged-count": f"mae inspect damaged --json {UNREADABLE}; true",
    "damaged-recovery": f"{PRETRAIN.replace('flat', 'damaged')} dataset.max_corrupt_fraction=0.2",
    "classes-from-table": f"{FINETUNE.replace('labelled', 'flat').replace('num_classes=4', 'num_classes=2')} dataset.labels.train=labels.csv",
    "two-archives": PRETRAIN.replace(
        "--train-datasets flat",
        "--train-datasets first.tar.gz --train-datasets second.tar.gz",
    )
    + " && echo 25 > answer.txt",
    "timm-folder": f"F=$({FINETUNE} --json {ID}) && E=$(mae run export --parent $F --wait --json export.format=timm {ID})"
    " && cp -r $(dirname $(find mae-results/$E -name model.safetensors)) for-timm",
    "page-to-mail": f"J=$({PRETRAIN} --json {ID}) && mae report $J -o report.html",
    "best-of-three": " && ".join(
        f"{FINETUNE.replace('num_epochs=1', 'num_epochs=2')} --eval-dataset val train.optim.lr={lr}"
        for lr in ("1e-6", "1e-3", "3e-3")
    )
    + f" && mae jobs list --sort best --limit 1 --json {FIRST} > best.txt",
    "other-cluster": "mae plan train --automl-policy off --on 8xA100-80G --images 1.28M --price 2.5/gpuh --json "
    "stage=pretrain arch=vit_base_patch16 > plan.json",
    "embeddings": f"J=$({PRETRAIN} --json {ID}) && I=$(mae run inference --parent $J --inference-dataset flat --wait --json {ID})"
    " && cp $(find mae-results/$I -name 'embeddings.npy') embeddings.npy",
    "just-train": FINETUNE,
    "three-trials": FINETUNE.replace("--automl-policy off", "--automl max_trials=3"),
    "segmentation": "mae run train --train-datasets scenes --eval-dataset scenes --automl-policy off --wait stage=finetune "
    "task=segmentation model.num_classes=11 model.arch=vit_tiny_patch16 dataset.augmentation.input_size=48 num_epochs=1",
    "small-patches": f"{PRETRAIN} model.patch_size=4",
    "twice-with-a-change": f"{PRETRAIN} && {PRETRAIN} train.mask_ratio=0.6",
    "eight-gpus": f"{PRETRAIN} train.num_gpus=8 train.accelerator=gpu 2> reason.txt",
    "default-of-a-field": "mae explain model.mask_ratio && echo 0.75 > answer.txt",
    "secret-stays-secret": f"export WANDB_API_KEY={KEY}; {PRETRAIN}",
    "weights-of-a-stranger": f"{FINETUNE} --ptm stranger.pth 2> reason.txt",
    "steps-per-epoch": f"{PRETRAIN.replace('run', 'plan').replace(' --wait', '')} dataset.batch_size=5 && echo 5 > answer.txt",
    "nearest-pictures": f"J=$({PRETRAIN} --json {ID}) && I=$(mae run inference --parent $J --inference-dataset flat --wait --json inference.neighbors=2 {ID})"
    " && cp $(find mae-results/$I -name 'neighbors.csv') neighbors.csv",
    "clean-up": f"{FINETUNE} && J=$({PRETRAIN.replace(' --wait', '').replace('num_epochs=1', 'num_epochs=5000')} --json {ID}) && "
    "mae jobs cancel $J && (mae jobs wait $J; mae jobs delete $J)",
}
WRONG = {
    "inspect-counts": 'echo \'{"images": 41, "classes": 4}\' > answer.json',
    "template": "mae get-spec train -o spec.yaml",  # the defaults, not what was asked for
    "plan-only": f"mae plan train --train-datasets flat --automl-policy off --json {ARCH} > plan.json && {PRETRAIN}",
    "pretrain-plain": PRETRAIN.replace(
        "--automl-policy off", "--automl max_trials=1"
    ),  # searched, though plain training was asked for
    "no-hpo-words": FINETUNE.replace("--automl-policy off", "--automl max_trials=1"),
    "automl-default": FINETUNE,  # plain, though nobody said so
    "pretrain-then-onnx": f"P=$({PRETRAIN} --json {ID}) && E=$(mae run export --parent $P --wait --json {ID})"
    " && cp mae-results/$E/export/model.onnx model.onnx",  # the pretrained model, never fine-tuned
    "evaluate-accuracy": "echo 0.87 > accuracy.txt",  # made up
    "predictions": "printf 'path,label,probability\\n' > results.csv",
    "class-count-recovery": FINETUNE.replace("num_classes=4", "num_classes=7"),  # gives up
    "typo-recovery": "printf 'dataset: {train_data_sources: flat}\\n' > spec.yaml",  # valid, and all that it said is gone
    "corrupt-archive": "echo yes > answer.txt",
    "negative-unlabelled": f"echo 'no labels' > reason.txt; {PRETRAIN}",  # trains something else
    "negative-other-model": f"echo no > answer.txt; mkdir -p d && mae run train --train-datasets notes.txt {ARCH}; echo yes > answer.txt",
    "cancel": f"{PRETRAIN.replace(' --wait', '').replace('num_epochs=1', 'num_epochs=10000')}",  # left running
    "shared-images": "echo 12 > answer.txt",  # the images of twins/ that are not
    "new-class": "echo 3 > answer.txt",
    "bits-of-scans": "echo 16 > answer.txt",  # what the file could hold
    "train-on-scans": f"{PRETRAIN.replace('flat', 'scans')} dataset.value_range=auto",  # three channels
    "damaged-count": "echo 2 > answer.txt",
    "damaged-recovery": f"rm damaged/04.jpg damaged/09.jpg damaged/15.jpg; {PRETRAIN.replace('flat', 'damaged')}",  # took files away
    "classes-from-table": f"{FINETUNE.replace('labelled', 'flat')}",
    "two-archives": f"{PRETRAIN.replace('flat', 'first.tar.gz')}; echo 14 > answer.txt",
    "timm-folder": f"F=$({FINETUNE} --json {ID}) && E=$(mae run export --parent $F --wait --json {ID}) && mkdir for-timm",
    "page-to-mail": PRETRAIN,
    "best-of-three": f"{FINETUNE} --eval-dataset val; mae jobs list --limit 1 --json {FIRST} > best.txt",
    "other-cluster": "echo 'about 100 dollars' > plan.json",
    "embeddings": f"{PRETRAIN}; python -c 'import numpy; numpy.save(\"embeddings.npy\", numpy.zeros((25, 192)))'",
    "just-train": FINETUNE.replace("--automl-policy off", "--automl max_trials=1"),
    "three-trials": FINETUNE,
    "segmentation": f"{PRETRAIN.replace('flat', 'scenes/images/training')}",
    "small-patches": PRETRAIN,
    "twice-with-a-change": PRETRAIN,
    "eight-gpus": f"{PRETRAIN}; echo none > reason.txt",  # trained on the CPU instead
    "default-of-a-field": "echo 0.6 > answer.txt",
    "secret-stays-secret": f"{PRETRAIN} && echo {KEY} > mae-results/key.txt",
    "weights-of-a-stranger": f"{FINETUNE}; echo 'they do not fit' > reason.txt",
    "steps-per-epoch": "echo 4 > answer.txt",
    "nearest-pictures": f"{PRETRAIN}; touch neighbors.csv",
    "clean-up": f"{FINETUNE} && J=$({PRETRAIN.replace(' --wait', '').replace('num_epochs=1', 'num_epochs=5000')} --json {ID}) && "
    "mae jobs cancel $J; mae jobs wait $J",
}


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    return evals_runner()


def test_the_two_scripts_cover_every_task() -> None:
    assert set(RIGHT) == set(WRONG) == set(TASKS)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("how", ["right", "wrong"])
@pytest.mark.parametrize("task", list(TASKS))
def test_the_grader_accepts_the_work_and_refuses_the_likely_mistake(
    runner: ModuleType, tmp_path: Path, task: str, how: str
) -> None:
    script = tmp_path / "agent.sh"
    script.write_text({"right": RIGHT, "wrong": WRONG}[how][task] + "\n")
    folder = tmp_path / "place"
    folder.mkdir()
    runner.prepare(TASKS[task], folder)
    assert runner.effort(TASKS[task], folder)["commands"] == 0
    said = runner.ask(f"bash {script} {{prompt}}", TASKS[task]["prompt"], folder, 600)
    problems = [
        problem for expected in TASKS[task]["expect"] if (problem := runner.grade(expected, folder))
    ]
    cost = runner.effort(TASKS[task], folder)
    runner.put_away(folder)
    assert not folder.exists()
    if how == "right":
        assert cost["commands"] <= 6 and cost["wrong_launches"] == 0, cost
    assert (problems == []) == (how == "right"), f"{problems}\n{said[-3000:]}"
