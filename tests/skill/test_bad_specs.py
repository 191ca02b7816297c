"""Whatever is wrong with a spec, all of it is said at once, by key, with what would be right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mae_skill.archs import ARCHS, arch_names, meant
from mae_skill.bundle import Bundle
from mae_skill.dotted import field_nodes, get_dotted, set_dotted
from mae_skill.errors import MaeError, SpecError
from mae_skill.merge import merge
from mae_skill.origin import OriginKind
from mae_skill.reader import parse_override, parse_yaml
from mae_skill.resolve import layers_of, raise_all, resolve
from mae_skill.schema_check import check_schema, describe

from tests.support.specs import ANYTHING, put

SCHEMA = Bundle.load().schema("train")
FIELDS = field_nodes(SCHEMA)


def problems(document: dict[str, Any]) -> dict[str | None, MaeError]:
    return {
        problem.field: problem
        for problem in check_schema(merge([(OriginKind.SPEC_FILE, document)], SCHEMA).spec, SCHEMA)
    }


def test_every_error_of_a_spec_is_reported_at_once() -> None:
    spec = parse_yaml("""
        model: {arch: vit_base, num_clases: 10, num_classes: 0}
        dataset: {batch_size: two, augmentation: {mean: [], hflip: 1.5}}
        train: {stage: fine-tune, gpu_ids: [], optim: {lr: 0, lrr: 1, milestones: [0]}}
        trainn: 3
    """)
    with pytest.raises(SpecError) as caught:
        problems = check_schema(merge([(OriginKind.SPEC_FILE, spec)], SCHEMA).spec, SCHEMA)
        raise_all(problems, "train")
    found = {problem.field: problem for problem in caught.value.problems}
    assert set(found) == {
        *(
            "model.arch",
            "model.num_clases",
            "model.num_classes",
            "dataset.batch_size",
            "dataset.augmentation.mean",
        ),
        *(
            "dataset.augmentation.hflip",
            "train.stage",
            "train.gpu_ids",
            "train.optim.lr",
            "train.optim.lrr",
        ),
        *("train.optim.milestones[0]", "trainn"),
    }
    assert found["model.num_clases"].hint == "did you mean model.num_classes?"
    assert found["train.optim.lrr"].hint == "did you mean train.optim.lr?"
    assert found["trainn"].hint == "did you mean train?"
    assert found["train.stage"].hint == "did you mean finetune?"
    assert found["train.stage"].expected == "one of pretrain, finetune"
    assert (found["train.optim.lr"].got, found["train.optim.lr"].expected) == (
        0,
        "a number > 0, ≤ 10000",
    )
    assert found["dataset.augmentation.mean"].expected.startswith("a list of")
    assert str(caught.value).startswith("12 errors in the spec\n")
    assert caught.value.exit_code == 2


def test_a_value_of_another_type_is_one_error_and_a_part_of_a_name_is_enough() -> None:
    (problem,) = check_schema({"train": {"stage": None}}, SCHEMA)
    assert (problem.field, problem.expected) == ("train.stage", "one of pretrain, finetune")
    (problem,) = check_schema({"dataset": {"workers": 3}}, SCHEMA)
    assert problem.hint == "did you mean dataset.num_workers_per_gpu?"


def test_what_is_expected_is_said_of_each_kind_of_value_by_itself() -> None:
    problems = check_schema(
        {"dataset": {"train_data_sources": 5, "augmentation": {"input_size": "big"}}}, SCHEMA
    )
    assert [problem.expected for problem in problems] == [
        "a whole number ≥ 1, ≤ 16384 or a list of 2 items, each a whole number ≥ 1, ≤ 16384",
        (
            "a string that is not empty or a list of at least 1 items, "
            "each a string that is not empty or null"
        ),
    ]


@pytest.mark.parametrize(
    ("document", "field", "hint"),
    [
        ({"optim": {"lr": 1e-3}}, "optim.lr", "did you mean train.optim.lr?"),
        (
            {"augmentation": {"input_size": 96}},
            "augmentation.input_size",
            "did you mean dataset.augmentation.input_size?",
        ),
        (
            {"train": {"augmentation": {"mixup": 0.1}}},
            "train.augmentation.mixup",
            "did you mean dataset.augmentation.mixup?",
        ),
        (
            {"tensorrt": {"calibration": {"cal_batches": 2}}},
            "tensorrt.calibration.cal_batches",
            None,
        ),
        ({"lr": 1e-3}, "lr", "did you mean train.optim.lr?"),
        ({"train": {"lr": 1e-3}}, "train.lr", "did you mean train.optim.lr?"),
        ({"train": {"optim": {"epochs": 3}}}, "train.optim.epochs", None),
        (
            {"model": {"input_size": 96}},
            "model.input_size",
            "did you mean dataset.augmentation.input_size?",
        ),
        ({"train": {"num_epoch": 3}}, "train.num_epoch", "did you mean train.num_epochs?"),
    ],
)
def test_a_misplaced_or_misspelled_key_is_led_home(
    document: dict[str, Any], field: str, hint: str | None
) -> None:
    found = problems(document)
    assert list(found) == [field]
    assert found[field].message == "unknown key"
    if hint:
        assert found[field].hint == hint


def test_every_key_of_a_misplaced_section_is_listed() -> None:
    found = problems({"optim": {"lr": 1e-3, "nothing_like_it": 2}})
    assert {key: problem.hint for key, problem in found.items()} == {
        "optim.lr": "did you mean train.optim.lr?",
        "optim.nothing_like_it": "take it out: mae explain lists the fields",
    }
    nested = problems({"tensorrt": {"calibration": {"cal_batches": 2}}})
    assert (
        nested["tensorrt.calibration.cal_batches"].hint
        == "did you mean gen_trt_engine.tensorrt.calibration.cal_batches?"
    )


def test_large_bounds_are_written_out() -> None:
    assert describe(FIELDS["train.seed"]) == "a whole number ≥ 1, ≤ 4294967295"
    assert (
        describe({"type": "integer", "maximum": 10**18}) == "a whole number ≤ 1000000000000000000"
    )
    assert describe({"type": "number", "exclusiveMaximum": 1e7}) == "a number < 10000000"
    assert describe(FIELDS["train.mask_ratio"]) == "a number > 0, < 1"


@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), [1, 10**400], "1e999", ".nan", float("inf")],
    ids=["large", "small", "inside", "text", "nan", "inf"],
)
def test_a_number_that_no_float_holds_is_refused(value: Any) -> None:
    with pytest.raises(SpecError) as caught:
        merge([(OriginKind.SPEC_FILE, {"train": {"optim": {"lr": value}}})], SCHEMA)
    assert [problem.field for problem in caught.value.problems] == ["train.optim.lr"]


def test_a_section_given_as_a_value_and_a_value_given_as_a_section() -> None:
    found = problems({"train": {"optim": 3, "num_epochs": {"a": 1}}})
    assert set(found) == {"train.optim", "train.num_epochs"}
    assert found["train.optim"].expected == "a section"


BREAK = st.sampled_from([key for key, node in sorted(FIELDS.items())])


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(BREAK, ANYTHING, min_size=1, max_size=5),
    st.sets(st.sampled_from(["train.lrr", "zzz", "model.archh"]), max_size=2),
)
def test_random_bad_specs_end_in_one_clean_error_that_names_each_bad_key(
    changes: dict[str, Any], unknown: set[str]
) -> None:
    document: dict[str, Any] = {}
    for key, value in {**changes, **dict.fromkeys(unknown, 1)}.items():
        set_dotted(document, key, value)
    resolved = merge([(OriginKind.SPEC_FILE, document)], SCHEMA)
    alone = set(unknown)
    for key in changes:
        value = get_dotted(resolved.spec, key)
        if check_schema(put(SCHEMA["default"], key, value), SCHEMA):
            alone.add(key)
    found = check_schema(resolved.spec, SCHEMA)
    named = {str(problem.field) for problem in found}
    assert all(
        any(name == key or name.startswith((f"{key}[", f"{key}.")) for name in named)
        for key in alone
    )
    assert all(
        any(name == key or name.startswith((f"{key}[", f"{key}.")) for key in alone)
        for name in named
    )
    for problem in found:
        assert isinstance(problem, SpecError)
        assert problem.expected
        assert problem.to_dict()["exit_code"] == 2
        assert "Traceback" not in str(problem)
    for key in unknown - {"zzz"}:
        assert next(problem for problem in found if problem.field == key).hint


@pytest.mark.parametrize("text", ["train.num_epochs", "=3", "a..b=1", ".a=1", "", "a.=1"])
def test_an_override_that_is_no_key_and_value_is_a_usage_error(text: str) -> None:
    with pytest.raises(MaeError, match="key=value") as caught:
        parse_override(text)
    assert (caught.value.code, caught.value.exit_code) == ("usage", 2)


def test_one_text_in_the_place_of_a_list_is_told_the_brackets() -> None:
    bundle = Bundle.load()
    spec = bundle.template("train")
    set_dotted(spec, "train.freeze", "encoder")

    (problem,) = check_schema(spec, bundle.schema("train"))
    assert problem.hint == "as a list: train.freeze=[encoder]"


@pytest.mark.parametrize(("value", "text"), [(2, '"2"'), (True, '"true"'), (2.5, '"2.5"')])
def test_a_number_in_the_place_of_a_text_is_told_the_quotes(value: Any, text: str) -> None:
    bundle = Bundle.load()
    spec = bundle.template("train")
    set_dotted(spec, "dataset.classes", ["a", value])

    (problem,) = check_schema(spec, bundle.schema("train"))
    assert problem.field == "dataset.classes[1]"
    shell = f"in a shell, with quotes around the whole: 'dataset.classes=[{text}]'"
    assert problem.hint == f"in quotes it is a text: {text}; {shell}"
    set_dotted(spec, "dataset.classes", None)
    set_dotted(spec, "model.task", value)
    (problem,) = check_schema(spec, bundle.schema("train"))
    assert problem.hint == f"in quotes it is a text: {text}"


VALUES = [
    "abc",
    "",
    3,
    -1,
    0,
    1.5,
    1e12,
    True,
    None,
    [],
    [1],
    ["a", 2],
    {"a": 1},
    [[1]],
    [None],
    {},
]


def test_a_value_of_any_wrong_type_says_field_value_expected_and_how_to_mend_it() -> None:
    """Every field of every action, once: an action has most of them as the others have them."""
    tried: dict[str, list[Any]] = {}
    found = 0
    for action in ("train", "evaluate", "inference", "export", "gen_trt_engine"):
        schema = Bundle.load().schema(action)
        for field, node in field_nodes(schema).items():
            if node in tried.setdefault(field, []):
                continue
            tried[field].append(node)
            for value in VALUES:
                for error in _errors_of(field, value, schema):
                    found += 1
                    assert error.field and error.got is not None and error.expected, (field, value)
                    assert error.hint, (field, value)
                    assert error.hint != FIELDS.get(field, {}).get("description"), (field, value)
    assert found > 1000


def _errors_of(field: str, value: Any, schema: dict[str, Any]) -> Sequence[MaeError]:
    document: dict[str, Any] = {}
    set_dotted(document, field, value)
    try:
        return check_schema(merge([(OriginKind.SPEC_FILE, document)], schema).spec, schema)
    except SpecError as error:
        return error.problems


def test_a_number_out_of_range_is_mended_by_the_nearest_one_or_the_default() -> None:
    few = problems({"dataset": {"batch_size": 0}})["dataset.batch_size"]
    assert str(few.hint).startswith("set dataset.batch_size=1, the nearest that is accepted; or ")
    much = problems({"train": {"mask_ratio": 7}})["train.mask_ratio"]
    assert str(much.hint).startswith("set train.mask_ratio=0.75, the default. ")


def test_the_words_and_the_form_of_a_text_are_told() -> None:
    found = problems({"dataset": {"value_range": "full"}})["dataset.value_range"]
    assert str(found.expected).startswith("a string (dtype, auto) or a list of 2 items")
    schema = Bundle.load().schema("gen_trt_engine")
    (odd,) = check_schema({"gen_trt_engine": {"targets": ["x"]}}, schema)
    assert odd.expected == "a string of the form [0-9]{1,2}\\.[0-9]"


@pytest.mark.parametrize(
    ("action", "field"),
    [
        ("train", "results_dir"),
        ("train", "train.results_dir"),
        ("train", "train.teacher.checkpoint"),
        ("export", "export.onnx_file"),
    ],
)
def test_a_name_that_no_file_can_have_is_an_error_of_its_field(action: str, field: str) -> None:
    bundle = Bundle.load()
    document: dict[str, Any] = {}
    set_dotted(document, field, "x" * 300)
    found = resolve(bundle, action, layers_of(bundle, action, document))
    assert field in [error.field for error in found.errors]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ViT-B/16", "vit_base_patch16"),
        ("facebook/vit-mae-large", "vit_large_patch16"),
        ("mae_vit_huge_patch14", "vit_huge_patch14"),
        ("vit_base_patch16_224.mae", "vit_base_patch16"),
        (
            "vit_small_patch8_384",
            "vit_small_patch16 with model.patch_size=8 dataset.augmentation.input_size=384",
        ),
        (
            "convnextv2_tiny.fcmae_ft_in22k_in1k_384",
            "convnextv2_tiny with dataset.augmentation.input_size=384",
        ),
        ("facebook/convnextv2-tiny-22k-224", "convnextv2_tiny"),
        ("hiera-b+", "hiera_base_plus_224"),
        ("vit_giant", " or ".join(arch_names("vit"))),
    ],
)
def test_an_architecture_by_the_name_of_another_house_is_known(name: str, hint: str) -> None:
    found = problems({"model": {"arch": name}})
    assert found["model.arch"].hint == f"did you mean {hint}?"


def test_every_architecture_is_meant_by_the_name_that_its_paper_gives_it() -> None:
    assert {arch.title: [one.name for one in meant(arch.title)[0]] for arch in ARCHS.values()} == {
        arch.title: [arch.name] for arch in ARCHS.values()
    }
