"""Images cut into bands, and the sums over windows in them."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import references
from cases import F32, F64, random
from gliomaseg_layers.functional._bands import Band, WindowSums, bands
from references import array

SHAPES = [(3, 19, 23), (5, 8, 5), (1, 40, 3), (2, 9, 7, 5), (4, 1, 6)]


@pytest.mark.parametrize("shape", SHAPES)
def test_bands_hold_every_pixel_once(shape):
    images, length, *rest = shape
    row = math.prod(rest)
    for radius, pixels in product((0, 1, 4, 10), (1, 50, 100, 300, 440, 1000, 10**6)):
        seen, found = torch.zeros(shape), list(bands(shape, radius, pixels))
        for band in found:
            band.of(seen).add_(1)
            first, stop = band.rows.start, band.rows.stop
            assert band.around == slice(max(first - radius, 0), min(stop + radius, length))
            assert torch.equal(band.of(seen, True)[:, band.own], band.of(seen))
            lines = seen.flatten(0, 1)[slice(*band.span(length))]
            assert len(lines) == (band.images.stop - band.images.start - 1) * length + stop - first
            assert (lines == 1).any()
            start, end = band.span(length, True)
            assert start == band.images.start * length + band.around.start
            assert end == (band.images.stop - 1) * length + band.around.stop
        assert (seen == 1).all()
        # As few as so many pixels, and rows no fewer than the margins, allow.
        together = pixels // (length * row)
        rows = length if together > 1 else max(pixels // row, 2 * radius, 1)
        assert len(found) == -(-images // max(together, 1)) * -(-length // rows)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (2, 3, 4, 0)])
def test_nothing_has_no_bands(shape):
    assert not list(bands(shape, 1, 10))


WINDOWS = [(1, 1), (3, 5), (7, 7), (9, 11), (11, 11), (3, 43), (125, 1), (15, 15), (21, 21)]
WINDOWS += [(31, 3), (63, 63), (13, 61), (5, 1, 7), (3, 21, 9), (15, 31, 7)]


@pytest.mark.parametrize("window", WINDOWS)
def test_window_sums_match_reference(window):
    """Of integers in the narrowest types that hold them, in memory that earlier sums have used."""
    sums = WindowSums([3 * side + 2 for side in window])
    windows = window, tuple(3 * side for side in window), tuple(side + 2 for side in window)
    spatial = (20, 9) if len(window) == 2 else (9, 6, 5)
    for maps in (random((3, *spatial)) > 0.5, torch.ones(2, *spatial)):
        maps = 2 * maps.to(torch.int8) - 1  # of both colours, and of one alone
        expected = [references.box_sum(maps.double().unsqueeze(1), side)[:, 0] for side in windows]
        for rows in (slice(0, spatial[0]), slice(3, 8), slice(7, spatial[0])):
            radius = (3 * window[0] + 2) // 2
            around = slice(max(rows.start - radius, 0), min(rows.stop + radius, spatial[0]))
            images = slice(0, len(maps)) if rows.stop - rows.start == spatial[0] else slice(1, 2)
            band = Band(images, rows, around)
            for dtype in (torch.int8, F32, F64):
                room, filled = sums.room(band, spatial[1:], dtype)
                filled.copy_(band.of(maps, True))
                found = sums.of(room, *windows)
                for got, side, reference in zip(found, windows, expected, strict=True):
                    np.testing.assert_array_equal(array(got), reference[images, rows])
                    volume = math.prod(side)
                    narrow = [torch.int8, torch.int16, torch.int32][
                        (volume >= 2**7) + (volume >= 2**15)
                    ]
                    assert got.dtype == (narrow if dtype == torch.int8 else dtype)


def test_additions_grow_with_the_logarithm_of_the_window():
    class Additions(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func._schema.name in ("aten::add", "aten::sub")
            return func(*args, **(kwargs or {}))

    sums = WindowSums([9, 63])
    room, _ = sums.room(Band(slice(0, 1), slice(0, 2), slice(0, 2)), [70], F32)
    alone = {1: 0, 3: 2, 5: 3, 7: 4, 9: 4, 15: 5, 21: 6, 31: 6, 63: 7}
    for windows, calls in [
        *(([(1, side)], calls) for side, calls in alone.items()),
        ([(1, 7), (1, 21)], 4 + 2),  # three of the first make one of the second
        ([(1, 7), (1, 31)], 4 + 6),
        ([(3, 7), (9, 21)], 2 + 4 + 2 + 2),
    ]:
        with Additions() as additions:
            sums.of(room, *windows)
        assert additions.count == calls
