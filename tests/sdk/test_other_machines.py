"""A plan for a machine that one is not on, and for data that are not here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill, answers
from mae_sdk.cli.common import size
from mae_sdk.cli.plan_run import plan_text
from mae_sdk.plan.machine import Machine, count_of, exchange_seconds, price_of, step_seconds
from mae_sdk.report.markup import size as size_of_report
from mae_skill.errors import MaeError, UsageError
from mae_skill.estimate import estimate
from mae_skill.gpus import GPUS, gpu_of
from mae_skill.rules.base import Facts


def plan(**options: Any) -> Any:
    return Skill().plan("train", automl_policy="off", **options)


def test_a_machine_a_number_and_a_price_are_read() -> None:
    machine = Machine.of("8xA100-80G,nodes=4")
    assert (machine.world, machine.memory_gb, machine.cores) == (32, 80, 96)
    assert Machine.of("2xa100-40G,cores=64,network=12.5").memory_gb == 40
    assert (count_of("1.28M"), count_of("300k"), count_of("1281167")) == (1280000, 300000, 1281167)
    assert (price_of("2.5/gpuh", machine), price_of("30/h", machine)) == (80.0, 120.0)


@pytest.mark.parametrize(
    "text",
    [
        "A100",
        "8xA100-64G",
        "8xFOO",
        "0xA100",
        "8xA100,nodes=0",
        "8xA100,size=3",
        "8 A100",
        "8xA100-80G,foo=1",
    ],
)
def test_what_is_no_machine_is_one_error(text: str) -> None:
    with pytest.raises(UsageError) as error:
        Machine.of(text)
    assert error.value.field == "on" and error.value.expected and error.value.hint


def test_more_gpus_than_the_named_machine_has_are_an_error_of_usage() -> None:
    with pytest.raises(UsageError) as error:
        plan(on="8xA100-80G", images="20K", spec_overrides={"train.num_gpus": 16})
    assert (error.value.field, error.value.got) == ("train.num_gpus", 16)
    assert "at most 8" in str(error.value.expected)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"images": "many"}, "images"),
        ({"on": "1xT4", "images": "1M", "price": "cheap"}, "price"),
        ({"images": "1M", "price": "1/h"}, "price"),
    ],
)
def test_a_wrong_number_or_price_names_its_option(given: dict[str, Any], field: str) -> None:
    with pytest.raises(UsageError) as error:
        plan(**given)
    assert error.value.field == field


def test_every_gpu_of_the_table_has_a_time() -> None:
    spec = {"model": {"arch": "vit_base_patch16"}, "train": {"stage": "pretrain"}}
    for name, gpu in GPUS.items():
        assert gpu.source and gpu.memory_gb and gpu.bf16 >= gpu.fp32 and float(gpu.capability) >= 7
        assert estimate("train", spec, Facts(device=f"NVIDIA {name} 80GB"))["seconds_per_step"] > 0
    assert gpu_of("NVIDIA A100-SXM4-80GB") == "A100" and gpu_of("NVIDIA L40S") == "L40S"
    assert gpu_of("cpu") is None


def test_a_plan_counts_the_nodes_in_batch_steps_memory_hours_and_money() -> None:
    spec = {"dataset": {"batch_size": 64}, "model": {"arch": "vit_large_patch16"}}
    asked: dict[str, Any] = {"spec": spec, "images": "1.28M", "price": "2.5/gpuh"}
    one = plan(on="8xH100", **asked)
    four = plan(on="8xH100,nodes=4", **asked)
    assert (one.effective_batch, four.effective_batch) == (512, 2048)
    assert (one.steps_per_epoch, four.steps_per_epoch) == (2500, 625)
    single, many = one.estimates["machine"], four.estimates["machine"]
    assert single["fits"] and single["memory_gb_per_gpu"] == many["memory_gb_per_gpu"]
    assert many["hours_range"][0] < many["hours"] < many["hours_range"][1]
    assert many["hours"] < single["hours"] and many["gpu_hours"] >= single["gpu_hours"]
    assert many["cost"] == pytest.approx(many["hours"] * 32 * 2.5, rel=0.02)
    assert many["loader_images_per_second"] == pytest.approx(
        four.effective_batch / many["seconds_per_step"], rel=0.01
    )
    assert "not measured" in many["basis"] and "25 GB/s between nodes" in many["basis"]

    shards = {**spec, "train": {"distributed_strategy": "fsdp", "precision": "bf16"}}
    sharded = plan(on="8xH100,nodes=4", **{**asked, "spec": shards})
    assert sharded.estimates["memory_mb"]["weights"] == pytest.approx(
        four.estimates["memory_mb"]["weights"] / 32, rel=0.01
    )


def test_more_nodes_than_the_machine_has_are_refused() -> None:
    with pytest.raises(MaeError, match="there is 1 node for a job, not 2") as error:
        plan(on="8xH100", images="1.28M", spec_overrides={"train.num_nodes": 2})
    assert error.value.field == "train.num_nodes" and "nodes=2" in str(error.value.hint)


def test_money_is_that_of_the_seconds_however_few() -> None:
    spec = {"dataset": {"batch_size": 64}, "train": {"num_epochs": 1}}
    made = plan(on="8xA100-80G", images="2000", price="2.5/gpuh", spec=spec)
    found, seconds = made.estimates["machine"], made.estimates["time"]["seconds_total"]
    assert 0 < seconds < 36 and found["hours"] > 0
    assert found["cost"] == pytest.approx(seconds / 3600 * 8 * 2.5, abs=0.006)
    assert found["gpu_hours"] == pytest.approx(seconds / 3600 * 8, rel=0.06)


def test_a_run_that_does_not_fit_is_a_warning_of_the_plan() -> None:
    spec = {"dataset": {"batch_size": 4096}, "model": {"arch": "vit_huge_patch14"}}
    made = plan(on="1xT4", images="10K", spec=spec)
    assert made.estimates["machine"]["fits"] is False
    assert "dataset.batch_size" in [getattr(w, "field", None) for w in made.warnings]


@pytest.mark.parametrize(
    ("on", "precision", "advised", "useless"),
    [
        ("1xT4", "fp32", "train.precision=fp16", "fsdp"),
        ("1xA100", "bf16", "train.gradient_checkpointing=true", "precision"),
        ("8xA100", "fp32", "train.distributed_strategy=fsdp", "fp16"),
    ],
)
def test_what_helps_a_run_to_fit_is_what_can_help_it(
    on: str, precision: str, advised: str, useless: str
) -> None:
    spec = {"dataset": {"batch_size": 8192}, "model": {"arch": "vit_huge_patch14"}}
    made = plan(on=on, images="100K", spec=spec | {"train": {"precision": precision}})
    (hint,) = [w.hint for w in made.warnings if getattr(w, "got", "") and "GB" in str(w.got)]
    assert advised in hint and useless not in hint


def test_processes_of_a_node_and_of_all_are_told_apart() -> None:
    made = plan(on="8xH100,nodes=4", images="1M", spec=base(64, 12))
    text = plan_text(answers.plan(made))
    assert "8 a node, 32 in all" in text and "all_processes: the 8 of one node" in text


def test_such_a_plan_is_not_launched(tmp_path: Path) -> None:
    for options in ({"on": "1xT4", "images": "10K"}, {"images": "10K"}):
        made = plan(results_root=str(tmp_path / "r"), **options)
        with pytest.raises(UsageError, match="not launched"):
            Skill().create_job(made)
    assert not (tmp_path / "r").exists()


def test_the_exchange_of_gradients_hides_behind_the_backward_pass_as_far_as_it_lasts() -> None:
    machine = Machine.of("8xA100,nodes=64")
    assert exchange_seconds(4e8, Machine.of("1xA100")) == 0
    whole = exchange_seconds(4e8, machine)
    assert whole == pytest.approx(2 * 7 / 8 * 4e8 / 300e9 + 2 * 63 / 64 * 4e8 / 25e9)
    assert step_seconds(0.3, 0.1) == 0.3 and step_seconds(0.3, 0.4) == pytest.approx(0.5)
    assert step_seconds(0.3, 0.4, beside=0.2) == pytest.approx(0.7)


def test_there_is_one_time_of_a_run_and_it_holds_the_exchange_of_gradients() -> None:
    spec = {"dataset": {"batch_size": 3}, "model": {"arch": "vit_large_patch16"}}
    made = plan(on="8xA100-80G,nodes=4", images="1.28M", spec=spec)
    time, there = made.estimates["time"], made.estimates["machine"]
    assert time["seconds_per_step"] == pytest.approx(there["seconds_per_step"], rel=0.01)
    assert there["seconds_per_step"] > there["exchange_seconds_per_step"]
    assert there["hours"] == pytest.approx(time["seconds_total"] / 3600, abs=0.01)
    assert there["hours_range"][0] < there["hours"] < there["hours_range"][1]
    (said,) = [text for text in made.notices if "waits for the exchange of gradients" in text]
    assert "raise dataset.batch_size" in said and "network=25" in said

    wide = "8xA100-80G,nodes=4,network=200"
    large = plan(on=wide, images="1.28M", recipe="mae_vit_large_pretrain")
    assert not [text for text in large.notices if "exchange of gradients" in text]


def test_fsdp_exchanges_half_as_much_again_as_ddp() -> None:
    asked: dict[str, Any] = {"on": "8xA100-80G", "images": "1.28M"}
    seconds = [
        plan(**asked, spec_overrides={"train.distributed_strategy": how}).estimates["machine"][
            "exchange_seconds_per_step"
        ]
        for how in ("ddp", "fsdp")
    ]
    assert seconds[1] == pytest.approx(1.5 * seconds[0], rel=0.05)


def test_a_plan_says_where_the_loader_is_slower_than_the_gpu_and_how_many_processes_keep_up() -> (
    None
):
    asked: dict[str, Any] = {"on": "8xA100-80G,nodes=4,network=200", "images": "1.28M"}
    asked["recipe"] = "mae_vit_large_pretrain"
    slow = plan(**asked)
    (said,) = [text for text in slow.notices if "waits for its images" in text]
    assert "dataset.num_workers_per_gpu=2" in said and "3 would keep up" in said
    quick = plan(**asked, spec_overrides={"dataset.num_workers_per_gpu": 3})
    assert not [text for text in quick.notices if "waits for its images" in text]
    assert quick.estimates["machine"]["hours"] < slow.estimates["machine"]["hours"]


def test_the_disk_of_this_machine_does_not_judge_a_plan_for_another() -> None:
    made = plan(on="8xA100-80G,nodes=4", images="1.28M", recipe="mae_vit_large_pretrain")
    assert "results_root" not in [getattr(w, "field", None) for w in made.warnings]
    (said,) = [text for text in made.notices if "checkpoints take" in text]
    assert said.startswith("800 checkpoints take 3,161 GB: train.keep_checkpoints=1")
    disk = made.estimates["disk_mb"]["total"] * 2**20 / 1e9
    assert made.estimates["machine"]["checkpoints_gb"] == pytest.approx(disk, abs=0.1)
    assert float(said.split()[3].replace(",", "")) == pytest.approx(disk, abs=1)


def test_the_command_line_and_a_report_count_bytes_in_one_unit() -> None:
    for count in (0, 999, 1e3, 1.5e6, 2**30, 3e12):
        assert size(count) == size_of_report(count)
    assert size(2**30) == "1.1 GB"


def base(batch: int, workers: int) -> dict[str, Any]:
    dataset = {"batch_size": batch, "num_workers_per_gpu": workers}
    return {"model": {"arch": "vit_base_patch16"}, "dataset": dataset}


def test_what_the_loader_must_give_does_not_depend_on_what_it_gives() -> None:
    needed = []
    for workers in (1, 2, 64):
        made = plan(on="8xA100-80G,cores=512", images="1.28M", spec=base(256, workers))
        there = made.estimates["machine"]
        needed.append(there["loader_images_per_second"])
        limited = made.effective_batch / there["seconds_per_step"]
        assert limited == pytest.approx(min(needed[-1], 8 * workers * 1000 / 3), rel=0.01)
    assert needed[0] == needed[1] == needed[2] > 8 * 2 * 1000 / 3


def test_a_plan_says_the_cores_that_the_gpus_need_and_what_those_of_a_node_give() -> None:
    made = plan(on="8xH100,cores=24", images="1.28M", spec=base(256, 64))
    there = made.estimates["machine"]
    assert there["cores_images_per_second_per_node"] == 8000
    needed = there["loader_images_per_second_per_node"]
    assert there["loader_cores_per_node"] == pytest.approx(needed * 0.003, abs=1)
    # More loader processes than cores read no faster than the cores do.
    assert made.effective_batch / there["seconds_per_step"] == pytest.approx(8000, rel=0.01)
    (said,) = [text for text in made.notices if "waits for its images" in text]
    assert "cores of a node that has 24" in said


def test_a_machine_that_waits_for_images_has_a_second_price_that_its_setting_keeps() -> None:
    spec = {"train.num_epochs": 20, "dataset.batch_size": 128, "model.arch": "vit_tiny_patch16"}
    asked = {"on": "1xA100-80G", "images": "1M", "price": "2.5/gpuh"}
    waits = plan(**asked, spec=spec).estimates["machine"]
    more = waits["with_more_loaders"]
    assert more["hours"] < 0.9 * waits["hours"] and more["cost"] < 0.9 * waits["cost"]

    workers = {"dataset.num_workers_per_gpu": more["num_workers_per_gpu"]}
    there = plan(**asked, spec={**spec, **workers}).estimates["machine"]
    assert "with_more_loaders" not in there
    assert there["hours"] == pytest.approx(more["hours"], rel=0.02)
    assert there["cost"] == pytest.approx(more["cost"], rel=0.02)


def test_a_loader_that_is_ready_before_the_gradients_are_exchanged_is_not_said_to_be_slow() -> None:
    spec = base(64, 12) | {"train": {"precision": "bf16"}}
    made = plan(on="8xH100,nodes=8,network=50", images="1.28M", spec=spec)
    assert [text for text in made.notices if "waits for the exchange" in text]
    assert not [text for text in made.notices if "waits for its images" in text]


def test_the_basis_of_a_step_gives_the_step() -> None:
    made = plan(on="1xH100,cores=256", images="1.28M", spec=base(512, 64))
    basis = made.estimates["time"]["basis"]
    peak, beside = (
        float(part) for part in re.findall(r"([\d.]+) TFLOP/s, and ([\d.]+) ms beside it", basis)[0]
    )
    work = 3 * made.estimates["forward_gflops"] * 512 / (0.35 * peak * 1e3)
    said = made.estimates["time"]["seconds_per_step"]
    assert said == pytest.approx(work + beside / 1e3, rel=0.01)

    waiting = plan(on="1xH100,cores=4", images="1.28M", spec=base(512, 64))
    reading = re.findall(r"its loader takes (\d+) ms", waiting.estimates["time"]["basis"])
    assert [int(one) / 1e3 for one in reading] == [waiting.estimates["time"]["seconds_per_step"]]


def test_the_basis_names_what_fsdp_exchanges() -> None:
    spec = base(64, 12) | {"train": {"distributed_strategy": "fsdp"}}
    made = plan(on="8xH100", images="1.28M", spec=spec)
    assert "weights gathered twice and gradients scattered" in made.estimates["machine"]["basis"]


def test_the_trials_of_a_study_exchange_gradients_too() -> None:
    spec = {"model": {"arch": "vit_large_patch16"}, "dataset": {"batch_size": 3}}
    made = Skill().plan(
        "train",
        on="8xA100,nodes=4",
        images="1.28M",
        spec=spec,
        automl_policy="on",
        automl={"max_trials": 3},
    )
    there = made.estimates["machine"]
    assert there["seconds_per_step"] > there["exchange_seconds_per_step"] > 0.05
    step = made.estimates["time"]["seconds_per_step"]
    assert step == pytest.approx(there["seconds_per_step"], rel=0.01)


@pytest.mark.parametrize("text", ["8xA100,nodes=1.5", "8xA100,cores=0.5"])
def test_nodes_and_cores_are_whole_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="whole number"):
        Machine.of(text)
    with pytest.raises(UsageError, match="not a number of images"):
        count_of("12.5")


def test_a_fine_tuning_of_images_that_are_only_counted_is_planned() -> None:
    made = plan(on="8xA100-80G", images="1.28M", spec_overrides={"stage": "finetune"})
    assert made.estimates["machine"]["hours"] > 0
    assert not [text for text in made.warnings if "held out" in str(text)]


def test_gpus_that_a_run_leaves_idle_and_formats_that_they_lack_are_named() -> None:
    few = {"train.num_gpus": 2, "train.num_nodes": 1, "train.precision": "bf16"}
    made = plan(on="8xV100-32G,nodes=4", images="1.28M", spec_overrides=few)
    said = "\n".join(map(str, made.warnings))
    assert "uses 2 of the 32 GPUs" in said and "V100 computes no bf16" in said
    whole = plan(on="8xA100-80G", images="1.28M", spec_overrides={"train.precision": "bf16"})
    assert not re.search("of the 8 GPUs|no bf16", "\n".join(map(str, whole.warnings)))


def test_the_exchange_is_among_the_gpus_that_the_run_uses() -> None:
    def seconds(on: str, **spec: Any) -> float:
        made = plan(on=on, images="1.28M", recipe="mae_vit_base_pretrain", spec_overrides=spec)
        found: float = made.estimates["machine"]["exchange_seconds_per_step"]
        return found

    many = "8xA100-80G,nodes=4"
    assert seconds(many, **{"train.num_nodes": 1}) == seconds("8xA100-80G")
    assert seconds(many, **{"train.num_nodes": 1, "train.num_gpus": 1}) == 0
    assert seconds(many) > seconds(many, **{"train.num_nodes": 2}) > seconds("8xA100-80G")


def test_hours_of_gpus_are_divided_among_those_of_all_nodes() -> None:
    more = {"images": "1.28M", "recipe": "auto", "budget": "64gpuh"}
    hours = [plan(on=f"8xA100-80G{nodes}", **more) for nodes in ("", ",nodes=4")]
    epochs = [made.spec["train"]["num_epochs"] for made in hours]
    spent = [made.estimates["machine"]["gpu_hours"] for made in hours]
    assert all(value <= 70 for value in spent), (spent, epochs)


@pytest.mark.parametrize("nodes", ["", ",nodes=4", ",nodes=4,network=2"])
def test_a_budget_is_filled_by_the_step_that_the_plan_has(nodes: str) -> None:
    """With the exchange of gradients, and with the batches of all nodes."""
    spec = {"model": {"arch": "vit_large_patch16"}, "dataset": {"batch_size": 16}}
    more = {"images": "1.28M", "recipe": "auto", "spec": spec}
    made = plan(on=f"8xA100-80G{nodes}", budget="64gpuh", **more)
    seconds = 64 * 3600 / (32 if nodes else 8)
    assert 0.5 * seconds < made.estimates["time"]["seconds_total"] <= seconds
    assert "training" in made.estimates["time"]["parts"]


def test_the_hours_of_gpus_are_of_those_that_a_spec_file_names() -> None:
    named = {"train": {"num_gpus": 8, "num_nodes": 4}}
    spec = {"model": {"arch": "vit_large_patch16"}, **named}
    made = plan(on="8xA100-80G,nodes=4", images="1.28M", recipe="auto", budget="64gpuh", spec=spec)
    assert made.estimates["time"]["seconds_total"] <= 2 * 3600


def test_a_batch_below_that_of_the_published_recipe_is_told_with_what_makes_up_for_it() -> None:
    asked: dict[str, Any] = {"on": "8xA100-80G", "images": "2M", "recipe": "mae_vit_base_pretrain"}
    said = " ".join(map(str, plan(**asked).notices))
    assert "the effective batch is 512, that of mae_vit_base_pretrain 4096" in said
    assert "train.accum_grad_batches=8 gives as many" in said
    whole = plan(**asked, spec_overrides={"train.accum_grad_batches": 8})
    assert "that of mae_vit_base_pretrain" not in " ".join(map(str, whole.notices))


def test_the_rate_of_the_auto_recipe_is_that_of_the_batch_of_all_nodes() -> None:
    more = {"images": "1.28M", "recipe": "auto", "spec": {"dataset": {"batch_size": 64}}}
    one, four = (plan(on=f"8xA100-80G{nodes}", **more) for nodes in ("", ",nodes=4"))
    assert four.effective_batch == 4 * one.effective_batch
    rates = [made.spec["train"]["optim"]["lr"] for made in (one, four)]
    assert rates[1] == pytest.approx(2 * rates[0], rel=0.05)


@pytest.mark.parametrize(
    "text", ["8xA100-80G", "8xA100-80GB", "8XA100-80gb", "8 x a100 - 80 GB", "8xa100-80g,NODES=1"]
)
def test_a_machine_is_read_however_it_is_spelled(text: str) -> None:
    machine = Machine.of(text)
    assert (machine.gpus, machine.name, machine.memory_gb, machine.assumed) == (8, "A100", 80, "")


def test_a_card_of_several_sizes_is_taken_with_a_notice_of_the_others() -> None:
    made = plan(on="8XA100", images="1.28M")
    said = [text for text in made.notices if "taken as A100-80G" in text]
    assert said and "--on 8xA100-40G" in said[0]
    assert not [text for text in plan(on="1xT4", images="1M").notices if "taken as" in text]
