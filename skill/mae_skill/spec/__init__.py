"""The spec as typed, strict models.

Everything else about the spec (schemas, templates, tables) is generated from them.
"""

from mae_skill.spec.dataset import AugmentationSpec, DatasetSpec
from mae_skill.spec.evaluate import EvaluateSpec
from mae_skill.spec.experiment import ACTIONS, SECTIONS, ExperimentSpec
from mae_skill.spec.export import ExportSpec, ParitySpec
from mae_skill.spec.inference import InferenceSpec
from mae_skill.spec.model import ModelSpec
from mae_skill.spec.tensorrt import CalibrationSpec, GenTrtEngineSpec, TensorRtSpec
from mae_skill.spec.tracking import MlflowSpec, WandbSpec
from mae_skill.spec.train import CudnnSpec, EarlyStoppingSpec, OptimSpec, ProbeSpec, TrainSpec

__all__ = [
    "ACTIONS",
    "SECTIONS",
    "AugmentationSpec",
    "CalibrationSpec",
    "CudnnSpec",
    "DatasetSpec",
    "EarlyStoppingSpec",
    "EvaluateSpec",
    "ExperimentSpec",
    "ExportSpec",
    "GenTrtEngineSpec",
    "InferenceSpec",
    "MlflowSpec",
    "ModelSpec",
    "OptimSpec",
    "ParitySpec",
    "ProbeSpec",
    "TensorRtSpec",
    "TrainSpec",
    "WandbSpec",
]
