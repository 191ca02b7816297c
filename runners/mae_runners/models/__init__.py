"""The models: three families of masked autoencoders and their classifiers, on timm's blocks."""

from .classifier import Classifier
from .mae import MaeOutput, MaskedAutoencoder
from .pretrained import LoadReport, load_pretrained
from .registry import build_classifier, build_from_config, build_mae

__all__ = [
    "Classifier",
    "LoadReport",
    "MaeOutput",
    "MaskedAutoencoder",
    "build_classifier",
    "build_from_config",
    "build_mae",
    "load_pretrained",
]
