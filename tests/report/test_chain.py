"""The page of a chain says what came out at its end; a page mailed alone has no dead links."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk.cli.main import main
from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_sdk.mcp_server import answer, tools

from tests.support.reports import Page, json_of, read_page, write_job

SPEC = {"model": {"arch": "some_arch"}, "train": {"stage": "finetune"}}


def write_chain(root: Path) -> None:
    trained = {"dataset.train_data_sources": {"uri": "/d/train", "images": 900}}
    write_job(root, "train-1", spec={"train": {"stage": "pretrain"}}, data=trained, result={})
    write_job(root, "train-2", spec=SPEC, parent="train-1", data=trained, result={}, epochs=2)
    write_job(root, "export-3", "export", parent="train-2", result={"kpis": {}})
    write_job(root, "engine-4", "gen_trt_engine", parent="export-3", result={"kpis": {}})


def judge(
    root: Path, name: str, parent: str, share: float, place: str = "/d/test", **seen: Any
) -> None:
    data = {"dataset.val_data_sources": {"uri": place, "images": 500, **seen}}
    result = {"kpis": {"ACC_all": share}, "shares": {"ACC_all": 500}}
    write_job(root, name, "evaluate", spec=SPEC, parent=parent, data=data, result=result)


def chain(root: Path, name: str) -> Page:
    return read_page(Job(root / name).report(root / "chain.html", chain=True).path)


def test_the_end_of_a_chain_is_a_figure_with_its_interval_beside_the_checkpoint(
    tmp_path: Path,
) -> None:
    write_chain(tmp_path)
    judge(tmp_path, "evaluate-5", "engine-4", 0.932)
    said = (
        "The engine gives accuracy (ACC_all) 93.2 % (95 %: 90.6 % to 95.1 %) on 500 held-out images"
    )
    page = chain(tmp_path, "engine-4")
    assert f"{said} (d/test)." in page.text
    assert "The fine-tuned checkpoint was not judged on these images" in page.text
    assert page.text.index(said) < page.text.index("The chain in short")

    judge(tmp_path, "evaluate-6", "train-2", 0.932)
    assert "That is the same as the fine-tuned checkpoint." in chain(tmp_path, "engine-4").text
    assert said in chain(tmp_path, "evaluate-5").text  # the chain may end at its evaluation
    judge(tmp_path, "evaluate-7", "engine-4", 0.92)
    told = "1.2 points below the fine-tuned checkpoint (93.2 %), which so many images cannot tell"
    assert told in chain(tmp_path, "engine-4").text


def test_where_nothing_was_measured_the_page_says_so_and_how_it_is(tmp_path: Path) -> None:
    write_chain(tmp_path)
    text = chain(tmp_path, "engine-4").text
    assert "The engine itself was not measured on labeled images" in text
    assert "mae run evaluate --parent engine-4 --eval-dataset URI" in text
    judge(tmp_path, "evaluate-6", "train-2", 0.932)
    assert (
        "Its fine-tuned checkpoint gives accuracy (ACC_all) 93.2 %"
        in chain(tmp_path, "engine-4").text
    )


@pytest.mark.parametrize(
    ("state", "words"),
    ((records.ERROR, "The last job failed"), (records.CANCELED, "The last job was canceled")),
)
def test_a_chain_that_broke_says_so_with_what_its_model_gave(
    tmp_path: Path, state: str, words: str
) -> None:
    write_chain(tmp_path)
    judge(tmp_path, "evaluate-5", "train-2", 0.932)
    write_job(tmp_path, "export-8", "export", state, parent="train-2")
    text = chain(tmp_path, "export-8").text
    assert (
        f"{words}, so nothing came out of it. The fine-tuned checkpoint gives accuracy (ACC_all)"
        in text
    )


def test_images_that_the_model_has_trained_on_are_not_called_held_out(tmp_path: Path) -> None:
    write_chain(tmp_path)
    judge(tmp_path, "evaluate-5", "train-2", 0.99, "/d/train")
    text = chain(tmp_path, "train-2").text
    assert "that it was trained on, which says little of others" in text
    assert "held-out" not in text
    write_job(tmp_path, "train-9", spec=SPEC, result={})
    judge(tmp_path, "evaluate-9", "train-9", 0.99, "/d/other", taught={"count": 4, "compared": 50})
    result = tmp_path / "evaluate-9/evaluate/result.json"  # a run does not look for twins
    source = {"dataset.val_data_sources": {"uri": "/d/other", "images": 500}}
    result.write_text(json.dumps({**json_of(result), "data": {"sources": source}}))
    text = chain(tmp_path, "train-9").text
    assert "(d/other); the model was trained on 4 of the 50 that were compared, so that" in text
    assert "held-out" not in text


def links(page: Page) -> list[str]:
    return [a["href"] for a in page.all("a") if not a["href"].startswith("#")]


def test_a_page_names_the_commands_of_its_parents_and_links_only_to_reports_that_are_there(
    tmp_path: Path,
) -> None:
    write_chain(tmp_path)
    job = Job(tmp_path / "export-3")
    page = read_page(job.report().path)
    assert links(page) == []  # none of its parents has a report
    for command in ("mae report train-1", "mae report train-2", "mae report export-3 --chain"):
        assert command in page.text
    Job(tmp_path / "train-2").report()
    page = read_page(job.report().path)
    assert links(page) == ["../train-2/report.html"]
    assert "if the results folder is at hand: train-2" in page.text
    away = tmp_path / "away"
    away.mkdir()
    assert links(read_page(job.report(away / "mailed.html").path)) == []
    assert any("aria-current" in b for b in page.all("b"))


def test_a_chain_in_one_file_links_to_itself_alone(tmp_path: Path) -> None:
    write_chain(tmp_path)
    assert links(chain(tmp_path, "engine-4")) == []


def test_a_job_without_a_figure_is_summed_up_too(tmp_path: Path) -> None:
    result: dict[str, Any] = {"kpis": {"images": 24}}
    write_job(tmp_path, "inference-1", "inference", spec=SPEC, result=result)
    assert "24 images were answered; how many of the answers are right was not measured" in (
        chain(tmp_path, "inference-1").text
    )
    write_job(tmp_path, "train-9", spec=SPEC)
    assert "The fine-tuned checkpoint was not measured" in chain(tmp_path, "train-9").text


def rows_of_the_chain(page: Page) -> list[str]:
    """The text of each row of the table that sums up a chain."""
    table = page.html[page.html.index("The chain in short") :]
    table = table[: table.index("</table>")]
    return [read_text(row) for row in table.split("<tr")[2:]]


def read_text(html: str) -> str:
    return Page(f"<p{html}").text


def test_how_sure_a_row_of_the_chain_is_is_of_the_figure_of_that_row(tmp_path: Path) -> None:
    """A doubt may be of another figure, and stands first on the job's own page."""
    write_job(tmp_path, "train-1", spec={"train": {"stage": "pretrain"}}, result={})
    doubt = "no better than chance: knn_acc 54.8 % (95 %: 37.8 % to 70.8 %), and who always"
    result = {"kpis": {"linear_acc": 11 / 31}, "shares": {"linear_acc": 31}, "doubts": [doubt]}
    write_job(tmp_path, "evaluate-2", "evaluate", parent="train-1", result=result)
    _, row = rows_of_the_chain(chain(tmp_path, "train-1"))
    assert "95 %: 21.1 % to 53.1 % (Wilson, 31 images); in doubt: no better than chance" in row
    assert "37.8 %" not in row


