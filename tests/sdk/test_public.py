"""What `mae_sdk` offers to the outside, and how many rooms it has."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import mae_sdk

PUBLIC = {
    "Job": {
        "best_checkpoint",
        "cancel",
        "data_warnings",
        "delete",
        "events",
        "files",
        "figures",
        "frame",
        "history",
        "logs",
        "metrics",
        "observe",
        "preempted",
        "read",
        "record",
        "report",
        "resume",
        "stage",
        "state",
        "status",
        "wait",
    },
    "MaeError": {"to_dict", "with_traceback", "add_note"},
    "Plan": {
        "action",
        "automl",
        "effective_batch",
        "mappings",
        "nodes",
        "notes",
        "steps_per_epoch",
        "to_dict",
        "to_python",
    },
    "Skill": {"bundle", "create_job", "job", "jobs", "plan"},
}


def test_the_public_names_are_these_and_no_others() -> None:
    assert set(mae_sdk.__all__) == set(dir(mae_sdk)) == set(PUBLIC)
    for name in PUBLIC:
        public = getattr(mae_sdk, name)
        assert public.__name__ == name and getattr(importlib.import_module("mae_sdk"), name)


def test_their_methods_are_these_and_no_others() -> None:
    for name, methods in PUBLIC.items():
        kind = getattr(mae_sdk, name)
        found = {
            method
            for method, value in inspect.getmembers(kind)
            if not method.startswith("_") and (callable(value) or isinstance(value, property))
        }
        assert found - {"add_note"} == methods - {"add_note"}, name  # of every exception since 3.11


def test_the_sdk_has_at_most_fourteen_rooms() -> None:
    root = Path(mae_sdk.__file__).parent
    rooms = [
        path.name
        for path in root.iterdir()
        if (path.suffix == ".py" and path.name != "__init__.py") or (path / "__init__.py").exists()
    ]
    assert len(rooms) <= 14, sorted(rooms)
