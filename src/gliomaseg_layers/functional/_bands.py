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

    A band lies in a room of zeros: before it, and after each of its rows, slices and images, there
    is a margin of the largest window's radius, which serves what is before it and what is behind.
    So the room is summed as one line of memory, along each axis by steps of that axis' stride.
    Integers, of size 1 at most, widen as their sums need it.
    """

    def __init__(self, largest: Sequence[int]) -> None:
        self.largest = tuple(largest)
        self.memory: dict[tuple[str, torch.dtype], Tensor] = {}

    def room(self, band: Band, rest: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return zeros for a band with the margins behind, and the part that the image fills.

        Outside their shapes, in the same memory, lie the margins before them.
        """
        radii = [side // 2 for side in self.largest]
        images, own = band.images.stop - band.images.start, band.own
        lengths = [own.stop - own.start, *rest]
        shape = [images, *map(sum, zip(lengths, radii, strict=True))]
        strides = [torch.Size(shape[axis:]).numel() for axis in range(1, len(shape) + 1)]
        front = sum(radius * stride for radius, stride in zip(radii, strides[1:], strict=True))
        memory = self.take("room", front + images * strides[0] + sum(strides[1:]), dtype).zero_()
        filled = [images, band.around.stop - band.around.start, *rest]
        return (
            memory.as_strided(shape, strides, front),
            memory.as_strided(filled, strides, front - own.start * strides[1]),
        )

    def line(self, room: Tensor) -> Tensor:
        """Return a room and the margins around it as one line of memory."""
        # With what lies behind the room: a sum may reach one step too far, and take it back.
        count = room.storage_offset() + room.numel() + sum(room.stride()[1:])
        return room.as_strided([count], [1], 0)

    def of(self, room: Tensor, *windows: tuple[int, ...]) -> list[Tensor]:
        """Sum windows around every pixel of a room that is not margin, until the next such sum.

        A window whose sides are multiples of the last one's is put together from its sums.
        """
        strides, summed = room.stride(), [1] * len(self.largest)
        line, found = self.line(room), []
        for window in windows:
            if not are_multiples(window, summed):
                line, summed = self.line(room), [1] * len(window)
            volume = torch.Size(summed).numel()
            for axis, (side, part) in enumerate(zip(window, summed, strict=True)):
                name = f"window {window}, axis {axis}"
                line = self._line(line, part * strides[axis + 1], side // part, volume, name)
                volume *= side // part
            first, summed = room.storage_offset(), list(window)
            shape = [room.shape[0]]
            sides = zip(room.shape[1:], strides[1:], window, self.largest, strict=True)
            for length, stride, side, largest in sides:
                shape.append(length - largest // 2)
                first -= side // 2 * stride
            found.append(line.as_strided(shape, strides, first))
        return found

    def take(self, name: str, count: int, dtype: torch.dtype) -> Tensor:
        """Return memory by its name, of any content."""
        held = self.memory.get((name, dtype))
        if held is None or held.numel() < count:
            held = self.memory[name, dtype] = torch.empty(count, dtype=dtype)
        return held[:count]

    def _line(self, line: Tensor, stride: int, side: int, volume: int, name: str) -> Tensor:
        """Sum ``side`` numbers, each ``stride`` after the last, from runs of 1, 2, 4, ... ones."""
        runs, total, length, taken = line, line, 1, 1  # `side` is odd
        nearly = side > 7 and side & (side + 1) == 0  # 15, 31, 63: a run of one more, less one
        while 2 * length <= side + nearly:
            runs = self._widened(runs, 2 * length * volume)
            kept = runs.numel() - length * stride
            # Two rooms in turn: few enough to stay in the cache.
            longer = self.take(f"runs {length.bit_length() % 2}", kept, runs.dtype)
            runs = torch.add(runs[:kept], runs[length * stride :], out=longer)
            length *= 2
            if side & length and not nearly:
                part = runs[taken * stride :]
                taken += length
                total = self._widened(total[: part.numel()], taken * volume)
                total = torch.add(total, part, out=self.take(name, part.numel(), total.dtype))
        if nearly:
            room = self.take(name, runs.numel(), runs.dtype)
            total = torch.sub(runs, line[side * stride :], out=room)
        return total

    def _widened(self, line: Tensor, largest: int) -> Tensor:
        """Return integers in a type that holds so large a sum."""
        if line.is_floating_point() or largest <= torch.iinfo(line.dtype).max:
            return line
        wide = torch.int16 if largest < 2**15 else torch.int32
        return self.take("widened", line.numel(), wide).copy_(line)


def are_multiples(window: Sequence[int], part: Sequence[int]) -> bool:
    """Return whether a window can be put together from such parts."""
    return all(side % length == 0 for side, length in zip(window, part, strict=True))
