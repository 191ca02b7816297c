"""Two thousand calls with anything in them, through Python and through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.calls import many_calls


@pytest.mark.parametrize("way", ["python", "command line"])
def test_two_thousand_bad_calls_are_clean_errors(tmp_path: Path, way: str) -> None:
    many_calls(tmp_path, way, 2000)
