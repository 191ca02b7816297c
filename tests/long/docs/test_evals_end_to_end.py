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
    said = runner.ask(f"bash {script} {{prompt}}", TASKS[task]["prompt"], folder, 600)
    problems = [
        problem for expected in TASKS[task]["expect"] if (problem := runner.grade(expected, folder))
    ]
    runner.put_away(folder)
    assert not folder.exists()
    assert (problems == []) == (how == "right"), f"{problems}\n{said[-3000:]}"
