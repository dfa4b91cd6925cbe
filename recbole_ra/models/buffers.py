"""Buffers that a checkpoint sizes: what a model keeps of the sequences that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn


class GrowingBuffers(nn.Module):
    """Base of modules with buffers that are as large as those of the checkpoint that is loaded."""

    growing: ClassVar[tuple[str, ...]] = ()
    """Names of these buffers."""

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for name in self.growing:
            there, here = state_dict.get(f"{prefix}{name}"), getattr(self, name)
            if torch.is_tensor(there):
                setattr(self, name, torch.empty_like(there, device=here.device, dtype=here.dtype))
        super()._load_from_state_dict(state_dict, prefix, *rest)
