"""Fine-tuning a segmenter."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from mae_skill.errors import DataError
from torch import Tensor, nn

from mae_runners.data import SegmentationDataset, build_segmentation_dataset, to_input
from mae_runners.distributed import Ranks
from mae_runners.metrics import colors
from mae_runners.metrics.gallery import Gallery, fitted
from mae_runners.metrics.iou import SegmentationMetrics, judged_classes, write_table
from mae_runners.metrics.reconstruction import spread
from mae_runners.metrics.windows import whole
from mae_runners.models import build_segmenter
from mae_runners.models.heads import Segmenter
from mae_runners.tasks.base import Batch, Images, Task
from mae_runners.tasks.losses import PixelLoss

EXAMPLES = 6
SIDE = 256  # pixels of the longer side of a picture


class SegmentationTask(Task):
    """`PixelLoss` with an auxiliary head, on crops; judged by IoU over whole images.

    Validation fits each image into the model's input once (`windows.whole`); the evaluate action
    can also slide a window.
    """

    stage = "finetune"
    train: SegmentationDataset

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
        self.examples: list[list[np.ndarray]] = []
        self.shown_names: list[str] = []
        return SegmentationMetrics(self.spec.model.num_classes, self.train.ignore_index)

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

        palette = colors.palette(metrics.num_classes)
        assert self.val is not None
        chosen = self.chosen
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
            if self.context.is_main and len(self.examples) < EXAMPLES and place in chosen:
                self.examples.append(colors.comparison(image, mask, labels, palette))
                self.shown_names.append(str(self.val.source.members[place]))

    @cached_property
    def chosen(self) -> set[int]:
        """Places of the images that rank 0 shows: some of its share, chosen by the seed."""
        assert self.val_indices is not None
        own = self.val_indices[self.context.rank :: self.context.world_size]
        return {int(own[place]) for place in spread(np.full(len(own), -1), self.seed, EXAMPLES)}

    def validation_metrics(self, metrics: Any) -> dict[str, float]:
        """``val_loss, mIoU, mAcc, aAcc``; ``per_class_iou.csv`` goes to the action's folder."""
        found = metrics.summary(self.spec.dataset.val_data_sources)
        if judged_classes(found) < 2 <= metrics.num_classes:
            raise DataError(
                "the validation masks hold one class alone: a score over it means nothing",
                field="dataset.val_data_sources",
                got=self.spec.dataset.val_data_sources,
                expected="masks with two classes or more",
                hint="name dataset.val_data_sources, or hold out more (dataset.val_fraction)",
            )
        if self.context.is_main:
            path = self.context.action_dir / "per_class_iou.csv"
            write_table(found, self.train.classes, path)
        return {name: found[name] for name in ("val_loss", "mIoU", "mAcc", "aAcc")}

    def after_epoch(
        self, ranks: Ranks, images: Images, *, step: int, epoch: int, final: bool
    ) -> dict[str, float]:
        """Rows of image, truth, prediction; the same images at every validation."""
        examples, self.examples = getattr(self, "examples", []), []
        if examples:
            path = self.context.action_dir / "pictures" / f"segmentation_epoch_{epoch:03d}.png"
            images.image(step, "segmentation", colors.board(examples), path)
            gallery = Gallery(self.context.action_dir)
            rows = [[fitted(tile, SIDE) for tile in row] for row in examples]
            about = [{"name": name} for name in self.shown_names]
            note = f"After epoch {epoch}; the same images at every validation."
            columns = ["image", "truth", "answer"]
            gallery.add("segmentation", rows, about, columns, note=note, epoch=epoch)
            classes = list(self.train.classes)
            gallery.set_legend(classes, colors.palette(len(classes)))
            gallery.save()
        return {}
