"""``dataset.labels``: tables that give pictures their classes."""

from __future__ import annotations

from mae_skill.spec.fields import CLASSIFICATION, FINETUNE, NonEmpty, SpecModel, spec_field


class LabelsSpec(SpecModel):
    """Tables that give pictures their classes, where their folders do not.

    CSV, TSV, JSON lines or Parquet, local or behind a URL, with the columns `path`, `label` and,
    where one file serves several parts of a data set, `split` (train, val, test).
    """

    train: NonEmpty | None = spec_field(
        None,
        "Table of the training images. Null: their folders are the classes.",
        applies_when={**FINETUNE, **CLASSIFICATION},
        affects_training=False,
        related=["dataset.train_data_sources"],
    )
    val: NonEmpty | None = spec_field(
        None,
        "Table of the validation images; it may be the same file. Null: their folders are the "
        "classes.",
        applies_when=CLASSIFICATION,
        affects_training=False,
        related=["dataset.val_data_sources"],
    )
    test: NonEmpty | None = spec_field(
        None,
        "Table of the images for inference: results.csv then has the column true_label.",
        applies_when=CLASSIFICATION,
        affects_training=False,
        related=["dataset.test_data_sources"],
    )
