"""Every kind of page on a narrow screen: nothing is wider than it, no text is out of reach."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import files
from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_sdk.jobs.root import Root
from mae_sdk.report.live import Server, Site

from tests.support.browser import CONTRAST, Browser
from tests.support.reports import write_job, write_study

LONG = "a_backbone_whose_name_is_much_longer_than_a_narrow_screen_is_wide_patch16_384"
CUT = """
(() => {
  // Whoever scrolls a box reaches what is beyond its edge; nothing else may be beyond the page's.
  const scrolls = (node) => {
    for (let at = node.parentElement; at && at !== document.body; at = at.parentElement)
      if (["auto", "scroll"].includes(getComputedStyle(at).overflowX)) return at.tabIndex === 0;
    return false;
  };
  const found = [];
  for (const node of document.querySelectorAll("body *:not(.skip):not(script):not(style)")) {
    if (!node.checkVisibility()) continue;
    const style = getComputedStyle(node), box = node.getBoundingClientRect();
    const hides = ["hidden", "clip"].includes(style.overflowX) && !node.closest("svg");
    if (hides && node.scrollWidth > node.clientWidth) found.push(`${node.tagName} hides text`);
    const behind = node.closest(".scroll");  // what stays in place is never scrolled into view
    if (style.position === "sticky" && behind && box.width > behind.clientWidth)
      found.push(`${node.tagName} is wider than its box`);
    if (style.textOverflow === "ellipsis") found.push(`${node.tagName} ends in an ellipsis`);
    const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const beyond = box.right > innerWidth + 0.5 || box.left < -0.5;
    if (own && beyond && !scrolls(node)) found.push(`${node.tagName} ${node.textContent}`);
  }
  return found;
})()
"""
UNNAMED = """
[...document.querySelectorAll("svg, img, input, select, button, a, [role=region], summary")]
  .filter((one) => one.checkVisibility())
  .filter((one) => !(one.getAttribute("aria-label") || one.alt || one.textContent.trim()
    || one.closest("label")))
  .map((one) => one.outerHTML.slice(0, 80))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "results"
    spec = {"model": {"arch": LONG}, "train": {"stage": "finetune", "loss": LONG}}
    trained = {"dataset.train_data_sources": {"uri": f"/d/{LONG}/{LONG}", "images": 900}}
    names = [f"{kind}-20260101-010203-abcdef{LONG[:30]}" for kind in ("train", "export")]
    parent, made = names
    write_job(root, "train-1", spec={"train": {"stage": "pretrain"}}, data=trained, epochs=3)
    write_job(root, parent, spec=spec, parent="train-1", data=trained, epochs=3, result={})
    (root / parent / "train/derived.json").write_text('{"images": 80}')
    write_job(root, made, "export", parent=parent, result={"kpis": {}})
    judged: dict[str, Any] = {"kpis": {"ACC_all": 0.9}, "shares": {"ACC_all": 500}}
    write_job(root, "evaluate-3", "evaluate", spec=spec, parent=parent, result=judged)
    write_job(root, "evaluate-6", "evaluate", spec=spec, result={"kpis": {LONG: 0.5}})
    write_job(root, "train-4", state=records.ERROR, spec=spec)
    write_study(root, "train-5", 40, [0.7, 0.75, None])
    return root


