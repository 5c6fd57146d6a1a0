"""The outlier weight: which pixels lie in regions too small to be believed, by exact counts.

Here are its definition in torch's own operations, and the choice between that and the kernels of
``outlier_weight_triton.py``, which compute the same on a GPU.
"""

import importlib.util
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gliomaseg_layers._capture import is_transformed
from gliomaseg_layers._checks import check_levels, check_settings, check_window
from gliomaseg_layers._reduction import keep
from gliomaseg_layers.functional._scores import Scores, arithmetic_dtype, read_scores
from gliomaseg_layers.functional.box_filter import image_count, narrowest_integer, sign_sum

__all__ = [
    "counted_weight",
    "outlier_weight",
    "outlier_weight_backend",
    "outlier_weight_of",
]

NO_TRITON = None if importlib.util.find_spec("triton") else "Triton is not installed"
# Compared as versions; the Triton of 2.7 takes no tuples of constants.
if torch.__version__ < "2.8":  # pragma: no cover - the tests have a newer one
    NO_TRITON = f"the kernels need torch 2.8 or later, not {torch.__version__}"
LARGEST_WINDOW = 63  # a row of it lies in three words of the kernels' bits
MOST_LEVELS = 8


def outlier_weight(
    input: Tensor,
    *,
    mode: str = "binary",
    from_logits: bool = False,
    window: int | Sequence[int] = 21,
    max_noise_size: float | None = None,
    levels: Sequence[float] = (0.1, 0.3, 0.5),
    valid: Tensor | None = None,
) -> Tensor:
    r"""Flag the pixels of outlier regions, and weigh them by how much of an outlier they are.

    At a level t let :math:`c_t(p)` be the class predicted at pixel p: white where :math:`q > t` in
    binary and multilabel mode; in multiclass mode the argmax of :math:`t q_0` and of
    :math:`(1 - t) q_c` of the other classes, class 0 being the background. Ties go to the lower
    class, and a pixel with a NaN is of class 0. With :math:`J_t(p)` the number of pixels in the
    window around p that have the class :math:`c_t(p)` too, and :math:`n(p)` the number of all
    pixels of the image in that window,

    .. math::
        w_t(p) = \begin{cases}
            1 - J_t / n & \text{if } J_t \le S \text{ and } 2 J_t \le n \\
            0 & \text{else}
        \end{cases}
        \qquad w(p) = \text{the mean of } w_t(p) \text{ over the levels}

    so a pixel is flagged where its class fills at most S pixels of its window. With a window of 21
    pixels S is 49: every pixel of a lone region of at most 7 x 7 is flagged, no pixel of a lone
    8 x 8. A level below 0.5 sees islands that are about to appear. The counts are exact integers,
    w lies in [0.5, 1) where it is not 0 at a single level, and it carries no gradient.

    Limits: an island nearer to a large region of its class than half the window is not flagged,
    and a line one or two pixels wide is flagged at any length.

    Args:
        input: probabilities, or logits with ``from_logits``, ``(N, C, *spatial)``.
        mode: "binary" (C = 1), "multilabel" (C independent channels) or "multiclass" (C >= 2).
        from_logits: whether ``input`` are logits.
        window: side of the window in pixels, odd; one int, or one per spatial axis. Thick slices
            want ``(1, 21, 21)``.
        max_noise_size: S, the largest number of pixels that counts as noise; None for
            ``prod(ceil(window / 3))``.
        levels: probabilities between 0 and 1 at which the predicted class is taken.
        valid: boolean, True for pixels of the image; the shape of the result, ``(N, *spatial)`` or
            ``(N, 1, *spatial)``. Others enter no count, and w is 0 there.

    Returns:
        w, ``(N, C, *spatial)``, or ``(N, *spatial)`` in multiclass mode; fp32, or fp64 for fp64.

    Raises:
        TypeError: ``input`` is not floating, or an argument has the wrong type.
        ValueError: an argument is out of its range, or a shape does not fit.

    Source: after the aim of [WAN23] 3.4.3, that a region costs the more the less dense it is; one
    window and hard counts replace its eq. 4-11.

    Example:
        >>> import torch
        >>> image = torch.zeros(1, 1, 64, 64)
        >>> image[..., 8:15, 8:15] = 1  # 7 x 7: noise
        >>> image[..., 40:48, 40:48] = 1  # 8 x 8: a region
        >>> weight = outlier_weight(image)[0, 0]
        >>> float(weight[11, 11]), float(weight[44, 44]), int((weight > 0).sum())
        (0.8888888955116272, 0.0, 49)
    """
    check_settings(window=window, max_noise_size=max_noise_size, levels=levels)
    scores = read_scores(input, mode, from_logits, valid, mask_name="valid")
    return outlier_weight_of(scores, window, max_noise_size, levels)


