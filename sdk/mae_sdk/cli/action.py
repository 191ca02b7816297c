"""``mae train -e spec.yaml key=value``: one action in the foreground, without a job.

The process becomes the runner (`os.execv`), so signals, exit codes and output are the runner's own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
from mae_skill.errors import DependencyError, NotFoundError

from mae_sdk.cli.common import json_option


def _exec_runner(
    action: str, experiment_spec: str, overrides: tuple[str, ...], as_json: bool
) -> None:
    from importlib.util import find_spec

    from mae_sdk.run.process_group import safe_path
    from mae_sdk.storage import urls

    if experiment_spec != "-" and not Path(experiment_spec).exists():
        raise NotFoundError(
            "no such spec file",
            field="--experiment_spec",
            got=experiment_spec,
            hint=f"write one: mae get-spec {action} -o spec.yaml",
        )
    for module in ("mae_runners", "torch"):
        if find_spec(module) is None:
            raise DependencyError(
                f"{module} is not installed here",
                field=action,
                hint="pip install 'mae-skill[train]'",
            )

    if as_json:
        os.environ["MAE_JSON"] = "1"
    sys.stdout.flush()
    sys.stderr.flush()
    # A command line is visible to everybody for as long as the run lasts.
    sealed = [urls.seal_text(override) for override in overrides]
    os.execve(
        sys.executable,
        [sys.executable, "-m", "mae_runners", action, "-e", experiment_spec, *sealed],
        {**safe_path(os.environ), **urls.held_variables()},
    )


def _action(name: str, does: str) -> click.Command:
    @click.command(
        name=name,
        help=f"{does}\n\n"
        "Overrides are dotted: train.num_epochs=2 model.num_classes=10. FILE may be - for stdin.",
    )
    @click.option(
        "-e",
        "--experiment_spec",
        "experiment_spec",
        metavar="FILE",
        required=True,
        help="The experiment spec, YAML or JSON.",
    )
    @click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
    @json_option
    def command(experiment_spec: str, overrides: tuple[str, ...], as_json: bool) -> None:
        _exec_runner(name, experiment_spec, overrides, as_json)

    return command


train = _action("train", "Pretrain or fine-tune in the foreground, no job.")
evaluate = _action(
    "evaluate", "Evaluate a checkpoint, an ONNX file or an engine in the foreground, no job."
)
inference = _action(
    "inference", "Predict for a folder or archive of images in the foreground, no job."
)
export = _action(
    "export",
    "Export a checkpoint to ONNX, checked against the torch model, in the foreground, no job.",
)
gen_trt_engine = _action(
    "gen_trt_engine", "Build a TensorRT engine from an ONNX file in the foreground, no job."
)