@pytest.fixture
def pages(root: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Kind of page → its address."""
    made = next(path.name for path in root.glob("export-*"))
    found = {}
    for job in ("train-1", made, "evaluate-3", "train-4", "train-5"):
        found[job] = Job(root / job).report(tmp_path / f"{job}.html").path.as_uri()
    found["chain"] = Job(root / made).report(tmp_path / "c.html", chain=True).path.as_uri()
    server = Server(Root(root))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    live = f"http://127.0.0.1:{server.server_port}"
    found["open"] = server.address
    parent = next(path.name for path in root.glob("train-2026*"))
    for name, path in (
        ("jobs", "/"),
        ("jobs by figure", "/?sort=best&trials=yes"),
        ("no job", "/?arch=none"),
        ("compare", f"/compare?a=train-1&b={parent}"),
        ("compare a study", f"/compare?a={parent}&b=train-5"),
        ("live report", f"/job/{made}"),
        ("live chain", f"/job/{made}/chain"),
        ("message", "/nothing"),
    ):
        found[name] = live + path
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path / "profile")
    yield opened
    opened.close()


@pytest.mark.parametrize("dark", (False, True), ids=("light", "dark"))
@pytest.mark.parametrize("width", (1120, 360))
def test_every_kind_of_page_fits_and_keeps_its_text_within_reach(
    pages: dict[str, str], browser: Browser, width: int, dark: bool, tmp_path: Path
) -> None:
    found: dict[str, Any] = {}
    browser.open(pages["open"])
    for name, address in pages.items():
        browser.open(address, width=width, dark=dark)
        for opened in (False, True):
            details = "document.querySelectorAll('details').forEach((one) => one.open = "
            browser.value(f"{details}{str(opened).lower()})")
            wide = browser.value("document.documentElement.scrollWidth")
            found[f"{name}, {opened}"] = [wide] * (wide > width) + browser.value(CUT)
        found[f"{name}, looks"] = browser.value(CONTRAST) + browser.value(UNNAMED)
    assert {name: what for name, what in found.items() if what} == {}
    assert [one for one in browser.errors if "404" not in one] == []  # of the message page


def test_a_job_is_told_without_scrolling_on_a_wide_and_on_a_narrow_screen(
    tmp_path: Path, browser: Browser
) -> None:
    made = write_job(
        tmp_path,
        "evaluate-3756841350d7",
        "evaluate",
        spec={"train": {"stage": "finetune"}, "model": {"arch": "convnextv2_atto"}},
        parent="train-26620f8de1b3.t002",
        data={"dataset.val_data_sources": {"uri": "/data/seg_val", "images": 14}},
        result={"kpis": {"mIoU": 0.3}, "doubts": ["no better than chance"]},
    )
    page = tmp_path / "jobs.html"
    page.write_text(Site(Root(made.parent)).answer("/", {}))
    ends = "[...document.querySelectorAll('table.jobs td')].map((one) => "
    for width in (1120, 360):
        browser.open(page.as_uri(), width=width)
        right = browser.value(f"Math.max(...{ends}one.getBoundingClientRect().right))")
        assert right <= width, width
    browser.open(page.as_uri(), width=1120)
    lines = "document.querySelector('th.name a').getClientRects().length"
    assert browser.value(lines) <= 2, "a name breaks at its hyphen alone"


def test_the_whole_of_a_parents_name_is_in_the_table_of_jobs(
    pages: dict[str, str], browser: Browser
) -> None:
    browser.open(pages["open"])
    browser.open(pages["jobs"], width=1120)
    cell = "document.querySelector('td.name a[href*=abcdef]')"
    assert LONG[:30] in browser.value(f"{cell}.textContent")
    browser.value("document.querySelector('.scroll').scrollLeft = 1e6")
    right = browser.value(f"{cell}.getBoundingClientRect().right")
    assert right <= browser.value("document.querySelector('.scroll').getBoundingClientRect().right")


WIDE = """
[...document.querySelectorAll(".scroll")].filter((one) => one.checkVisibility())
  .filter((one) => one.scrollWidth > one.clientWidth + 1)
  .map((one) => `${one.getAttribute("aria-label")}: ${one.scrollWidth} of ${one.clientWidth}`)
"""
METRICS = ("train_loss", "val_loss", "ACC_all", "balanced_accuracy", "f1_macro", "f1_weighted")
KNOBS = (
    *("model.drop_path_rate", "dataset.augmentation.mixup", "train.optim.lr"),
    *("train.optim.weight_decay", "train.optim.warmup_epochs", "dataset.augmentation.min_scale"),
)


@pytest.fixture
def tables(tmp_path: Path) -> list[str]:
    """Pages with the widest tables: a training's checkpoints, a study's winner and trials."""
    root = tmp_path / "results"
    folder = write_job(root, "train-1", spec={"train": {"stage": "finetune"}}, epochs=2, result={})
    kept = [
        {
            "file": f"model_epoch_{epoch:03d}.pth",
            "epoch": epoch,
            "step": 1234 * epoch,
            "metrics": dict.fromkeys(METRICS, 0.43729399840037025),
            "size": 405959347,
            "sha256": "b2464d453097453afe865c00842",
        }
        for epoch in (1, 2)
    ]
    index = {"best": {"metric": "ACC_all", "direction": "maximize"}, "checkpoints": kept}
    files.write_json(folder / "train/checkpoints.json", {**index, "metrics": {}})
    study = write_study(root, "train-230f2b2ce87b", 40, [0.7, 0.75, 0.8, None])
    path = study / "automl/study.json"
    knobs = [{"name": name, "low": 1e-6, "high": 1.0, "log": True} for name in KNOBS]
    files.write_json(path, {**json.loads(path.read_text()), "space": {"knobs": knobs}})
    head = ["trial", "state", "ACC_all", "best_epoch", "seconds", *KNOBS, "child", "reason"]
    values = [0.03777671251507068, 0.04602319767917215, 0.0007612461486649154]
    values += [0.03438896127313894, 3, 0.6542657984384823]
    reason = "worse than the best trials at the same epoch, by the rule of the pruner"
    rows = [
        [trial, state, 0.5277777, 1, 87.78, *values, f"train-230f2b2ce87b.t{trial:03d}", why]
        for trial, state, why in (
            *((trial, "COMPLETE", "") for trial in range(3)),
            (3, "PRUNED", reason),
        )
    ]
    lines = [",".join(map(str, row)) for row in ([*head], *[[*r[:-1], f'"{r[-1]}"'] for r in rows])]
    (study / "automl/trials.csv").write_text("\n".join(lines))
    for trial, scheme in ((0, "MultiStep"), (2, "cosine")):
        where = root / f"train-230f2b2ce87b.t{trial:03d}/spec.yaml"
        where.write_text(json.dumps({"train": {"optim": {"lr_scheduler": scheme}}}))
    return [Job(one).report().path.as_uri() for one in (folder, study)]


def test_no_table_is_cut_on_a_wide_screen_or_on_paper(tables: list[str], browser: Browser) -> None:
    for page in tables:
        browser.open(page, width=1120)
        browser.value("document.querySelectorAll('details').forEach((one) => one.open = true)")
        assert browser.value(WIDE) == []
        browser.open(page, width=718)  # of A4, within its margins
        browser.call("Emulation.setEmulatedMedia", media="print")
        assert browser.value(WIDE) == []
        browser.call("Emulation.setEmulatedMedia", media="")


def test_on_a_narrow_screen_the_winning_values_are_in_view(
    tables: list[str], browser: Browser
) -> None:
    browser.open(tables[1], width=360)
    found = browser.value(
        """[...document.querySelectorAll("[aria-label^='The winning'] tr")]
        .map((row) => row.children[2].getBoundingClientRect().right)"""
    )
    assert len(found) > 3 and max(found) <= 360


def test_on_a_narrow_screen_every_cell_of_a_chain_is_in_view_below_its_heading(
    pages: dict[str, str], browser: Browser
) -> None:
    table = "[aria-label='The chain in short']"
    cells = f"""[...document.querySelectorAll("{table} tbody th, {table} td")]
        .filter((cell) => cell.textContent.trim())
        .map((cell) => [cell.getBoundingClientRect().right,
          getComputedStyle(cell, "::before").content.replaceAll('"', "")])"""
    browser.open(pages["chain"], width=360)
    found = browser.value(cells)
    assert len(found) > 12 and max(right for right, _ in found) <= 360
    assert {said for _, said in found} >= {"result: ", "state: ", "data: "}
    browser.open(pages["chain"], width=1120)
    assert {said for _, said in browser.value(cells)} == {"none"}


def test_on_a_narrow_screen_no_short_word_of_a_table_is_broken(
    tables: list[str], browser: Browser
) -> None:
    lines = """(word) => [...document.querySelectorAll("td")]
        .filter((cell) => cell.textContent.trim() === word && cell.checkVisibility())
        .map((cell) => { const range = document.createRange(); range.selectNodeContents(cell);
          return new Set([...range.getClientRects()].map((one) => one.top)).size; })"""
    for page, words in ((tables[0], ["COMPLETE"]), (tables[1], ["COMPLETE", "searched"])):
        browser.open(page, width=360)
        for word in words:
            found = browser.value(f"({lines})({word!r})")
            assert found and set(found) == {1}, word
    heads = """[...document.querySelectorAll(".stacked td")]
        .filter((cell) => cell.checkVisibility() && !cell.textContent.trim()).length"""
    assert browser.value(heads) == 0  # a heading of nothing


def test_the_check_itself_sees_what_is_cut(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "cut.html"
    for style in ("overflow:hidden;white-space:nowrap", "white-space:nowrap;position:absolute"):
        page.write_text(f"<body><p style='{style}'>{LONG * 3}</p>")
        browser.open(page.as_uri(), width=360)
        assert browser.value(CUT) != []