def outlier_weight_of(
    scores: Scores,
    window: int | Sequence[int],
    max_noise_size: float | Tensor | None,
    levels: Sequence[float],
) -> Tensor:
    """Compute ``outlier_weight`` of scores that were read already, with settings that were checked.

    ``max_noise_size`` may be a 0-d tensor here, so that an exported program can take it as input.
    """
    window = check_window("window", window, scores.values.dim() - 2)
    if max_noise_size is None:
        max_noise_size = math.prod([math.ceil(side / 3) for side in window])
    half = math.prod(window) // 2  # no more of a window is ever flagged
    if isinstance(max_noise_size, Tensor):
        max_noise_size = max_noise_size.clamp(max=half)
    else:
        max_noise_size = math.floor(min(max_noise_size, half))
    captured = torch.compiler.is_compiling() and not isinstance(max_noise_size, Tensor)
    settings = (scores.mode, scores.from_logits, window, max_noise_size, levels)
    if captured or _why_not_triton(scores.input, *settings) is None:
        # Detached: the operator has no derivative, and autograd would look for one.
        weight: Tensor = weight_operator(scores.input.detach(), scores.valid, *settings)
        return weight
    return counted_weight(scores, window, max_noise_size, levels)


def counted_weight(
    scores: Scores,
    window: tuple[int, ...],
    max_noise_size: int | Tensor,
    levels: Sequence[float],
) -> Tensor:
    """Compute the outlier weight in torch's own operations: its definition."""
    # J of the n pixels in a window have the class of its own pixel. Counted is the excess
    # J - (n - J), a sum of signs. The levels add up in one integer before the one division.
    counts = narrowest_integer(2 * len(levels) * math.prod(window))
    size = image_count(scores.inside, scores.values, window, counts)
    if scores.multiclass:
        size = size.squeeze(1)
    # J <= S and J <= n - J, in terms of the excess.
    largest = (2 * max_noise_size - size).clamp(max=0)
    others = torch.zeros_like(size)
    for level in levels:
        excess = _class_excess(scores, scores.predicted(level), window, counts)
        others = others + (size - excess) * (excess <= largest)
    dtype = scores.values.dtype
    weight = others.to(dtype) / (2 * len(levels) * size.clamp(min=1)).to(dtype)
    return keep(weight, scores.valid)


