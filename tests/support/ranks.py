"""Runs on several ranks without paying for a cold start of each: one process imports everything, then forks the ranks of every run.

As a program it reads ``[{"spec": path, "world": n}, …]`` from standard input, runs them one after another and writes their exit codes.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

#: what a run imports on its way, paid for once
PRELOAD = (
    "mae_runners.actions.train",
    "mae_skill.bundle",
    "mae_skill.knowledge",
    "mae_skill.validate",
    "mae_skill.merge",
    "mae_skill.spec",
)
PRELOAD += ("torch.utils.tensorboard", "torch._dynamo", "mae_sdk.data", "mae_sdk.jobfolder.status")


def train_on_ranks(*runs: tuple[dict[str, Any], int], timeout: float = 250) -> tuple[list[list[int]], str]:
    """Trains every ``(spec, number of ranks)`` in turn. Returns the exit codes of the ranks of each run, and all they printed.

    Every rank leaves the images that it trained on in ``<results_dir>/seen-<world>-<rank>.jsonl``; see `seen`.
    """
    from tests.support.training import write_spec

    asked = []
    for number, (made, world) in enumerate(runs):
        folder = Path(made["results_dir"])
        asked.append({"spec": str(write_spec(made, folder.parent / f"{folder.name}.{number}.json")), "world": world})
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(asked),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def seen(results: Path, world: int, epoch: int, batches: int | None = None) -> list[int]:
    """The images of one epoch's first micro-batches that the ranks of a run trained on, sorted."""
    found: list[int] = []
    for rank in range(world):
        lines = [json.loads(line) for line in (results / f"seen-{world}-{rank}.jsonl").read_text().splitlines()]
        found += [index for _, indices in [line for line in lines if line[0] == epoch][:batches] for index in indices]
    return sorted(found)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _serve() -> None:
    for name in PRELOAD:
        importlib.import_module(name)
    from mae_runners.__main__ import main
    from mae_runners.training import task

    whole = task.Task.train_loader

    def recorded(self: Any, epoch: int, place: int, workers: int | None = None) -> Any:
        seen = Path(self.context.results_dir) / f"seen-{self.context.world_size}-{self.context.rank}.jsonl"
        for batch in whole(self, epoch, place, workers):
            with seen.open("a") as file:
                file.write(json.dumps([epoch, batch["index"][batch["valid"]].tolist()]) + "\n")
            yield batch

    task.Task.train_loader = recorded  # type: ignore[method-assign]
    codes = []
    for run in json.load(sys.stdin):
        port, pids = _free_port(), []
        for rank in range(run["world"]):
            pid = os.fork()
            if pid == 0:
                world = str(run["world"])
                names = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
                os.environ.update({**names, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if run["world"] > 1 else {})
                code = 1
                try:
                    code = main(["train", "-e", run["spec"]])
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            pids.append(pid)
        codes.append([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])
    print(json.dumps(codes))


if __name__ == "__main__":
    _serve()
