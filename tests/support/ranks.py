"""Runs on several ranks without paying for a cold start of each: one process imports everything,
then forks the ranks of every run.

As a program it reads lines of ``[{"spec": path, "world": n, "env": {…}}, …]`` from standard input,
does the runs of a line one after another and answers with a line of their exit codes and what they
printed.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

#: what a run imports on its way, paid for once
PRELOAD = (
    "mae_runners.actions.train",
    "mae_skill.bundle",
    "mae_skill.knowledge",
    "mae_skill.schema_check",
    "mae_skill.merge",
    "mae_skill.spec",
)
PRELOAD += ("torch.utils.tensorboard", "torch._dynamo", "mae_sdk.data", "mae_sdk.jobs.status")


_server: subprocess.Popen[str] | None = None


def train_on_ranks(*runs: tuple[dict[str, Any], int]) -> tuple[list[list[int]], str]:
    """Trains every ``(spec, number of ranks)`` in turn. Returns the exit codes of the ranks of each
    run, and all they printed.

    Every rank writes the images that it trained on into
    ``<results_dir>/seen-<world>-<rank>.jsonl``; see `seen`.
    """
    from tests.support.training import write_spec

    asked = []
    for number, (made, world) in enumerate(runs):
        folder = Path(made["results_dir"])
        own = {name: value for name, value in os.environ.items() if name.startswith("MAE_")}
        asked.append(
            {
                "spec": str(write_spec(made, folder.parent / f"{folder.name}.{number}.json")),
                "world": world,
                "env": own,
            }
        )
    global _server
    if _server is None or _server.poll() is not None:
        _server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
        )
        atexit.register(_server.kill)
    assert _server.stdin and _server.stdout
    _server.stdin.write(json.dumps(asked) + "\n")
    _server.stdin.flush()
    answer = _server.stdout.readline()
    assert answer, "the process that starts the ranks has ended"
    codes, told = json.loads(answer)
    return codes, told


def seen(results: Path, world: int, epoch: int, batches: int | None = None) -> list[int]:
    """The images of one epoch's first micro-batches that the ranks of a run trained on, sorted."""
    found: list[int] = []
    for rank in range(world):
        lines = [
            json.loads(line)
            for line in (results / f"seen-{world}-{rank}.jsonl").read_text().splitlines()
        ]
        found += [
            index
            for _, indices in [line for line in lines if line[0] == epoch][:batches]
            for index in indices
        ]
    return sorted(found)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _serve() -> None:
    for name in PRELOAD:
        importlib.import_module(name)
    from mae_runners.__main__ import main
    from mae_runners.tasks.base import Task

    whole = Task.train_loader

    def recorded(self: Any, epoch: int, place: int, workers: int | None = None) -> Any:
        seen = (
            Path(self.context.results_dir)
            / f"seen-{self.context.world_size}-{self.context.rank}.jsonl"
        )
        for batch in whole(self, epoch, place, workers):
            with seen.open("a") as file:
                file.write(json.dumps([epoch, batch["index"][batch["valid"]].tolist()]) + "\n")
            yield batch

    Task.train_loader = recorded  # type: ignore[method-assign]
    for line in sys.stdin:
        codes, told = [], ""
        for run in json.loads(line):
            port = _free_port()
            with tempfile.TemporaryFile("w+") as output:
                pids = [
                    _fork(main, run, rank, port, output.fileno()) for rank in range(run["world"])
                ]
                codes.append([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])
                output.seek(0)
                told += output.read()
        print(json.dumps([codes, told]), flush=True)


def _fork(main: Any, run: dict[str, Any], rank: int, port: int, output: int) -> int:
    """One rank of a run, its output in a file; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    ctypes.CDLL(None).prctl(
        1, int(signal.SIGKILL), 0, 0, 0
    )  # no rank outlives the test that asked for it
    world, code = str(run["world"]), 1
    for number in (1, 2):
        os.dup2(output, number)
    os.environ.update(run["env"])
    if run["world"] > 1:
        os.environ.update(
            {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": world,
                "LOCAL_WORLD_SIZE": world,
            }
        )
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    try:
        code = main(["train", "-e", run["spec"]])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
