"""The platform ``slurm``: ``sbatch`` starts the supervisor, SLURM does the rest.

The batch script waits for the supervisor, ends with its exit code, and has SLURM start the job
again when that was 75 (preempted, or near the time limit: ``--signal``). ``scancel`` cancels the
job as ``mae jobs cancel`` does. States are read by
``squeue`` for all jobs at once, in a format of our own, which every version since 2.6 prints alike;
its JSON has changed from release to release. Jobs that ``squeue`` has forgotten are asked of
``sacct``, where there is accounting. A trial of a study is a plain job, no element of an array:
what it runs with is known only when others have ended.

The environment of the job is the caller's, as ``sbatch`` takes it by itself; no value of it stands
in a command line or in the script.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mae_skill.errors import DependencyError, StorageError, UsageError

from mae_sdk.jobs import records
from mae_sdk.jobs.records import JobRecord
from mae_sdk.run.options import Option
from mae_sdk.run.platform import (
    EngineState,
    Missing,
    Polled,
    Reference,
    Resources,
    attempt_name,
    forgotten_by,
    last_lines,
    with_python,
)
from mae_sdk.run.process_group import child_environment

LOG_NAME = "slurm.txt"
_SECONDS = 60.0
_LIMIT = (
    r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|UNLIMITED|INFINITE",
    "minutes, or as in 12:00:00 or 2-12:00:00 (two days and twelve hours)",
)
_MEMORY = (r"\d+[KMGTkmgt]?[Bb]?", "a size, such as 64G")
_SCRIPT = """\
#!/bin/bash
{setup}
# Before it sends signals, SLURM says in the log why; after `scancel` it names no other reason.
before=$(cat {log} 2>/dev/null | wc -l)
because='( DUE to SIGNAL [A-Za-z ]+)?'
canceled="JOB $SLURM_JOB_ID ON .* CANCELLED AT [^ ]+$because [*][*][*]"
logged() {{ tail -n "+$((before + 1))" {log} 2>/dev/null | grep -Eq "$1"; }}
stop() {{
  logged "$canceled" && : > {cancel}
  told=1; [ -n "$supervisor" ] && kill -TERM "$supervisor" 2>/dev/null
}}
trap stop TERM USR1
{run} &
supervisor=$!
[ -n "$told" ] && stop  # a signal that came before its number was known
# A signal ends a wait, not the supervisor.
while :; do
  wait "$supervisor"; code=$?
  kill -0 "$supervisor" 2>/dev/null || break
done
# It may have ended between the signal and the look at it: then the shell still knows its code.
wait "$supervisor" 2>/dev/null; again=$?
[ "$again" = 127 ] || code=$again
# A job that is to be queued again by SLURM itself could be canceled before this line.
logged 'DUE TO JOB REQUEUE' || own=1
if [ "$code" = 75 ] && [ ! -e {cancel} ] && [ -n "$own" ]; then
  scontrol requeue "$SLURM_JOB_ID" || true
