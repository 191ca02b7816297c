"""Some drawn specs: a clean error, or a spec that the runner takes too."""

from __future__ import annotations

from tests.support.generated_specs import many


def test_a_drawn_spec_is_refused_cleanly_or_taken_by_the_runner() -> None:
    found = many(0, 80, every=5)
    assert found["accepted"] > 3
    assert found["built"]
    assert found["refused"] > 30
