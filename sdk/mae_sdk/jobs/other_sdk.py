"""Arguments and calls of upstream's SDK, answered with ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mae_skill.errors import UsageError

OPTIONS = {
    "image": "no image is named: a job runs the command of the bundle's action where its platform "
    "runs it (platform=)",
    "command": "the command is that of the bundle's action (skill_info.yaml)",
    "gpu_count": 'spec_overrides={"train.num_gpus": N}',
    "gpu_ids": 'spec_overrides={"train.gpu_ids": [0, 1]}',
    "num_gpus": 'spec_overrides={"train.num_gpus": N}',
    "env_vars": "env={NAME: VALUE}",
    "specs": "spec={…} or spec_overrides={KEY: VALUE}",
    "spec_overrides_file": "spec=FILE",
    "inputs": "train_datasets=, eval_dataset=, inference_dataset= or sources={NAME: URI}",
    "outputs": "none: results are in the job's folder, below results_root=",
    "upload_excludes": "upload_excludes of the action's entry in skill_info.yaml",
    "results_dir": "results_root=FOLDER_OR_URL; a job makes its own folder there",
    "output_dir": "results_root=FOLDER_OR_URL; a job makes its own folder there",
    "train_dataset_uri": "train_datasets=URI",
    "eval_dataset_uri": "eval_dataset=URI",
    "inference_dataset_uri": "inference_dataset=URI",
    "calibration_dataset": 'sources={"calibration_dataset": URI}',
    "automl_settings": "automl={max_trials: 10, …}",
    "automl_hyperparameters": 'automl={"parameters": [KEY, …]}',
    "custom_param_ranges": 'automl={"range.KEY": [LOW, HIGH]}',
    "automl_max_recommendations": 'automl={"max_trials": N}',
    "automl_algorithm": 'automl={"algorithm": NAME}',
    "metric": 'automl={"metric": NAME, "direction": "maximize"}',
    "eval_fn": "a metric that the runner reports; there are no callbacks",
    "on_result": "job.events(); there are no callbacks",
    "on_recommendation": "job.events(); there are no callbacks",
    "resume": "skill.job(JOB).resume()",
    "kind": "none: the action says what kind of a job it is",
    "name": "idempotency_key=NAME: the same name gives the same job",
    "workspace": "results_root=FOLDER_OR_URL",
    "docker_env_vars": "env={NAME: VALUE}",
    "base_experiment_ids": "ptm=PATH_OR_URL",
    "backend_details": "platform=NAME, platform_options={…}",
    "mounts": "platform_options={…} of platform='docker'",
    "train_dataset_uris": "train_datasets=[URI, …]",
    "calibration_dataset_uri": 'sources={"calibration_dataset": URI}',
    "dataset_format": "data_format in the bundle's skill_info.yaml",
    "config_format": "config_format in the action's entry of skill_info.yaml",
    "automl_enabled": "automl_policy='auto' or 'off'",
    "hooks": "job.events(): an iterator of the changes of its state",
    "network_arch": "Skill(FOLDER_OF_THE_BUNDLE)",
    "skill_dir": "Skill(FOLDER_OF_THE_BUNDLE)",
    "workspace_id": "results_root=FOLDER_OR_URL",
    "backend_type": "platform=NAME",
    "encryption_key": "env={'MAE_ENCRYPTION_KEY': …}, or the variable",
    "base_checkpoint": "ptm=PATH_OR_URL",
    "pretrained_model": "ptm=PATH_OR_URL",
    "parent_id": "parent_job_id=JOB",
    "script": "execution: {type: python_script, script: FILE} in the action's entry",
    "script_args": "execution: {args: [...]} in the action's entry",
    "timeout_hours": "job.wait(timeout=SECONDS); automl={timeout: 2h} bounds a study",
}
"""Option of a call → what to give instead."""

_STUDY = "skill.create_job('train', automl={…})"
_IMAGES = "no container is kept running: skill.create_job('inference', parent_job_id=JOB)"
_NO_LOGIN = "nothing is logged in to: a store's credentials are in the environment"
_NO_WORKSPACE = "results_root=FOLDER_OR_URL is all that there is of a workspace"
_NO_REGISTRY = "data is read where it is: train_datasets=URI; `mae inspect URI` looks at it"
_NO_STORE = "the job's folder is the record: skill.job(JOB)"

CALLS = {
    "get_job": "skill.job(JOB)",
    "get_job_status": "skill.job(JOB).status()",
    "get_job_metadata": "skill.job(JOB).record",
    "get_job_message": "skill.job(JOB).status()",
    "get_job_kind": "skill.job(JOB).record['kind']",
    "get_job_name": "skill.job(JOB).id",
    "get_job_logs": "skill.job(JOB).logs(tail=N)",
    "iter_job_log_chunks": "skill.job(JOB).logs(tail=N), or `mae jobs logs JOB -f`",
    "get_job_results_dir": "skill.job(JOB).folder",
    "get_job_specs": "skill.plan(ACTION).spec; of a job, spec.yaml in skill.job(JOB).folder",
    "get_job_schema": "skill.bundle.schema(ACTION)",
    "get_job_replicas": "skill.job(JOB).record['launch']",
    "get_results": "skill.job(JOB).files()",
    "list_results": "skill.job(JOB).files()",
    "list_job_files": "skill.job(JOB).files()",
    "download_job_files": "skill.job(JOB).read(NAME); of a results root behind a URL, the files "
    "are there",
    "download_entire_job": "skill.job(JOB).folder",
    "get_checkpoints": "skill.job(JOB).best_checkpoint('best'), 'latest' or 'epoch:N'",
    "get_latest_checkpoint": "skill.job(JOB).best_checkpoint('latest')",
    "get_checkpoint_path": "skill.job(JOB).best_checkpoint('epoch:N')",
    "read_job_result_file": "skill.job(JOB).read(NAME)",
    "delete_job_artifacts": "skill.job(JOB).delete()",
    "delete_job": "skill.job(JOB).delete()",
    "cancel_job": "skill.job(JOB).cancel()",
    "stop_job": "skill.job(JOB).cancel()",
    "kill_job": "skill.job(JOB).cancel()",
    "terminate_job": "skill.job(JOB).cancel()",
    "cancel_active_jobs": "skill.job(JOB).cancel(); that of a study cancels its trials",
    "pause_job": "skill.job(JOB).cancel(), and later skill.job(JOB).resume()",
    "resume_job": "skill.job(JOB).resume()",
    "retry_job": "skill.job(JOB).resume(), or a new job",
    "update_job": "a job is what it was made as: make another",
    "wait_for_job": "skill.job(JOB).wait()",
    "watch": "skill.job(JOB).wait(), or skill.job(JOB).events()",
    "get_failure_analysis": "skill.job(JOB).record['error']",
    "list_jobs": "skill.jobs(state='RUNNING')",
    "get_parent_job": "skill.job(JOB).record['parent']",
    "create_python_job": "skill.create_job(ACTION) of a bundle whose entry has execution: "
    "{type: python_script}",
    "run": _STUDY,
    "run_experiment_job": "skill.create_job(ACTION, …)",
    "run_dataset_job": "skill.create_job(ACTION, …) of a bundle that has the action",
    "get_automl_defaults": "skill.plan('train').automl",
    "get_automl_param_details": "skill.plan('train').automl, or `mae explain KEY`",
    "next_recommendation": _STUDY,
    "report_result": _STUDY,
    "get_best": "skill.job(STUDY).best_checkpoint(), skill.job(STUDY).figures()",
    "create_dataset": _NO_REGISTRY,
    "list_datasets": _NO_REGISTRY,
    "get_dataset_metadata": _NO_REGISTRY,
    "update_dataset": _NO_REGISTRY,
    "delete_dataset": _NO_REGISTRY,
    "check_path": "`mae inspect URI`",
    "list_path": "`mae inspect URI`",
    "create_workspace": _NO_WORKSPACE,
    "list_workspaces": _NO_WORKSPACE,
    "get_workspace_metadata": _NO_WORKSPACE,
    "delete_workspace": _NO_WORKSPACE,
    "list_base_experiments": "ptm=PATH_OR_URL or hf://ORG/NAME names pretrained weights",
    "load_airgapped_model": "ptm=PATH",
    "publish_model": "skill.job(JOB).best_checkpoint() is a file to hand on",
    "remove_published_model": "nothing is published here",
    "start_inference_microservice": _IMAGES,
    "inference_request": _IMAGES,
    "get_inference_microservice_status": _IMAGES,
    "stop_inference_microservice": _IMAGES,
    "get_gpu_types": "`mae doctor`",
    "get_available_instances": "`mae platforms`",
    "login": _NO_LOGIN,
    "logout": _NO_LOGIN,
    "is_authenticated": _NO_LOGIN,
}
"""Method of a client → ours. Those of a job are found without the word ``job`` too, on a `Job`."""

OF_JOB = {
    "to_dict": "job.record",
    "job_id": "job.id",
    "results_dir": "job.folder",
    "local_results_dir": "job.folder",
    "message": "job.status()",
    "error": "job.record['error']",
    "action": "job.record['action']",
    "network_arch": "job.record['network_arch']",
    "backend_type": "job.record['platform']",
    "backend_job_id": "job.record['attempts']",
    "parent_job_id": "job.record['parent']",
    "created_at": "job.record['created_at']",
    "updated_at": "job.history()",
    "specs": "job.folder / 'spec.yaml'",
    "workspace_id": _NO_WORKSPACE,
    "base_checkpoint": "job.folder / 'spec.yaml'",
    "is_done": "job.state == 'COMPLETE'",
    "is_complete": "job.state == 'COMPLETE'",
    "download": "job.files(), job.read(NAME)",
}
"""What upstream's job has and ours has by another name, beside the calls of `CALLS`."""

