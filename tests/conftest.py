"""Every test gets its own results root and archive cache, and no credentials of the machine it runs
on."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest
from mae_sdk.jobs import secrets

from tests.support import wide


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what ``-m "not wide"`` leaves to `make test-long K=wide`."""
    for item in items:
        if wide.is_wide(item.nodeid):
            item.add_marker(pytest.mark.wide)

    whole = config.args in (["tests"], [str(config.rootpath / "tests")])
    if whole and (gone := wide.without_a_test(item.nodeid for item in items)):
        raise pytest.UsageError(f"no test is of these patterns of tests/support/wide.py: {gone}")

    # A minute of runs that one worker has to do: begun last, the other would wait for them.
    items.sort(key=lambda item: item.path.name != "test_sharing.py")


def pytest_collection_finish() -> None:
    """Thousands of tests stay until the end: the garbage collector need not walk over them again
    (4 % of the processor time)."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # extension modules complain of what is left at the end


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "MAE_")) and name != "MAE_UPDATE_GOLDEN":
            monkeypatch.delenv(name)
    monkeypatch.setenv("MAE_RESULTS_ROOT", str(tmp_path / "results"))
    monkeypatch.setenv("MAE_CACHE_DIR", str(tmp_path / "cache"))
    # What a report holds is tested in tests/report; every other job does without its cost.
    monkeypatch.setenv("MAE_REPORT", "off")
    # Latencies are measured as ever, for a shorter time.
    if (runtimes := sys.modules.get("mae_runners.deploy.runtimes")) is not None:
        monkeypatch.setattr(runtimes, "SECONDS", 0.02)
    secrets.forget()
