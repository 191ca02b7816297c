"""Calls of `Skill.plan` and of the command line with anything in them; what comes back must be a
plan or a clean error.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mae_sdk import Skill
from mae_sdk.cli.main import main
from mae_skill.bundle import Bundle
from mae_skill.dotted import field_nodes, flatten
from mae_skill.errors import MaeError

from tests.support.images import write_imagefolder
from tests.support.specs import ANYTHING

EXITS = {0, 2, 3, 4, 7, 8}
ACTIONS = ("train", "evaluate", "inference", "export", "gen_trt_engine", "trian")
OPTIONS = (
    *(
        "train_datasets",
        "eval_dataset",
        "parent_job_id",
        "checkpoint",
        "ptm",
        "automl_policy",
        "request",
        "automl",
        "recipe",
        "env",
    ),
    *("platform", "idempotency_key", "spec_overrides", "no_such_option"),
)
_FIELDS = sorted(field_nodes(Bundle.load().schema("train")))
_SECTIONS = sorted({key.split(".")[0] for key in _FIELDS})
_SHORT = sorted(Bundle.load().info["spec_shorthand_keys"])
_WORDS = st.sampled_from(
    [
        "",
        " ",
        "off",
        "best",
        "epoch:3",
        "epoch:-1",
        "mae_vit_base_pretrain",
        "s3://",
        "ünï",
        "a=b",
        "../no",
        "/no",
        "-",
        "[1",
    ]
)
_STRANGE = (
    st.sampled_from(
        [
            float("nan"),
            float("inf"),
            10**400,
            b"bytes",
            {1: 2},
            {"": 1},
            {"a.b": {"c": 1}},
            object,
            [[[]]],
            {"x": {"x": {"x": 1}}},
        ]
    )
    | ANYTHING
    | _WORDS
    | st.text(max_size=8).map(
        lambda text: text if set(text) - set("./~") else f"?{text}"
    )  # no source that is the whole machine
)
_KEYS = (
    st.sampled_from(_FIELDS + _SHORT + _SECTIONS)
    | st.text(max_size=8)
    | st.sampled_from([".", "a..b", "train.", ".train", "train.optim"])
)


@st.composite
def calls(draw: st.DrawFn, data: Path) -> tuple[str, dict[str, Any]]:
    """``(action, options)``: mostly a good call, with one to three parts replaced by anything."""
    good: dict[str, Any] = {
        "train_datasets": str(data),
        "automl_policy": draw(st.sampled_from(["off", "auto"])),
        "spec_overrides": {"arch": "vit_tiny_patch16", "image_size": 32},
    }
    action = draw(st.sampled_from(ACTIONS + ("train",) * 10))
    for _ in range(draw(st.integers(1, 3))):
        part = draw(st.sampled_from(["override"] * 4 + ["spec"] * 4 + ["option"] * 2))
        if part == "override":
            good["spec_overrides"] = {
                **_mapping(good.get("spec_overrides")),
                draw(_KEYS): draw(_STRANGE),
            }
        elif part == "spec":
            spec: Any = draw(
                st.dictionaries(
                    st.sampled_from(_SECTIONS) | st.text(max_size=5),
                    st.dictionaries(_KEYS, _STRANGE, max_size=3) | _STRANGE,
                    max_size=3,
                )
                | _STRANGE
            )
            good["spec"] = None if spec == "-" else spec  # standard input
        else:
            name = draw(st.sampled_from(OPTIONS))
            good[name] = draw(_STRANGE)
    return action, good


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def plan_or_clean_error(action: str, options: dict[str, Any], root: Path) -> None:
    """The call through Python: a plan that is JSON, or a `MaeError` that is JSON and has a
    documented exit code.
    """
    try:
        plan = Skill().plan(action, **{**options, "results_root": str(root)})
    except MaeError as error:
        assert error.exit_code in EXITS - {0}, error
        assert (
            error.message
            and json.loads(json.dumps(error.to_dict(), default=str))["code"] == error.code
        )
        assert "Traceback" not in str(error)
    else:
        json.dumps(plan.to_dict(), allow_nan=False)
        compile(plan.to_python(), "script", "exec")
    assert not root.exists()


def command_or_clean_error(action: str, options: dict[str, Any], root: Path, file: Path) -> None:
    """The same through the command line, with the spec as a file: documented exit codes, no
    traceback, errors as one JSON object.
    """
    words = ["plan", action, "--results-root", str(root), "--json"]
    spec = options.get("spec")
    if spec is not None:
        with contextlib.suppress(
            yaml.YAMLError, TypeError, ValueError
        ):  # what YAML cannot say is no file
            file.write_text(yaml.safe_dump(spec, allow_unicode=True), errors="surrogateescape")
            words += ["-e", str(file)]
    for option, name in (
        ("--train-datasets", "train_datasets"),
        ("--recipe", "recipe"),
        ("--checkpoint", "checkpoint"),
        ("--parent", "parent_job_id"),
    ):
        if isinstance(options.get(name), str):
            words += [option, options[name]]
    overrides = options.get("spec_overrides")
    with contextlib.suppress(MaeError, TypeError, ValueError):
        words += [
            f"{key}={value}"
            for key, value in flatten(_mapping(overrides)).items()
            if not str(key).startswith("-")
        ]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([word.replace("\0", "") for word in words])
        except SystemExit as end:
            code = end.code
    said = err.getvalue()
    assert code in EXITS, (words, code, said[-2000:])
    assert "Traceback" not in said + out.getvalue()
    if code:
        assert json.loads(said.strip().splitlines()[-1])["exit_code"] == code
    else:
        json.loads(out.getvalue())


def many_calls(root: Path, way: str, count: int) -> None:
    """``count`` drawn calls through ``python`` or the ``command line``; each must give a plan or a
    clean error.
    """
    data = write_imagefolder(root / "data", classes=2, per_class=2)

    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def call(drawn: st.DataObject) -> None:
        action, options = drawn.draw(calls(data))
        if way == "python":
            plan_or_clean_error(action, options, root / "results")
        else:
            command_or_clean_error(action, options, root / "results", root / "spec.yaml")

    call()
