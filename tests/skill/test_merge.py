"""Layers merge lowest first; every value knows where it came from, and every conversion is said."""

from __future__ import annotations

from typing import Any

import pytest
from mae_skill.bundle import Bundle
from mae_skill.diff import diff_specs
from mae_skill.dotted import expand_shorthand, flatten, get_dotted, set_dotted
from mae_skill.errors import SpecError, UsageError
from mae_skill.explain import explain
from mae_skill.merge import merge
from mae_skill.origin import OriginKind
from mae_skill.reader import parse_override, parse_overrides
from mae_skill.resolve import layers_of

BUNDLE = Bundle.load()
SCHEMA = BUNDLE.schema("train")


def one(key: str, value: Any) -> tuple[Any, str | None]:
    """The value and the note of its conversion after merging ``key``."""
    document: dict[str, Any] = {}
    set_dotted(document, key, value)
    resolved = merge([(OriginKind.SPEC_FILE, document)], SCHEMA)
    return get_dotted(resolved.spec, key), resolved.provenance[key].note


def test_the_last_layer_wins_and_is_named() -> None:
    layers = [
        (OriginKind.TEMPLATE, {"train": {"num_epochs": 1, "seed": 7}}),
        (OriginKind.RECIPE, {"train": {"num_epochs": 2, "precision": "bf16"}}),
        (OriginKind.SPEC_FILE, {"train": {"num_epochs": 3, "optim": {"lr": 1e-3}}}),
        (OriginKind.OVERRIDE, {"train": {"num_epochs": 4}}),
    ]
    resolved = merge(layers, SCHEMA)
    kinds = {
        key: resolved.provenance[f"train.{key}"].kind
        for key in ("num_epochs", "optim.lr", "precision", "seed", "stage")
    }
    assert kinds == {
        "num_epochs": OriginKind.OVERRIDE,
        "optim.lr": OriginKind.SPEC_FILE,
        "precision": OriginKind.RECIPE,
        "seed": OriginKind.TEMPLATE,
        "stage": OriginKind.DEFAULT,
    }
    assert resolved.spec["train"]["num_epochs"] == 4
    assert (
        resolved.spec["train"]["optim"]["weight_decay"]
        == SCHEMA["default"]["train"]["optim"]["weight_decay"]
    )
    assert resolved.given() == {"train.num_epochs", "train.optim.lr", "train.precision"}
    assert set(flatten(resolved.spec)) == set(resolved.provenance)


def test_merging_changes_neither_the_layers_nor_the_schema() -> None:
    layer = {"model": {"mask_ratio": 0.5}, "train": {"gpu_ids": [0, 1]}}
    resolved = merge([(OriginKind.SPEC_FILE, layer)], SCHEMA)
    resolved.spec["train"]["gpu_ids"].append(9)
    assert layer == {"model": {"mask_ratio": 0.5}, "train": {"gpu_ids": [0, 1]}}
    assert SCHEMA["default"]["train"]["gpu_ids"] == [0]


def test_a_section_given_as_a_value_is_an_error_though_a_later_layer_sets_one_of_its_fields() -> (
    None
):
    with pytest.raises(SpecError) as caught:
        merge(
            [
                (OriginKind.SPEC_FILE, {"model": ""}),
                (OriginKind.OVERRIDE, {"model": {"arch": "vit_tiny_patch16"}}),
            ],
            SCHEMA,
        )
    assert [(problem.field, problem.expected) for problem in caught.value.problems] == [
        ("model", "a section")
    ]


def test_an_empty_section_leaves_it_and_a_null_clears_a_field() -> None:
    resolved = merge(
        [
            (OriginKind.RECIPE, {"train": {"clip_grad_norm": 1.0}}),
            (OriginKind.SPEC_FILE, {"model": None, "train": {"clip_grad_norm": None}}),
        ],
        SCHEMA,
    )
    assert resolved.spec["model"] == SCHEMA["default"]["model"]
    assert resolved.spec["train"]["clip_grad_norm"] is None


