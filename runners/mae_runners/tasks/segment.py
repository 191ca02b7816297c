"""Fine-tuning a segmenter: what a stage supplies to the one loop, which is data, model, loss and validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from mae_skill.errors import DataError, SpecError
from torch import Tensor, nn

from mae_runners.data import build_loader, build_segmentation_dataset, to_input
from mae_runners.metrics import colours, iou
from mae_runners.metrics.windows import judge_pixels, whole
from mae_runners.models import build_segmenter
from mae_runners.tasks.base import Batch, SubsetSampler, Task, hold_out
from mae_runners.tasks.segmentation_loss import segmentation_loss

PICTURES = 6


class SegmentationTask(Task):
    """Pixel-wise cross-entropy with an auxiliary loss, on crops; judged by IoU over whole pictures at their own size.

    Validation fits each picture into the model's input once (`windows.whole`); the evaluate action can also slide a window.
    """

    stage = "finetune"
    accuracy = "mIoU"

    def _make_data(self) -> None:
        data, meaning = self.spec.dataset, self.spec.dataset.segmentation
        if not data.train_data_sources:
            raise SpecError(
                "there are no training images",
                field="dataset.train_data_sources",
                expected="a folder, an archive or a URL of either",
            )
        self.train: Any = self._pairs(
            data.train_data_sources, meaning.train_mask_sources, "train", train=True
        )
        self.train_indices = np.arange(len(self.train))
        if data.val_data_sources:
            self.val = self._pairs(
                data.val_data_sources, meaning.val_mask_sources, "val", train=False
            )
            self.val_indices = np.arange(len(self.val))
        elif data.val_fraction:
            self.train_indices, self.val_indices = hold_out(
                np.zeros(len(self.train)), float(data.val_fraction), self.seed
            )
            self.val = self._pairs(
                data.train_data_sources, meaning.train_mask_sources, "train", train=False
            )
            self.context.log(
                f"held out {len(self.val_indices)} of {len(self.train)} training images for validation (seed {self.seed})"
            )

    def _pairs(self, sources: Any, masks: Any, role: str, *, train: bool) -> Any:
        return build_segmentation_dataset(
            sources,
            masks,
            role=role,
            train=train,
            dataset=self.spec.dataset,
            num_classes=self.spec.model.num_classes,
            seed=self.seed,
        )

    def _build(self) -> nn.Module:
        return build_segmenter(self.spec.model, self.aug.input_size)

    def loss(self, module: nn.Module, batch: Batch, key: tuple[int, int, int]) -> Tensor:
        outputs = module(self.inputs(batch))
        weight = float(self.spec.model.segmentation.auxiliary_weight)
        return segmentation_loss(
            outputs, batch["mask"], ignore_index=self.train.ignore_index, auxiliary_weight=weight
        )

    def _pictures(self, dataset: Any, indices: np.ndarray) -> Iterator[Batch]:
        """Batches of this rank in evaluation order, on the device, pixels as they are."""
        sampler = SubsetSampler(
            indices, self.seed, self.context.rank, self.context.world_size, shuffle=False
        )
        workers = int(self.spec.dataset.num_workers_per_gpu)
        for batch in build_loader(
            dataset, sampler, int(self.spec.dataset.batch_size), workers, persistent=False
        ):
            yield self.to_device(batch)
            self.between_batches()

    @torch.no_grad()
    def validate(
        self, module: nn.Module, reduce: Callable[[list[float]], list[float]]
    ) -> dict[str, float]:
        """``val_loss, mIoU, mAcc, aAcc`` from sums over the set; ``per_class_iou.csv`` and a picture go to the action's folder."""
        if self.val is None or self.val_indices is None:
            return {}
        count, ignore = int(self.spec.model.num_classes), self.train.ignore_index
        matrix = torch.zeros(count, count, dtype=torch.float64)
        loss_sum, pixels = 0.0, 0
        self.rows: list[list[np.ndarray]] = []

        def predict(images: Tensor) -> Tensor:
            logits: Tensor = module(to_input(images, self.aug.mean, self.aug.std))
            return logits.float()

        for batch in self._pictures(self.val, self.val_indices):
            sizes = [(int(height), int(width)) for height, width in batch["size"].tolist()]
            images = [
                image[:, :height, :width]
                for image, (height, width) in zip(batch["image"], sizes, strict=True)
            ]
            # Also the fillers at the end go through the model: every rank makes as many passes.
            answers = whole(predict, images, self.model.input_size, self.aug.mean)
            for image, logits, mask, size, valid in zip(
                images, answers, batch["mask"], sizes, batch["valid"].tolist(), strict=True
            ):
                if not valid:
                    continue
                mask = mask[: size[0], : size[1]]
                labels, loss, labelled = judge_pixels(logits, size, mask, ignore)
                matrix += iou.confusion(mask, labels, count, ignore).cpu()
                loss_sum, pixels = loss_sum + loss, pixels + labelled
                if self.context.is_main and len(self.rows) < PICTURES:
                    self.rows.append(example(image, mask, labels, count))
        *sums, loss_sum, total = reduce([*matrix.flatten().tolist(), loss_sum, float(pixels)])
        if not total:
            raise DataError(
                "no validation pixel has a label",
                field="dataset.val_data_sources",
                got=self.spec.dataset.val_data_sources,
            )
        found = iou.figures(np.asarray(sums).reshape(count, count))
        if self.context.is_main:
            iou.write_table(
                found, self.train.classes, self.context.action_dir / "per_class_iou.csv"
            )
        return {
            "val_loss": loss_sum / total,
            **{name: found[name] for name in ("mIoU", "mAcc", "aAcc")},
        }

    def show(self, trackers: Any, step: int, epoch: int) -> None:
        """``pictures/segmentation_epoch_NNN.png``: rows of image, truth, prediction; the same images at every validation."""
        rows = getattr(self, "rows", [])
        if rows:
            pixels = torch.from_numpy(colours.board(rows)).permute(2, 0, 1).float() / 255
            trackers.picture(
                step,
                "segmentation",
                pixels,
                self.context.action_dir / "pictures" / f"segmentation_epoch_{epoch:03d}.png",
            )
            self.rows = []


def example(image: Tensor, mask: Tensor, labels: Tensor, num_classes: int) -> list[np.ndarray]:
    """Image, truth and prediction as pictures, uint8 ``[H, W, 3]`` each; ignored pixels are black in the truth."""
    palette = colours.palette(num_classes)
    painted = [colours.paint(part.cpu().numpy(), palette) for part in (mask, labels)]
    return [np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()), *painted]