fi
exit "$code"
"""
_HOW = "install SLURM's client programs, or call from a login node of the cluster"

_SINFO = ["sinfo", "--noheader", "--format=%P|%D|%c|%m|%G", "--exact"]
"""A row for every kind of node: without ``--exact`` a row of several kinds tells the least."""

_RUNS = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"})
_WAITS = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESIZING"}
)
_ENDS = {
    "CANCELLED": (records.CANCELED, "it was canceled in SLURM", "signal"),
    "TIMEOUT": (records.ERROR, "its time limit in SLURM was over", "signal"),
    "DEADLINE": (records.ERROR, "its deadline in SLURM was over", "signal"),
    "PREEMPTED": (records.ERROR, "SLURM preempted it and does not start it again", "signal"),
    "OUT_OF_MEMORY": (records.ERROR, "it took more memory than SLURM allots", "out_of_memory"),
    "NODE_FAIL": (records.ERROR, "a node of it was lost", "lost_process"),
    "BOOT_FAIL": (records.ERROR, "its node did not boot", "lost_process"),
}

_REFUSALS = (  # of sbatch: pattern, setting, what was expected, whether it may succeed later
    (r"invalid partition", "partition", "a partition of the cluster", False),
    (r"invalid account|account or", "account", "an account of yours, and its partitions", False),
    (r"invalid qos", "qos", "a quality of service that your account may use", False),
    (
        r"violates accounting/QOS policy|QOSMax|AssocMax|AssocGrp|QOSGrp",
        "qos",
        "a job within the limits of the account",
        True,
    ),
    (r"time limit|timelimit|--time", "time", "a time within the partition's limit", False),
    (r"feature", "constraint", "features that some node has", False),
    (r"node name|node list|nodelist", "nodelist", "names of nodes of the partition", False),
    (r"reservation", "reservation", "a reservation that you may use", False),
    (r"memory specification", "memory", "no more than a node has", False),
    (
        r"node configuration is not available|node count|Requested node",
        "",
        "nodes, cores, memory and GPUs that the partition has",
        False,
    ),
    (r"[Ii]nvalid generic resource|gres", "gpu_type", "the name of a GPU in SLURM", False),
    (
        r"unrecognized option|[Ii]nvalid (option|argument|--)",
        "arguments",
        "options as `sbatch --help` lists them",
        False,
    ),
)
_SHOWN_BY = {
    "partition": "`sinfo` lists the partitions",
    "time": "`sinfo -o '%P %l'` lists the limits",
    "constraint": "`sinfo -o '%N %f'` lists the nodes and their features",
    "nodelist": "`sinfo -N` lists the nodes",
    "reservation": "`scontrol show reservation` lists them",
    "memory": "`sinfo -o '%N %m'` lists the nodes and their memory",
    "gpu_type": "`sinfo -o '%N %G'` lists the nodes and their GPUs",
    "arguments": "leave out what this version of SLURM does not know",
}
_NO_PYTHON = re.compile(
    r": line \d+: (?P<python>.+): (No such file or directory|Permission denied|command not found"
    r"|Is a directory|cannot execute.*|Exec format error)$|No module named '?(mae_sdk|mae_skill)"
)
"""A line of the batch script whose Python cannot start the supervisor."""
_OUT_OF_REACH = re.compile(
    r"Unable to contact|Connection (refused|timed out)|Socket timed out|resolve|configuration file"
    r"|Zero Bytes|Communication connection failure|temporarily",
    re.IGNORECASE,
)


class SlurmPlatform(Polled):
    """Jobs of the SLURM cluster that ``sbatch`` of this machine submits to."""

    about = "a SLURM cluster, through sbatch"
    how = _HOW
    starts_again = True
    options = {  # noqa: RUF012  # as the contract declares it
        "partition": Option("partition; default: the cluster's"),
        "account": Option("account that is charged"),
        "qos": Option("quality of service"),
        "time": Option(
            "time limit, as sbatch takes it; the job saves before it and goes on", form=_LIMIT
        ),
        "grace": Option("seconds between the warning and the time limit", int, 120, least=1),
        "gpu_type": Option("name of the GPU in SLURM, as in --gres=gpu:NAME:8"),
        "cpus": Option("cores of a node for the job", int, least=1),
        "memory": Option("main memory of a node for the job, as --mem takes it", form=_MEMORY),
        "constraint": Option("features that the nodes must have"),
        "arguments": Option("further arguments of sbatch", list),
        "setup": Option("lines of shell before the job starts, such as module load", list),
        "python": Option("the Python of the nodes; default: the caller's"),
        "container": Option("image that the runner starts in; it needs mae-skill[train]"),
        "container_command": Option("what starts it", str, "apptainer exec --nv"),
    }

    def submit(self, job_dir: Path, record: JobRecord, env: Mapping[str, str]) -> Reference:
        """Hand the batch script to ``sbatch``, unless the attempt is in the queue already."""
        self.ask_again()
        name = attempt_name(job_dir, record)
        known = _run(["squeue", "--me", "--noheader", f"--name={name}", "--format=%i"]).split()
        if known:
            return {"handle": {"job": known[0]}}

        settings = record.get("platform_options") or {}
        command = ["sbatch", "--parsable", f"--job-name={name}", *_arguments(job_dir, record)]
        printed = _run(
            command,
            script(job_dir, settings),
            {**_environment(), **env},
            refused=partial(_refused, settings=settings),
        )
        number = printed.strip().splitlines()[-1].partition(";")[0]
        return {"handle": {"job": number}}

    def preview(self, job_dir: Path, record: JobRecord) -> list[dict[str, Any]]:
        """The arguments of ``sbatch`` and the script."""
        text = script(job_dir, record.get("platform_options") or {})
        name = f"--job-name={attempt_name(job_dir, record)}"
        return [{"sbatch": [name, *_arguments(job_dir, record)], "script": text}]

    def poll(self, jobs: Sequence[tuple[Path, JobRecord]]) -> list[EngineState]:
        """By ``squeue``, and by ``sacct`` for what that has forgotten."""
        numbers = [_number(record) for _, record in jobs]
        found = _queue(numbers)
        gone = [number for number in numbers if number not in found]
        found |= _accounting(gone) if gone else {}
        states = [found.get(number, forgotten_by("SLURM")) for number in numbers]
        return [
            _without_python(job_dir, record) or seen if seen.category == "lost_process" else seen
            for (job_dir, record), seen in zip(jobs, states, strict=True)
        ]

    def cancel(self, job_dir: Path, record: JobRecord) -> None:
        """``scancel``; one that has ended is left as it is."""
        self.ask_again()
        if number := _number(record):
            _run(["scancel", "--quiet", number], refused=_ended)

    def resources(self, options: Mapping[str, Any]) -> Resources:
        """What one node of the partition has, by ``sinfo``."""
        of = [f"--partition={options['partition']}"] if options.get("partition") else []
        rows = [line.split("|") for line in _run([*_SINFO, *of]).splitlines()]
        rows = [row for row in rows if len(row) == 5]
        chosen = rows if of else [row for row in rows if row[0].endswith("*")] or rows
        if not chosen:
            raise UsageError(
                "the cluster has no such partition",
                field="platform_options.partition",
                got=options.get("partition"),
                hint="sinfo lists them",
            )
        _check_time(options)
        name = options.get("partition") or chosen[0][0].rstrip("*")
        _check_size(options, chosen, f"partition {name}")
        gpus, device = _gpus([row[4] for row in chosen], options.get("gpu_type"))
        return Resources(
            gpus=gpus,
            device=device if gpus else "cpu",
            cores=options.get("cpus") or max(_int(row[2]) for row in chosen),
            memory_mb=max(_int(row[3]) for row in chosen),
            nodes=sum(_int(row[1]) for row in chosen),
            where=f"a node of SLURM's partition {name}",
        )

    def stretch(self, options: Mapping[str, Any]) -> float | None:
        """The time limit less the warning before it."""
        limit = _seconds_of(str(options.get("time") or ""))
        return None if limit is None else limit - int(options.get("grace") or 0)

    def missing(self, options: Mapping[str, Any]) -> list[Missing]:
        if shutil.which("sbatch") is None:
            return [Missing("the program sbatch", _HOW)]
        return super().missing(options)

    def logs(self, job_dir: Path, record: JobRecord) -> str:
        """What the batch script printed."""
        return last_lines(job_dir / LOG_NAME)

    def wrap(
        self, command: Sequence[str], record: JobRecord, environment: Mapping[str, str]
    ) -> tuple[list[str], int]:
        """The command in its container, and once on every node where there are several."""
        settings, launch = record.get("platform_options") or {}, record["launch"]
        words = with_python(command, settings.get("python"))
        processes = int(launch.get("processes") or 1)
        if image := settings.get("container"):
            words = with_python(words, "python3")  # the image's own
            # Where the supervisor's folders are, the runner must find them.
            folders = {str(Path(environment["MAE_JOB_DIR"]).parent), str(launch.get("cwd") or "/")}
            binds = [word for folder in sorted(folders) for word in ("--bind", folder)]
            words = [*shlex.split(settings["container_command"]), *binds, image, *words]
        if _nodes(record) == 1:
            return words, processes

        head = [sys.executable, "-m", "mae_sdk.run.nodes", "srun"]
        step = [f"--jobid={environment['SLURM_JOB_ID']}", f"--nodes={_nodes(record)}"]
        step += [f"--ntasks={_nodes(record)}", "--ntasks-per-node=1", "--kill-on-bad-exit=0"]
        return [*head, *step, str(processes), "--", *words], 1


def script(job_dir: Path, settings: Mapping[str, Any]) -> str:
    """The batch script of a job."""
    python = settings.get("python") or sys.executable
    run = shlex.join([python, "-m", "mae_sdk.run.supervisor", str(job_dir)])
    cancel = shlex.quote(str(job_dir / records.CANCEL_NAME))
    log = shlex.quote(str(job_dir / LOG_NAME))
    setup = "\n".join(settings.get("setup", []))
    return _SCRIPT.format(setup=setup, run=run, cancel=cancel, log=log)


def _arguments(job_dir: Path, record: JobRecord) -> list[str]:
    """The arguments of ``sbatch`` beside the job's name."""
    settings, launch = record.get("platform_options") or {}, record["launch"]
    log = str(job_dir / LOG_NAME).replace("%", "%%")
    found = [f"--output={log}", "--open-mode=append", "--requeue", f"--nodes={_nodes(record)}"]
    found += ["--ntasks-per-node=1", "--chdir=/", "--export=ALL"]
    if settings.get("time"):
        found += [f"--time={settings['time']}", f"--signal=B:USR1@{settings['grace']}"]
    if count := int(launch.get("device_count") or 0):
        gres = ["gpu", settings.get("gpu_type"), str(count)]
        found.append("--gres=" + ":".join(filter(None, gres)))
    for name, flag in (
        ("partition", "--partition"),
        ("account", "--account"),
        ("qos", "--qos"),
        ("cpus", "--cpus-per-task"),
        ("memory", "--mem"),
        ("constraint", "--constraint"),
    ):
        if settings.get(name):
            found.append(f"{flag}={settings[name]}")
    return [*found, *settings.get("arguments", [])]


