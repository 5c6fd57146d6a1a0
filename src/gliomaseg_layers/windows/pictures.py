"""The number that stands for each pixel of a mask, in pictures of every mode of Pillow."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["holds_numbers", "pixel_values"]


def holds_numbers(image: "Image") -> bool:
    """Tell whether a picture's pixels are numbers, not colours or places in a palette."""
    return image.mode.split(";")[0] in ("1", "L", "F", "I")


def pixel_values(image: "Image") -> NDArray[Any]:
    """Return ``(H, W)``: grey values; of colours the brightest channel.

    In a palette where two colours are equally bright it is the number in the palette. Where a
    picture is equally bright throughout, it is the transparency.
    """
    numbers = np.asarray(image)
    if holds_numbers(image):
        return numbers
    colours = np.asarray(image.convert("RGBA"))
    brightest, alpha = colours[..., :3].max(-1), colours[..., 3]
    if numbers.ndim == 2 and np.unique(numbers).size > np.unique(brightest).size:
        return numbers
    if np.ptp(brightest):
        return np.asarray(brightest)
    # Nothing is seen of a clear pixel.
    return np.asarray(alpha if np.ptp(alpha) else np.minimum(brightest, alpha))
