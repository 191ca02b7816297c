"""The evals can be passed and can be failed: the runner grades what is on disk."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.docs import ROOT, evals_runner


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    return evals_runner()


def test_there_are_twenty_triggers_half_of_them_near_misses_and_forty_tasks() -> None:
    triggers = json.loads((ROOT / "evals" / "triggers.json").read_text())
    assert len({item["query"] for item in triggers}) == 20
    assert sum(item["fires"] for item in triggers) == 10
    tasks = json.loads((ROOT / "evals" / "tasks.json").read_text())
    assert len({task["id"] for task in tasks}) == 40
    assert all(task["expect"] and task["launches"] >= 0 for task in tasks)


def test_an_agent_that_does_the_work_passes_and_one_that_only_talks_fails(
    runner: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = 'import json; json.dump(dict(images=40, classes=4), open("answer.json", "w"))'
    worker = f"""{sys.executable} -c '{answer}' {{prompt}}"""
    assert runner.run_tasks(worker, "inspect-counts", 60, False)
    talker = f"""{sys.executable} -c 'print("40 images in 4 classes")' {{prompt}}"""
    assert not runner.run_tasks(talker, "inspect-counts", 60, False)
    said = capsys.readouterr().out
    assert "FAIL  inspect-counts" in said
    assert "0 of 1 tasks passed; 0 commands in the median (goal: 6), 0 refused" in said


def test_calls_refusals_and_needless_jobs_are_counted(runner: ModuleType, tmp_path: Path) -> None:
    task = {"id": "x", "data": [], "launches": 0}
    script = tmp_path / "agent.sh"
    script.write_text("mae explain model.mask_ratio; mae explain no.such; mae explain arch\n")
    runner.ask(f"bash {script} {{prompt}}", "p", tmp_path, 60)
    expected = {"commands": 3, "refused": 1, "wrong_launches": 0}
    assert runner.effort(task, tmp_path) == expected

    record = tmp_path / "mae-results" / "train-0123456789ab" / "job.json"
    record.parent.mkdir(parents=True)
    attempt = {"number": 1, "state": "COMPLETE", "transitions": []}
    content = {"id": "train-0123456789ab", "action": "train", "kind": "plain", "launch": {}}
    record.write_text(json.dumps({**content, "attempts": [attempt]}))
    assert runner.effort(task, tmp_path)["wrong_launches"] == 1


def test_a_task_folder_holds_the_installed_skill_and_its_data(
    runner: ModuleType, tmp_path: Path
) -> None:
    runner.prepare({"data": ["labelled", "flat"], "write": {"a.txt": "x"}}, tmp_path)
    assert (tmp_path / ".agents/skills/tao-train-mask-auto-encoder/SKILL.md").is_file()
    assert len(list((tmp_path / "labelled").rglob("*.png"))) == 40
    assert len(list((tmp_path / "flat").glob("*.png"))) == 25


def test_a_prompt_with_quotes_reaches_the_agent_as_one_argument(
    runner: ModuleType, tmp_path: Path
) -> None:
    prompt = 'it\'s $(touch hacked) "quoted"; rm x'
    shown = runner.ask(
        f"{sys.executable} -c 'import sys; print(sys.argv[1:])' {{prompt}}", prompt, tmp_path, 60
    )
    assert shown.strip() == repr([prompt])
    assert not (tmp_path / "hacked").exists()


def test_triggers_are_passed_by_an_agent_that_tells_them_apart_and_failed_by_one_that_always_fires(
    runner: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    knows = tmp_path / "knows.py"
    knows.write_text(
        "import json, sys\n"
        f"items = json.load(open({str(ROOT / 'evals' / 'triggers.json')!r}))\n"
        "fires = {item['query']: item['fires'] for item in items}\n"
        "query = sys.argv[1].rpartition('Request: ')[2]\n"
        f"print({runner.SKILL!r} if fires[query] else 'none')\n"
    )
    assert runner.run_triggers(f"{sys.executable} -S {knows} {{prompt}}", 60)
    assert not runner.run_triggers(
        f"{sys.executable} -S -c 'print({json.dumps(runner.SKILL)})' {{prompt}}", 60
    )
    assert "10 of 20 triggers right" in capsys.readouterr().out
