"""Eight processes at one record: it stays whole, nothing is lost, and one runner runs at a time."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_skill.errors import MaeError

from tests.support.jobs import start, wait_until

SECONDS = 1.5
ALONE = "exec 9> alone; flock -n 9 || touch overlap; sleep 0.05"


def _meddle(folder: Path, seed: int, barrier: Any, found: Any) -> None:
    chance, job = random.Random(seed), Job(folder)
    counted, faults = 0, []
    barrier.wait()
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            what = chance.randrange(5)
            if what == 0:
                job.cancel(wait=0.1)
            elif what == 1:
                job.resume()
            elif what == 2:
                records.update_record(
                    folder, lambda record: record.update(count=record.get("count", 0) + 1)
                )
                counted += 1
            else:
                assert job.state in ("PENDING", "RUNNING", "COMPLETE", "ERROR", "CANCELED")
                assert isinstance(json.loads((folder / "job.json").read_text())["attempts"], list)
        except MaeError as error:  # a complete job cannot be resumed: said cleanly
            if error.exit_code != 2:
                faults.append(repr(error))
        except Exception as error:
            faults.append(repr(error))
    found.put((counted, faults))


def test_eight_processes_that_update_cancel_and_resume_one_job_never_corrupt_it(
    tmp_path: Path,
) -> None:
    job = start(tmp_path, ALONE + "; [ $MAE_ATTEMPT -gt 500 ]", cwd=str(tmp_path))
    context = multiprocessing.get_context("fork")
    barrier, found = context.Barrier(8), context.Queue()
    racers = [
        context.Process(target=_meddle, args=(job.folder, seed, barrier, found))
        for seed in range(8)
    ]
    for racer in racers:
        racer.start()
    reports = [found.get(timeout=120) for _ in racers]
    for racer in racers:
        racer.join()
    assert [fault for _, faults in reports for fault in faults] == []
    wait_until(lambda: job.state in ("ERROR", "CANCELED"), 60)
    record = job.record
    assert record["count"] == sum(counted for counted, _ in reports)
    attempts = record["attempts"]
    assert [attempt["number"] for attempt in attempts] == list(range(1, len(attempts) + 1)) and len(
        attempts
    ) > 1
    for attempt in attempts:
        states = [step["state"] for step in attempt["transitions"]]
        assert (
            states[0] == "PENDING"
            and states[-1] == attempt["state"]
            and attempt["state"] in ("ERROR", "CANCELED")
        ), states
        assert len(states) == len(set(states)) <= 3
    assert not (tmp_path / "overlap").exists()
    assert [path.name for path in job.folder.iterdir() if path.name.startswith(".job.json.")] == []