def _check_time(settings: Mapping[str, Any]) -> None:
    """Refuse a time limit that the warning before it leaves nothing of.

    Raises:
        UsageError: no more than a minute is left.
    """
    limit, grace = _seconds_of(str(settings.get("time") or "")), int(settings.get("grace") or 0)
    if limit is not None and limit < grace + 60:
        raise UsageError(
            f"the job is told to save {grace} s before its time limit of {limit} s: nothing is "
            "left to train in",
            field="platform_options.time",
            got=settings["time"],
            expected=f"a limit of more than {grace + 60} s, such as 01:00:00",
            hint="or a shorter warning: --platform-option grace=SECONDS",
        )


def _check_size(settings: Mapping[str, Any], rows: Sequence[Sequence[str]], where: str) -> None:
    """Refuse more cores or memory than any node has: SLURM lets such a job wait for ever.

    Args:
        rows: of ``sinfo``.

    Raises:
        UsageError: no node has so much.
    """
    cores, megabytes = (max(_int(row[at]) for row in rows) for at in (2, 3))
    wanted = _megabytes_of(str(settings.get("memory") or ""))
    for name, asked, most, unit in (
        ("cpus", settings.get("cpus"), cores, "cores"),
        ("memory", wanted, megabytes, "MB"),
    ):
        if asked and most and asked > most:
            raise UsageError(
                f"no node of the {where} has so much, and the job would wait for ever",
                field=f"platform_options.{name}",
                got=settings[name],
                expected=f"at most {most} {unit}, as the largest node",
                hint="`sinfo --exact --format='%P %D %c %m'` lists the nodes",
            )


