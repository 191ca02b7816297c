"""What an error shows is bounded, and never a secret."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from mae_skill.bundle import Bundle
from mae_skill.errors import MaeError, SpecError
from mae_skill.reader import parse_override
from mae_skill.resolve import layers_of, raise_all, resolve

BUNDLE = Bundle.load()
SECRET = "hunter2-hunter2"


def error_of(spec: dict[str, Any]) -> MaeError:
    with pytest.raises(MaeError) as caught:
        raise_all(resolve(BUNDLE, "train", layers_of(BUNDLE, "train", spec)).errors, "train")
    return caught.value


def texts(error: MaeError) -> str:
    return str(error) + json.dumps(error.to_dict(), ensure_ascii=False)


@pytest.mark.parametrize(
    "spec",
    [
        {f"k{n}": n for n in range(20_000)},
        {"train": {f"k{n}": n for n in range(2000)}},
        {"optim": {f"k{n}": n for n in range(2000)}},
        {"dataset": {"augmentation": {"mean": ["x"] * 5000}}},
        {"train": {"num_epochs": "x" * 10**6}},
        {"train": {"x" * 10**6: 1}},
        {"train": {"gpu_ids": [-1] * 5000}},
        {"train": {"num_epochs": {f"k{n}": n for n in range(2000)}}},
    ],
)
def test_an_error_is_bounded_however_much_is_wrong(spec: dict[str, Any]) -> None:
    start = time.process_time()
    error = error_of(spec)
    assert len(str(error)) < 100_000
    assert len(json.dumps(error.to_dict())) < 250_000
    assert time.process_time() - start < 20


def test_how_much_is_left_out_is_said() -> None:
    error = error_of({f"k{n}": n for n in range(2000)})
    assert "2000 unknown keys" in str(error)
    many = SpecError("x", problems=[SpecError("bad", field=f"f{n}") for n in range(120)])
    assert str(many).startswith("120 errors")
    assert str(many).endswith("… and 70 more")
    assert many.to_dict()["problems_left_out"] == 70


@pytest.mark.parametrize(
    "spec",
    [
        {"wandb": {"api_key": SECRET}},
        {"wandb": {"apikey": [SECRET]}},
        {"wandb": {"api_key": {"value": SECRET}}},
        {"encryption_keyy": SECRET},
        {"encryption-key": SECRET},
        {"encrption_ky": SECRET},
        {"encryption_key": [SECRET]},
        {"encryption_key": {"a": SECRET}},
        {"train": {"encryption_key": SECRET}},
        {"train": {"num_epochs": {"password": SECRET}}},
        {"train": {"num_epochs": [{"token": SECRET}]}},
        {"passwrd": SECRET},
        {"db_pass": SECRET},
        {"aws": {"secret_access_key": SECRET}},
        {"train": {"num_epochs": f"s3://AK:{SECRET}@bucket/x"}},
        {"wandb": {"api_key": f"${{{SECRET}}}"}},
        {"wandb": {"api_key": SECRET + "\0"}},
    ],
)
def test_an_error_never_shows_what_looks_like_a_secret(spec: dict[str, Any]) -> None:
    assert SECRET not in texts(error_of(spec))


def test_an_override_that_is_none_shows_no_secret() -> None:
    with pytest.raises(MaeError) as caught:
        parse_override(f"wandb.api_key:{SECRET}")
    assert SECRET not in texts(caught.value)


def test_a_value_that_is_no_secret_is_shown() -> None:
    error = error_of({"train": {"num_epochs": "many", "lrr": 3}})
    assert "many" in str(error)
    assert "got:      3" in str(error)
