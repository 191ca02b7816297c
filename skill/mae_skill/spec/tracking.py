"""``wandb`` and ``mlflow``: trackers. Nothing is sent unless one is enabled."""

from __future__ import annotations

from mae_skill.spec.fields import NonEmpty, Path, SpecModel, spec_field

ENABLED = {"wandb.enable": True}


class WandbSpec(SpecModel):
    """The Weights & Biases run.

    WANDB_MODE=offline keeps it on this machine; the key comes from the environment.
    """

    enable: bool = spec_field(False, "Log to Weights & Biases.")
    project: NonEmpty = spec_field("mae", "Project of the run.", applies_when=ENABLED)
    entity: Path = spec_field(None, "Team or user of the project.", applies_when=ENABLED)
    group: Path = spec_field(None, "Group of the run.", applies_when=ENABLED)
    tags: list[NonEmpty] = spec_field([], "Tags of the run.", applies_when=ENABLED)
    reinit: bool = spec_field(
        False, "Start a new run when one is open in this process.", applies_when=ENABLED
    )
    sync_tensorboard: bool = spec_field(
        False, "Mirror the TensorBoard scalars.", applies_when=ENABLED
    )
    save_code: bool = spec_field(False, "Save the program with the run.", applies_when=ENABLED)
    name: Path = spec_field(None, "Name of the run.", applies_when=ENABLED)
    run_id: Path = spec_field(None, "Id of the run, to continue it.", applies_when=ENABLED)


MLFLOW = {"mlflow.enable": True}


class MlflowSpec(SpecModel):
    """The MLflow run.

    MLFLOW_TRACKING_URI says where it is kept; without it, in a database in the results folder.
    """

    enable: bool = spec_field(False, "Log to MLflow.")
    experiment: NonEmpty = spec_field("mae", "Experiment of the run.", applies_when=MLFLOW)
    name: Path = spec_field(None, "Name of the run.", applies_when=MLFLOW)
