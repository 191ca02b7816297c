"""Several nodes of one job: ``python -m mae_sdk.run.nodes ENGINE … -- COMMAND``.

The supervisor runs on the first node. There ``srun`` starts this module once on every node, and
each starts its ranks of the command with the variables that name the nodes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from mae_sdk.run.process_group import (
    PREEMPTED_EXIT,
    child_environment,
    die_with_parent,
    free_port,
    run_ranks,
)

_KILLED = (128 + signal.SIGKILL, 128 + signal.SIGTERM, -signal.SIGKILL, -signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Start what the words before ``--`` say; its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    end = arguments.index("--")
    (verb, *words), command = arguments[:end], arguments[end + 1 :]
    if verb == "srun":
        return _srun(words, command)
    if verb == "task":
        processes, port = words
        return run_ranks(command, int(processes), of_slurm(os.environ, int(port)))
    raise ValueError(f"no such verb: {verb}")


def of_slurm(environment: Mapping[str, str], port: int) -> dict[str, str]:
    """The environment of a task of ``srun``, with the variables that name the nodes.

    The first node is the one that ``srun`` was called on.
    """
    return {
        **child_environment(environment),  # what the supervisor set for its one process goes
        "WORLD_SIZE": environment["SLURM_STEP_NUM_NODES"],
        "NODE_RANK": environment["SLURM_NODEID"],
        "MASTER_ADDR": environment["SLURM_LAUNCH_NODE_IPADDR"],
        "MASTER_PORT": str(port),
    }


def _srun(words: Sequence[str], command: Sequence[str]) -> int:
    """Run ``srun WORDS``, whose tasks are this module again.

    ``srun`` answers SIGTERM by killing its tasks; SIGUSR1 it passes on, and to the ranks both mean
    the same. When SLURM itself ends the job, ``srun`` gets SIGTERM with all others: then the tasks
    may be gone before they have saved, and the run goes on from its newest checkpoint.
    """
    *options, processes = words
    task = [sys.executable, "-m", "mae_sdk.run.nodes", "task", processes, str(free_port())]
    stopped: list[int] = []
    started: list[subprocess.Popen[bytes]] = []

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        for process in started:
            process.send_signal(signal.SIGUSR1)

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, stop)
    prepare = die_with_parent()

    def alone() -> None:
        os.setsid()  # the group gets SIGTERM when the supervisor stops the run
        prepare()

    process = subprocess.Popen(["srun", *options, *task, "--", *command], preexec_fn=alone)
    started.append(process)
    if stopped:  # in between
        process.send_signal(signal.SIGUSR1)
    code = process.wait()
    if stopped and code in _KILLED:
        return PREEMPTED_EXIT
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    raise SystemExit(main())
