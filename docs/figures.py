"""Draw every picture of the guides from synthetic images."""

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import torch
from matplotlib import pyplot as plt
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from docs import diagrams, network_drawings
from examples.density_loss import draw_noise_test, extra_term
from examples.noise_image import noise_test
from gliomaseg_layers.functional import density_map, outlier_weight

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gliomaseg_layers",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.transparent": True,
}


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def lone_square(side: int, size: int = 64) -> Tensor:
    image = torch.zeros(1, 1, size, size)
    first = size // 2 - side // 2
    image[..., first : first + side, first : first + side] = 1
    return image


def draw_windows(path: Path) -> None:
    """Draw figure 4 of [WAN23] (the windows) and figure 5 (a corner's windows), as counts."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 4.2), layout="constrained")
    image = lone_square(7, 33)[0, 0]
    for axis, centre, name in zip(axes, (16, 13), ("centre", "corner"), strict=True):
        axis.imshow(image.numpy(), cmap="Greys", vmax=2.5, extent=(0, 33, 33, 0))
        axis.hlines(range(34), 0, 33, color="#999", linewidth=0.3)
        axis.vlines(range(34), 0, 33, color="#999", linewidth=0.3)
        for side, colour in ((7, "#c62828"), (21, "#1565c0")):
            corner = centre - side // 2
            axis.add_patch(Rectangle((corner, corner), side, side, fill=False, ec=colour, lw=2.5))
        axis.plot(centre + 0.5, centre + 0.5, "o", color="#c62828")
        near = int(image[centre - 3 : centre + 4, centre - 3 : centre + 4].sum())
        axis.set_title(f"{name}: {near} white px in the inner\nwindow, {49 - near} in the gap")
        axis.set_axis_off()
    save(figure, path)


def draw_certainty(path: Path) -> None:
    """Draw how sure predictions must be before the density is more than 0."""
    image, _ = noise_test()
    sure = torch.linspace(0.5, 1, 201)[1:]
    probs = [image * p + (1 - image) * (1 - p) for p in sure]
    figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
    axis.plot(
        sure, [float(density_map(p).max()) for p in probs], label="the paper's density: highest D"
    )
    axis.plot(
        sure,
        [float(outlier_weight(p).max()) for p in probs],
        "--",
        label="outlier weight: highest w",
    )
    axis.set(xlabel="probability of the predicted class, everywhere", ylabel="on the noise areas")
    axis.legend(frameon=False)
    save(figure, path)


def draw_squares(path: Path) -> None:
    """Draw how much of a lone square each rule flags."""
    sides = range(1, 15)
    figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
    for rule, label, marker in (
        (density_map, "density D, by eq. 9", "o-"),
        (outlier_weight, "outlier weight w, by counts", "s--"),
    ):
        parts = [int((rule(lone_square(side)) > 0).sum()) / side**2 for side in sides]
        axis.plot(sides, parts, marker, label=label)
    axis.set(xlabel="side of a lone square, px", ylabel="part of its pixels flagged")
    axis.legend(frameon=False)
    save(figure, path)


def draw_descent(path: Path) -> None:
    """Animate descent on what two losses add to the cross-entropy."""
    image, target = noise_test()
    names = ("density_loss", "outlier_region_loss")
    logits = {name: ((2 * image - 1) * 6).requires_grad_() for name in names}
    optimizer = torch.optim.Adam(list(logits.values()), lr=0.5)
    frames = []
    for step in range(49):
        if step % 2 == 0:
            frames.append(
                (step, {k: z.detach().sigmoid()[0, 0].numpy() for k, z in logits.items()})
            )
        optimizer.zero_grad()
        for name, z in logits.items():
            extra_term(z, target, name).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.6), layout="constrained")
    shown = []
    for axis, name in zip(axes, names, strict=True):
        shown.append(axis.imshow(frames[0][1][name], cmap="gray", vmin=0, vmax=1))
        axis.set(xticks=[], yticks=[], title=name)

    def advance(frame: tuple[int, dict[str, Any]]) -> None:
        step, probs = frame
        figure.suptitle(f"descent on what the loss adds to the cross-entropy, step {step}", size=10)
        for picture, name in zip(shown, names, strict=True):
            picture.set_data(probs[name])

    film = [frames[0]] * 4 + frames + [frames[-1]] * 8
    with plt.rc_context({"savefig.transparent": False}):
        FuncAnimation(figure, advance, film).save(path, PillowWriter(fps=8), dpi=80)
    plt.close(figure)


def draw_weight_ramp(path: Path) -> None:
    """Draw the three shapes of WeightRamp as it steps."""
    from gliomaseg_layers import CompoundLoss, WeightRamp

    figure, axis = plt.subplots(figsize=(6, 2.6), layout="constrained")
    for shape in ("linear", "cosine", "step"):
        ramp = WeightRamp(CompoundLoss(), "gamma", total_steps=100, warmup_steps=30, shape=shape)
        values = [ramp.last_value]
        for _ in range(120):
            ramp.step()
            values.append(ramp.last_value)
        axis.plot(values, label=shape)
    axis.set(xlabel="step", ylabel="gamma")
    axis.legend(frameon=False)
    save(figure, path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    with plt.rc_context(STYLE):
        draw_windows(folder / "windows.svg")
        draw_certainty(folder / "certainty.svg")
        draw_squares(folder / "squares.svg")
        draw_descent(folder / "descent.gif")
        draw_weight_ramp(folder / "weight_ramp.svg")
        diagrams.draw_all(folder)
    network_drawings.draw_all(folder)
    draw_noise_test(folder / "noise_test.png")  # README has a copy


if __name__ == "__main__":
    main()
