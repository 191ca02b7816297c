"""Pretraining: reconstruction of hidden patches, and the contrast that refines what it learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mae_skill.archs import ARCHS, num_units, with_patch
from mae_skill.errors import DataError, SpecError
from mae_skill.spec import ExperimentSpec
from torch import Tensor, nn

from mae_runners.context import RunContext
from mae_runners.data import ImageDataset, KeyedDataset, build_dataset, to_input
from mae_runners.distributed import Ranks
from mae_runners.metrics.probe import MAX_RANKED
from mae_runners.metrics.reconstruction import MeanLoss
from mae_runners.metrics.splits import split_bank
from mae_runners.models import build_mae
from mae_runners.models.mae import MaskedAutoencoder
from mae_runners.models.teacher import FrozenTeacher, load_teacher
from mae_runners.models.vit_mae import VitMae
from mae_runners.tasks import probes
from mae_runners.tasks.base import Batch, Images, Task, counted, local_copy


class PretrainTask(Task):
    """Masked autoencoding (MAE, arXiv 2111.06377; FCMAE, 2301.00808; Hiera, 2306.00989).

    With ``train.refine.blocks`` it is the stage after that, of two views of each picture: see
    `mae_runners.models.refine`. It has no validation loss, and shows no reconstructions.
    """

    stage = "pretrain"
    train: ImageDataset

    def __init__(self, spec: ExperimentSpec, context: RunContext, pretrained: bool = True) -> None:
        self.refines = spec.train.refine.blocks > 0
        if self.refines and pretrained and not spec.train.pretrained_model_path:
            raise SpecError(
                "there is no trained encoder to refine",
                field="train.refine.blocks",
                got=spec.train.refine.blocks,
                expected="0, or trained weights in train.pretrained_model_path",
                hint="pass --parent JOB of a pretraining, or set train.pretrained_model_path",
            )
        super().__init__(spec, context, pretrained)

    @property
    def accuracy(self) -> str | None:
        return "knn_acc" if self.probe_sets else None

    def metrics_about(self) -> dict[str, dict[str, Any]]:
        share: dict[str, Any] = {"direction": "maximize"}
        if self.probe_sets:
            bank, queries = self.probe_sets
            judged = split_bank(torch.as_tensor(bank.labels), self.seed)[1]
            share["images"] = len(judged if queries is None else queries)
        rank = {"direction": "maximize"}
        about = {**super().metrics_about(), "knn_acc": share, "linear_acc": share, "rankme": rank}
        if self.refines:
            del about["val_loss"]
        return about

    def open_source(self, role: str, *, train: bool) -> ImageDataset:
        model = self.spec.model
        arch = with_patch(ARCHS[model.arch], model.patch_size)
        return self._open(
            getattr(self.spec.dataset, f"{role}_data_sources"),
            train=train,
            num_units=num_units(arch, self.aug.input_size),
            two_views=self.refines and train,
        )

    def _open(self, sources: Any, *, train: bool, **options: Any) -> ImageDataset:
        return build_dataset(
            sources,
            train=train,
            stage=self.stage,
            augmentation=self.aug,
            seed=self.seed,
            max_corrupt_fraction=self.spec.dataset.max_corrupt_fraction,
            reading=self.reading,
            chosen=self.spec.dataset.classes,
            **options,
        )

    def open_data(self) -> None:
        super().open_data()
        data = self.spec.dataset
        self.probe_sets: tuple[ImageDataset, ImageDataset | None] | None = None
        self._shown = self.val if isinstance(self.val, ImageDataset) else None
        if not (self.spec.train.probe.interval and data.probe_train_data_sources):
            return
        # Opened before training, so that what is wrong with them does not come up epochs later.
        bank = self._open(data.probe_train_data_sources, train=False, require_labels=True)
        queries = None
        if data.probe_val_data_sources:
            queries = self._open(
                data.probe_val_data_sources,
                train=False,
                classes=bank.classes,
                require_labels=True,
            )
        elif np.bincount(bank.labels).max() < 2:
            raise DataError(
                "the probe has nothing to judge: every image of its bank is the only one of its "
                "class",
                field="dataset.probe_train_data_sources",
                expected="two images of a class, or more",
                hint="name dataset.probe_val_data_sources, or add images",
            )
        self.probe_sets = bank, queries

    def datasets(self) -> dict[str, list[KeyedDataset]]:
        """Those of the probes too."""
        found = super().datasets()
        for role, dataset in zip(("train", "val"), self.probe_sets or (), strict=False):
            if dataset is not None:
                found[f"dataset.probe_{role}_data_sources"] = [dataset]
        return found

    def strata(self) -> np.ndarray:
        return np.asarray(self.train.labels)

    def build_model(self) -> MaskedAutoencoder:
        train, size, channels = self.spec.train, self.aug.input_size, self.reading.bands
        self.teacher = self._load_teacher()
        if self.refines:
            said = (
                "train_loss is the contrast of two views (train.refine.blocks): it compares with "
            )
            said += "no loss of reconstruction"
            self.context.log(said)
            self.context.status.running(said)
            refine = train.refine.model_dump(exclude={"layer_decay"})
            return build_mae(self.spec.model, train, size, channels, refine=refine)
        if self.teacher is None:
            return build_mae(self.spec.model, train, size, channels)
        found = self.teacher.found
        learned = {
            "width": found.width,
            "digest": self.teacher.digest,
            "layer": found.student_layer,
            "weight": float(train.teacher.weight),
        }
        model = build_mae(self.spec.model, train, size, channels, learned)
        assert isinstance(model, VitMae)
        model.set_teacher(self.teacher.to(self.context.device))
        self.context.log(found.summary)
        return model

    def _load_teacher(self) -> FrozenTeacher | None:
        path = self.spec.train.teacher.checkpoint
        if not path:
            return None
        if self.refines:
            raise SpecError(
                "a run that refines learns from no teacher",
                field="train.teacher.checkpoint",
                got=path,
                expected="null, or train.refine.blocks=0",
            )
        if not str(self.spec.model.arch).startswith("vit_"):
            raise SpecError(
                "only a ViT learns from a teacher",
                field="train.teacher.checkpoint",
                got=path,
                expected="null, or a ViT in model.arch",
            )
        path = local_copy(path, self.context, "teacher")
        drawn = torch.get_rng_state()
        teacher = load_teacher(
            path,
            self.context.encryption_key,
            self.spec.model_dump(mode="json"),
            (self.aug.mean, self.aug.std),
        )
        torch.set_rng_state(drawn)  # the model starts from the weights that it has without one
        return teacher

    def training_step(self, module: nn.Module, batch: Batch, key: tuple[int, int, int]) -> Tensor:
        views = None
        if self.refines:
            views = to_input(batch["view"], self.aug.mean, self.aug.std)
        loss: Tensor = module(self.inputs(batch), batch["noise"], views).loss
        return loss

    def validate(self, module: nn.Module, ranks: Ranks) -> dict[str, float]:
        return {} if self.refines else super().validate(module, ranks)

    def new_metrics(self) -> MeanLoss:
        return MeanLoss()

    def validation_step(self, module: nn.Module, batch: Batch, metrics: Any) -> None:
        """The reconstruction loss, with masks that are the same at every epoch."""
        batch, count = counted(batch)
        metrics.add(module(self.inputs(batch), batch["noise"]).loss, count)

    @torch.no_grad()
    def after_epoch(
        self, ranks: Ranks, images: Images, *, step: int, epoch: int, final: bool
    ) -> dict[str, float]:
        """``knn_acc`` every ``train.probe.interval`` epochs and at the end, ``linear_acc`` at the
        end; at validations an image of reconstructions, where the decoder is of use, and ``rankme``
        of up to `MAX_RANKED` validation images."""
        train = self.spec.train
        found: dict[str, float] = {}
        if self.probe_sets and (final or (epoch + 1) % train.probe.interval == 0):
            found = probes.probe(self, ranks, *self.probe_sets, linear=final)
        if final or (epoch + 1) % train.validation_interval == 0:
            if isinstance(self.val, ImageDataset) and len(self.val) <= MAX_RANKED:
                found |= probes.rank(self, ranks, self.val)
            if self._shown is None:
                self._shown = self.open_source("train", train=False)
            whose = "validation images" if self._shown is self.val else "training images"
            path = self.context.action_dir / "pictures" / f"reconstruction_epoch_{epoch:03d}.png"
            board = None
            if not self.refines:  # the decoder does not follow the encoder
                board = probes.reconstructions(self, self._shown, epoch, whose)
            if board is not None:
                images.image(step, "reconstruction", board, path)
        if final and self._shown is not None:
            trained = step * self.spec.dataset.batch_size * self.context.world_size
            whose = "validation images" if self._shown is self.val else "training images"
            probes.look_at_features(self, ranks, self._shown, trained, epoch, whose)
        return found
