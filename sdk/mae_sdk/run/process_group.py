"""Start the ranks of one run, watch them, stop them together. Standard library only.

Every rank is started here, with the variables that torchelastic would set; no launcher of a
framework is used. What an orchestrator has set is read once and removed, so that no library below
can detect a cluster that we have already accounted for. All ranks and whatever they start form one
process group, which ends as a whole.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mae_skill.errors import UsageError

from mae_sdk.jobs.secrets import redact

PREEMPTED_EXIT = 75
# Schedulers announce a preemption with either of the first two.
# Windows, where no group of processes is started, knows the second by no name.
_STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)
)
GRACE_SECONDS = 30.0
_PEER_GRACE_SECONDS = 5.0
_UNLOGGED = 16 << 10
"""Characters of output that are kept while the log cannot be written."""

_CLUSTER_NAMES = (
    "WORLD_SIZE",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "NUM_GPU_PER_NODE",
    "RANK",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "ROLE_NAME",
    "JSM_NAMESPACE_RANK",
    "JSM_NAMESPACE_SIZE",
)
OF_THE_SITE = ("SLURM_CONF", "SLURM_CLUSTERS")
"""They say which cluster this is, not which job: who submits jobs from a job needs them."""
_CLUSTER_PREFIXES = ("SLURM_", "OMPI_", "PMI_", "PMIX_", "TORCHELASTIC_", "LSB_", "PL_GLOBAL_SEED")
_TASK_COUNTS = {
    "SLURM_STEP_NUM_TASKS": "srun",  # SLURM_NTASKS counts what a job may start, not what runs
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpiexec",
    "JSM_NAMESPACE_SIZE": "jsrun",
}
"""What a launcher tells each of its tasks: how many of them it has started."""


class Cluster(NamedTuple):
    """What the orchestrator set: this node among how many, and where rank 0 listens."""

    nodes: int = 1
    node_rank: int = 0
    master_addr: str | None = None
    master_port: int | None = None
    processes_per_node: int | None = None


class Outcome(NamedTuple):
    """How the ranks ended.

    Attributes:
        exit_code: of the rank that failed first (negative = killed by that signal); 75 = preempted.
        rank: the rank that failed first.
        stopped: whether the ranks were asked to stop.
        unlogged: the end of their output that did not go into the log, since its disk was full.
    """

    exit_code: int
    rank: int | None = None
    stopped: bool = False
    unlogged: str = ""


def read_cluster(environment: Mapping[str, str]) -> Cluster:
    """The orchestrator's variables; ``WORLD_SIZE`` there counts nodes.

    Raises:
        ValueError: one of them is not a number.
    """
    if "RANK" in environment:  # set by us or by torchelastic: counts ranks, not nodes
        return Cluster()
    per_node = environment.get("NUM_GPU_PER_NODE")
    port = environment.get("MASTER_PORT")
    return Cluster(
        nodes=max(1, int(environment.get("WORLD_SIZE") or 1)),
        node_rank=int(environment.get("NODE_RANK") or 0),
        master_addr=environment.get("MASTER_ADDR"),
        master_port=int(port) if port else None,
        processes_per_node=int(per_node) if per_node else None,
    )


def several_tasks(environment: Mapping[str, str], what: str, hint: str) -> UsageError | None:
    """The error of one of several tasks of ``srun`` or ``mpirun`` that nothing joins.

    Tasks that are told which rank, or which node, they are belong together.

    Args:
        what: each task would do, in words.
    """
    named = environment.get("WORLD_SIZE", "")
    if "RANK" in environment or (named.isdigit() and int(named) > 1):
        return None
    for name, launcher in _TASK_COUNTS.items():
        count = environment.get(name, "")
        shell = launcher == "srun" and "SLURM_PTY_PORT" in environment  # has one task's terminal
        if count.isdigit() and int(count) > 1 and not shell:
            return UsageError(
                f"this is one of {count} tasks of {launcher}, and each of them would {what}",
                field=name,
                got=int(count),
                expected="one task, which starts the ranks",
                hint=f"{hint}; where each task is meant to {what}: unset {name} in it",
            )
    return None


def child_environment(
    environment: Mapping[str, str], command: Sequence[str] = ()
) -> dict[str, str]:
    """The environment of a process that we start: `safe_path`, and without every variable from
    which a library could detect a cluster.
    """
    return safe_path(
        {
            k: v
            for k, v in environment.items()
            if k in OF_THE_SITE or (k not in _CLUSTER_NAMES and not k.startswith(_CLUSTER_PREFIXES))
        },
        command,
    )


def safe_path(environment: Mapping[str, str], command: Sequence[str] = ()) -> dict[str, str]:
    """An environment in which no Python imports anything of the folder that it happens to work in.

    A `yaml.py` there is somebody's file, not a library. It holds for every Python from 3.11 on that
    the command starts. A user's ``PYTHONPATH`` holds too; an empty entry of it, which
    ``PYTHONPATH=$PYTHONPATH:/x`` leaves behind, would name that folder and goes.

    Args:
        command: what will run. Python finds the neighbors of a script by the rule that is switched
            off here, so the folder of a script goes into its ``PYTHONPATH``.
    """
    kept = dict(environment)
    entries = [entry for entry in kept.pop("PYTHONPATH", "").split(os.pathsep) if entry]
    script = _script_folder(command)
    if script and script not in entries:
        entries.insert(0, script)
    if entries:
        kept["PYTHONPATH"] = os.pathsep.join(entries)
    return {**kept, "PYTHONSAFEPATH": "1"}


def _script_folder(command: Sequence[str]) -> str | None:
    """Of ``python [options] script.py …``, the folder of the script."""
    if not command or not Path(command[0]).name.startswith(("python", "pypy")):
        return None
    words = iter(command[1:])
    for word in words:
        if word in ("-W", "-X", "--check-hash-based-pycs"):
            next(words, None)
        elif not word.startswith("-"):
            return str(Path(word).resolve().parent)
        elif word == "-" or (word[1] != "-" and set(word) & {"m", "c"}):
            return None
    return None


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def die_with_parent() -> Callable[[], None]:
    """A call that has the kernel kill the child when its parent dies. Only Linux can do that.

    So no rank outlives its supervisor.
    """
    if not sys.platform.startswith("linux"):
        return lambda: None
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return lambda: None
    return lambda: prctl(1, int(signal.SIGKILL), 0, 0, 0) and None


class _Log:
    """Copies the ranks' output line by line into the log, without secrets, naming each rank."""

    def __init__(self, path: Path, secrets: Sequence[str], world: int) -> None:
        self.stream = path.open("ab", buffering=0)
        self.secrets = list(secrets)
        self.prefix = world > 1
        self.rests: dict[int, bytes] = {}
        self.ranks: dict[int, int] = {}
        self.unlogged = ""

    def add(self, descriptor: int, rank: int) -> None:
        os.set_blocking(descriptor, False)
        self.ranks[descriptor] = rank
        self.rests[descriptor] = b""

    def drain(self, descriptor: int) -> bool:
        """Copy what has arrived. False when the pipe has closed."""
        while True:
            try:
                block = os.read(descriptor, 65536)
            except BlockingIOError:
                return True
            if not block:
                self._close(descriptor)
                return False

            whole, newline, rest = (self.rests[descriptor] + block).rpartition(b"\n")
            self.rests[descriptor] = rest
            if newline:
                self._write(whole + newline, self.ranks[descriptor])
            if len(rest) > 1 << 20:
                self._write(rest + b"\n", self.ranks[descriptor])
                self.rests[descriptor] = b""

    def _write(self, block: bytes, rank: int) -> None:
        text = redact(block.decode(errors="replace"), self.secrets)
        if self.prefix:
            text = "".join(f"[rank {rank}] {line}" for line in text.splitlines(keepends=True))
        if not self.unlogged:
            try:
                self.stream.write(text.encode())
                return
            except OSError:  # a full disk must not end a run that may still save
                pass
        self.unlogged = (self.unlogged + text)[-_UNLOGGED:]

    def _close(self, descriptor: int) -> None:
        rest = self.rests.pop(descriptor)
        rank = self.ranks.pop(descriptor)
        if rest:
            self._write(rest + b"\n", rank)
        os.close(descriptor)

    def finish(self) -> None:
        for descriptor in list(self.ranks):
            if self.drain(descriptor):  # still held open by a process that left the group
                self._close(descriptor)
        self.stream.close()


