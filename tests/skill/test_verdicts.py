"""The generated schemas and the models give the same verdict, and the generated files are what the
models say.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from mae_skill.bundle import Bundle, find_bundle_root
from mae_skill.dotted import field_nodes
from mae_skill.generate import documents, generate, main
from mae_skill.merge import merge
from mae_skill.origin import OriginKind
from mae_skill.reader import dump_yaml, parse_yaml, read_spec
from mae_skill.schema_check import check_schema
from mae_skill.spec import ACTIONS, SECTIONS, ExperimentSpec
from pydantic import ValidationError

from tests.support.specs import LONG_EXAMPLE, mutated_specs, put

BUNDLE = Bundle.load()
SCHEMA = BUNDLE.schema("train")


def pydantic_accepts(spec: dict[str, Any]) -> bool:
    try:
        ExperimentSpec.model_validate(spec)
    except ValidationError:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(mutated_specs(SCHEMA))
def test_schema_and_models_judge_every_change_of_one_field_alike(
    case: tuple[dict[str, Any], str, Any],
) -> None:
    spec, _, _ = case
    assert pydantic_accepts(spec) == (check_schema(spec, SCHEMA) == [])


@pytest.mark.parametrize("action", ACTIONS)
def test_the_defaults_of_every_action_are_valid_and_equal_the_template(action: str) -> None:
    schema = BUNDLE.schema(action)
    Draft202012Validator.check_schema(json.loads(BUNDLE.schema_path(action).read_text()))
    assert check_schema(schema["default"], schema) == []
    assert pydantic_accepts(schema["default"])
    assert BUNDLE.template(action) == schema["default"]
    assert list(schema["default"]) == list(SECTIONS[action])


@pytest.mark.parametrize("action", ACTIONS)
def test_every_field_states_type_description_and_a_default_that_it_accepts(action: str) -> None:
    for key, node in field_nodes(BUNDLE.schema(action)).items():
        assert node.get("type"), key
        assert len(str(node["description"])) > 5, key
        assert Draft202012Validator(node).is_valid(node["default"]), key
        assert not {"$ref", "anyOf"} & node.keys() or "anyOf" in node, key
        for entry in (
            [node["search"]] if isinstance(node.get("search"), dict) else node.get("search", [])
        ):
            for bound in ("low", "high"):
                assert Draft202012Validator(node).is_valid(entry[bound]), f"{key} {bound}"


def test_conditions_and_neighbors_name_fields_that_exist() -> None:
    fields = field_nodes(SCHEMA)
    named = {
        other
        for node in fields.values()
        for other in (*node.get("applies_when", {}), *node.get("related", ()))
    }
    named |= {
        str(node[mark])
        for node in fields.values()
        for mark in ("depends_on", "parent_param")
        if mark in node
    }
    named |= {
        key
        for entry in SCHEMA["automl_metrics"]
        for key in (*entry.get("when", {}), *entry.get("incomparable", ()))
    }
    assert sorted(named - fields.keys()) == []


def test_generated_files_are_not_stale() -> None:
    assert generate(check=True) == []


def test_a_stale_or_missing_file_is_found_by_check_and_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = find_bundle_root()
    (tmp_path / "references").mkdir()
    (tmp_path / "references" / "skill_info.yaml").write_text(
        (root / "references" / "skill_info.yaml").read_text()
    )
    assert set(generate(root=tmp_path)) == set(documents(root))
    (tmp_path / "schemas" / "train.schema.json").write_text("{}")
    (tmp_path / "references" / "recipes.md").unlink()
    stale = ["schemas/train.schema.json", "references/recipes.md"]
    assert generate(check=True, root=tmp_path) == stale
    assert (tmp_path / "schemas" / "train.schema.json").read_text() == "{}"
    assert generate(root=tmp_path) == stale
    assert generate(check=True, root=tmp_path) == []
    assert main(["--check"]) == 0
    assert capsys.readouterr().err == ""


def test_the_manifest_names_schema_template_and_knobs_of_every_action() -> None:
    manifest = BUNDLE.manifest
    assert set(manifest) >= {
        "model",
        "network_arch",
        "automl_enabled",
        "failures",
        "schema_version",
    }
    assert list(manifest["actions"]) == list(ACTIONS) == BUNDLE.actions
    for action, entry in manifest["actions"].items():
        assert (BUNDLE.root / "schemas" / entry["path"]).is_file()
        assert (BUNDLE.root / "references" / entry["spec_template"]).is_file()
        keys = {
            "schema_action",
            "core_module",
            "automl_default_parameters",
            "automl_disabled_parameters",
            "popular",
        }
        assert keys <= entry.keys()
        assert entry["popular"], action
    train = manifest["actions"]["train"]
    fields = field_nodes(SCHEMA)
    assert set(train["automl_default_parameters"]) == {
        "train.optim.lr",
        "train.optim.weight_decay",
        "train.optim.layer_decay",
        "train.optim.warmup_epochs",
        "model.drop_path_rate",
        "dataset.augmentation.mixup",
    }
    assert all(fields[key]["automl_enabled"] for key in train["automl_default_parameters"])
    assert not set(train["automl_default_parameters"]) & set(train["automl_disabled_parameters"])
    deploy = read_spec(
        BUNDLE.root / "references" / manifest["actions"]["gen_trt_engine"]["deploy_spec_template"]
    )
    assert check_schema(deploy, BUNDLE.schema("gen_trt_engine")) == []


def test_the_rate_is_searched_on_a_log_scale_within_the_range_of_its_stage() -> None:
    entries = field_nodes(SCHEMA)["train.optim.lr"]["search"]
    assert entries == [
        {"low": 1e-5, "high": 2e-3, "log": True, "when": {"train.stage": "pretrain"}},
        {"low": 1e-5, "high": 5e-3, "log": True, "when": {"train.stage": "finetune"}},
    ]
    assert field_nodes(SCHEMA)["train.optim.weight_decay"]["search"]["log"] is True


def test_the_documented_long_example_is_valid_and_keeps_every_value() -> None:
    given_spec = parse_yaml(LONG_EXAMPLE)
    resolved = merge([(OriginKind.SPEC_FILE, given_spec)], SCHEMA)
    assert check_schema(resolved.spec, SCHEMA) == []
    assert resolved.notices == []
    assert [key for key, origin in resolved.provenance.items() if origin.note] == []
    model = ExperimentSpec.model_validate(resolved.spec)
    assert (model.train.optim.lr, model.train.optim.warmup_epochs, model.train.num_epochs) == (
        2e-4,
        40,
        600,
    )
    for section, values in given_spec.items():
        flat = {key: value for key, value in values.items() if not isinstance(value, dict)}
        assert {key: resolved.spec[section][key] for key in flat} == flat
    finetune = put(given_spec, "train.stage", "finetune")
    assert check_schema(merge([(OriginKind.SPEC_FILE, finetune)], SCHEMA).spec, SCHEMA) == []


def test_a_dumped_spec_reads_back_equal() -> None:
    for action in ACTIONS:
        default = BUNDLE.schema(action)["default"]
        assert parse_yaml(dump_yaml(default)) == default