def _class_excess(
    scores: Scores, predicted: Tensor, window: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """Count the pixels in every window of the class of its own pixel, less those of others."""
    if not scores.multiclass:
        return _own_excess(predicted, scores.inside, window).to(dtype)
    excess = torch.zeros_like(predicted, dtype=dtype)
    for index in range(scores.values.shape[1]):
        member = predicted == index
        excess = excess + member * _own_excess(member, scores.valid, window)
    return excess


def _own_excess(member: Tensor, inside: Tensor | None, window: tuple[int, ...]) -> Tensor:
    """Count the pixels in every window that are members as its own pixel is, less the others."""
    colour = 2 * member.to(torch.int8) - 1
    if inside is not None:
        colour = colour * inside
    return colour * sign_sum(colour, window)


def outlier_weight_backend(
    input: Tensor,
    *,
    mode: str = "binary",
    from_logits: bool = False,
    window: int | Sequence[int] = 21,
    levels: Sequence[float] = (0.1, 0.3, 0.5),
) -> str:
    """Say what ``outlier_weight`` computes with: "triton", or "torch: " and the reason.

    Its kernels count on a GPU, for two-dimensional binary and multilabel logits; their result is
    that of torch's operations, bit for bit. The losses compute it in the same way: for logits, ask
    with ``from_logits=True``.

    Args:
        input: as for ``outlier_weight``, and so are the others.
        mode: "binary", "multilabel" or "multiclass".
        from_logits: whether ``input`` are logits.
        window: side of the window in pixels; one int, or one per spatial axis.
        levels: probabilities at which the predicted class is taken.

    Returns:
        The word "triton", or "torch" with the reason why the kernels do not serve.

    Raises:
        TypeError: as ``outlier_weight`` does.
        ValueError: likewise.

    Source: of this library.

    Example:
        >>> import torch
        >>> outlier_weight_backend(torch.zeros(1, 1, 8, 8), from_logits=True)
        'torch: Triton does not serve the device cpu'
    """
    read_scores(input, mode, from_logits, None)
    check_levels("levels", levels)
    window = check_window("window", window, input.dim() - 2)
    why = _why_not_triton(input, mode, from_logits, window, 0, levels)
    return "triton" if why is None else f"torch: {why}"


def _why_not_triton(
    input: Tensor,
    mode: str,
    from_logits: bool,
    window: tuple[int, ...],
    max_noise_size: int | Tensor,
    levels: Sequence[float],
) -> str | None:
    """Say why the kernels cannot take the place of ``counted_weight``, if they cannot."""
    if input.device.type != "cuda":  # which ROCm's devices are called too
        return f"Triton does not serve the device {input.device}"
    if mode == "multiclass":
        return "the kernels serve binary and multilabel mode, not multiclass"
    if not from_logits:
        return "the kernels read logits, not probabilities"
    if input.dim() != 4:
        return f"the kernels read images of 2 axes, not of {input.dim() - 2}"
    if input.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"the kernels read fp32, bf16 and fp16, not {input.dtype}"
    if not input.numel():
        return "there is no pixel to look at"
    if max(window) > LARGEST_WINDOW:
        return f"the kernels count in windows of at most {LARGEST_WINDOW} pixels, not {window}"
    if len(levels) > MOST_LEVELS:
        return f"the kernels serve at most {MOST_LEVELS} levels, not {len(levels)}"
    if isinstance(max_noise_size, Tensor):
        return "the kernels take `max_noise_size` as a number, not as a tensor"
    if is_transformed():
        return "torch.func transforms the program"
    if NO_TRITON or torch.version.hip:
        return NO_TRITON
    major, minor = torch.cuda.get_device_capability(input.device)
    if major < 8:
        return f"Triton needs a GPU of compute capability 8.0 or later, not {major}.{minor}"
    return None


# The schema is written out: torch 2.6 does not read it off these annotations.
@torch.library.custom_op(
    "gliomaseg_layers::outlier_weight",
    mutates_args=(),
    schema="(Tensor input, Tensor? valid, str mode, bool from_logits, int[] window, "
    "int max_noise_size, float[] levels) -> Tensor",
)
def weight_operator(
    input: Tensor,
    valid: Tensor | None,
    mode: str,
    from_logits: bool,
    window: Sequence[int],
    max_noise_size: int,
    levels: Sequence[float],
) -> Tensor:
    """Compute the outlier weight, by the kernels where they serve.

    A program that is captured holds this one operator. A compiler would fuse the sums over windows
    into one loop, and so compute them anew for every pixel.
    """
    window = tuple(window)
    why = _why_not_triton(input, mode, from_logits, window, max_noise_size, levels)
    if why is None:  # pragma: no cover - a GPU
        # Here, so that programs with the operator load where there is no Triton.
        from gliomaseg_layers.functional import outlier_weight_triton

        return outlier_weight_triton.launch(input, valid, window, max_noise_size, levels)
    scores = Scores(input, mode, from_logits, valid)
    return counted_weight(scores, window, max_noise_size, levels).contiguous()


@weight_operator.register_fake
def _(input: Tensor, valid: Tensor | None, mode: str, *_: Any) -> Tensor:
    batch, channels, *spatial = input.shape
    shape = (batch, *spatial) if mode == "multiclass" else (batch, channels, *spatial)
    return input.new_empty(shape, dtype=arithmetic_dtype(input))
