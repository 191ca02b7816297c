"""Three families of masked autoencoders, their classifiers and segmenters, on timm's blocks."""

from mae_runners.models.build import build_classifier, build_from_config, build_mae, build_segmenter
from mae_runners.models.heads import Classifier, Segmenter
from mae_runners.models.mae import MaeOutput, MaskedAutoencoder
from mae_runners.models.pretrained import LoadReport, load_pretrained

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
