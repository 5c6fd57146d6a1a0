"""Window sums band by band, in pieces of an image that stay in the processor's cache."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Band(NamedTuple):
    """Some rows (slices, in 3-D) of some images: all rows, or some of a single image.

    ``around`` has the rows that the windows of its pixels see as well.
    """

    images: slice
    rows: slice
    around: slice

    def of(self, maps: Tensor, margin: bool = False) -> Tensor:
        """Return the band of maps ``(images, rows, ...)``."""
        return maps[self.images, self.around if margin else self.rows]

    def span(self, length: int, margin: bool = False) -> tuple[int, int]:
        """Return its first row and the one after its last, in maps of so many rows an image."""
        rows = self.around if margin else self.rows
        return (
            self.images.start * length + rows.start,
            (self.images.stop - 1) * length + rows.stop,
        )

    @property
    def own(self) -> slice:
        """Return where the band's rows lie in those around it."""
        start = self.rows.start - self.around.start
        return slice(start, start + self.rows.stop - self.rows.start)


def bands(shape: Sequence[int], radius: int, pixels: int) -> Iterator[Band]:
    """Cut maps ``(images, rows, ...)`` into runs of images, or large images into bands.

    Each has about so many pixels, and a window's radius of rows around it.
    """
    images, length, *rest = shape
    row = torch.Size(rest).numel()
    if not images * length * row:
        return
    images_step = max(pixels // (length * row), 1)
    # A band narrower than its margins would be mostly margin.
    rows_step = length if images_step > 1 else max(pixels // row, 2 * radius, 1)
    for first in range(0, images, images_step):
        for start in range(0, length, rows_step):
            stop = min(start + rows_step, length)
            yield Band(
                slice(first, min(first + images_step, images)),
                slice(start, stop),
                slice(max(start - radius, 0), min(stop + radius, length)),
            )


class WindowSums:
    """Sums over the windows of bands, in memory that all bands of one call use in turn.

    A band lies in a room of zeros that has margins for the largest window. The room is summed as
    one line of memory, along each axis by steps of that axis' stride: what runs over the end of a
    row falls into margins. Integers, of size 1 at most, widen as their sums need it.
    """

    def __init__(self, largest: Sequence[int]) -> None:
        self.largest = tuple(largest)
        self.memory: dict[tuple[str, torch.dtype], Tensor] = {}

    def room(self, band: Band, rest: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return zeros for a band with its margins, and the part of them that the image fills."""
        radii = [side // 2 for side in self.largest]
        lengths = [band.rows.stop - band.rows.start, *rest]
        shape = [band.images.stop - band.images.start]
        shape += [length + 2 * radius for length, radius in zip(lengths, radii, strict=True)]
        count = torch.Size(shape).numel()
        behind = sum(torch.Size(shape[axis:]).numel() for axis in range(2, len(shape) + 1))
        room = self._take("room", count + behind, dtype).zero_()[:count].view(shape)
        first = radii[0] - band.own.start
        filled = room[:, first : first + band.around.stop - band.around.start]
        for axis, (length, radius) in enumerate(zip(rest, radii[1:], strict=True), start=2):
            filled = filled.narrow(axis, radius, length)
        return room, filled

    def of(self, room: Tensor, window: Sequence[int]) -> Tensor:
        """Sum the window around every pixel of a room that is not margin, until the next sum."""
        # With what lies behind the room: a sum may reach one step too far, and take it back.
        line, volume = room.as_strided([room.numel() + sum(room.stride()[1:])], [1]), 1
        for axis, side in enumerate(window):
            name = f"window {window}, axis {axis}"
            line = self._line(line, room.stride(axis + 1), side, volume, name)
            volume *= side
        shape, first = [room.shape[0]], 0
        sizes = zip(room.shape[1:], room.stride()[1:], window, self.largest, strict=True)
        for length, stride, side, largest in sizes:
            shape.append(length - largest + 1)
            first += (largest - side) // 2 * stride
        return line.as_strided(shape, room.stride(), first)

    def centre(self, room: Tensor) -> Tensor:
        """Return the pixels of a room that are not margin."""
        return self.of(room, [1] * len(self.largest))

    def _line(self, line: Tensor, stride: int, side: int, volume: int, name: str) -> Tensor:
        """Sum ``side`` numbers, each ``stride`` after the last, from runs of 1, 2, 4, ... ones."""
        runs, total, length, taken = line, line, 1, 1  # `side` is odd
        nearly = side > 7 and side & (side + 1) == 0  # 15, 31, 63: a run of one more, less one
        while 2 * length <= side + nearly:
            runs = runs.to(_wide_enough(line.dtype, 2 * length * volume))
            kept = runs.numel() - length * stride
            # Two rooms in turn: few enough to stay in the cache.
            longer = self._take(f"runs {length.bit_length() % 2}", kept, runs.dtype)
            runs = torch.add(runs[:kept], runs[length * stride :], out=longer)
            length *= 2
            if side & length and not nearly:
                part = runs[taken * stride :]
                taken += length
                total = total[: part.numel()].to(_wide_enough(line.dtype, taken * volume))
                total = torch.add(total, part, out=self._take(name, part.numel(), total.dtype))
        if nearly:
            room = self._take(name, runs.numel(), runs.dtype)
            total = torch.sub(runs, line[side * stride :], out=room)
        return total

    def _take(self, name: str, count: int, dtype: torch.dtype) -> Tensor:
        held = self.memory.get((name, dtype))
        if held is None or held.numel() < count:
            held = self.memory[name, dtype] = torch.empty(count, dtype=dtype)
        return held[:count]


def _wide_enough(dtype: torch.dtype, largest: int) -> torch.dtype:
    if dtype.is_floating_point:
        return dtype
    return torch.int8 if largest < 2**7 else torch.int16 if largest < 2**15 else torch.int32