def test_a_chain_tells_an_evaluation_from_a_step_and_an_export_of_a_model_in_doubt(
    tmp_path: Path,
) -> None:
    write_chain(tmp_path)
    judge(tmp_path, "evaluate-5", "train-2", 0.5)
    path = tmp_path / "evaluate-5/evaluate/result.json"
    path.write_text(json.dumps({**json_of(path), "doubts": ["no better than chance: so"]}))
    write_job(tmp_path, "export-6", "export", spec=SPEC, parent="train-2", result={"kpis": {}})
    onnx = {**SPEC, "evaluate": {"checkpoint": "a.onnx"}}
    write_job(tmp_path, "evaluate-7", "evaluate", spec=onnx, parent="export-6", result={"kpis": {}})
    page = chain(tmp_path, "evaluate-7")
    assert "to evaluation of ONNX · some_arch" in page.text
    assert "Fine-tuning · some_arch (judged by Evaluation · some_arch )" in page.text
    rows = rows_of_the_chain(page)
    assert [row.lstrip("> ").split(" ")[0] for row in rows] == [
        "Pretraining",
        "Fine-tuning",
        "↳",
        "Export",
        "↳",
    ]
    assert "its model is in doubt" in rows[3]
    assert "some_arch" not in rows[3].replace("Export · some_arch", ""), "that is no data"


def called(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["report", *words, "--json"])
    printed = capsys.readouterr()
    return int(end.value.code or 0), json.loads(printed.out or printed.err)


def test_jobs_that_somebody_names_are_one_page_with_a_row_and_a_section_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_chain(tmp_path)
    write_job(tmp_path, "train-9", spec=SPEC, result={}, epochs=3)
    where = ["--results-root", str(tmp_path)]
    names = ["train-9", "export-3", "train-2"]

    out = tmp_path / "boss.html"
    code, found = called(capsys, *names, "train-9", "-o", str(out), *where)
    assert code == 0 and found["report"] == str(out)
    page = read_page(out)
    assert [part["id"] for part in page.all("article")] == names
    assert "3 jobs" in page.text and "The jobs in short" in page.text
    assert {f"#{name}" for name in names} <= {a["href"] for a in page.all("a")}
    assert all(f"({name})" in page.text for name in names)

    code, found = called(capsys, *names[:2], *where)
    assert code == 0 and Path(found["report"]) == tmp_path / "train-9" / "jobs.html"
    code, error = called(capsys, *names, "--chain", *where)
    assert code == 2 and error["field"] == "chain" and "leave --chain out" in error["hint"]
    assert called(capsys, "train-9", "train-0", *where)[0] == 4


def test_over_mcp_too_a_page_shows_several_jobs(tmp_path: Path) -> None:
    write_chain(tmp_path)
    skill = Skill()
    tool = next(tool for tool in tools(skill) if tool.name == "report")
    given = {"job_id": "train-2", "results_root": str(tmp_path)}

    found, failed = answer(skill, tool, {**given, "others": ["export-3", "train-2", "export-3"]})
    assert not failed, found
    parts = read_page(Path(found["report"])).all("article")
    assert [part["id"] for part in parts] == ["train-2", "export-3"]

    found, failed = answer(skill, tool, {**given, "others": ["train-0"]})
    assert failed and found["code"] == "not_found"
    found, failed = answer(skill, tool, {**given, "others": ["export-3"], "chain": True})
    assert failed and found["field"] == "chain" and "--" not in found["hint"]
