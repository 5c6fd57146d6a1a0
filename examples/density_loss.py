"""Show what equation 12 of [WAN23] does to noise, and what the library's own loss does.

Prints four findings; with ``--figure FILE`` it also draws the noise test. Needs torch alone, and
matplotlib for the figure.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from examples.noise_image import descend, noise_areas, noise_test
from gliomaseg_layers.functional import (
    density_loss,
    density_map,
    outlier_region_loss,
    outlier_weight,
)

LOSSES = ("density_loss", "outlier_region_loss")


def extra_term(logits: Tensor, target: Tensor, loss: str) -> Tensor:
    """Return what a loss adds to the cross-entropy of every pixel: -D or k w CE."""
    function = density_loss if loss == "density_loss" else outlier_region_loss
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return function(logits, target, reduction="none") - cross_entropy


def areas_left(loss: str, scale: float) -> int:
    """Descend on the extra term alone, from logits of +-scale; count the noise areas left."""
    image, target = noise_test()
    start = (2 * image - 1) * scale
    end = descend(lambda logits: extra_term(logits, target, loss).sum(), start)[0, 0]
    return sum(bool((end[area] > 0).any()) for area in noise_areas())


def print_findings() -> None:
    image, target = noise_test()
    noise = torch.stack(noise_areas()).any(0)

    print("1. The density D is 0 until predictions are nearly binary. Its highest value on the")
    print("   noise test, when every pixel is this sure of its class:")
    for sure in (0.6, 0.8, 0.9, 0.95, 1.0):
        highest = float(density_map(image * sure + (1 - image) * (1 - sure)).max())
        print(f"     {sure:.0%}: {highest:.4f}")

    print("\n2. Where it acts, it rewards noise. The slope of what each loss adds to the")
    print("   cross-entropy, by the logit of a noise pixel (where it is below 0, training makes")
    print("   the false pixel surer):")
    for loss in LOSSES:
        logits = ((2 * image - 1) * 6).requires_grad_()
        (slope,) = torch.autograd.grad(extra_term(logits, target, loss).sum(), logits)
        print(f"     {loss:20s} {float(slope[0, 0][noise].mean()):+.5f}")

    print("\n3. Noise areas left of 4 after descent on that term alone, from logits of +-3 and")
    print("   from +-10:")
    for loss in LOSSES:
        left = [areas_left(loss, scale) for scale in (3.0, 10.0)]
        print(f"     {loss:20s} {left[0]} and {left[1]}")

    print(
        "\n4. Pixels of a lone square that are flagged, by the density and by the outlier weight:"
    )
    for side in (7, 8, 9):
        square = torch.zeros(1, 1, 64, 64)
        square[..., 28 : 28 + side, 28 : 28 + side] = 1
        by_density = int((density_map(square) > 0).sum())
        by_weight = int((outlier_weight(square) > 0).sum())
        print(f"     {side} x {side} ({side * side} px): {by_density:2d} and {by_weight:2d}")


def draw_noise_test(path: Path) -> None:
    """Draw the prediction, D, w, and what each loss adds to the cross-entropy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    image, target = noise_test()
    # As sure as a trained network: every pixel is wrong with a probability of 0.25 %.
    logits = (2 * image - 1) * 6
    density, outlier = (extra_term(logits, target, loss) for loss in LOSSES)
    panels = [
        ("Prediction: one true region, four\nnoise areas of at most 7 x 7 px", image, "gray"),
        ("Paper's density D: high on\nnoise, 0 on the true region", density_map(image), "viridis"),
        ("Outlier weight w: flags\nnoise, whole and alone", outlier_weight(image), "viridis"),
        ("density_loss adds -D: below 0,\na reward for noise", density, "coolwarm"),
        (
            "outlier_region_loss adds k w CE:\nnoise weighs a tenth of the image",
            outlier,
            "coolwarm",
        ),
    ]
    figure, axes = plt.subplot_mosaic(".BC;ABC;ADE;.DE", figsize=(9.6, 6.6), layout="constrained")
    for name, (title, values, colours) in zip("ABCDE", panels, strict=True):
        axis, limit = axes[name], float(values.abs().max())
        low = -limit if colours == "coolwarm" else 0.0
        shown = axis.imshow(
            values[0, 0].numpy(), cmap=colours, vmin=low, vmax=limit, interpolation="none"
        )
        axis.set_title(title, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
        figure.colorbar(shown, ax=axis, shrink=0.85)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--figure", type=Path, help="draw the noise test into this PNG file")
    options = parser.parse_args(arguments)
    print_findings()
    if options.figure:
        options.figure.parent.mkdir(parents=True, exist_ok=True)
        draw_noise_test(options.figure)


if __name__ == "__main__":
    main()
