"""What a first line and a job cost: import, plan, create → COMPLETE of a runner that does next to
nothing, a list of 5,000 jobs.

``python benchmarks/sdk.py`` prints a JSON object of medians in milliseconds beside their targets.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def median_ms(call: Callable[[], object], times: int) -> float:
    """Median duration of a call."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append((time.perf_counter() - began) * 1e3)
    return round(statistics.median(found), 1)


def main() -> None:
    """Measure and print."""
    from mae_sdk import Skill
    from mae_sdk.jobs import records

    from tests.support.images import write_flat
    from tests.support.toy_bundle.make import write_bundle

    def python(*words: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *words], check=True, capture_output=True)

    bare = median_ms(python("-c", "pass"), 7)
    found = {
        "import_over_bare_python": (
            round(median_ms(python("-c", "import mae_sdk"), 7) - bare, 1),
            150,
        )
    }
    found["mae_help"] = (median_ms(python("-m", "mae_sdk.cli.main", "--help"), 7), 300)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        toy = Skill(write_bundle(base / "bundle"))
        write_flat(base / "data/pictures")
        options = {
            "train_datasets": str(base / "data"),
            "automl_policy": "off",
            "results_root": str(base / "r"),
        }
        toy.create_job("train", **options).wait(30)
        # The report is written by a process of its own before a job says that it has ended.
        for name, report, target in (
            ("create_to_complete_toy", "off", 150),
            ("create_to_complete_toy_with_its_report", "on", 500),
        ):
            os.environ["MAE_REPORT"] = report
            found[name] = (
                median_ms(lambda: toy.create_job("train", **options).wait(30), 9),
                target,
            )
        job = toy.create_job("train", **options).wait(30)
        found["status"] = (median_ms(job.status, 9), 50)
        packaged = Skill()
        found["plan"] = (median_ms(lambda: packaged.plan("train", **options), 5), 300)
        record = {"action": "train", "launch": {}}
        records.new_attempt(record)
        records.advance(record, records.COMPLETE)
        for number in range(5000):
            path = base / "many" / f"train-{number:05d}" / "job.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(record))
        many = {**options, "results_root": str(base / "many")}
        found["plan_beside_5000_jobs"] = (median_ms(lambda: packaged.plan("train", **many), 5), 300)
        found["list_5000_with_states"] = (
            median_ms(lambda: [job.state for job in toy.jobs(results_root=base / "many")], 3),
            1000,
        )
    print(
        json.dumps(
            {name: {"ms": value, "target_ms": target} for name, (value, target) in found.items()},
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