@pytest.mark.parametrize(
    ("key", "value", "result"),
    [
        ("train.optim.lr", "3e-4", 3e-4),
        ("train.num_epochs", "12", 12),
        ("train.num_epochs", 12.0, 12),
        ("train.num_epochs", "1e1", 10),
        ("train.norm_pix_loss", "on", True),
        ("train.norm_pix_loss", "False", False),
        ("train.clip_grad_norm", "null", None),
        ("train.gpu_ids", "[0, 1]", [0, 1]),
        ("train.gpu_ids", [0.0, "1"], [0, 1]),
        ("train.stage", "FineTune", "finetune"),
        ("dataset.augmentation.input_size", [224.0, 96], [224, 96]),
        ("train.pretrained_model_path", "", None),
    ],
)
def test_a_value_with_one_reading_is_converted_and_the_conversion_recorded(
    key: str, value: Any, result: Any
) -> None:
    found, note = one(key, value)
    assert found == result
    assert type(found) is type(result)
    assert note


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.num_epochs", "ten"),
        ("train.num_epochs", 1.5),
        ("train.num_epochs", True),
        ("train.norm_pix_loss", 1),
        ("train.norm_pix_loss", "1"),
        ("model_name", "on"),
        ("dataset.train_data_sources", "012"),
        ("train.optim.lr", "fast"),
        ("train.stage", "tune"),
        ("train.optim.lr", 3),
    ],
)
def test_a_value_with_no_or_two_readings_is_left_as_it_is(key: str, value: Any) -> None:
    found, note = one(key, value)
    assert found == value
    assert type(found) is type(value)
    assert note is None


@pytest.mark.parametrize("name", ["mask_ratio", "norm_pix_loss"])
def test_an_alias_moves_with_a_notice(name: str) -> None:
    value = 0.6 if name == "mask_ratio" else False
    resolved = merge([(OriginKind.SPEC_FILE, {"model": {name: value}})], SCHEMA)
    assert resolved.spec["train"][name] == value
    assert name not in resolved.spec["model"]
    assert resolved.notices == [f"model.{name} (spec file) is read as train.{name}"]
    assert (
        merge(
            [(OriginKind.SPEC_FILE, {"model": {name: value}, "train": {name: value}})], SCHEMA
        ).spec["train"][name]
        == value
    )


def test_both_spellings_with_different_values_are_an_error_that_shows_both() -> None:
    with pytest.raises(SpecError) as caught:
        merge(
            [(OriginKind.SPEC_FILE, {"model": {"mask_ratio": 0.6}, "train": {"mask_ratio": 0.75}})],
            SCHEMA,
        )
    (problem,) = caught.value.problems
    assert problem.field == "train.mask_ratio"
    assert problem.got == {"model.mask_ratio": 0.6, "train.mask_ratio": 0.75}


def test_a_later_layer_may_override_an_alias_of_an_earlier_one() -> None:
    resolved = merge(
        [
            (OriginKind.SPEC_FILE, {"model": {"mask_ratio": 0.6}}),
            (OriginKind.OVERRIDE, {"train": {"mask_ratio": 0.5}}),
        ],
        SCHEMA,
    )
    assert resolved.spec["train"]["mask_ratio"] == 0.5


def test_shorthand_keys_become_dotted_paths() -> None:
    words = BUNDLE.info["spec_shorthand_keys"]
    given = dict(
        parse_override(text)
        for text in (
            "num_epochs=2",
            "learning_rate=1e-3",
            "image_size=[96, 64]",
            "model.arch=vit_tiny_patch16",
        )
    )
    assert expand_shorthand(given, words) == {
        "train.num_epochs": 2,
        "train.optim.lr": 1e-3,
        "dataset.augmentation.input_size": [96, 64],
        "model.arch": "vit_tiny_patch16",
    }
    documented = {
        "num_epochs",
        "batch_size",
        "learning_rate",
        "num_classes",
        "stage",
        "arch",
        "image_size",
        "resume_checkpoint",
    }
    assert set(words) == documented | {"task", "push_to_hub"}
    twice = {"num_epochs": 1, "train.num_epochs": 2}
    with pytest.raises(UsageError, match="twice") as caught:
        expand_shorthand(twice, words)
    assert caught.value.got == twice


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("train.num_epochs=3", "train.num_epochs=4"),
        ("train.seed=1", "train.seed=true"),
        ("dataset.classes=[a, b]", "dataset.classes=[b, a]"),
        ("train={seed: 1}", "train={num_epochs: 2}"),
    ],
)
def test_a_key_of_one_command_line_has_one_value(first: str, second: str) -> None:
    key, value = parse_override(first)
    with pytest.raises(UsageError, match=f"{key} is given twice") as caught:
        parse_overrides([first, "model.arch=x", second])
    assert (caught.value.field, caught.value.got) == (key, [value, parse_override(second)[1]])
    assert caught.value.expected and caught.value.hint
    assert parse_overrides([first, f" {first}", first]) == {key: value}


def test_the_values_of_a_secret_that_is_given_twice_are_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        parse_overrides(["wandb.api_key=first-one", "wandb.api_key=second-one"])
    assert "-one" not in str(caught.value) + str(caught.value.to_dict())


def test_a_dotted_key_through_a_value_is_refused() -> None:
    with pytest.raises(UsageError, match="not a section"):
        set_dotted({"train": 3}, "train.num_epochs", 1)


