"""What is installed here, which devices and how much room there is, and how to get the rest.

Nothing is imported to find out, and no network is asked. Of credentials only the names of variables
and files are said, never a value.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mae_skill.gpus import gpu_of

from mae_sdk.data.cache import cache_dir
from mae_sdk.jobs.root import Root
from mae_sdk.run.devices import cpu_cores, gpu_model, memory_mb, visible_gpus

DISTRIBUTION = "mae-skill"

# What an extra is for, in the order of the list. Those that are not here are for developers.
EXTRAS = {
    "train": "train, evaluate, predict; AutoML",
    "s3": "s3:// URLs",
    "http": "https:// URLs",
    "sftp": "sftp:// URLs",
    "pictures": "DICOM, compressed TIFF",
    "parquet": "embeddings and labels as Parquet",
    "hub": "weights from the model hub, hf://",
    "export": "ONNX",
    "transformers": "export.format=transformers",
    "tensorrt": "TensorRT engines",
    "tensorrt-rtx": "TensorRT-RTX engines",
    "mcp": "the MCP server",
    "postgres": "AutoML on several machines",
    "wandb": "Weights & Biases",
    "mlflow": "MLflow",
    "ray": "jobs on Ray",
    "kubernetes": "jobs on Kubernetes",
    "quickstart": "mae quickstart",
}

# What it opens → the variables, and the files, that hold a credential for it.
CREDENTIALS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "S3": (
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"),
        ("~/.aws/credentials", "~/.aws/config"),
    ),
    "model hub": (("HF_TOKEN",), ()),
    "Weights & Biases": (("WANDB_API_KEY",), ("~/.netrc",)),
    "MLflow": (("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"), ()),
    "encryption": (("MAE_ENCRYPTION_KEY",), ()),
    "Kubernetes": (("KUBECONFIG",), ("~/.kube/config",)),
}


def examine(results_root: str | None = None) -> dict[str, Any]:
    """Everything about this machine that a job depends on.

    Returns:
        ``verdict`` (``can_train``, ``can_plan``, ``said``), ``versions``, ``extras`` (name →
        ``use, installed, missing, get``), ``devices``, ``disk``, ``credentials`` (what for →
        ``set, files``), ``problems``.
    """
    extras = dict(_extras())
    devices = _devices()
    disk, problems = _disk(results_root)
    can_train = not extras.get("train", {}).get("missing", ["?"])
    if not can_train:
        said = "this machine can plan, launch elsewhere and watch; it cannot train"
    elif devices["gpus"]:
        said = f"this machine can train, on {len(devices['gpus'])} GPU"
    else:
        said = "this machine can train, on the CPU: small models only"
    return {
        "verdict": {"can_plan": True, "can_train": can_train, "said": said},
        "problems": problems,
        "versions": {
            "mae": importlib.metadata.version(DISTRIBUTION),
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "executable": sys.executable,
        },
        "devices": devices,
        "disk": disk,
        "extras": extras,
        "credentials": _credentials(),
    }


def _extras() -> Iterator[tuple[str, dict[str, Any]]]:
    """Extra → what it is for, what of it is installed in which version, and what is missing."""
    needed: dict[str, list[str]] = {}
    for line in importlib.metadata.requires(DISTRIBUTION) or ():
        package, _, marker = line.partition(";")
        of = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        named = re.match(r"\s*([\w.-]+)", package)
        if of and named:
            needed.setdefault(of[1], []).append(named[1])
    for extra, use in EXTRAS.items():
        if extra not in needed:  # an older edition's metadata: nothing is known of it
            continue
        versions = {name: _version(name) for name in needed[extra]}
        missing = [name for name, version in versions.items() if version is None]
        row: dict[str, Any] = {"use": use, "installed": {n: v for n, v in versions.items() if v}}
        row["missing"] = missing
        if missing:
            row["get"] = f"pip install '{DISTRIBUTION}[{extra}]'"
        yield extra, row


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> dict[str, Any]:
    model = gpu_model()
    gpus = visible_gpus()
    known = gpu_of(model) if model and gpus else None
    return {
        "gpus": gpus,
        "gpu_model": model,
        "known_as": known,
        "cpu_cores": cpu_cores(),
        "memory_mb": memory_mb(),
    }


def _disk(results_root: str | None) -> tuple[dict[str, Any], list[str]]:
    """Where jobs and the cache go and what is free there, and what is wrong with that."""
    problems = []
    root = Root(results_root)
    found: dict[str, Any] = {"results_root": root.url}
    folders = {"cache": cache_dir()}
    if "://" not in root.url:
        folders["results"] = Path(root.url)
    for name, folder in folders.items():
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        found[name] = {"folder": str(folder), "free_bytes": free}
        if not os.access(there, os.W_OK):
            problems.append(f"{there} cannot be written, so {name} cannot go to {folder}")
        if free < 1 << 30:
            problems.append(f"less than 1 GiB is free for {name} in {folder}")
    return found, problems


def _credentials() -> dict[str, dict[str, list[str]]]:
    """Names of the variables that are set and of the files that are there; no value."""
    found = {}
    for use, (variables, files) in CREDENTIALS.items():
        here = [name for name in files if Path(name).expanduser().is_file()]
        found[use] = {"set": [name for name in variables if os.environ.get(name)], "files": here}
    return found
