"""A segmenter whose mask is empty where a classifier sees no tumour."""

import torch
from torch import Tensor, nn

from gliomaseg_layers._checks import MODES, check_choice, check_fraction

__all__ = ["GatedSegmenter"]

# The logit of an empty mask. No usual threshold lets it pass: its probability is 0.00005. It is no
# larger than the logits of a network, so that a mean over windows counts it as one of them.
ABSENT = -10.0


class GatedSegmenter(nn.Module):
    r"""Presence gate of [LGG-GATE]: where a classifier sees no tumour, the mask is empty.

    .. math::
        y = \begin{cases}
            \mathrm{segmenter}(x) & \text{where } \sigma(\mathrm{classifier}(x)) \ge t \\
            \text{empty} & \text{elsewhere}
        \end{cases}

    In evaluation the output is logits. Those of an image without a tumour are all -10, a
    probability of 0.00005. In mode "multiclass" those of class 0, the background, are 0. In
    training the output is a pair: the
    classifier's output and the segmenter's logits, both unchanged. With a gate the segmenter would
    not learn from images on which the classifier is wrong. Train both on the pair, or each by
    itself.

    Every image of a batch has its own gate, and the host does not wait for the device. The
    segmenter runs on all images: the gate saves no time. It has no parameters.

    The classifier is meant to see the whole image. For images larger than the segmenter takes, let
    a module that tiles be the segmenter. Where the whole gate is tiled, or flipped in test-time
    augmentation, a window without a tumour is one vote against it in the mean: average
    probabilities rather than logits, so that no window has more than its vote.

    The paper trains the two apart. It does not say what the threshold, an empty mask or the output
    in training is; we chose all three.

    Args:
        classifier: any module from images to one logit each, ``(N,)`` or ``(N, 1)``.
        segmenter: any module from images to logits ``(N, C, *spatial)``.
        threshold: the least probability of a tumour for which the mask is kept; 0 keeps all.
        mode: what the segmenter's channels are: "binary", "multilabel" or "multiclass".

    Shape:
        The input of both modules to ``(N, C, *spatial)``, in training to a pair.

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
            empty[:, 0] = 0
        return torch.where(absent.view(-1, *[1] * (logits.dim() - 1)), empty, logits)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, mode={self.mode!r}"
