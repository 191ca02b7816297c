"""The table of ``docs/architecture.md``: each change is made in a copy of the source, and works.

A row names the files that are changed by hand; no other file of the copy is, except by the
generator.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomllib

from tests.support.images import write_imagefolder

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/architecture.md"
PARTS = ("skill", "sdk", "runners", "schemas", "references", "tests/support", "tests/skill")


def row(name: str) -> list[str]:
    """The files that the row of the table says are changed by hand."""
    (found,) = re.findall(rf"^\| {name} \| ([^|]*) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    return re.findall(r"`([\w./]+/[\w./]+)`", found.partition(";")[0])


@dataclass
class Copy:
    """A copy of the source in which a change is made."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        packages = [str(self.root / part) for part in ("skill", "sdk", "runners")]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*packages, str(self.root / "packages")]),
            "MAE_CACHE_DIR": str(self.root / "cache"),
            "MAE_RESULTS_ROOT": str(self.root / "results"),
            "QUEUE_SPOOL": str(self.root / "spool"),
        }

    def change(self, name: str, additions: Mapping[str, Mapping[str, str]]) -> None:
        """Put text before a line of each file that the table names for `name`, then generate."""
        assert sorted(additions) == sorted(row(name))
        for file, places in additions.items():
            path = self.root / file
            text = path.read_text("utf-8")
            for line, added in places.items():
                assert text.count(line) == 1, (file, line)
                text = text.replace(line, added + line)
            path.write_text(text, "utf-8")
        assert json.loads(self.mae("skill", "generate", "--json"))["changed"]
        assert json.loads(self.mae("skill", "generate", "--check", "--json"))["changed"] == []

    def mae(self, *words: str) -> str:
        return self.python("-m", "mae_sdk.cli.main", *words)

    def python(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    root = tmp_path / "copy"
    for part in PARTS:
        shutil.copytree(
            ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__", "_bundle")
        )
    for file in ("SKILL.md", "pyproject.toml", "tests/docs/test_documents.py"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, root / file)
    return Copy(root)


def test_a_field_is_explained_and_a_run_made_before_it_resumes(copy: Copy) -> None:
    folder = write_imagefolder(copy.root / "images", classes=2, per_class=4, size=32)
    spec = copy.root / "spec.yaml"
    spec.write_text(
        "model: {arch: vit_tiny_patch16, decoder_depth: 1, decoder_embed_dim: 32}\n"
        f"dataset: {{train_data_sources: {folder}, batch_size: 4, num_workers_per_gpu: 0, "
        "augmentation: {input_size: 32}}\n"
        "train: {accelerator: cpu, num_epochs: 1, checkpoint_interval: 1}\n"
        f"results_dir: {copy.root / 'run'}\n"
    )
    copy.mae("train", "-e", str(spec))

    copy.change(
        "a field",
        {
            "skill/mae_skill/spec/train.py": {
                "    beta2: OpenUnit": '    eps: float = spec_field(1e-8, "ε of AdamW.", gt=0.0)\n'
            },
            "runners/mae_runners/training/optim.py": {
                "    return torch.optim.AdamW(": (
                    '    ready = [{**group, "eps": optim.eps} for group in ready]\n'
                )
            },
        },
    )
    shown = json.loads(copy.mae("explain", "train.optim.eps", "--json"))
    assert shown["default"] == 1e-8 and shown["description"] == "ε of AdamW."
    assert "eps: " in copy.mae("get-spec", "train")
    assert "`train.optim.eps`" in (copy.root / "references/parameters_train.md").read_text("utf-8")

    copy.mae("train", "-e", str(spec), "train.num_epochs=2")
    index = json.loads((copy.root / "run/train/checkpoints.json").read_text())
    assert "model_epoch_001.pth" in json.dumps(index)


def test_an_architecture_builds_and_its_estimate_is_its_parameter_count(copy: Copy) -> None:
    copy.change(
        "an architecture",
        {
            "skill/mae_skill/archs.py": {
                '    _vit("vit_tiny_patch16"': '    _vit("vit_micro_patch8", 8, 96, 5, 2, "ViT-micro/8"),\n'
            },
            "skill/mae_skill/spec/model.py": {
                '    "vit_tiny_patch16",\n': '    "vit_micro_patch8",\n'
            },
        },
    )
    page = (copy.root / "references/architectures.md").read_text("utf-8")
    assert "vit_micro_patch8" in page
    program = """
from mae_runners.models.build import build_mae
from mae_skill.estimate import estimate
from mae_skill.spec import ExperimentSpec

given = {
    "model": {"arch": "vit_micro_patch8"},
    "dataset": {"augmentation": {"input_size": 64}},
}
spec = ExperimentSpec.model_validate(given)
model = build_mae(spec.model, spec.train, 64)
built = sum(p.numel() for p in model.parameters() if p.requires_grad)
print(built, estimate("train", spec.model_dump(mode="json"))["parameters"]["total"])
"""
    built, estimated = copy.python("-c", program).split()
    assert int(built) == int(estimated) > 100_000


def test_a_platform_of_another_package_plans_and_lists_jobs(copy: Copy) -> None:
    toy = ROOT / "tests/support/toy_platform"
    assert "tests/support/toy_platform" in PAGE.read_text("utf-8")
    project = tomllib.loads((toy / "pyproject.toml").read_text())["project"]
    (group, entries), *_ = project["entry-points"].items()
    assert group == "mae_sdk.platforms"

    packages = copy.root / "packages"
    info = packages / "toy_queue-1.dist-info"
    shutil.copytree(toy / "toy_queue", packages / "toy_queue")
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1\n")
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")

    folder = write_imagefolder(copy.root / "images", classes=2, per_class=2, size=32)
    (name,) = entries
    words = ["plan", "train", "--platform", name, "--train-datasets", str(folder)]
    plan = json.loads(copy.mae(*words, "--automl-policy", "off", "--json"))
    assert plan["platform"] == name


def test_an_error_is_in_the_tree_and_in_both_pages(copy: Copy) -> None:
    quota = '''class QuotaError(MaeError):
    """A quota was used up."""

    code = "quota"
    exit_code = 5


'''
    copy.change(
        "an error",
        {
            "skill/mae_skill/errors.py": {
                "    ├── JobCanceledError ": (
                    "    ├── QuotaError           quota                 5  a quota was used up\n"
                ),
                "class JobCanceledError(": quota,
            },
            "references/errors.md": {
                "| job_canceled | 6 |": "| quota | 5 | a quota was used up | ask for more |\n"
            },
            "tests/skill/test_bundle.py": {'    "job_canceled": 6,\n': '    "quota": 5,\n'},
        },
    )
    assert "| `quota` | 5 |" in (copy.root / "references/error_catalogue.md").read_text("utf-8")
    tests = ["tests/skill/test_bundle.py", "tests/docs/test_documents.py"]
    passed = copy.python("-m", "pytest", "-q", "-k", "codes or error_page", *tests)
    assert "2 passed" in passed


def test_a_sampler_proposes_and_is_planned(copy: Copy) -> None:
    copy.change(
        "an AutoML sampler",
        {
            "sdk/mae_sdk/automl/options.py": {'"qmc", "grid", "nsga2"]\n': '"partial", '},
            "sdk/mae_sdk/automl/samplers.py": {
                '    if kind == "nsga2":\n': (
                    '    if kind == "partial":\n'
                    "        tpe = samplers.TPESampler(seed=seed)\n"
                    "        return samplers.PartialFixedSampler({}, tpe)\n"
                )
            },
        },
    )
    assert "partial" in (copy.root / "references/tao-run-automl.md").read_text("utf-8")
    folder = write_imagefolder(copy.root / "images", classes=2, per_class=4, size=32)
    words = ["plan", "train", "--train-datasets", str(folder), "--automl", "sampler=partial"]
    assert json.loads(copy.mae(*words, "--json"))["automl"]["options"]["sampler"] == "partial"

    program = """
import optuna
from mae_sdk.automl.options import parse
from mae_sdk.automl.space import Parameter, SearchSpace
from mae_sdk.automl.samplers import make_sampler

rate = Parameter(name="train.optim.lr", kind="float", low=1e-5, high=1e-3, log=True, default=1e-4)
sampler = make_sampler(SearchSpace([rate], {}), {}, parse({"sampler": "partial"}), 1)
study = optuna.create_study(sampler=sampler)
values = set()
for _ in range(3):
    trial = study.ask()
    values.add(trial.suggest_float("train.optim.lr", 1e-5, 1e-3, log=True))
    study.tell(trial, 1.0)
print(len(values))
"""
    assert copy.python("-c", program).split() == ["3"]


def test_an_export_format_is_written_and_compared_with_the_model(copy: Copy) -> None:
    copy.change(
        "an export format",
        {
            "skill/mae_skill/spec/export.py": {
                '"triton"]\n\n_GRAPH': '"frozen", ',
                '"triton"]}\n_ONNX': '"frozen", ',
            },
            "runners/mae_runners/deploy/torch_formats.py": {
                '"triton": ".onnx"}': '"frozen": ".ts", ',
                '            if kind == "torchscript":\n': (
                    '            if kind == "frozen":\n'
                    "                traced = torch.jit.trace(module, images, check_trace=False)\n"
                    "                frozen = torch.jit.freeze(traced)\n"
                    "                torch.jit.save(frozen, str(path), _extra_files=extra)\n"
                    "                return\n"
                ),
            },
        },
    )
    folder = write_imagefolder(copy.root / "images", classes=2, per_class=4, size=32)
    small = ["model.arch=vit_tiny_patch16", "model.decoder_depth=1", "model.decoder_embed_dim=32"]
    sizes = ["dataset.augmentation.input_size=32", "dataset.batch_size=4"]
    spec = copy.root / "spec.yaml"
    spec.write_text(
        f"dataset: {{train_data_sources: {folder}, num_workers_per_gpu: 0}}\n"
        "train: {accelerator: cpu, num_epochs: 1}\n"
        f"results_dir: {copy.root / 'run'}\n"
    )
    copy.mae("train", "-e", str(spec), *small, *sizes)
    (checkpoint,) = (copy.root / "run/train").glob("model_epoch_*.pth")

    file = copy.root / "model.ts"
    spec.write_text(
        f"export: {{checkpoint: {checkpoint}, onnx_file: {file}, format: frozen}}\n"
        f"results_dir: {copy.root / 'export'}\n"
    )
    copy.mae("export", "-e", str(spec))
    assert file.stat().st_size > 1_000_000
