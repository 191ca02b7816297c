"""Anything at all as a call: a plan, or one clean error with a documented exit code; never a
traceback, never a folder.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.calls import many_calls


@pytest.mark.parametrize(("way", "count"), [("python", 200), ("command line", 60)])
def test_a_bad_call_is_one_clean_error(tmp_path: Path, way: str, count: int) -> None:
    many_calls(tmp_path, way, count)