@contextlib.contextmanager
def _signals(stop: list[int]) -> Iterator[int]:
    """Note SIGTERM, SIGUSR1 and SIGINT in `stop`; they and SIGCHLD wake the yielded descriptor."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    if threading.current_thread() is not threading.main_thread():
        try:
            yield reader
        finally:
            os.close(reader)
            os.close(writer)
        return
    old_wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    old = {
        number: signal.signal(number, lambda number, frame: stop.append(number))
        for number in _STOP_SIGNALS
    }
    old[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
    try:
        yield reader
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_wakeup)
        os.close(reader)
        os.close(writer)


@contextlib.contextmanager
def note_signals(stop: list[int]) -> Iterator[None]:
    """Note in `stop` the signals that ask for a stop, for who has more to do than run ranks."""
    with _signals(stop):
        yield


def _shared_variables(cluster: Cluster, nproc: int) -> dict[str, str]:
    """What all `nproc` ranks of this node are told of one another."""
    return {
        "MASTER_ADDR": cluster.master_addr or "127.0.0.1",
        "MASTER_PORT": str(cluster.master_port or free_port()),
        "WORLD_SIZE": str(cluster.nodes * nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
        "NODE_RANK": str(cluster.node_rank),
    }


def start_and_watch(
    command: Sequence[str],
    nproc: int,
    environment: Mapping[str, str],
    *,
    cwd: str | os.PathLike[str] | None = None,
    log: Path | None = None,
    secrets: Sequence[str] = (),
    grace: float = GRACE_SECONDS,
    tick: Callable[[], bool] | None = None,
    tick_seconds: float = 0.5,
    started: Callable[[int], None] | None = None,
    ended: Callable[[int], None] | None = None,
    stop: list[int] | None = None,
    ranked: bool = True,
) -> Outcome:
    """Run `command` as `nproc` ranks of this node and wait for all of them.

    Args:
        command: the argv, the same for every rank.
        environment: of the ranks; the orchestrator's variables in it are read and removed.
        log: where the output goes; None leaves it on this process' own stdout and stderr.
        secrets: values that must not reach the log.
        grace: seconds between SIGTERM and SIGKILL.
        tick: called about every `tick_seconds`; True asks for a stop.
        started: called with the process group's id once all ranks run.
        ended: called with the group's id once all ranks have ended well, before what is left of
            the group is killed.
        stop: the signals that ask for a stop are appended here.
        ranked: tell each process its rank. A runner that starts its own workers must not be told:
            it would take itself for one of them.

    Returns:
        The outcome. A rank that fails takes the others with it. The whole process group is gone on
        return.

    Raises:
        OSError: the command cannot be started.
    """
    cluster = read_cluster(environment)
    base = child_environment(environment, command)
    if ranked:
        base |= _shared_variables(cluster, nproc)
    first_rank = cluster.node_rank * nproc

    stop = [] if stop is None else stop
    end_with_us = die_with_parent()
    sink = None if log is None else _Log(log, secrets, nproc)
    ranks: list[subprocess.Popen[bytes]] = []
    group = 0

    def prepare() -> None:
        os.setpgid(0, group)
        end_with_us()

    with _signals(stop) as wake:
        try:
            for local_rank in range(nproc):
                rank = first_rank + local_rank
                own = {"RANK": str(rank), "LOCAL_RANK": str(local_rank)} if ranked else {}
                process = subprocess.Popen(
                    list(command),
                    env={**base, **own},
                    cwd=cwd,
                    stdin=subprocess.DEVNULL if sink else None,
                    stdout=subprocess.PIPE if sink else None,
                    stderr=subprocess.STDOUT if sink else None,
                    preexec_fn=prepare,
                )
                ranks.append(process)
                group = group or process.pid
                if sink and process.stdout:
                    sink.add(os.dup(process.stdout.fileno()), rank)
                    process.stdout.close()

            if started:
                started(group)
            outcome = _watch(ranks, group, first_rank, sink, wake, stop, grace, tick, tick_seconds)
            if ended and outcome.exit_code == 0 and not outcome.stopped:
                ended(group)
        finally:
            _kill_group(group, signal.SIGKILL)
            for process in ranks:
                process.wait()
            if sink:
                sink.finish()
    return outcome if sink is None else outcome._replace(unlogged=sink.unlogged)


def _watch(
    ranks: list[subprocess.Popen[bytes]],
    group: int,
    first_rank: int,
    sink: _Log | None,
    wake: int,
    stop: list[int],
    grace: float,
    tick: Callable[[], bool] | None,
    tick_seconds: float,
) -> Outcome:
    """Wait for all ranks; stop all of them when one fails or a stop is asked for."""
    failed: tuple[int, int] | None = None  # rank, exit code
    deadline = float("inf")
    asked = False
    next_tick = time.monotonic() + tick_seconds
    while True:
        for local_rank, process in enumerate(ranks):
            code = process.poll() or 0
            # The first failure counts, but a fault explains more than a preemption that it caused.
            counts = failed is None or (failed[1] == PREEMPTED_EXIT != code and not asked)
            if not code or not counts:
                continue

            failed = (first_rank + local_rank, code)
            if code == PREEMPTED_EXIT:  # the others are saving too
                deadline = min(deadline, time.monotonic() + grace)
            elif not asked:  # the others wait for a rank that is gone
                deadline = min(deadline, time.monotonic() + min(grace, _PEER_GRACE_SECONDS))
                _kill_group(group, signal.SIGTERM)

        if all(process.returncode is not None for process in ranks):
            rank, code = failed or (None, 0)
            return Outcome(code, rank, stopped=asked)

        moment = time.monotonic()
        if tick and moment >= next_tick:
            next_tick = moment + tick_seconds
            if tick() and not stop:
                stop.append(0)
        if stop and not asked:
            asked = True
            deadline = moment + grace
            _kill_group(group, signal.SIGTERM)
        if moment >= deadline:
            _kill_group(group, signal.SIGKILL)
            deadline = moment + 1.0

        # Sleep until a signal, output of a rank, the next tick or the deadline.
        pause = min(0.5, deadline - moment, next_tick - moment if tick else 0.5)
        pipes = list(sink.ranks) if sink else []
        readable, _, _ = select.select([wake, *pipes], [], [], max(0.0, pause))
        if wake in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
        for descriptor in pipes:
            if sink and descriptor in readable:
                sink.drain(descriptor)


def _kill_group(group: int, number: int) -> None:
    if group:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)


def run_ranks(
    command: Sequence[str], nproc: int, env: Mapping[str, str] | None = None, **options: Any
) -> int:
    """Run a command as `nproc` ranks in the foreground.

    Returns:
        A shell's exit code: 128 + signal when a rank was killed.
    """
    stop: list[int] = []
    outcome = start_and_watch(
        command, nproc, os.environ if env is None else env, stop=stop, **options
    )
    if outcome.exit_code not in (0, PREEMPTED_EXIT) and signal.SIGINT in stop:
        return 130
    return 128 - outcome.exit_code if outcome.exit_code < 0 else outcome.exit_code
