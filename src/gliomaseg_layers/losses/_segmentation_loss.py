"""What the losses have in common: the arguments that they keep, and a check of values."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gliomaseg_layers._checks import check_settings
from gliomaseg_layers.functional._values import check_values, check_weights


class SegmentationLoss(nn.Module):
    """Keeps the arguments of a function of input and target, checked, as its attributes."""

    __call__: Callable[..., Tensor]
    mode: str
    from_logits: bool
    ignore_index: int | None
    reduction: str

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        check_settings(**settings)
        self._names = tuple(settings)
        for name, value in settings.items():
            if isinstance(value, Tensor):  # a weight, which moves with the module
                self.register_buffer(name, value, persistent=False)
            else:
                setattr(self, name, value)

    def settings(self, *names: str) -> dict[str, Any]:
        """Return the arguments of these names, or all that the loss was built with."""
        return {name: getattr(self, name) for name in names or self._names}

    def check_values(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Look for values that would make the loss silently wrong; call it on a first batch.

        Waits for the device, so call it once. It finds NaN and infinities, labels such as 255 or a
        class that does not exist, logits in the place of probabilities, and weights that are
        infinite, NaN or negative.

        Raises:
            ValueError: with what was found. A wrong shape or dtype is an error as in ``forward``.
        """
        check_values(input, target, mask, self.mode, self.from_logits, self.ignore_index)
        weights = [name for name in ("pos_weight", "class_weights") if name in self._names]
        check_weights(input, **self.settings(*weights))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SegmentationLoss":
        """Move the weights with the module, but never round them to a half it is cast to."""

        def move(weight: Tensor) -> Tensor:
            moved = fn(weight)
            halved = moved.dtype in (torch.float16, torch.bfloat16)
            return weight.to(moved.device) if halved else moved

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        shown = self.settings().items()
        return ", ".join(f"{name}={value!r}" for name, value in shown if value is not None)
