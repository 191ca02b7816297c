"""The schema and the models give one verdict, over thousands of changed specs of every action."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mae_skill.bundle import Bundle
from mae_skill.schema_check import check_schema
from mae_skill.spec import ACTIONS, ExperimentSpec
from pydantic import ValidationError

from tests.support.specs import mutated_specs


@pytest.mark.parametrize("action", ACTIONS)
def test_schema_and_models_agree_on_two_thousand_changes(action: str) -> None:
    schema = Bundle.load().schema(action)

    @settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def verdicts(data: st.DataObject) -> None:
        spec: dict[str, Any]
        spec, key, value = data.draw(mutated_specs(schema))
        try:
            ExperimentSpec.model_validate(spec)
            accepted = True
        except ValidationError:
            accepted = False
        assert accepted == (check_schema(spec, schema) == []), (key, value)

    verdicts()
