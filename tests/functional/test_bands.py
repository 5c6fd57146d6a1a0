"""Images cut into bands, and the sums over windows in them."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gliomaseg_layers.functional._bands import Band, WindowSums, bands
from tests.support import references
from tests.support.cases import F32, F64, random
from tests.support.references import array

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
        assert (seen == 1).all()
        # As few as so many pixels, and rows no fewer than the margins, allow.
        together = pixels // (length * row)
        rows = length if together > 1 else max(pixels // row, 2 * radius, 1)
        assert len(found) == -(-images // max(together, 1)) * -(-length // rows)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (2, 3, 4, 0)])
def test_nothing_has_no_bands(shape):
    assert not list(bands(shape, 1, 10))


WINDOWS = [(1, 1), (3, 5), (7, 7), (9, 11), (11, 11), (3, 43), (125, 1), (15, 15), (21, 21)]
WINDOWS += [(31, 3), (63, 63), (13, 61), (101, 299), (5, 1, 7), (3, 21, 9), (15, 31, 7)]


@pytest.mark.parametrize("window", WINDOWS)
def test_window_sums_match_reference(window):
    """Of integers in the narrowest types that hold them, in memory that earlier sums have used."""
    windows = window, tuple(3 * side for side in window), tuple(side + 2 for side in window)
    spatial = (20, 9) if len(window) == 2 else (9, 6, 5)
    sums = WindowSums(spatial, [3 * side + 2 for side in window])
    for maps in (random((3, *spatial)) > 0.5, torch.ones(2, *spatial)):
        maps = 2 * maps.to(torch.int8) - 1  # of both colours, and of one alone
        expected = [references.box_sum(maps.double().unsqueeze(1), side)[:, 0] for side in windows]
        for rows in (slice(0, spatial[0]), slice(3, 8), slice(7, spatial[0])):
            radius = (3 * window[0] + 2) // 2
            around = slice(max(rows.start - radius, 0), min(rows.stop + radius, spatial[0]))
            images = slice(0, len(maps)) if rows.stop - rows.start == spatial[0] else slice(1, 2)
            band = Band(images, rows, around)
            for dtype in (torch.int8, F32, F64):
                room = sums.room(band, dtype)
                room.filled.copy_(band.of(maps, True))
                found = room.sums(*windows)
                for got, side, reference in zip(found, windows, expected, strict=True):
                    assert got.shape == room.own.shape
                    np.testing.assert_array_equal(array(room.pixels(got)), reference[images, rows])
                    volume = math.prod(side)
                    narrow = [torch.int8, torch.int16, torch.int32][
                        (volume >= 2**7) + (volume >= 2**15)
                    ]
                    assert got.dtype == (narrow if dtype == torch.int8 else dtype)


@pytest.mark.parametrize("side", [35, 37, 181, 183])
def test_sums_of_ones(side):
    """Runs with one and two left over; as many as int16 holds, and more."""
    whole = Band(slice(0, 1), slice(0, 40), slice(0, 40))
    for dtype in (torch.int8, F32):
        room = WindowSums((40, 3), (side, side)).room(whole, dtype)
        room.filled.fill_(1)
        [found] = room.sums((side, side))
        rows = np.array(
            [min(row + side // 2, 39) - max(row - side // 2, 0) + 1 for row in range(40)]
        )
        np.testing.assert_array_equal(array(room.pixels(found))[0], np.tile(3 * rows, (3, 1)).T)
        if dtype == torch.int8:
            assert found.dtype == (torch.int16 if side <= 181 else torch.int32)


PAIRS = [((1, 1), (1, 1)), ((3, 3), (9, 9)), ((3, 5), (7, 5)), ((5, 1), (15, 3)), ((3, 3), (27, 9))]
PAIRS += [((1, 3, 5), (3, 3, 15)), ((3, 1, 1), (5, 7, 1))]


@pytest.mark.parametrize("spare", [0, 2])
@pytest.mark.parametrize("windows", PAIRS)
def test_lines_of_all_planes_hold_the_rooms_of_bands(windows, spare):
    """Two maps, of which the adjoint adds the sums over two windows; and they stay as they are."""
    inner, outer = windows
    spatial = (20, 9) if len(inner) == 2 else (9, 6, 5)
    sums = WindowSums(spatial, [side + 2 * spare for side in outer])  # margins of more than these
    maps = random((2, 5, *spatial))
    lines = sums.lines(2, 5, F64)
    whole = [slice(0, 2), slice(2, 5)]
    radius, length = outer[0] // 2 + spare, spatial[0]
    found = [
        Band(images, slice(a, b), slice(max(a - radius, 0), min(b + radius, length)))
        for images in (*whole, slice(1, 2))
        for a, b in ([(0, length)] if images in whole else [(0, 3), (3, 7), (7, length)])
    ]
    for band in found:
        room = sums.room(band, F64)
        for line, values in zip(
            sums.part(lines, band.images.start, band.rows.start, room), maps, strict=True
        ):
            part = line[room.front :][: len(room.own)].zero_()
            room.pixels(part).copy_(band.of(values))
    before = lines.clone()
    expected = sum(
        references.box_sum(values.unsqueeze(1), window)[:, 0]
        for values, window in zip(maps, windows, strict=True)
    )
    for band in found:
        room = sums.room(band, F64)
        near, wide = sums.part(lines, band.images.start, band.rows.start, room)
        total = room.pixels(room.adjoint(windows, near, wide))
        np.testing.assert_allclose(array(total), band.of(expected), rtol=1e-12)
    torch.testing.assert_close(lines, before, rtol=0, atol=0, equal_nan=True)


def test_a_room_is_zero_but_for_what_a_band_fills():
    """Bands of one shape take it as the last left it; others, and the other way round, do not."""
    sums = WindowSums((9, 7), (5, 5))
    bands = [Band(slice(0, 1), slice(a, b), slice(max(a - 2, 0), min(b + 2, 9))) for a, b in
             ((0, 3), (3, 6), (6, 9), (0, 3), (3, 6))]  # fmt: skip
    for band in bands:
        room = sums.room(band, F32)
        room.filled.fill_(1)
        assert room.line.sum() == room.filled.numel()
        assert sums.room(band, F64).line.sum() == 0


@pytest.mark.parametrize(
    "shapes",
    [[(images, 10, 1) for images in range(1, 12)], [(1, length, 1) for length in range(1, 60)]],
    ids=["images", "rows"],
)
def test_every_band_has_a_room_of_its_shape(shapes):
    for images, length, width in shapes:
        sums = WindowSums((length, width), (5, 1))
        for band in bands((images, length, width), 2, 30 if images > 1 else 5):
            count, around = (s.stop - s.start for s in (band.images, band.around))
            assert sums.room(band, torch.int8).filled.shape == (count, around, width)


def test_what_is_read_grows_with_the_logarithm_of_the_window():
    class Reads(TorchDispatchMode):
        calls = lines = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func._schema.name in ("aten::add", "aten::sum"):
                self.calls += 1
                self.lines += 2 if func._schema.name == "aten::add" else len(args[0])
            return func(*args, **(kwargs or {}))

    def reads(dtype, *windows):
        room = WindowSums((40, 70), windows[-1]).room(
            Band(slice(0, 1), slice(0, 40), slice(0, 40)), dtype
        )
        with Reads() as counted:
            room.sums(*windows)
        return counted.calls, counted.lines

    assert reads(F32, (1, 1)) == (0, 0)
    assert reads(F32, (7, 7)) == (2, 14)
    assert reads(F32, (7, 7), (21, 21)) == (6, 22)  # three of the first make one of the second
    assert reads(F32, (7, 7), (21, 1)) == (3, 35)
    assert reads(F32, (7, 7), (31, 1)) == (6, 30)
    assert reads(torch.int8, (21, 21)) == (4, 21 + 2 + 2 + 7)
    for dtype in (torch.int8, F32):
        for side in range(3, 2000, 62):
            calls, lines = reads(dtype, (side, side))
            assert calls <= 8 + 6 * math.log(side, 3)
            assert lines <= 2 * (32 + 9 * math.log(side, 3))
