"""Window sums band by band, in pieces of an image that stay in the processor's cache."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from operator import mul
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gliomaseg_layers.functional.box_filter import axis_count

Step = Callable[[], Tensor]

# So many numbers are summed at once, by whether they are apart and whether they are floats: torch
# reads and writes the line once for all of them, but neighbours it takes one by one. Of three
# floats two additions are quicker.
AT_ONCE = {
    (True, True): range(5, 22),
    (True, False): range(3, 32),
    (False, True): range(5, 8),
    (False, False): range(0),
}


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


class Memory:
    """Memory by names, that all bands of one call use in turn."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, count: int, dtype: torch.dtype) -> Tensor:
        """Return so many numbers, of any content."""
        held = self.held.get((name, dtype))
        if held is None or held.numel() < count:
            held = self.held[name, dtype] = torch.empty(count, dtype=dtype, device="cpu")
        return held[:count]

    def words(self, name: str, count: int, dtype: torch.dtype) -> Tensor:
        """Return so many numbers in whole words of 8 bytes: what lies behind them is 0."""
        run = 8 // dtype.itemsize
        line = self.take(name, -(-count // run) * run, dtype)
        line[count:] = 0
        return line


class WindowSums:
    """Rooms to sum the windows of bands in.

    Planes (images of a channel) lie one after the other, with margins behind each row, slice and
    plane: ``strides`` are those of a plane of ``plane`` numbers. A room has its part of them.
    """

    def __init__(self, spatial: Sequence[int], largest: Sequence[int]) -> None:
        self.margins = [side // 2 for side in largest]
        self.spatial = tuple(spatial)
        padded = list(map(sum, zip(spatial, self.margins, strict=True)))
        self.plane, *self.strides = (
            torch.Size(padded[axis:]).numel() for axis in range(len(padded) + 1)
        )
        self.front = sum(map(mul, self.margins, self.strides))
        self.memory = Memory()
        self.rooms: dict[tuple[object, ...], Room] = {}
        self.last: dict[torch.dtype, Room] = {}
        self.seen: list[Tensor] = []

    def room(self, band: Band, dtype: torch.dtype) -> "Room":
        """Return a room for a band, zero but for the part that it fills."""
        own, images = band.own, band.images.stop - band.images.start
        key = images, own.start, own.stop, band.around.stop - band.around.start, dtype
        room = self.rooms.get(key)
        if room is None:
            room = Room(self.memory, self.margins, band, self.spatial[1:], dtype)
            self.rooms[key] = room
        if room is not self.last.get(dtype):  # else a band of the same shape left it so
            room.line.zero_()
            self.last[dtype] = room
        return room

    def sizes(
        self, band: Band, valid: Tensor | None, *windows: tuple[int, ...]
    ) -> list[Tensor] | None:
        """Return how many pixels of the image the windows hold, 0 around what is no pixel.

        ``(1 or images, numbers of one)`` in lines like a room's ``own``, or None if they are those
        of the last band. ``valid`` tells what is a pixel, with the rows around the band.
        """
        if valid is not None:
            room = self.room(band, torch.int8)
            room.filled.copy_(valid)
            lines = []
            for line in room.sums(*windows):
                lines.append(torch.zeros(room.own.shape, dtype=torch.int32, device="cpu"))
                torch.mul(room.pixels(line), valid[:, band.own], out=room.pixels(lines[-1]))
            return [line.view(-1, room.strides[0]) for line in lines]
        along = [list(map(_axis_sizes, self.spatial, window)) for window in windows]
        rows = [first[band.rows] for first, *_ in along]
        if self.seen and all(map(torch.equal, rows, self.seen)):  # as of most bands
            return None
        self.seen, found = rows, []
        for first, (_, *rest) in zip(rows, along, strict=True):
            size = torch.ones(1, dtype=torch.int32, device="cpu")
            for count, margin in zip([first, *rest], self.margins, strict=True):
                size = size.unsqueeze(-1) * F.pad(count, (0, margin))
            found.append(size.view(1, -1))
        return found

    def lines(self, count: int, planes: int, dtype: torch.dtype) -> Tensor:
        """Return so many lines of that many planes, with the margin of 0 before them."""
        lines = torch.empty(count, planes * self.plane + 2 * self.front, dtype=dtype, device="cpu")
        lines[:, : self.front] = 0
        return lines

    def part(self, lines: Tensor, plane: int, row: int, room: "Room") -> Tensor:
        """Return the part of lines that a room has whose first own pixels are a plane's row."""
        first = plane * self.plane + row * self.strides[0]
        return lines[:, first : first + len(room.line)]


class Room:
    """A band as one line of memory, which is summed along each axis by steps of its stride.

    Before the band and after each of its rows, slices and images there is a margin of zeros, which
    serves what is before it and what is behind. Integers, of size 1 at most, widen as their sums
    need it.

    Attributes:
        line: all of it.
        own: the part from the band's first own pixel to the margin behind its last.
        filled: the part that the image fills, as an image, with the rows around the band.
    """

    def __init__(
        self,
        memory: Memory,
        margins: Sequence[int],
        band: Band,
        rest: Sequence[int],
        dtype: torch.dtype,
    ) -> None:
        self.memory, self.margins = memory, margins
        images, own = band.images.stop - band.images.start, band.own
        self.lengths = [own.stop - own.start, *rest]
        padded = map(sum, zip(self.lengths, self.margins, strict=True))
        self.shape = [images, *padded]
        self.strides = [torch.Size(self.shape[axis:]).numel() for axis in range(1, len(rest) + 3)]
        self.front = sum(map(mul, self.margins, self.strides[1:]))
        count = images * self.strides[0]
        self.line = self.memory.take("room", count + 2 * self.front, dtype)
        self.own = self.line[self.front : self.front + count]
        self.filled = self.line.as_strided(
            [images, band.around.stop - band.around.start, *rest],
            self.strides,
            self.front - own.start * self.strides[1],
        )
        self.plans: dict[tuple[tuple[int, ...], ...], tuple[list[Step], list[Tensor]]] = {}

    def pixels(self, line: Tensor) -> Tensor:
        """Return the band's own pixels of a line like ``own``, or of one image's part of it."""
        shape = [line.numel() // self.strides[0], *self.lengths]
        return line.as_strided(shape, self.strides, line.storage_offset())

    def sums(self, *windows: tuple[int, ...]) -> list[Tensor]:
        """Sum windows around every place of ``own``, until the next such sum.

        A window whose sides are multiples of the last one's is put together from its sums.
        """
        if windows not in self.plans:  # most bands have the shape of the last
            self.plans[windows] = self._plan(windows)
        steps, found = self.plans[windows]
        for step in steps:
            step()
        return found

    def _plan(self, windows: Sequence[tuple[int, ...]]) -> tuple[list[Step], list[Tensor]]:
        once = (1,) * len(self.margins)
        line, first, summed = self.line, self.front, once
        steps: list[Step] = []
        found: list[Tensor] = []
        for window in windows:
            if not are_multiples(window, summed):
                line, first, summed = self.line, self.front, once
            line, first = self._over(steps, line, first, window, summed)
            summed = window
            found.append(line[first : first + self.own.numel()])
        return steps, found

    def adjoint(self, windows: Sequence[tuple[int, ...]], near: Tensor, wide: Tensor) -> Tensor:
        """Sum two lines like ``line``, each over its window, into one like ``own``."""
        inner, outer = windows
        once, count = (1,) * len(inner), self.own.numel()
        steps: list[Step] = []
        if are_multiples(outer, inner):  # then its window's sums are those of the inner one's
            line, first = self._over(steps, wide, self.front, outer, inner)
            both = self.memory.take("both", line.numel(), line.dtype)
            steps.append(
                partial(torch.add, line, near[self.front - first :][: len(line)], out=both)
            )
            line, first = self._over(steps, both, first, inner, once)
            line = line[first : first + count]
        else:
            parts = []
            for window, given in zip(windows, (near, wide), strict=True):
                line, first = self._over(steps, given, self.front, window, once)
                parts.append(line[first : first + count])
            line = self.memory.take("both", count, line.dtype)
            steps.append(partial(torch.add, *parts, out=line))
        for step in steps:
            step()
        return line

    def _over(
        self,
        steps: list[Step],
        line: Tensor,
        first: int,
        window: Sequence[int],
        summed: Sequence[int],
    ) -> tuple[Tensor, int]:
        """Plan to sum a window of a line of such sums, and say where the first pixel's is."""
        volume = torch.Size(summed).numel()
        for axis, (side, part) in enumerate(zip(window, summed, strict=True)):
            name = f"window {window}, axis {axis}"
            stride = self.strides[axis + 1]
            volume *= side // part
            line = self._sum(steps, line, part * stride, side // part, volume, name)
            first -= (side - part) // 2 * stride
        return line, first

    def _sum(
        self,
        steps: list[Step],
        line: Tensor,
        stride: int,
        side: int,
        largest: int,
        name: str,
        depth: int = 0,
    ) -> Tensor:
        """Plan to sum ``side`` numbers, each ``stride`` after the last, into memory of a name.

        The type has to hold sums as large as ``largest``.
        """
        if side == 1:
            return line
        count = line.numel() - (side - 1) * stride
        if side in AT_ONCE[stride > 1, line.is_floating_point()]:
            line = self._widened(steps, line, largest)
            terms = line.as_strided([side, count], [stride, 1], line.storage_offset())
            room = self.memory.take(name, count, line.dtype)
            steps.append(partial(torch.sum, terms, 0, dtype=line.dtype, out=room))
            return room
        if side < 6:
            line = self._widened(steps, line, largest)
            done, total = 1, line[:count]
            room = self.memory.take(name, count, line.dtype)
        else:  # of runs of three
            runs = self._sum(steps, line, stride, 3, largest // side * 3, f"runs {depth}")
            done = side // 3 * 3
            room = self._sum(steps, runs, 3 * stride, side // 3, largest, name, depth + 1)
            total = room = room[:count]
        for place in range(done, side):
            part = self._widened(steps, line[place * stride :][:count], largest)
            steps.append(partial(torch.add, total, part, out=room))
            total = room
        return room

    def _widened(self, steps: list[Step], line: Tensor, largest: int) -> Tensor:
        """Have integers in a type that holds so large a sum."""
        if line.is_floating_point() or largest <= torch.iinfo(line.dtype).max:
            return line
        wide = torch.int16 if largest < 2**15 else torch.int32
        room = self.memory.take("widened", line.numel(), wide)
        steps.append(partial(room.copy_, line))
        return room


def are_multiples(window: Sequence[int], part: Sequence[int]) -> bool:
    """Return whether a window can be put together from such parts."""
    return all(side % length == 0 for side, length in zip(window, part, strict=True))


def places_of_few(line: Tensor) -> Tensor:
    """Return where a line of whole words of 8 bytes is not 0, as few of it are."""
    run = 8 // line.element_size()  # most words are 0
    places = (line.view(torch.int64).nonzero() * run + torch.arange(run, device="cpu")).view(-1)
    return places.masked_select(line.index_select(0, places) != 0)


@lru_cache(maxsize=64)
def _axis_sizes(length: int, side: int) -> Tensor:
    """Count the pixels in the window around each pixel of one axis; read, and not written to."""
    return axis_count(length, side, "cpu").int()
