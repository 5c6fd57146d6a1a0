"""The loss on a GPU: Triton kernels for "balanced", "suppress" and "penalty" in two dimensions.

``_outlier_terms.py`` holds the definition. Logits and target are read as they are, once forward and
once backward; what is kept between is a bit per pixel and level.

1. ``_pack_kernel`` reads the maps, sums cross-entropy and Dice, and packs the predicted colours, 32
   pixels to a word, between words of zeros.
2. ``_count_kernel`` walks down the image with the count of every column's window: a row's part of it
   is a population count. It reads the maps only where a pixel is flagged.
3. ``_finish_kernel`` makes the loss and the slopes of the sums, in one program.
4. ``_slope_kernel`` walks as 2. does and writes the gradient.

Every sum is added in one order: results are equal from run to run.
"""

import triton
import triton.language as tl

MAX_RADIUS = 31  # a window's row lies in three words


@triton.jit
def _popcount(bits):
    """Count the ones of 32-bit words, in the form that compilers know as one instruction."""
    bits = bits - ((bits >> 1) & 0x55555555)
    bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F
    return ((bits * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def _softplus(z):
    return tl.maximum(z, 0.0) + _log1p(tl.exp(-tl.abs(z)))


@triton.jit
def _log1p(x):
    """Return log(1 + x) for x in [0, 1], as exact for small x: the rounding of 1 + x is undone."""
    above = 1.0 + x
    return tl.where(above == 1.0, x, tl.log(above) * (x / (above - 1.0 + (above == 1.0))))
