"""A SLURM cluster of two nodes on this machine, every daemon on loopback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mae_sdk.job import Job
from mae_sdk.jobs import records

from tests.support.platforms import Place
from tests.support.s3 import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
PATHS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])

CONF = """\
ClusterName=mae
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A job that is started again waits as long as its former credentials are good.
AuthInfo=socket={home}/munge/socket,cred_expire=6
CredType=cred/munge
SlurmctldPort={port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool-%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd-%n.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=20
MinJobAge=300
JobRequeue=1
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdTimeout=300
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={port1} CPUs={cpus} RealMemory=4000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={port2} CPUs={cpus} RealMemory=4000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why there can be no cluster here; None where there can."""
    lacking = [name for name in PROGRAMS if shutil.which(name, path=PATHS) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)} (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "slurmd starts jobs of others as root only"


class SlurmPlace(Place):
    """The platform ``slurm`` over a cluster of its own.

    Args:
        home: the folder of the cluster; a short path, for its sockets.
        cpus: of each of its two nodes, and so the jobs that it runs at a time.
    """

    name = "slurm"
    starts_again = True

    def __init__(self, home: Path, cpus: int = 8) -> None:
        super().__init__()
        self.home, self.cpus = home, cpus
        self.environment = {"SLURM_CONF": str(home / "slurm.conf"), "PATH": PATHS}

    def call(self, *command: str) -> str:
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    @contextmanager
    def engine(self) -> Iterator[None]:
        """Start the daemons, and stop them."""
        self.home.mkdir(mode=0o755, exist_ok=True)
        for name in ("state", "munge", "spool-n1", "spool-n2"):
            (self.home / name).mkdir(mode=0o755, exist_ok=True)
        ports = {name: free_port() for name in ("port", "port1", "port2")}
        text = CONF.format(home=self.home, cpus=self.cpus, user="root", **ports)
        (self.home / "slurm.conf").write_text(text)
        munge = self.home / "munge"
        (munge / "key").touch(mode=0o400)
        (munge / "key").write_bytes(os.urandom(1024))
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
        files["seed-file"] = "seed"
        self.call("munged", "--force", *(f"--{k}={munge / v}" for k, v in files.items()))
        try:
            self.start_controller()
            for node in ("n1", "n2"):
                self.call("slurmd", "-N", node)
            deadline = time.monotonic() + 60
            while "idle idle" not in " ".join(self.call("sinfo", "-hN", "-o", "%T").split()):
                assert time.monotonic() < deadline, self.call("sinfo", "-N", "-l")
                time.sleep(0.2)
            yield
        finally:
            subprocess.run(
                ["scancel", "--me", "--quiet"], env={**os.environ, **self.environment}, timeout=60
            )
            for name in ("slurmd-n1.pid", "slurmd-n2.pid", "slurmctld.pid", "munge/pid"):
                stop(self.home / name)

    def start_controller(self) -> None:
        self.call("slurmctld")

    def stop_controller(self) -> None:
        stop(self.home / "slurmctld.pid")

    @contextmanager
    def configured(self, name: str, value: str) -> Iterator[None]:
        """With another value of a setting of the controller."""
        path = self.home / "slurm.conf"
        before = path.read_text()
        path.write_text(re.sub(rf"(?m)^{name}=.*$", f"{name}={value}", before))
        self.call("scontrol", "reconfigure")
        try:
            yield
        finally:
            path.write_text(before)
            self.call("scontrol", "reconfigure")

    def preempt(self, job: Job) -> None:
        self.call("scontrol", "requeue", self.number(job))

    def number(self, job: Job) -> str:
        return str(records.last_attempt(job.record)["handle"]["job"])


def stop(pid_file: Path) -> None:
    """End the daemon that wrote the file, and wait for it."""
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        return
    for _ in range(100):
        try:
            os.kill(pid, 15)
        except ProcessLookupError:
            return
        time.sleep(0.1)
