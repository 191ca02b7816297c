"""Arguments and calls of upstream's SDK, answered with ours."""

from __future__ import annotations

from collections.abc import Iterable

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

CALLS = {
    "get_job": "skill.job(JOB)",
    "get_job_status": "skill.job(JOB).status()",
    "get_job_logs": "skill.job(JOB).logs(tail=N)",
    "iter_job_log_chunks": "skill.job(JOB).logs(tail=N), or `mae jobs logs JOB -f`",
    "get_job_results_dir": "skill.job(JOB).folder",
    "get_results": "skill.job(JOB).files()",
    "list_results": "skill.job(JOB).files()",
    "get_checkpoints": "skill.job(JOB).best_checkpoint('best'), 'latest' or 'epoch:N'",
    "read_job_result_file": "skill.job(JOB).read(NAME)",
    "delete_job_artifacts": "skill.job(JOB).delete()",
    "delete_job": "skill.job(JOB).delete()",
    "cancel_job": "skill.job(JOB).cancel()",
    "pause_job": "skill.job(JOB).cancel(), and later skill.job(JOB).resume()",
    "resume_job": "skill.job(JOB).resume()",
    "get_failure_analysis": "skill.job(JOB).record['error']",
    "list_jobs": "skill.jobs(state='RUNNING')",
    "create_python_job": "skill.create_job(ACTION) of a bundle whose entry has execution: "
    "{type: python_script}",
    "run": "skill.create_job('train', automl={…})",
}
"""Method of a client → ours."""

CLASSES = {
    "AutoMLRunner": "Skill(FOLDER).create_job('train', automl={…})",
    "DockerSDK": "Skill(FOLDER); create_job(ACTION, platform='docker') runs a job in a container",
    "KubernetesSDK": "Skill(FOLDER); create_job(ACTION, platform='kubernetes')",
    "SlurmSDK": "Skill(FOLDER); create_job(ACTION, platform='slurm')",
}
"""Class of theirs → ours."""


def unnamed_action(options: Iterable[str]) -> UsageError:
    """The error of a job that is asked for in the other SDK's words, without an action."""
    said = [f"{name}: {OPTIONS[name]}" for name in sorted(options) if name in OPTIONS]
    return UsageError(
        "no action is named",
        field="action",
        expected="create_job(ACTION, …), such as create_job('train', train_datasets=URI)",
        hint="; ".join(said) or None,
    )
