"""Say and draw what was measured, and advise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gliomaseg_layers.windows._masks import Mask
from gliomaseg_layers.windows._measure import DEFAULT, Flags, Setting, Sizes

SIDES = (3, 5, 7, 11, 21, 63)  # of the squares or cubes that part the classes of size
MUCH = 0.1  # of the truth: it is warned of where the defaults flag more
VOLUMES = "Slices of volumes may do better as volumes, with a window in 3-D."
FEW = 30  # regions, of which little can be said


def describe(masks: Sequence[Mask], sizes: Sizes) -> str:
    """Say how many regions and holes there are, and how large they are."""
    areas, holes = sizes.all.areas, sizes.all.hole_areas
    shapes = sorted({mask.shape for mask in masks}, key=np.prod)
    axes = len(shapes[0])
    pixels, unit = ("pixels", "mm2") if axes == 2 else ("voxels", "mm3")
    known = bool(np.isfinite(sizes.pixel).all())
    span = _times(shapes[0]) + (f" to {_times(shapes[-1])}" if len(shapes) > 1 else "")
    full = sum(mask.crop.size > 0 for mask in masks)
    middle = f", {_number(float(np.median(areas * sizes.pixel)))} {unit}" if known else ""
    lines = [
        f"{len(masks)} masks of {span} {pixels}, {full} of them with foreground.",
        f"{len(areas)} regions and {len(holes)} holes. "
        f"Half of the regions have at most {np.median(areas):.0f} {pixels}{middle}.",
        "",
        f"{pixels:>16}{f'up to {unit}' if known else '':>14}{'regions':>18}{'holes':>18}",
    ]
    bounds = [side**axes for side in SIDES]
    for least, most in zip([0, *bounds], [*bounds, np.inf], strict=True):
        last = most == np.inf
        name = f"from {least + 1}" if last else f"{least + 1} to {most}"
        size = _number(most * float(np.median(sizes.pixel))) if known and not last else ""
        inside = [
            _part(np.count_nonzero((values > least) & (values <= most)), len(values))
            for values in (areas, holes)
        ]
        lines.append(f"{name:>16}{size:>14}{inside[0]:>18}{inside[1]:>18}".rstrip())
    if len(shapes) > 1:
        lines += ["", "The sizes differ. A window counts pixels: give --resize what the loss sees."]
    if len(areas) < FEW:
        lines += ["", "These are few regions to go by."]
    return "\n".join(lines)


def show_flags(flags: Sequence[Flags], sizes: Sizes) -> str:
    """Say what the loss would take for noise if the prediction were the truth."""
    lines = [
        "What the loss would take for noise in the truth itself:",
        "",
        f"{'window':>16}{'max_noise_size':>16}{'whole regions':>18}{'whole holes':>18}"
        f"{'pixels':>10}",
    ]
    for flag in flags:
        window, largest = flag.setting
        regions = _part(flag.regions, len(sizes.all.areas))
        holes = _part(flag.holes, len(sizes.all.hole_areas))
        pixels = f"{flag.pixels / sizes.all.areas.sum():.1%}"
        default = "  (default)" if set(window) == {DEFAULT} else ""
        lines.append(
            f"{_times(window):>16}{largest:>16}{regions:>18}{holes:>18}{pixels:>10}{default}"
        )
    return "\n".join(lines)


def suggest(tried: Sequence[Flags], sizes: Sizes, part: float) -> Setting | None:
    """Return the largest setting that takes at most ``part`` of the truth for noise."""
    fitting = [flag.setting for flag in tried if flagged_part(flag, sizes) <= part]
    return fitting[-1] if fitting else None


def flagged_part(flag: Flags, sizes: Sizes) -> float:
    """Return the part of the true regions that is flagged, or of their pixels if that is more."""
    return max(flag.regions / len(sizes.all.areas), flag.pixels / float(sizes.all.areas.sum()))


def advise(tried: Sequence[Flags], default: Flags, sizes: Sizes, part: float) -> str:
    """Say what to pass to the loss and why, or why none suits."""
    chosen = suggest(tried, sizes, part)
    hint = [VOLUMES] if len(default.setting.window) == 2 else []
    if chosen is None:
        smallest = flagged_part(tried[0], sizes)
        lines = [
            f"No setting suits: even the smallest takes {smallest:.0%} of the truth for noise."
        ]
        leave = "Otherwise leave" if hint else "Leave"
        return "\n".join([*lines, *hint, f"{leave} the outlier term out."])
    if chosen == default.setting:
        why = "the default"
    elif chosen == tried[-1].setting:
        why = "the default, scaled from images of 256 pixels to yours"
    else:
        why = f"the largest that takes at most {part:.0%} of the truth for noise"
    side = chosen.window if len(set(chosen.window)) > 1 else chosen.window[0]
    line = f"OutlierRegionLoss(window={side}, max_noise_size={chosen.max_noise_size})"
    lines = [f"Suggested, {why}:", "", f"    {line}"]
    if (flagged := flagged_part(default, sizes)) > MUCH:
        lines += ["", f"Do not take the default: it takes {flagged:.0%} of the truth for noise."]
        lines += hint if chosen != tried[-1].setting else []
    return "\n".join(lines)


def draw(path: Path, sizes: Sizes, axes: int, settings: dict[str, Setting]) -> None:
    """Draw how many regions and holes there are of every size, and what settings call noise."""
    from matplotlib.figure import Figure  # which takes long to import

    figure = Figure((8, 4))
    plot: Any = figure.add_subplot()  # whose types are narrower than what it takes
    areas, holes = sizes.all.areas, sizes.all.hole_areas
    bins = np.geomspace(0.9, 1.1 * max([*areas, *holes]), 50)
    plot.hist([areas, holes], bins, stacked=True, label=["regions", "holes"], color=["C0", "C1"])
    for colour, (name, setting) in zip(("C3", "C2"), settings.items(), strict=False):
        size = setting.max_noise_size
        plot.axvline(size, color=colour, label=f"max_noise_size={size}, {name}")
    plot.set(xscale="log", xlabel="pixels" if axes == 2 else "voxels", ylabel="how many")
    plot.legend(loc="lower left", bbox_to_anchor=(1.02, 0))
    unit = float(np.median(sizes.pixel))
    if np.isfinite(unit):
        top = plot.secondary_xaxis("top", functions=(lambda x: x * unit, lambda x: x / unit))
        top.set_xlabel(f"mm{axes}")
    figure.savefig(path, dpi=150, bbox_inches="tight")


def _number(value: float) -> str:
    return np.format_float_positional(value, 4, fractional=False, trim="-")


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _part(count: int, total: int) -> str:
    return f"{count} {f'({count / total:.1%})':>8}" if total else "0" + 9 * " "