CLASSES = {
    "AutoML": "Skill(FOLDER).create_job('train', automl={…})",
    "AutoMLRunner": "Skill(FOLDER).create_job('train', automl={…})",
    "DockerSDK": "Skill(FOLDER); create_job(ACTION, platform='docker') runs a job in a container",
    "KubernetesSDK": "Skill(FOLDER); create_job(ACTION, platform='kubernetes')",
    "SlurmSDK": "Skill(FOLDER); create_job(ACTION, platform='slurm')",
    "BrevSDK": "Skill(FOLDER); create_job(ACTION, platform=NAME)",
    "LocalSDK": "Skill(FOLDER); create_job(ACTION) runs a job on this machine",
    "VirtualEnvSDK": "Skill(FOLDER); create_job(ACTION) runs a job with this Python",
    "TaoClient": "Skill(FOLDER)",
    "JobStore": "Skill(FOLDER).job(JOB): its folder is the record",
    "JobMonitor": "Skill(FOLDER).job(JOB).events()",
    "JobStatus": "Skill(FOLDER).job(JOB).status()",
    "Checkpoint": "Skill(FOLDER).job(JOB).best_checkpoint()",
    "CredentialError": "MaeError; Skill(FOLDER) raises nothing else",
    "SkillContext": "Skill(FOLDER).bundle",
}
"""Class of theirs → ours."""

