"""Muon for the matrices inside a network and AdamW for the rest, as one optimizer.

Muon (Jordan et al., 2024) orthogonalizes the momentum of a matrix; its update is scaled to the size
of AdamW's (Liu et al., arXiv 2502.16982, section 2.2), so that both take the same rates and decay.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer


class MuonWithAdamW(Optimizer):
    """`torch.optim.Muon` over the groups whose ``muon`` is true, `torch.optim.AdamW` over the rest.

    Args:
        groups: with ``params, lr, weight_decay, muon``. Muon's ``params`` are matrices.
        lr, betas, fused: AdamW's.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], fused: bool
    ) -> None:
        matrices = [group for group in groups if group["muon"]]
        rest = [group for group in groups if not group["muon"]]
        # With much of a network frozen one of the two may have nothing to do.
        self._parts: dict[bool, Optimizer] = {}
        if matrices:
            self._parts[True] = Muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw")
        if rest:
            self._parts[False] = AdamW(rest, lr=lr, betas=betas, fused=fused)

        super().__init__([g for part in self._parts.values() for g in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Gives both parts this optimizer's groups and state, of which there is one copy."""
        self.state: defaultdict[Tensor, Any]
        for muon, part in self._parts.items():
            part.param_groups = [g for g in self.param_groups if g["muon"] == muon]
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `torch.optim.Optimizer` does it."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts.values():
            part.step()
        return loss
