"""Totals over images, whose saved states are checked before one of them is loaded."""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class Totals(Metric):
    """A metric whose states are scalars >= 0. Loading a state that is none of these is an error."""

    def tell_apart(self, **settings: Any) -> None:
        """Add an empty state that is named after the settings.

        A MetricCollection updates only one of the metrics whose states have equal names and, after
        the first batch, equal values. An empty image gives all settings equal values. So metrics
        with other settings need other names.
        """
        self.add_state(f"{settings}", [], dist_reduce_fx=None)

    def persistent(self, mode: bool = False) -> None:
        """Choose whether a state dict has the totals."""
        for name in self._totals():
            self._persistent[name] = mode

    def _totals(self) -> list[str]:
        return [name for name, value in self._defaults.items() if isinstance(value, Tensor)]

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
        given: dict[str, Any] = {name: state_dict.get(prefix + name) for name in self._totals()}
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
