"""Several nodes of one job: ``python -m mae_sdk.run.nodes ENGINE … -- COMMAND``.

The supervisor runs this in place of the ranks. ``srun``, or an actor of Ray, is started once on
every node, and each starts its ranks of the command with the variables that name the nodes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from mae_sdk.run.process_group import (
    PREEMPTED_EXIT,
    child_environment,
    die_with_parent,
    free_port,
    run_ranks,
    start_and_watch,
)

_KILLED = (128 + 9, 128 + 15, -9, -15)  # SIGKILL, SIGTERM: Windows knows the first by no name


def main(argv: Sequence[str] | None = None) -> int:
    """Start what the words before ``--`` say; its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    end = arguments.index("--")
    (verb, *words), command = arguments[:end], arguments[end + 1 :]
    if verb == "srun":
        return _srun(words, command)
    if verb == "container":
        return _container(words, command)
    if verb == "ranks":  # in a container
        return run_ranks(command, int(words[0]))
    if verb == "ray":
        nodes, processes, gpus, cpus = words
        return _on_ray(command, int(nodes), int(processes), int(gpus), float(cpus))
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
    return _hold(
        ["srun", *options, *task, "--", *command],
        lambda process: process.send_signal(signal.SIGUSR1),
    )


def _container(words: Sequence[str], command: Sequence[str]) -> int:
    """Run ``docker run …`` and, told to stop, end the container before its client is killed.

    The first process of a container may ignore SIGTERM: then it is killed after `grace` seconds.
    """
    program, name, grace = words
    stop = [program, "stop", f"--time={grace}", name]
    return _hold(
        command,
        lambda process: subprocess.Popen(
            stop, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ),
    )


def _hold(command: Sequence[str], tell: Callable[[subprocess.Popen[bytes]], object]) -> int:
    """Run a client whose work is elsewhere; `tell` hands a signal on. It dies with this process.

    Returns:
        Its exit code as a shell's; 75 where it was killed after it was told to stop.
    """
    stopped: list[int] = []
    started: list[subprocess.Popen[bytes]] = []

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        for process in started:
            tell(process)

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, stop)
    prepare = die_with_parent()

    def alone() -> None:
        os.setsid()  # the group gets SIGTERM when the supervisor stops the run
        prepare()

    process = subprocess.Popen(list(command), preexec_fn=alone)
    started.append(process)
    if stopped:  # in between
        tell(process)
    code = process.wait()
    if stopped and code in _KILLED:
        return PREEMPTED_EXIT
    return 128 - code if code < 0 else code


def _on_ray(command: Sequence[str], nodes: int, processes: int, gpus: int, cpus: float) -> int:
    """Run the command on nodes of the Ray cluster that this process is on, one bundle on each.

    Returns:
        The exit code of the node that failed first; 75 when all were preempted.
    """
    ray: Any = import_module("ray")
    strategies: Any = import_module("ray.util.scheduling_strategies")

    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopped.append(number))
    ray.init(address="auto", log_to_driver=True, logging_level="warning")
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):  # it sets its own
        signal.signal(number, lambda number, frame: stopped.append(number))

    bundle = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    group = ray.util.placement_group([bundle] * nodes, strategy="STRICT_SPREAD")
    ray.get(group.ready())
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_concurrency=2)(Node)
    actors = [
        remote.options(
            scheduling_strategy=strategies.PlacementGroupSchedulingStrategy(group, number)
        ).remote()
        for number in range(nodes)
    ]
    host, port = ray.get(actors[0].address.remote())
    inherited = {k: v for k, v in child_environment(os.environ).items() if k not in _OF_RAY}
    place = {**inherited, "WORLD_SIZE": str(nodes), "MASTER_ADDR": host, "MASTER_PORT": str(port)}
    waiting = [
        actor.run.remote(list(command), processes, {**place, "NODE_RANK": str(number)})
        for number, actor in enumerate(actors)
    ]
    codes: list[int] = []
    told = False
    while waiting:
        ready, waiting = ray.wait(waiting, timeout=0.2)
        codes += ray.get(ready)
        if not told and (stopped or any(code not in (0, PREEMPTED_EXIT) for code in codes)):
            told = True
            ray.get([actor.stop.remote() for actor in actors])
    failed = [code for code in codes if code not in (0, PREEMPTED_EXIT)]
    code = failed[0] if failed else max(codes)
    return PREEMPTED_EXIT if stopped and code in _KILLED else code


_OF_RAY = ("CUDA_VISIBLE_DEVICES", "RAY_JOB_ID", "RAY_RAYLET_PID")
"""Variables of the supervisor's process that are not those of another node."""


class Node:
    """The ranks of one node, as an actor of Ray."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def address(self) -> tuple[str, int]:
        """Where rank 0 listens if it is here."""
        ray: Any = import_module("ray")
        return ray.util.get_node_ip_address(), free_port()

    def run(self, command: list[str], processes: int, environment: dict[str, str]) -> int:
        """Run the ranks; the exit code of the first that failed."""
        own = {k: v for k, v in os.environ.items() if k in ("CUDA_VISIBLE_DEVICES",)}
        outcome = start_and_watch(command, processes, {**environment, **own}, stop=self.asked)
        code = outcome.exit_code
        return 128 - code if code < 0 else code

    def stop(self) -> None:
        """Have the ranks save and end."""
        self.asked.append(int(signal.SIGTERM))


if __name__ == "__main__":
    raise SystemExit(main())
