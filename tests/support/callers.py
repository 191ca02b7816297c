"""A caller that creates one job with one key, in this process or in one that dies at a place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mae_sdk import Skill
from mae_sdk.job import Job
from mae_sdk.jobs.root import Root
from mae_sdk.storage import transfer

from tests.support.images import write_imagefolder
from tests.support.toy_bundle.make import write_bundle

CALLER = """
import json, os, sys
from mae_sdk import Skill, launch
from mae_sdk.jobs import sync
bundle, place, options = json.loads(sys.argv[1])

def die(owner, name, after):
    whole = getattr(owner, name)
    def dying(*args, **more):
        if after:
            whole(*args, **more)
        os._exit(9)
    setattr(owner, name, dying)

{"claimed": lambda: die(sync, "claim", True),
 "written": lambda: die(launch, "submit", False),
 "taken over": lambda: die(sync, "take_over", True),
 "replaced": lambda: die(sync, "replace_record", True)}[place]()
Skill(bundle).create_job("train", **options)
"""


class Caller:
    """Creates the job.

    Args:
        base: a folder for its bundle and its data.
        root: the results root.
    """

    def __init__(self, base: Path, root: str) -> None:
        self.bundle = write_bundle(base / "bundle")
        data = write_imagefolder(base / "data" / "pictures", classes=2, per_class=1).parent
        self.options: dict[str, Any] = {
            "train_datasets": str(data),
            "automl_policy": "off",
            "results_root": root,
            "idempotency_key": "once",
        }

    def dies(self, place: str) -> None:
        arguments = json.dumps([str(self.bundle), place, self.options])
        done = subprocess.run([sys.executable, "-c", CALLER, arguments], capture_output=True)
        assert done.returncode == 9, done.stderr

    def calls(self) -> Job:
        return Skill(self.bundle).create_job("train", **self.options)


def lose_the_machine(root: str) -> str:
    """The job's caller was on a machine that is gone; its id."""
    (job_id,) = Root(root).ids()
    url = f"{root}/{job_id}/job.json"
    record = json.loads(transfer.read_bytes(url))
    record["claimed"]["process"]["host"] = "another-machine"
    transfer.write_bytes(url, json.dumps(record).encode())
    return job_id


RACER = """
import json, sys
from mae_sdk import Skill
bundle, options = json.loads(sys.argv[1])
skill = Skill(bundle)
print("ready", flush=True)
sys.stdin.readline()
print(skill.create_job("train", **options).id)
"""


def race(
    bundle: Path, options: Mapping[str, Any], environments: Sequence[Mapping[str, str]]
) -> list[str]:
    """The ids that clients get which create a job at the same moment, one per environment."""
    arguments = json.dumps([str(bundle), dict(options)])
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, arguments],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    for client in clients:
        assert client.stdout is not None and client.stdout.readline() == "ready\n"
    for client in clients:
        assert client.stdin is not None
        client.stdin.write("go\n")
        client.stdin.flush()
    return [client.communicate(timeout=120)[0].strip() for client in clients]
