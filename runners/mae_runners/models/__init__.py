"""The models: three families of masked autoencoders, their classifiers and segmenters, on timm's blocks."""

from .classifier import Classifier
from .mae import MaeOutput, MaskedAutoencoder
from .pretrained import LoadReport, load_pretrained
from .registry import build_classifier, build_from_config, build_mae, build_segmenter
from .upernet import Segmenter

__all__ = [
    "Classifier",
    "LoadReport",
    "MaeOutput",
    "MaskedAutoencoder",
    "Segmenter",
    "build_classifier",
    "build_from_config",
    "build_mae",
    "build_segmenter",
    "load_pretrained",
]