PUBLIC = ("Skill", "Job", "Plan")
"""Our classes, as the errors name them."""


def no_attribute(owner: object, name: str) -> AttributeError:
    """The error of a name that one of our classes does not have: with ours, where it is theirs.

    The words of a job are found with and without ``get_`` and ``job`` in the name.

    Raises:
        AttributeError: of the property itself, where the name is one of ours.
    """
    kind = type(owner)
    if hasattr(kind, name):  # a property of ours that failed
        object.__getattribute__(owner, name)
    shown = next((base.__name__ for base in kind.__mro__ if base.__name__ in PUBLIC), kind.__name__)
    words = _of_job(name) if shown == "Job" else CALLS.get(name)
    if words is None and shown == "Skill":  # a call of a job, on its client
        words = CALLS.get(f"{name}_job") or CALLS.get(f"get_job_{name.removeprefix('get_')}")
    own = name.removeprefix("get_")
    if words is None and own != name and not own.startswith("_") and hasattr(kind, own):
        words = f"{shown.lower()}.{own}"
    if words is None:
        return AttributeError(f"{shown!r} object has no attribute {name!r}", name=name, obj=owner)
    return AttributeError(f"there is no {shown}.{name}: {words}", name=name, obj=owner)


def _of_job(name: str) -> str | None:
    bare = name.removeprefix("get_")
    names = (
        *(name, f"{name}_job", f"get_job_{bare}", f"get_{bare}", f"{bare}_job_files"),
        name.replace("_", "_job_", 1),
    )
    words = OF_JOB.get(name) or next((CALLS[one] for one in names if one in CALLS), None)
    return None if words is None else words.replace("skill.job(JOB)", "job")


def unnamed_action(options: Iterable[str]) -> UsageError:
    """The error of a job that is asked for in the other SDK's words, without an action."""
    return UsageError(
        "no action is named",
        field="action",
        expected="create_job(ACTION, …), such as create_job('train', train_datasets=URI)",
        hint=_said(options),
    )


def unnamed_options(more: Sequence[Any], options: Iterable[str]) -> UsageError:
    """The error of a job that is asked for with more than its action without a name, as the other
    SDK's ``create_job(IMAGE, COMMAND)``."""
    return UsageError(
        "only the action is given without a name",
        field="create_job",
        got=list(more),
        expected="create_job(ACTION, NAME=VALUE, …), such as create_job('train', spec=FILE)",
        hint=_said([*options, "image", "command"]),
    )


def _said(options: Iterable[str]) -> str | None:
    said = [f"{name}: {OPTIONS[name]}" for name in sorted(options) if name in OPTIONS]
    return "; ".join(said) or None
