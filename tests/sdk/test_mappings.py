"""Inference mappings: every row of the skill's table, every function, every failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mae_sdk.job import parent_info
from mae_sdk.plan import inferred_fields as mappings
from mae_sdk.plan import inherit
from mae_sdk.plan.inferred_fields import InferenceContext, apply
from mae_skill.bundle import Bundle
from mae_skill.dotted import set_dotted
from mae_skill.errors import CheckpointError, MaeError, NotFoundError, UsageError

from tests.support.folders import add_checkpoints, chain, job_folder

ENV = {"MAE_ENCRYPTION_KEY": "anything"}
BUNDLE = Bundle.load()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    chain(tmp_path)
    return tmp_path


def fill(
    root: Path,
    action: str,
    parent: str | None = None,
    rows: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    info = parent_info(parent, root) if parent else None
    context = InferenceContext(
        action,
        more.pop("job_dir", None),
        "/out/new",
        info,
        env=more.pop("env", ENV),
        actions=BUNDLE.info["actions"],
        **more,
    )
    found = apply(action, BUNDLE.spec_params[action] if rows is None else rows, context)
    return {item.field: str(item.value).replace(str(root) + "/", "") for item in found}


ALWAYS = {"encryption_key": "env:MAE_ENCRYPTION_KEY", "results_dir": "/out/new"}
BEST = "t1/train/model_epoch_001.pth"


@pytest.mark.parametrize(
    ("action", "parent", "expected"),
    [
        ("train", None, {}),
        ("train", "t1", {"train.pretrained_model_path": BEST}),
        ("train", "a1", {"train.pretrained_model_path": "a1.t001/train/model_epoch_000.pth"}),
        ("evaluate", None, {}),
        ("evaluate", "t1", {"evaluate.checkpoint": BEST}),
        ("evaluate", "a1", {"evaluate.checkpoint": "a1.t001/train/model_epoch_000.pth"}),
        ("evaluate", "x1", {"evaluate.checkpoint": "x1/export/model.onnx"}),
        ("evaluate", "g1", {"evaluate.trt_engine": "g1/gen_trt_engine/model.engine"}),
        ("inference", "t1", {"inference.checkpoint": BEST}),
        ("inference", "x1", {"inference.checkpoint": "x1/export/model.onnx"}),
        ("inference", "g1", {"inference.trt_engine": "g1/gen_trt_engine/model.engine"}),
        (
            "export",
            "t1",
            {"export.checkpoint": BEST, "export.onnx_file": "/out/new/export/model.onnx"},
        ),
        (
            "gen_trt_engine",
            "x1",
            {
                "gen_trt_engine.onnx_file": "x1/export/model.onnx",
                "gen_trt_engine.trt_engine": "/out/new/gen_trt_engine/model.engine",
            },
        ),
    ],
)
def test_every_row_of_the_table_is_filled_from_the_parent_that_fits(
    root: Path, action: str, parent: str | None, expected: dict[str, str]
) -> None:
    assert fill(root, action, parent) == {**ALWAYS, **expected}


@pytest.mark.parametrize(
    ("action", "parent"),
    [
        *[("train", parent) for parent in ("x1", "g1", "e1")],
        *[("evaluate", "e1"), ("inference", "e1")],
        *[("export", parent) for parent in ("x1", "g1", "e1")],
        *[("gen_trt_engine", parent) for parent in ("t1", "g1", "a1")],
    ],
)
def test_a_parent_of_the_wrong_kind_is_refused_by_name(
    root: Path, action: str, parent: str
) -> None:
    with pytest.raises(UsageError, match="cannot start from a job that did") as caught:
        fill(root, action, parent)
    assert caught.value.field == "parent_job_id" and "leaves" in str(caught.value.expected)


@pytest.mark.parametrize(
    ("policy", "epoch"),
    [("best", 1), ("best_model", 1), ("latest", 2), ("epoch:0", 0), ("from_epoch_number:0", 0)],
)
def test_the_policy_chooses_the_checkpoint(root: Path, policy: str, epoch: int) -> None:
    assert (
        fill(root, "evaluate", "t1", checkpoint=policy)["evaluate.checkpoint"]
        == f"t1/train/model_epoch_{epoch:03d}.pth"
    )


def test_a_policy_with_nothing_to_choose_among_is_refused(root: Path) -> None:
    exported = parent_info("x1", root)
    for policy, parent in (("best", None), ("latest", None), ("latest", exported)):
        with pytest.raises(UsageError) as caught:
            mappings.check_policy(policy, parent)
        assert caught.value.field == "checkpoint"
    mappings.check_policy("best", exported)
    mappings.check_policy(None, None)
    mappings.check_policy("epoch:0", parent_info("t1", root))


def test_an_epoch_that_was_not_saved_is_an_error_that_names_those_that_were(root: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        fill(root, "evaluate", "t1", checkpoint="epoch:7")
    assert "0-2" in str(caught.value.expected)
    with pytest.raises(UsageError, match="policy"):
        fill(root, "evaluate", "t1", checkpoint="newest")
    (root / BEST).write_bytes(b"damaged!!")
    with pytest.raises(CheckpointError):
        fill(root, "evaluate", "t1", checkpoint="epoch:1")
    assert fill(root, "evaluate", "t1")["evaluate.checkpoint"].endswith(
        "002.pth"
    )  # the next best one


def test_a_resumed_job_takes_its_own_checkpoint_and_no_pretrained_model(root: Path) -> None:
    job_dir = root / "new"
    assert "train.resume_training_checkpoint_path" not in fill(root, "train", "t1", job_dir=job_dir)
    add_checkpoints(job_dir, [0.3, 0.1])
    found = fill(root, "train", "t1", job_dir=job_dir)
    assert found == {
        **ALWAYS,
        "train.resume_training_checkpoint_path": "new/train/model_epoch_001.pth",
    }


def test_the_key_is_a_reference_and_only_where_the_variable_is_set(root: Path) -> None:
    assert "encryption_key" not in fill(root, "train", env={})
    assert "anything" not in fill(root, "train").values()


@pytest.mark.parametrize(
    ("function", "parent", "ptm", "resumes", "expected"),
    [
        ("ptm", None, True, False, "w.pth"),
        ("ptm", "t1", True, True, "w.pth"),
        ("ptm", "t1", False, False, BEST),
        ("ptm", None, False, False, None),
        ("ptm_if_no_resume_model", "t1", True, False, "w.pth"),
        ("ptm_if_no_resume_model", None, True, True, None),
        ("resume_model", None, False, True, "new/train/model_epoch_000.pth"),
        ("resume_model", None, False, False, None),
        ("resume_model_or_ptm", "t1", True, True, "new/train/model_epoch_000.pth"),
        ("resume_model_or_ptm", "t1", True, False, "w.pth"),
        ("resume_model_or_ptm", "t1", False, False, BEST),
        ("parent_model", "t1", False, False, BEST),
        ("parent_model", None, False, False, None),
        ("parent_model_or_ptm", "t1", False, False, BEST),
        ("parent_model_or_ptm", None, True, False, "w.pth"),
        ("parent_model_folder", "t1", False, False, "t1/train"),
        ("parent_model_folder", "x1", False, False, "x1/export"),
        ("create_onnx_file", None, False, False, "/out/new/train/model.onnx"),
        ("create_engine_file", None, False, False, "/out/new/train/model.engine"),
        ("create_pth_file", None, False, False, "/out/new/train/model.pth"),
        ("create_onnx_file_2d", None, False, False, "/out/new/train/model_2d.onnx"),
        ("create_cal_cache", None, False, False, "/out/new/train/cal.bin"),
        (
            "create_inference_result_file_json",
            None,
            False,
            False,
            "/out/new/train/inference_results.json",
        ),
        (
            "create_evaluate_cmc_plot_reid",
            None,
            False,
            False,
            "/out/new/train/evaluate_cmc_plot.png",
        ),
        ("output_dir_labels", None, False, False, "/out/new/train/labels"),
        ("parent_model_evaluate", "t1", False, False, BEST),
        ("resume_model_bool", None, False, True, "True"),
        ("from_csv", None, False, False, None),
        ("StereoDataset", None, False, False, "StereoDataset"),
        ("output_dir", None, False, False, "/out/new"),
        ("key", None, False, False, "env:MAE_ENCRYPTION_KEY"),
        ("assign_const_value,30", None, False, False, "30"),
    ],
)
def test_every_function_gives_what_it_says(
    root: Path, function: str, parent: str | None, ptm: bool, resumes: bool, expected: str | None
) -> None:
    (root / "w.pth").write_bytes(b"weights")
    if resumes:
        add_checkpoints(root / "new", [0.3])
    rows = {"some.model_path": function}
    found = fill(
        root, "train", parent, rows, ptm=str(root / "w.pth") if ptm else None, job_dir=root / "new"
    )
    assert found == ({} if expected is None else {"some.model_path": expected})


def test_weights_beside_a_parent_that_takes_their_field_are_refused(root: Path) -> None:
    (root / "w.pth").write_bytes(b"weights")
    with pytest.raises(
        UsageError, match=r"reach no field of train: some\.model_path has"
    ) as caught:
        rows = {"some.model_path": "parent_model_or_ptm"}
        fill(root, "train", "t1", rows, ptm=str(root / "w.pth"), job_dir=root / "new")
    assert caught.value.field == "ptm"


def test_two_files_of_one_kind_are_named_after_their_fields(root: Path) -> None:
    rows = {"a.onnx_file": "create_onnx_file", "a.decoder_onnx_file": "create_onnx_file"}
    assert sorted(fill(root, "train", rows=rows).values()) == [
        "/out/new/train/decoder_onnx.onnx",
        "/out/new/train/model.onnx",
    ]


def test_an_unknown_function_is_refused_only_where_its_field_has_no_value() -> None:
    rows = {"a.b": "guess_model"}
    context = InferenceContext("train", None, "/out", value_of=lambda key: "here")
    assert apply("train", rows, context) == []
    assert "a.b keeps 'here'" in context.notices[0]
    options = {"a.b": {"enum": ["guess_model", "other"]}}
    (found,) = apply("train", rows, InferenceContext("train", None, "/out", fields=options))
    assert (found.value, found.note) == ("guess_model", "a constant of the bundle")


def test_a_link_of_the_bundle_is_fetched_at_the_launch_and_never_by_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAE_CACHE_DIR", str(tmp_path))
    row = {"link": "https://no.such.host/a/w.pth", "destination_path": "../../../etc/passwd"}
    (found,) = apply("train", {"a.b": row}, InferenceContext("train", None, "/out"))
    ((url, path, _),) = found.needs
    assert (url, found.value) == (row["link"], str(path))
    assert path.is_relative_to(tmp_path) and path.name == "passwd"
    for link in ("file:///etc/passwd", "/etc/passwd", "weights.pth"):
        with pytest.raises(UsageError):
            apply("train", {"a.b": {"link": link}}, InferenceContext("train", None, "/out"))


def test_a_constant_keeps_its_type(root: Path) -> None:
    context = InferenceContext("train", None, "/out")
    found = apply(
        "train",
        {
            "a.b": {"function": "assign_const_value", "value": [1, 2]},
            "a.c": "assign_const_value,2e-4",
        },
        context,
    )
    assert [item.value for item in found] == [[1, 2], 2e-4]


@pytest.mark.parametrize(
    ("rows", "options", "error", "words"),
    [
        ({"a.b": "guess_model"}, {}, UsageError, "unknown inference function"),
        ({"a.b": "assign_const_value"}, {}, UsageError, "constant"),
        ({"a.b": "output_dir,3"}, {}, UsageError, "constant"),
        ({"a.b": "ptm"}, {"ptm": "/nowhere/w.pth"}, NotFoundError, "does not exist"),
        (
            {"a.b": "output_dir"},
            {"ptm": "/nowhere/w.pth"},
            UsageError,
            "takes no pretrained weights",
        ),
        ({"a.b": "output_dir"}, {"parent": "t1"}, UsageError, "takes no model from a parent"),
        ({"a.b": "parent_model"}, {"parent": "nobody"}, NotFoundError, "no such job"),
        ({"a.b": "parent_model"}, {"parent": "../t1"}, UsageError, "not a job id"),
        ({"a.b": "parent_model"}, {"parent": "a2"}, NotFoundError, "no successful trial"),
        ({"a.b": "parent_model"}, {"parent": "failed"}, UsageError, "ERROR"),
        ({"a.b": "parent_model"}, {"parent": "canceled"}, UsageError, "CANCELED"),
        (
            {"a.b": "parent_model"},
            {"parent": "empty"},
            UsageError,
            "leaves no file",
        ),
        ({"a.onnx_file": "parent_model"}, {"parent": "twice"}, NotFoundError, "more than one"),
    ],
)
def test_every_failure_is_a_clear_error(
    root: Path, rows: dict[str, str], options: dict[str, Any], error: type[MaeError], words: str
) -> None:
    job_folder(root, "a2", "train", kind="automl")
    add_checkpoints(job_folder(root, "failed", "train", "ERROR"), [0.1])
    add_checkpoints(job_folder(root, "canceled", "train", "CANCELED"), [0.1])
    job_folder(root, "empty", "train")
    for name in ("a", "b"):
        (job_folder(root, "twice", "export") if name == "a" else root / "twice").joinpath(
            "export", f"{name}.onnx"
        ).write_bytes(b"x")
    with pytest.raises(error) as caught:
        fill(root, "train", rows=rows, **options)
    assert words in str(caught.value)


def test_a_field_that_the_user_set_is_left_alone_and_closes_its_sibling(root: Path) -> None:
    assert fill(root, "evaluate", "g1", given={"evaluate.checkpoint"}) == ALWAYS
    assert "results_dir" not in fill(root, "evaluate", "t1", given={"results_dir"})


def test_a_runner_without_an_index_gives_its_newest_model_or_an_epoch_by_name(
    tmp_path: Path,
) -> None:
    folder = job_folder(tmp_path, "j1", "train") / "train"
    (folder / "model_epoch_003.pth").write_bytes(b"3")
    rows = {"a.model": "parent_model"}
    assert fill(tmp_path, "train", "j1", rows) == {"a.model": "j1/train/model_epoch_003.pth"}
    (folder / "model_epoch_004.pth").write_bytes(b"4")
    assert fill(tmp_path, "train", "j1", rows, checkpoint="epoch:4") == {
        "a.model": "j1/train/model_epoch_004.pth"
    }
    for policy in ("best", "latest"):
        assert fill(tmp_path, "train", "j1", rows, checkpoint=policy) == {
            "a.model": "j1/train/model_epoch_004.pth"
        }
    with pytest.raises(NotFoundError, match="no checkpoint of epoch 5"):
        fill(tmp_path, "train", "j1", rows, checkpoint="epoch:5")


def test_a_child_inherits_from_the_checkpoint_before_the_spec(root: Path) -> None:
    parent = parent_info("t1", root)
    found = inherit.settings("evaluate", BUNDLE.info, parent)
    size, mean = found["dataset.augmentation.input_size"], found["dataset.augmentation.mean"]
    assert (found["train.stage"], found["model.arch"], found["model.num_classes"], size, mean) == (
        "finetune",
        "toy",
        3,
        32,
        [0.5] * 3,
    )
    assert "train.stage" not in inherit.settings("train", BUNDLE.info, parent)
    assert inherit.settings("evaluate", BUNDLE.info, None) == {}


def test_a_child_reads_pictures_as_its_parent_has_read_them(tmp_path: Path) -> None:
    asked = {"channels": 1, "value_range": "auto"}
    folder = job_folder(tmp_path, "t1", "train", spec={"dataset": asked})
    measured = {"channels": 1, "value_range": [280.0, 3609.28], "exif_orientation": False}
    add_checkpoints(folder, [0.5], **measured)
    found = inherit.settings("train", BUNDLE.info, parent_info("t1", tmp_path))
    assert {key: found[f"dataset.{key}"] for key in measured} == measured

    folder = job_folder(tmp_path, "t2", "train", spec={"dataset": {"channels": None}})
    add_checkpoints(folder, [0.5], channels=3, value_range=None)
    found = inherit.settings("train", BUNDLE.info, parent_info("t2", tmp_path))
    assert not {"dataset.channels", "dataset.value_range"} & {*found}, "three are what null means"


@pytest.mark.parametrize(
    ("action", "key", "value", "refused"),
    [
        ("evaluate", "model.arch", "other", True),
        ("evaluate", "train.stage", "pretrain", True),
        ("export", "model.num_classes", 10, True),
        ("export", "model.num_classes", 3, False),
        ("evaluate", "dataset.augmentation.input_size", 64, False),
        ("evaluate", "dataset.augmentation.mean", [0.1] * 3, False),
        ("train", "dataset.channels", 2, False),
        ("train", "dataset.value_range", [0, 9], False),
        ("train", "model.arch", "other", True),
        ("train", "train.stage", "pretrain", False),
        ("train", "model.num_classes", 10, False),
    ],
)
def test_what_contradicts_the_checkpoint_is_an_error(
    root: Path, action: str, key: str, value: Any, refused: bool
) -> None:

    spec: dict[str, Any] = {}
    set_dotted(spec, key, value)
    errors = inherit.contradictions(action, BUNDLE.info, parent_info("t1", root), spec, {key})
    assert [error.field for error in errors] == ([key] if refused else [])
    assert inherit.contradictions(action, BUNDLE.info, parent_info("t1", root), spec, set()) == []


def test_an_export_is_still_what_its_checkpoint_was(root: Path) -> None:
    spec = {"export": {"checkpoint": str(root / BEST)}, "model": {"arch": "toy"}}
    (job_folder(root, "x2", "export", spec=spec, parent="t1") / "export/model.onnx").write_bytes(
        b"onnx"
    )
    errors = inherit.contradictions(
        "evaluate",
        BUNDLE.info,
        parent_info("x2", root),
        {"model": {"arch": "other"}},
        {"model.arch"},
    )
    assert [error.field for error in errors] == ["model.arch"]


def test_an_automl_parent_shows_its_best_child(root: Path) -> None:
    info = parent_info("a1", root)
    assert (info.id, info.resolved_from, info.kind) == ("a1.t001", "a1", "checkpoint")


@pytest.mark.parametrize("how", ["given", "ptm"])
def test_a_parent_whose_model_is_not_taken_is_said(root: Path, how: str) -> None:
    rows = {"go.checkpoint": "parent_model_or_ptm" if how == "given" else "ptm"}
    (root / "own.pth").touch()
    notices: list[str] = []
    more: dict[str, Any] = {"given": {"go.checkpoint"}}
    if how == "ptm":
        more = {"ptm": str(root / "own.pth")}
    fill(root, "evaluate", "t1", rows, notices=notices, **more)
    assert notices == ["the model of t1 is not used: go.checkpoint is given"]
