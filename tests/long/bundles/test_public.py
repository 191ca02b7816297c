"""Every action of the public bundles is planned rightly, or refused with the true reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BUNDLES = ROOT.parent / "shared" / "bundles"


def test_no_action_of_the_public_bundles_is_planned_wrong() -> None:
    if not BUNDLES.is_dir():
        pytest.skip("the public bundles are not here")
    command = [sys.executable, str(ROOT / "benchmarks" / "bundles.py"), str(BUNDLES)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert ", 0 wrong." in shown.splitlines()[0]
    assert "FAULT" not in shown
