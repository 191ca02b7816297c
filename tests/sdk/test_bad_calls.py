"""Anything at all as a call: a plan, or one clean error with a documented exit code; never a traceback, never a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.calls import calls, command_or_clean_error, plan_or_clean_error
from tests.support.images import write_imagefolder


@pytest.mark.parametrize(("way", "count"), [("python", 200), ("command line", 60)])
def test_a_bad_call_is_one_clean_error(tmp_path: Path, way: str, count: int) -> None:
    data = write_imagefolder(tmp_path / "data", classes=2, per_class=2)

    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def call(drawn: st.DataObject) -> None:
        action, options = drawn.draw(calls(data))
        if way == "python":
            plan_or_clean_error(action, options, tmp_path / "results")
        else:
            command_or_clean_error(action, options, tmp_path / "results", tmp_path / "spec.yaml")

    call()
