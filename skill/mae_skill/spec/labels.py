"""``dataset.labels``: tables that give pictures their classes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mae_skill.spec.fields import CLASSIFICATION, FINETUNE, NonEmpty, SpecModel, spec_field


class LabelsSpec(SpecModel):
    """Tables that give pictures their classes, where their folders do not.

    CSV, TSV, JSON lines or Parquet, local or behind a URL, with the columns `path`, `label` and,
    where one file serves several parts of a data set, `split` (train, val, test). With
    model.multi_label the label may be several, `a|b` or a list, or a column of 0 and 1 for each
    class.
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
    columns: Annotated[list[NonEmpty], Field(min_length=1)] | None = spec_field(
        None,
        "Columns of 0 and 1 that are the classes, or the one column that holds them. Null: the "
        "column `label`; where there is none, every column of 0 and 1 alone.",
        applies_when=CLASSIFICATION,
        related=["model.multi_label"],
    )
