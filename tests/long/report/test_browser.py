"""Every kind of report in a real browser: no errors, both color schemes, narrow screens, keyboard;
and what it costs a run."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Job, Skill
from mae_sdk.jobs.root import Root
from mae_sdk.report.live import Server
from mae_skill.errors import JobFailedError

from tests.support.browser import CONTRAST, Browser
from tests.support.images import write_imagefolder
from tests.support.reports import read_page

TINY = {
    "model.arch": "vit_tiny_patch16",
    "model.embed_dim": 32,
    "model.depth": 2,
    "model.num_heads": 2,
    "model.patch_size": 8,
    "model.decoder_embed_dim": 32,
    "model.decoder_num_heads": 2,
    "model.decoder_depth": 1,
    "dataset.augmentation.input_size": 32,
    "dataset.batch_size": 8,
    "dataset.num_workers_per_gpu": 0,
    "train.accelerator": "cpu",
    "train.num_epochs": 3,
    "train.validation_interval": 1,
}
PLAIN = {"dataset.augmentation.mixup": 0.0, "dataset.augmentation.cutmix": 0.0}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Job]]:
    """A chain of small jobs of every kind, each with the report that it wrote itself."""
    base = tmp_path_factory.mktemp("reports")
    train = write_imagefolder(base / "train", classes=3, per_class=16)
    other = write_imagefolder(base / "other", classes=3, per_class=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAE_CACHE_DIR", str(base / "cache"))
        patch.setenv("MAE_REPORT", "on")
        skill, root = Skill(), str(base / "results")
        made: dict[str, Job] = {}

        def run(name: str, action: str, **options: Any) -> Job:
            made[name] = skill.create_job(action, results_root=root, **options)
            made[name].wait(600)
            return made[name]

        pretrain = run(
            "pretrain",
            "train",
            train_datasets=str(train),
            eval_dataset=str(other),
            automl_policy="off",
            spec_overrides={**TINY, "train.stage": "pretrain", "train.mask_ratio": 0.5},
        )
        tuning = {
            "train_datasets": str(train),
            "eval_dataset": str(other),
            "parent_job_id": pretrain.id,
        }
        tuned = {**TINY, **PLAIN, "train.stage": "finetune", "model.num_classes": 3}
        finetune = run("finetune", "train", **tuning, automl_policy="off", spec_overrides=tuned)
        run("study", "train", **tuning, spec_overrides=tuned, automl={"max_trials": 4})
        run("evaluate", "evaluate", parent_job_id=finetune.id, eval_dataset=str(other))
        run("probe", "evaluate", parent_job_id=pretrain.id, eval_dataset=str(other))
        run("inference", "inference", parent_job_id=finetune.id, inference_dataset=str(other))
        run("export", "export", parent_job_id=finetune.id)
        # Rate times weight decay multiplies the weights until they overflow.
        broken = {**tuned, "train.optim.lr": 1e4, "train.optim.weight_decay": 1e4}
        with pytest.raises(JobFailedError):
            run("failed", "train", **tuning, automl_policy="off", spec_overrides=broken)
        yield made


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path / "profile")
    yield opened
    opened.close()


def test_every_kind_of_job_has_written_its_report_itself(jobs: dict[str, Job]) -> None:
    wanted = {
        "pretrain": ("Reconstructions", "Over the epochs", "Map of features", "Loss"),
        "finetune": ("Confusions", "Most confident mistakes", "Checkpoints"),
        "study": ("The search", "Best against the spec as given", "All trials"),
        "evaluate": ("Reliability", "Least certain images", "Speed", "Wilson"),
        "probe": ("Nearest neighbors", "Map of features", "stratified folds"),
        "inference": ("Answers", "24 images answered"),
        "export": ("Parity", "same answers as the model"),
        "failed": ("What went wrong", "of the log", "launch a new job"),
    }
    for name, words in wanted.items():
        page = read_page(jobs[name].folder / "report.html")
        assert jobs[name].state in page.text, name
        assert [word for word in words if word not in page.text] == [], name
        assert page.outside == [] and len(page.html) < 5 << 20, name


@pytest.mark.parametrize("dark", (False, True), ids=("light", "dark"))
@pytest.mark.parametrize("width", (1180, 360))
def test_a_browser_shows_them_without_a_complaint(
    jobs: dict[str, Job], browser: Browser, width: int, dark: bool, tmp_path: Path
) -> None:
    pages = {name: job.folder / "report.html" for name, job in jobs.items()}
    pages["chain"] = jobs["export"].report(tmp_path / "chain.html", chain=True).path
    for name, path in pages.items():
        browser.open(path.as_uri(), width=width, dark=dark)
        assert browser.value("matchMedia('(prefers-color-scheme: dark)').matches") is dark
        overflow = browser.value("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0, f"{name} is {overflow} px too wide at {width} px"
        assert browser.value(CONTRAST) == [], name
        broken = "[...document.images].filter((one) => !one.naturalWidth || !one.alt).length"
        assert browser.value(broken) == 0, name
        assert browser.value("document.scripts.length") == 0, name
    assert browser.errors == []


def test_the_keyboard_reaches_content_and_tables(jobs: dict[str, Job], browser: Browser) -> None:
    browser.open((jobs["evaluate"].folder / "report.html").as_uri())
    browser.press("Tab")
    assert browser.value("document.activeElement.className") == "skip"
    for _ in range(60):
        browser.press("Tab")
        if browser.value("document.activeElement.className") == "scroll":
            break
    else:
        pytest.fail("no table is reached")
    assert browser.value("document.activeElement.getAttribute('aria-label')")
    levels = browser.value(
        "[...document.querySelectorAll('h1,h2,h3')].map((one) => +one.tagName[1])"
    )
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_the_live_page_renews_its_table_and_keeps_what_was_chosen(
    jobs: dict[str, Job], browser: Browser
) -> None:
    server = Server(Root(jobs["pretrain"].folder.parent))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        browser.open(server.address)
        assert browser.value("location.pathname + location.search") == "/"
        assert browser.value(CONTRAST) == []
        browser.value("document.querySelectorAll('input[name=a]')[1].checked = true")
        browser.value("document.querySelector('tbody tr th').textContent = 'changed'")
        deadline = time.monotonic() + 30
        while browser.value("document.querySelector('tbody tr th').textContent") == "changed":
            assert time.monotonic() < deadline, "the table was not renewed"
            time.sleep(0.5)
        assert browser.value("document.querySelectorAll('input[name=a]')[1].checked") is True
        browser.value("document.querySelectorAll('input[name=b]')[2].checked = true")
        browser.value("document.querySelector('#pairs button').click()")
        deadline = time.monotonic() + 30
        while browser.value("location.pathname") != "/compare":
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert browser.errors == []
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_report_costs_little(jobs: dict[str, Job], tmp_path: Path) -> None:
    for name, job in jobs.items():
        began = time.process_time()
        job.report(tmp_path / f"{name}.html")
        assert time.process_time() - began < 3.0, name
