"""The whole spec: every section, for every action.

``ExperimentSpec.model_validate(resolved)`` is what the runners call; the models are strict, so a
value of the wrong type is an error here exactly where the schemas say so.
"""

from __future__ import annotations

from mae_skill.spec.dataset import DatasetSpec
from mae_skill.spec.evaluate import EvaluateSpec
from mae_skill.spec.export import ExportSpec
from mae_skill.spec.fields import NonEmpty, Path, SpecModel, spec_field
from mae_skill.spec.inference import InferenceSpec
from mae_skill.spec.model import ModelSpec
from mae_skill.spec.tensorrt import GenTrtEngineSpec
from mae_skill.spec.tracking import MlflowSpec, WandbSpec
from mae_skill.spec.train import TrainSpec

ACTIONS = ("train", "evaluate", "inference", "export", "gen_trt_engine")

_COMMON = ("model_name", "encryption_key", "results_dir")
SECTIONS: dict[str, tuple[str, ...]] = {
    "train": (*_COMMON, "wandb", "mlflow", "model", "dataset", "train"),
    "evaluate": (*_COMMON, "model", "dataset", "train", "evaluate"),
    "inference": (*_COMMON, "model", "dataset", "train", "inference"),
    "export": (*_COMMON, "model", "dataset", "train", "export"),
    "gen_trt_engine": (*_COMMON, "dataset", "gen_trt_engine"),
}
"""The top-level keys that each action reads, in the order of its template."""


class ExperimentSpec(SpecModel):
    """A whole experiment: one spec serves every action, and each reads its own sections."""

    model_name: NonEmpty | None = spec_field(
        None, "A name for the model, kept with it.", affects_training=False
    )
    encryption_key: NonEmpty | None = spec_field(
        None,
        "Reference to the key that encrypts checkpoints, env:NAME. The key itself never rests "
        "in a spec.",
        automl_disabled=True,
        affects_training=False,
    )
    results_dir: Path = spec_field(
        None,
        "Folder that the action writes under; a job fills it in.",
        automl_disabled=True,
        affects_training=False,
    )
    wandb: WandbSpec = spec_field(WandbSpec, "Logging to Weights & Biases.", affects_training=False)
    mlflow: MlflowSpec = spec_field(MlflowSpec, "Logging to MLflow.", affects_training=False)
    model: ModelSpec = spec_field(ModelSpec, "Configurable parameters to construct the model.")
    dataset: DatasetSpec = spec_field(
        DatasetSpec, "Configurable parameters to construct the data set."
    )
    train: TrainSpec = spec_field(TrainSpec, "Configurable parameters to construct the trainer.")
    evaluate: EvaluateSpec = spec_field(
        EvaluateSpec, "Configurable parameters to construct the evaluator.", affects_training=False
    )
    inference: InferenceSpec = spec_field(
        InferenceSpec,
        "Configurable parameters to construct the inferencer.",
        affects_training=False,
    )
    export: ExportSpec = spec_field(
        ExportSpec, "Configurable parameters to construct the exporter.", affects_training=False
    )
    gen_trt_engine: GenTrtEngineSpec = spec_field(
        GenTrtEngineSpec,
        "Configurable parameters to construct the TensorRT engine builder.",
        affects_training=False,
    )
