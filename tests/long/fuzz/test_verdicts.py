"""One verdict from every caller, over more generated specs than tests/sdk/test_one_resolver.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.verdicts import check_verdicts, some_places


@pytest.mark.timeout(1800)
def test_300_generated_specs_get_one_verdict_from_every_caller(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "places").mkdir()
    with some_places(tmp_path / "places") as places:
        seen = check_verdicts(range(300), places, tmp_path, capsys, monkeypatch)
    assert min(seen[code] for code in (0, 2, 3, 4)) >= 5, seen
