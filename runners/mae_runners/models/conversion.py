"""Tensors of a foreign state dict in this project's names; which become which says
`mae_skill.weights.names`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mae_skill.weights.names import Recipe, translate
from torch import Tensor


def to_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone of ``state``, its head and its decoder, without prefixes, sparse kernels made
    dense, and in timm's names; empty where there is no backbone."""
    found = translate(state)
    if found is None:
        return {}
    return {name: realize(recipe, state) for name, recipe in found.entries.items()}


def realize(recipe: Recipe, state: Mapping[str, Tensor]) -> Tensor:
    """The tensor that ``recipe`` makes of the file's."""
    parts = [state[source] for source in recipe.sources]
    if recipe.how == "cat":
        return torch.cat(parts)
    (value,) = parts
    if recipe.how == "flat":
        return value.reshape(-1)
    if recipe.how == "kernel":
        # The sparse library numbers kernel cells column by column, hence the exchange of the last
        # two dimensions.
        cells = value.permute(2, 1, 0) if value.ndim == 3 else value.permute(1, 0)
        return cells.reshape(recipe.shape).transpose(2, 3).contiguous()
    return value
