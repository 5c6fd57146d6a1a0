"""A segmenter that is asked only where a classifier sees a tumour."""

import torch
from torch import Tensor, nn

from gliomaseg_layers._checks import MODES, check_choice, check_fraction

__all__ = ["GatedSegmenter"]

# Finite, so that a loss of it is, and within the range of fp16; its sigmoid is 0 in every dtype.
ABSENT = -1e4


class GatedSegmenter(nn.Module):
    r"""Presence gate of [LGG-GATE]: where a classifier sees no tumour, the mask is empty.

    .. math::
        y = \begin{cases}
            \mathrm{segmenter}(x) & \text{where } \sigma(\mathrm{classifier}(x)) \ge t \\
            \text{empty} & \text{elsewhere}
        \end{cases}

    In evaluation the output is the gated logits: those of an image without a tumour are -10^4, in
    mode "multiclass" but for class 0, the background, where they are 10^4. In training it is a
    pair, what the classifier returned and the segmenter's logits, both as they are: a gate would
    keep the segmenter from learning wherever the classifier is wrong. Train both on the pair, or
    each by itself before.

    Images of a batch are gated one by one, without waiting for the device. The segmenter runs on
    all of them: the gate makes masks better, not faster. It adds no parameters.

    Ours to choose: what an empty mask is, and the pair in training.

    Args:
        classifier: any module from images to one logit each, ``(N,)`` or ``(N, 1)``.
        segmenter: any module from images to logits ``(N, C, *spatial)``.
        threshold: least probability of presence that lets a mask through; 0 lets all.
        mode: what the segmenter's channels are: "binary", "multilabel" or "multiclass".

    Shape:
        Whatever both modules take to ``(N, C, *spatial)``, in training to a pair.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or the classifier returned another shape.

    Source: [LGG-GATE].

    Example:
        >>> import torch
        >>> from torch import nn
        >>> classifier = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(3, 1))
        >>> network = GatedSegmenter(classifier, nn.Conv2d(3, 1, 3, padding=1))
        >>> presence, logits = network(torch.rand(2, 3, 32, 32))
        >>> presence.shape, logits.shape, network.eval()(torch.rand(2, 3, 32, 32)).shape
        (torch.Size([2, 1]), torch.Size([2, 1, 32, 32]), torch.Size([2, 1, 32, 32]))
    """

    def __init__(
        self,
        classifier: nn.Module,
        segmenter: nn.Module,
        threshold: float = 0.5,
        *,
        mode: str = "binary",
    ) -> None:
        super().__init__()
        for name, module in (("classifier", classifier), ("segmenter", segmenter)):
            if not isinstance(module, nn.Module):
                raise TypeError(f"`{name}` must be an nn.Module, got {type(module).__name__}")
        check_fraction("threshold", threshold)
        check_choice("mode", mode, MODES)
        self.classifier = classifier
        self.segmenter = segmenter
        self.threshold = threshold
        self.mode = mode

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        presence, logits = self.classifier(input), self.segmenter(input)
        if presence.shape not in ((logits.shape[0],), (logits.shape[0], 1)):
            raise ValueError(
                f"`classifier` must return a logit for each of {logits.shape[0]} images, "
                f"got shape {tuple(presence.shape)}"
            )
        if self.training:
            return presence, logits
        absent = presence.flatten().float().sigmoid() < self.threshold
        empty = torch.full_like(logits[:1], ABSENT)
        if self.mode == "multiclass":
            empty[:, 0] = -ABSENT
        return torch.where(absent.view(-1, *[1] * (logits.dim() - 1)), empty, logits)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, mode={self.mode!r}"
