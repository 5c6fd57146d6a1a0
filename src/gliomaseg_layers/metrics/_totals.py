"""Totals over images, whose saved states are checked before one of them is loaded."""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class Totals(Metric):
    """A metric whose states are non-negative scalars; torchmetrics' own takes whatever it gets."""

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        given: dict[str, Any] = {name: state_dict.get(prefix + name) for name in self._defaults}
        if any(prefix + name in state_dict for name in given):  # they are not, by default
            for name, total in given.items():
                dtype = getattr(self, name).dtype
                if not _is_total(total, dtype):
                    error_msgs.append(
                        f"`{prefix}{name}` must be a finite scalar of {dtype} and >= 0, got {total}"
                    )
                    return
            # Copies: an update adds to them in place.
            state_dict |= {prefix + name: total.clone() for name, total in given.items()}
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )


def _is_total(value: Any, dtype: torch.dtype) -> bool:
    return (
        isinstance(value, Tensor)
        and value.shape == ()
        and value.dtype == dtype
        and 0 <= float(value) < math.inf
    )