def _megabytes_of(text: str) -> int | None:
    """An amount of memory as ``--mem`` takes it, in units of 2**20 bytes; None of anything else."""
    found = re.fullmatch(r"(\d+)([KMGT]?)B?", text.strip().upper())
    if found is None:
        return None
    return int(int(found[1]) * {"K": 1 / 1024, "M": 1, "": 1, "G": 1024, "T": 1024**2}[found[2]])


_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def _seconds_of(text: str) -> int | None:
    """A time limit as ``sbatch`` reads it: ``minutes``, ``minutes:seconds``,
    ``hours:minutes:seconds``, and after ``days-`` hours first; None of anything else."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        return None
    days, *rest = found.groups()
    numbers = [int(one) for one in rest if one is not None]
    if days is not None:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _nodes(record: JobRecord) -> int:
    return int(record["launch"].get("nodes") or 1)


def _number(record: JobRecord) -> str:
    return str((records.last_attempt(record).get("handle") or {}).get("job") or "")


def _environment() -> dict[str, str]:
    own = ("MAE_JOB_DIR", "MAE_ATTEMPT")  # of the study that submits a trial
    return {k: v for k, v in child_environment(os.environ).items() if k not in own}


def _run(
    command: list[str],
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
    refused: Any = None,
) -> str:
    """What a program of SLURM prints.

    Raises:
        DependencyError: it is not here.  StorageError: the controller cannot be reached.
        UsageError: it refused.
    """
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env=_environment() if environment is None else dict(environment),
        )
    except FileNotFoundError:
        raise DependencyError(
            f"the program {command[0]} is not here", field="platform", got="slurm", hint=_HOW
        ) from None
    except subprocess.TimeoutExpired:
        raise _out_of_reach(f"{command[0]} did not answer in {_SECONDS:g} s") from None
    if done.returncode == 0:
        return done.stdout

    said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
    if _OUT_OF_REACH.search(said):
        raise _out_of_reach(said)
    if refused is not None:
        return str(refused(said) or "")
    raise UsageError(f"{command[0]}: {said[:300]}", field="platform", got="slurm")


def _out_of_reach(said: str) -> StorageError:
    return StorageError(
        f"SLURM cannot be reached: {said[:300]}",
        field="platform",
        got="slurm",
        expected="a controller that answers sinfo and squeue from this machine",
        hint="try again; nothing was submitted twice: `squeue --me` shows what runs",
    )


def _refused(said: str, settings: Mapping[str, Any]) -> str:
    """Raise the error of a job that ``sbatch`` did not take."""
    for pattern, setting, expected, later in _REFUSALS:
        if re.search(pattern, said, re.IGNORECASE):
            arguments = settings.get("arguments") or []
            flag = {"memory": "mem", "gpu_type": "gres"}.get(setting, setting)
            named = [one for one in arguments if setting and one.startswith(f"--{flag}")]
            among = setting not in settings and (named or setting not in SlurmPlatform.options)
            where = "arguments" if setting and among else setting
            other = "`sinfo` and `sacctmgr show assoc user=$USER` show what there is"
            raise UsageError(
                f"SLURM did not take the job: {said[:300]}",
                field=f"platform_options.{where}" if where else "platform_options",
                got=(named[0] if named else arguments) if among else settings.get(where),
                expected=expected,
                hint="try again when others of your jobs have ended, or choose other limits"
                if later
                else _SHOWN_BY.get(setting, other),
                retryable=later,
            )
    raise UsageError(f"SLURM did not take the job: {said[:300]}", field="platform", got="slurm")


def _without_python(job_dir: Path, record: JobRecord) -> EngineState | None:
    """The end of a job whose supervisor no Python of its node could start, by what the batch script
    printed; None where it was started, or does not say so."""
    attempt = records.last_attempt(record)
    if attempt["state"] != records.PENDING or attempt["process"] is not None:
        return None
    python = (record.get("platform_options") or {}).get("python") or sys.executable
    for line in reversed(last_lines(job_dir / LOG_NAME, 1 << 14).splitlines()[-20:]):
        found = _NO_PYTHON.search(line)
        if found is None or found["python"] not in (None, python):
            continue
        what = "is not on the node, or cannot be run" if found["python"] else "lacks mae-skill"
        error = UsageError(
            f"the Python of the job {what}; {LOG_NAME} says: {line.strip()[-200:]}",
            field="platform_options.python",
            got=python,
            expected="a Python with mae-skill that every node sees",
            hint="--platform-option python=/SHARED/venv/bin/python, or setup lines that bring it",
        )
        message = f"platform_options.python={python}: {error.message}"
        return EngineState(records.ERROR, message, "dependency", error=error.to_dict())
    return None


def _ended(said: str) -> str:
    """Of a job that is to be canceled: one that SLURM knows no longer has ended."""
    return ""


def _queue(numbers: Sequence[str]) -> dict[str, EngineState]:
    """Number → state, of the jobs that ``squeue`` knows."""
    asked = ",".join(dict.fromkeys(filter(None, numbers)))
    if not asked:
        return {}
    command = ["squeue", "--noheader", "--states=all", f"--jobs={asked}", "--format=%i|%T|%r"]
    lines = _run(command, refused=_ended).splitlines()
    rows = [line.split("|", 2) for line in lines if line.count("|") == 2]
    return {number: _state(word, reason) for number, word, reason in rows}


def _accounting(numbers: Sequence[str]) -> dict[str, EngineState]:
    """Number → state, of the jobs in the accounting; empty where there is none."""
    if shutil.which("sacct") is None:
        return {}
    command = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID,State"]
    lines = _run([*command, f"--jobs={','.join(numbers)}"], refused=_ended).splitlines()
    rows = [line.split("|") for line in lines if line.count("|") == 1]
    return {number: _state(word, "") for number, word in rows}


def _state(word: str, reason: str) -> EngineState:
    word = word.split()[0] if word else ""  # sacct: CANCELLED by 1000
    if word in _RUNS:
        return EngineState(records.RUNNING)
    if word in _WAITS:
        known = reason not in ("", "None")
        return EngineState(records.PENDING, f"SLURM: {reason}" if known else "SLURM starts it")
    if word in _ENDS:
        return EngineState(*_ENDS[word])
    return EngineState(records.ERROR, f"its supervisor is gone; SLURM says {word}")


def _gpus(texts: Sequence[str], wanted: str | None) -> tuple[int, str]:
    """GPUs of a node and their name, from ``gpu:a100:8(S:0-1),…`` of ``sinfo``."""
    best, device = 0, wanted or "gpu"
    for name, count in re.findall(r"gpu(?::([A-Za-z][\w.-]*))?:(\d+)", ",".join(texts)):
        if int(count) > best and wanted in (None, name):
            best, device = int(count), name or device
    return best, device


def _int(text: str) -> int:
    digits = re.match(r"\d+", text)
    return int(digits.group()) if digits else 0