def test_a_diff_lists_changed_added_and_removed_keys() -> None:
    rows = diff_specs(
        {"train": {"seed": 1, "precision": "bf16", "x": 1}},
        {"train": {"seed": 2, "precision": "bf16", "y": None}},
    )
    assert [(row["key"], row["change"], row["a"], row["b"]) for row in rows] == [
        ("train.seed", "changed", 1, 2),
        ("train.x", "removed", 1, None),
        ("train.y", "added", None, None),
    ]
    assert diff_specs(SCHEMA["default"], SCHEMA["default"]) == []


def test_explain_tells_a_field_its_neighbors_an_alias_and_near_names() -> None:
    found = explain(SCHEMA, "train.optim.milestones")
    assert found["default"] == [88, 96]
    assert found["acts_when"] == {"train.optim.lr_scheduler": "MultiStep"}
    assert "train.optim.lr_scheduler" in found["neighbours"]
    assert explain(SCHEMA, "model.mask_ratio")["key"] == "train.mask_ratio"
    assert explain(SCHEMA, "weight_decay")["key"] == "train.optim.weight_decay"
    assert "beyond the image" in explain(SCHEMA, "dataset.augmentation.max_scale")["description"]
    assert "train.optim.lr" in explain(SCHEMA, "train.optim")["fields"]
    with pytest.raises(UsageError) as caught:
        explain(SCHEMA, "train.optim.learning_rat")
    assert "did you mean" in str(caught.value.hint)


def test_explain_says_of_every_field_whether_a_search_takes_it() -> None:
    others = {*BUNDLE.actions} - {"train"}

    def searched(key: str) -> str:
        return str(explain(SCHEMA, key, others)["automl"]["searched"])

    assert searched("train.optim.lr") == "by default"
    assert searched("train.precision") == "where it is named: parameters= or ranges="
    assert searched("train.seed") == "never: the schema disables it"
    assert searched("evaluate.batch_size") == "never: another action reads it"


@pytest.mark.parametrize(
    "spec",
    [
        {"train": {"optim": {"lr": 1e-4}}, "train.optim.lr": 2e-4},
        {"train": {"optim.lr": 1e-4, "optim": {"lr": 2e-4}}},
        {"train.optim": {"lr": 1e-4}, "train": {"optim.lr": 2e-4}},
    ],
)
def test_a_field_that_is_given_by_its_dotted_key_and_in_its_section_has_one_value(
    spec: dict[str, Any],
) -> None:
    for given in ({"spec": spec}, {"overrides": spec}):
        with pytest.raises(UsageError, match="is given twice") as caught:
            layers_of(BUNDLE, "train", **given)
        assert caught.value.field == "train.optim.lr"
        assert sorted(caught.value.got.values()) == [1e-4, 2e-4] and len(caught.value.got) == 2
    alike = {"train": {"optim": {"lr": 1e-4}}, "train.optim.lr": 1e-4}
    assert "train.optim.lr" in layers_of(BUNDLE, "train", alike).given


@pytest.mark.parametrize(("sign", "count"), [("", 401), ("-", 5001)])
def test_a_number_of_many_digits_is_shown_by_its_first_and_their_count(
    sign: str, count: int
) -> None:
    number = 10 ** (count - 1) * (-1 if sign else 1)
    with pytest.raises(SpecError) as caught:
        merge([(OriginKind.OVERRIDE, {"train": {"num_epochs": number}})], SCHEMA)
    (problem,) = caught.value.problems
    assert problem.to_dict()["got"] == f"{sign}100000… ({count} digits)"
    twice = {"num_epochs": 3, "train.num_epochs": number}
    with pytest.raises(UsageError) as both:
        layers_of(BUNDLE, "train", overrides=twice)
    assert "digits)" in str(both.value)


def test_a_field_in_the_items_of_a_list_is_explained() -> None:
    file = {"type": "string", "description": "of one source"}
    items = {"type": "object", "properties": {"file": file}}
    schema = {
        "properties": {"data": {"properties": {"sources": {"type": "array", "items": items}}}}
    }
    assert explain(schema, "data.sources[0].file")["description"] == "of one source"
    with pytest.raises(UsageError, match="no such field"):
        explain(schema, "data.sources[0].fill")


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("vit_tiny_patch16_224", "vit_tiny_patch16"),
        ("hiera_tiny_224", "hiera_tiny_224"),
        ("vit_base_patch16_384", "vit_base_patch16_384"),  # of another size: its hint says more
    ],
)
def test_an_architecture_is_known_by_the_name_that_timm_gives_it_at_the_usual_size(
    name: str, taken: str
) -> None:
    layers = layers_of(Bundle.load(), "train", overrides={"arch": name})
    found = merge(layers.in_order(), layers.schema)
    note = found.provenance["model.arch"].note
    assert found.spec["model"]["arch"] == taken and (note is not None) == (name != taken)
