"""Fine-tuning a segmenter."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from mae_sdk.files import write_json
from mae_sdk.jobs.status import finite
from mae_skill.errors import DataError
from torch import Tensor, nn

from mae_runners.data import SegmentationDataset, build_segmentation_dataset, to_input
from mae_runners.distributed import Ranks
from mae_runners.metrics import colors, masks
from mae_runners.metrics.confusion import write_table as write_pixels
from mae_runners.metrics.gallery import Gallery
from mae_runners.metrics.iou import SegmentationMetrics, judged_classes, write_table
from mae_runners.metrics.looks import Looks
from mae_runners.metrics.reconstruction import spread
from mae_runners.metrics.windows import whole
from mae_runners.models import build_segmenter
from mae_runners.models.heads import Segmenter
from mae_runners.tasks.base import VALIDATION, Batch, Images, Task
from mae_runners.tasks.losses import PixelLoss

EXAMPLES = 6
MAX_RESAMPLED = 2000
"""Validation images up to which the mIoU gets an interval at every best epoch, in half a second."""


class SegmentationTask(Task):
    """`PixelLoss` with an auxiliary head, on crops; judged by IoU over whole images.

    Validation fits each image into the model's input once (`windows.whole`); the evaluate action
    can also slide a window.
    """

    stage = "finetune"
    train: SegmentationDataset
    looks: Any = None

    @property
    def accuracy(self) -> str | None:
        return "mIoU" if self.val is not None else None

    def metrics_about(self) -> dict[str, dict[str, Any]]:
        judged = {name: {"direction": "maximize"} for name in ("mIoU", "mAcc", "aAcc")}
        return {**super().metrics_about(), **judged}

    def open_source(self, role: str, *, train: bool) -> SegmentationDataset:
        data = self.spec.dataset
        return build_segmentation_dataset(
            getattr(data, f"{role}_data_sources"),
            getattr(data.segmentation, f"{role}_mask_sources"),
            role=role,
            train=train,
            dataset=data,
            num_classes=self.spec.model.num_classes,
            seed=self.seed,
            reading=self.reading,
        )

    def build_model(self) -> Segmenter:
        self.weights = self.class_weights()
        return build_segmenter(self.spec.model, self.aug.input_size, self.reading.bands)

    def training_step(self, module: nn.Module, batch: Batch, key: tuple[int, int, int]) -> Tensor:
        train = self.spec.train
        loss = PixelLoss(
            self.train.ignore_index,
            train.loss,
            train.focal_gamma,
            train.dice_weight,
            float(self.spec.model.segmentation.auxiliary_weight),
            self.weights,
        )
        return loss(module(self.inputs(batch)), batch["mask"])

    def new_metrics(self) -> SegmentationMetrics:
        classes = self.spec.model.num_classes
        self.looks = Looks(classes, self.val, self.chosen, EXAMPLES)
        return SegmentationMetrics(classes, self.train.ignore_index)

    def validation_step(self, module: nn.Module, batch: Batch, metrics: Any) -> None:
        def predict(images: Tensor) -> Tensor:
            logits: Tensor = module(to_input(images, self.aug.mean, self.aug.std))
            return logits.float()

        sizes = [(int(height), int(width)) for height, width in batch["size"].tolist()]
        images = [
            image[:, :height, :width]
            for image, (height, width) in zip(batch["image"], sizes, strict=True)
        ]
        answers = whole(predict, images, self.model.input_size, self.aug.mean)

        for image, logits, mask, (height, width), valid, place in zip(
            images,
            answers,
            batch["mask"],
            sizes,
            batch["valid"].tolist(),
            batch["index"].tolist(),
            strict=True,
        ):
            if not valid:
                continue
            mask = mask[:height, :width]
            labels = metrics.add(logits, mask)
            self.looks.add(place, image, mask, labels, metrics.newest)

    @cached_property
    def chosen(self) -> set[int]:
        """Places of the images that are shown at every validation, chosen by the seed."""
        own = self.val_indices
        assert own is not None
        return {int(own[place]) for place in spread(np.full(len(own), -1), self.seed, EXAMPLES)}

    def validation_metrics(self, metrics: Any) -> dict[str, float]:
        """``val_loss, mIoU, mAcc, aAcc``."""
        found = metrics.summary(self.spec.dataset.val_data_sources)
        if judged_classes(found) < 2 <= metrics.num_classes:
            raise DataError(
                "the validation masks hold one class alone: a score over it means nothing",
                field="dataset.val_data_sources",
                got=self.spec.dataset.val_data_sources,
                expected="masks with two classes or more",
                hint="name dataset.val_data_sources, or hold out more (dataset.val_fraction)",
            )
        self.found, self.confusion = found, metrics.confusion
        return {name: found[name] for name in ("val_loss", "mIoU", "mAcc", "aAcc")}

    def keep_details(self, ranks: Ranks, epoch: int, *, best: bool) -> None:
        """``validation.json``: IoU class by class and the ``epoch``; ``per_class_iou.csv``, the
        confusion matrix of pixels, and in the report's gallery the chosen images and the worst."""
        looks: Looks = self.looks
        looks.merge(ranks.gather_on_first((looks.examples, looks.worst, dict(looks.scores.rows))))
        if not (best and self.context.is_main):
            return
        folder, classes = self.context.action_dir, list(self.train.classes)
        scores = looks.scores if self.found["images"] <= MAX_RESAMPLED else None
        said = masks.judged(self.found, self.confusion, classes, scores, self.seed)
        about: dict[str, Any] = {"epoch": epoch, **said}
        write_json(folder / VALIDATION, finite(about))
        write_table(self.found, classes, folder / "per_class_iou.csv")
        write_pixels(self.confusion.astype(np.int64), classes, folder)
        note = "Chosen by the seed, the same at every validation."
        self.looks.show(Gallery(folder), classes, note, epoch)

    def after_epoch(
        self, ranks: Ranks, images: Images, *, step: int, epoch: int, final: bool
    ) -> dict[str, float]:
        """The chosen images of a validation as a picture: image, truth, prediction, overlay."""
        looks, self.looks = getattr(self, "looks", None), None
        if looks is not None and looks.boards and self.context.is_main:
            path = self.context.action_dir / "pictures" / f"segmentation_epoch_{epoch:03d}.png"
            images.image(step, "segmentation", colors.board(looks.boards), path)
        return {}
