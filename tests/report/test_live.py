"""The live page answers to this machine and its token alone; lists and notebooks show the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mae_sdk import answers, files
from mae_sdk.cli.main import cli
from mae_sdk.job import Job, list_jobs
from mae_sdk.jobs import records
from mae_sdk.jobs.root import Root
from mae_sdk.report.live import Server
from mae_sdk.report.notebook import plan_html

from tests.support.reports import HOSTILE, Page, write_job, write_study


def spec(arch: str, stage: str = "finetune", lr: float = 0.1) -> dict[str, Any]:
    return {"model": {"arch": arch}, "train": {"stage": stage, "optim": {"lr": lr}}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shares = {"kpis": {"ACC_all": 0.9}, "shares": {"ACC_all": 500}}
    worse = {"kpis": {"ACC_all": 0.5}, "shares": {"ACC_all": 500}}
    write_job(tmp_path, "train-1", spec=spec("small", "pretrain"), result={"kpis": {}}, epochs=3)
    write_job(tmp_path, "train-2", spec=spec(HOSTILE, lr=0.2), result={"kpis": {}}, epochs=3)
    write_job(tmp_path, "evaluate-3", "evaluate", spec=spec("small"), result=shares)
    write_job(tmp_path, "evaluate-4", "evaluate", spec=spec("large"), result=worse)
    write_job(tmp_path, "train-5", state=records.ERROR, spec=spec("large"))
    return tmp_path


@pytest.fixture
def server(root: Path) -> Iterator[Server]:
    served = Server(Root(root))
    thread = threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


def get(server: Server, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def seen(server: Server, path: str) -> Page:
    _, headers, _ = get(server, f"/open/{server.token}")
    status, _, text = get(server, path, Cookie=headers["Set-Cookie"].split(";")[0])
    assert status == 200, text
    return Page(text)


def test_nobody_gets_in_without_the_token_or_by_another_name(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"
    port = server.server_port
    for path in ("/", "/job/train-1", "/compare?a=train-1&b=train-2", "/open/wrong", "/open/"):
        status, _, text = get(server, path)
        assert status == 401 and "train-1" not in text and server.token not in text
    status, headers, _ = get(server, f"/open/{server.token}", Host=f"evil.example:{port}")
    assert status == 403 and "Set-Cookie" not in headers
    status, headers, _ = get(server, f"/open/{server.token}")
    assert status == 303 and headers["Location"] == "/"
    assert "HttpOnly" in headers["Set-Cookie"] and "SameSite=Strict" in headers["Set-Cookie"]
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", f"/open/{server.token}")
    assert connection.getresponse().status == 501
    connection.close()


def test_the_list_is_sorted_and_filtered_and_leads_to_each_job(server: Server) -> None:
    page = seen(server, "/")
    assert page.outside == [] and "5 jobs" in page.text
    assert "Intervals are at 95 %" not in page.text  # there is none
    assert len(page.all("script")) == 1 and "nonce" in page.all("script")[0]
    links = [a["href"] for a in page.all("a")]
    assert "/job/evaluate-3" in links and "/?sort=best" in links

    best = seen(server, "/?metric=ACC_all&action=evaluate&sort=best").text
    assert "train-1" not in best and best.index("evaluate-3") < best.index("evaluate-4")
    assert "5 jobs" not in seen(server, "/?state=ERROR").text
    assert "No job fits" in seen(server, "/?arch=nothing").text
    assert "Evaluation · small" in seen(server, "/job/evaluate-3").text


def test_figures_are_ordered_within_their_metric_and_by_its_direction(
    server: Server, root: Path
) -> None:
    for name, loss in (("train-6", 0.2), ("train-7", 0.1), ("train-8", 0.4)):
        write_job(root, name, spec=spec("small"), result={"kpis": {"train_loss": loss}})
    smooth = {"kpis": {"smoothness": 0.7}}
    write_job(root, "evaluate-9", "evaluate", spec=spec("small"), result=smooth)

    def at(text: str, *names: str) -> list[int]:
        return [text.index(f"{name} as A") for name in names]

    html = seen(server, "/?sort=best").html
    for title, *names in (
        ("ACC_all (finetune): more is better", "evaluate-3", "evaluate-4"),
        ("smoothness (finetune): which way is better is not known", "evaluate-9"),
        ("train_loss (finetune): less is better", "train-7", "train-6", "train-2", "train-8"),
        ("train_loss (pretrain): less is better", "train-1"),
        ("no figure", "train-5"),
    ):
        html = html[html.index(title) :]  # the groups come in this order, each under its title
        assert at(html, *names) == sorted(at(html, *names))
    turned = seen(server, "/?sort=best&reverse=yes").html
    assert at(turned, "evaluate-4", "evaluate-3") == sorted(at(turned, "evaluate-4", "evaluate-3"))
    assert turned.index("train-8 as A") < turned.index("train-7 as A") < turned.index("train-5 as")
    assert 'aria-sort="other"' in turned and "more is better" not in seen(server, "/").text

    words = ["jobs", "list", "--results-root", str(root), "--sort", "best"]
    told = CliRunner().invoke(cli, words, catch_exceptions=False).stdout.splitlines()
    order = [line.split()[0] for line in told[1:8]]
    assert order == [
        *("evaluate-3", "evaluate-4", "evaluate-9"),
        *("train-7", "train-6", "train-2", "train-8"),
    ]
    assert "each by itself: ACC_all (finetune): more is better; smoothness" in "\n".join(told)


def test_figures_are_ordered_within_the_images_that_they_are_of(server: Server, root: Path) -> None:
    images = {"one": ("/d/a/val", "x"), "two": ("/d/b/val", "y"), "copy": ("/d/a/val", "x")}
    for share, (name, (uri, digest)) in zip((0.3, 0.6, 0.4), images.items(), strict=True):
        result = {"kpis": {"mIoU": share}, "doubts": ["no better than chance"] * (name == "two")}
        data = {"dataset.val_data_sources": {"uri": uri, "digest": digest}}
        write_job(root, name, "evaluate", spec=spec("small"), result=result, data=data)

    page = seen(server, "/?metric=mIoU&sort=best")
    titles = [f"mIoU (finetune) on {place}: more is better" for place in ("a/val", "b/val")]
    assert [page.text.count(title) for title in titles] == [1, 1]
    order = [page.html.index(f"{name} as A") for name in ("copy", "one", "two")]
    assert order == sorted(order)
    assert "0.6 in doubt b/val" in page.text and page.text.count("in doubt") == 1
    assert "/?metric=mIoU&sort=judged_on" in [a.get("href") for a in page.all("a")]

    words = ["jobs", "list", "--results-root", str(root), "--metric", "mIoU", "--sort", "best"]
    told = CliRunner().invoke(cli, words, catch_exceptions=False).stdout
    assert "JUDGED ON" in told and "0.6 in doubt" in told
    assert f"each by itself: {'; '.join(titles)}" in told


def test_filters_are_of_any_case(server: Server, root: Path) -> None:
    for words in ("state=error", "action=TRAIN&arch=Large", "arch=+LARGE+&state=Error"):
        text = seen(server, f"/?{words}").text
        assert "train-5" in text and "evaluate-3" not in text, words
    assert "evaluate-3" in seen(server, "/?metric=acc_ALL&stage=FineTune").text
    found = answers.jobs(list_jobs(Root(root)), limit=9, only=answers.JobFilter(metric="acc_all"))
    assert {row["metric"] for row in found["jobs"]} == {"ACC_all"}
    words = ["jobs", "list", "--results-root", str(root), "--action", "EVALUATE", "--arch", "LARGE"]
    told = CliRunner().invoke(cli, words, catch_exceptions=False).stdout
    assert "evaluate-4" in told and "evaluate-3" not in told and "train-5" not in told


def test_a_job_is_not_compared_with_itself(server: Server) -> None:
    _, headers, _ = get(server, f"/open/{server.token}")
    cookie = headers["Set-Cookie"].split(";")[0]
    status, _, text = get(server, "/compare?a=train-1&b=train-1", Cookie=cookie)
    assert status == 404 and "A and B are the same job" in text


def test_a_live_report_leads_to_its_parents_and_to_the_whole_chain(
    server: Server, root: Path
) -> None:
    write_job(root, "train-9", spec=spec("small"), parent="train-1", result={"kpis": {}})
    links = [a["href"] for a in seen(server, "/job/train-9").all("a")]
    assert "/job/train-1" in links and "/job/train-9/chain" in links
    whole = seen(server, "/job/train-9/chain")
    assert "a chain of 2 jobs" in whole.text and "/" in [a["href"] for a in whole.all("a")]


def test_every_cell_of_the_table_of_jobs_says_its_column_where_rows_are_stacked(
    server: Server,
) -> None:
    page = seen(server, "/")
    assert any("stacked" in a.get("class", "") for a in page.all("div"))
    heads = {a["data-head"] for a in page.all("td") if "data-head" in a}
    assert {"A", "B", "state", "metric", "best", "judged on", "created (UTC)", "parent"} <= heads
    assert all("data-head" in a for a in page.all("td"))


def test_two_jobs_are_compared_by_spec_result_and_curves(server: Server) -> None:
    page = seen(server, "/compare?a=train-1&b=train-2")
    assert "train.optim.lr 0.1 0.2" in page.text and HOSTILE in page.text
    assert page.all("script") == [] and len(page.all("svg")) >= 5
    judged = seen(server, "/compare?a=evaluate-4&b=evaluate-3").text
    assert "told apart" in judged and "+40.0 points" in judged
    status, headers, _ = get(server, f"/open/{server.token}")
    cookie = headers["Set-Cookie"].split(";")[0]
    _, _, text = get(server, "/compare?a=train-1", Cookie=cookie)
    assert "Choose a job as A and another one as B" in text
    for path in ("/job/none", "/compare", "/job/..%2f..%2fetc", "/nothing", "//x"):
        status, _, text = get(server, path, Cookie=cookie)
        assert status in (404, 200) and "root:" not in text


def test_of_a_study_the_best_trial_is_compared(server: Server, root: Path) -> None:
    study = write_study(root, "train-9", 40, [0.7, 0.75])
    (root / "train-9.t001/spec.yaml").write_text("train: {optim: {lr: 0.7}}\n")
    page = seen(server, f"/compare?a=train-1&b={study.name}")
    assert "train.optim.lr 0.1 0.7" in page.text and "train-9.t001" in page.text
    links = [a["href"] for a in seen(server, "/job/train-9").all("a")]
    assert links.count("/job/train-9.t001") == 2 and "/job/train-9.t000" in links


def test_ended_jobs_are_read_once_and_again_when_their_record_changes(
    server: Server, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    figures = Job.figures
    monkeypatch.setattr(Job, "figures", lambda job: (read.append(job.id), figures(job))[1])
    assert "train-1" in seen(server, "/").text and len(read) == 5
    seen(server, "/")
    assert len(read) == 5
    record = records.read_record(root / "train-1")
    records.new_attempt(record)
    records.advance(record, records.ERROR)
    files.write_json(root / "train-1" / records.RECORD_NAME, record)
    seen(server, "/")
    assert read[5:] == ["train-1"]


def test_the_command_lists_the_same_columns(root: Path) -> None:
    words = ["jobs", "list", "--results-root", str(root)]
    lines = CliRunner().invoke(cli, words, catch_exceptions=False).stdout.splitlines()
    assert lines[0].split()[:7] == ["JOB", "ACTION", "STAGE", "ARCH", "STATE", "METRIC", "BEST"]
    words += ["--metric", "ACC_all", "--action", "evaluate", "--sort", "best"]
    lines = CliRunner().invoke(cli, words, catch_exceptions=False).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["evaluate-3", "evaluate-4"]
    assert "0.9" in lines[1]
    words += ["--reverse", "--arch", "small"]
    lines = CliRunner().invoke(cli, words, catch_exceptions=False).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:2]] == ["evaluate-3"]


def test_a_notebook_shows_job_study_plan_and_report_in_frames(root: Path) -> None:
    study = write_study(root, "train-9", 40, [0.7, 0.75])
    plan = {
        "action": "train",
        "job_id": HOSTILE,
        "sources": {"dataset.train_data_sources": {"uri": HOSTILE, "images": 12}},
        "spec": {"model": {"arch": HOSTILE}},
        "provenance": {"model.arch": {"origin": "override"}},
        "warnings": [{"field": "x", "message": HOSTILE}],
        "notes": [{"field": "train.lr", "message": "is low"}],
    }
    shown = [Job(root / "train-2"), Job(study), Job(root / "train-1").report()]
    for html in [*(one._repr_html_() for one in shown), plan_html(plan)]:
        outer = Page(html)
        (frame,) = outer.all("iframe")
        assert frame["sandbox"] == "" and outer.all("script") == []
        inner = Page(frame["srcdoc"])
        assert inner.all("script") == [] and inner.outside == [] and inner.all("section")

    counts = {"train": 12, "val": 5}
    sources = {f"dataset.{name}_data_sources": {"images": n} for name, n in counts.items()}
    (frame,) = Page(plan_html({**plan, "stage": "finetune", "sources": sources})).all("iframe")
    text = Page(frame["srcdoc"]).text
    for words in (
        "Plan: fine-tuning",
        "Data 12 images training: 12",
        "validation: 5",
        "Warning x:",
        "1 note on settings that nobody has set field note train.lr is low",
    ):
        assert words in text, words
