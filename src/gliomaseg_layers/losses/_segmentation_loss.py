"""What the losses have in common: the arguments that they keep, and a check of values."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from gliomaseg_layers._checks import check_settings
from gliomaseg_layers.functional._values import check_values


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
        class that does not exist, and logits in the place of probabilities.

        Raises:
            ValueError: with what was found. A wrong shape or dtype is an error as in ``forward``.
        """
        check_values(input, target, mask, self.mode, self.from_logits, self.ignore_index)

    def extra_repr(self) -> str:
        shown = self.settings().items()
        return ", ".join(f"{name}={value!r}" for name, value in shown if value is not None)
