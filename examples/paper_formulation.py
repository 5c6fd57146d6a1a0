"""Show what the paper's formulation of the outlier-region loss does to noise, and what ours do.

Prints four findings about [WAN23]'s eq. 9 and 12; with ``--figure FILE`` also draws the noise test.
Needs torch alone, and matplotlib for the figure.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from examples.noise_image import descend, noise_areas, noise_test
from gliomaseg_layers.functional import density_map, outlier_region_loss, outlier_weight

FORMULATIONS = ("paper", "balanced", "penalty")


def extra_term(logits: Tensor, target: Tensor, formulation: str) -> Tensor:
    """Return what the formulation adds to the cross-entropy, summed over the pixels."""
    loss = outlier_region_loss(logits, target, formulation=formulation, reduction="sum")
    return loss - outlier_region_loss(logits, target, strength=0, reduction="sum")


def areas_left(formulation: str, scale: float) -> int:
    """Descend on the extra term alone, from logits of +-scale; count the noise areas left."""
    image, target = noise_test()
    start = (2 * image - 1) * scale
    end = descend(lambda logits: extra_term(logits, target, formulation), start)[0, 0]
    return sum(bool((end[area] > 0).any()) for area in noise_areas())


def print_findings() -> None:
    image, target = noise_test()
    noise = torch.stack(noise_areas()).any(0)

    print("1. The paper's density is 0 until predictions are nearly binary.")
    print("   Highest D on the noise test, background and islands this sure of their class:")
    for sure in (0.6, 0.8, 0.9, 0.95, 1.0):
        highest = float(density_map(image * sure + (1 - image) * (1 - sure)).max())
        print(f"     {sure:.0%}: {highest:.4f}")

    print("\n2. Where it acts, eq. 12 rewards noise: the gradient of the term on a noise pixel's")
    print("   logit (descent moves against it: below 0, the pixel grows surer of being tumour):")
    for formulation in FORMULATIONS:
        logits = ((2 * image - 1) * 6).requires_grad_()
        (slope,) = torch.autograd.grad(extra_term(logits, target, formulation), logits)
        print(f"     {formulation:9s} {float(slope[0, 0][noise].mean()):+.5f}")

    print(
        "\n3. Noise areas left of 4 after descent on the term alone, from logits of +-3 and +-10:"
    )
    for formulation in FORMULATIONS:
        left = [areas_left(formulation, scale) for scale in (3.0, 10.0)]
        print(f"     {formulation:9s} {left[0]} and {left[1]}")

    print("\n4. Pixels of a lone square that are flagged: by eq. 9, and by exact counts:")
    for side in (7, 8, 9):
        square = torch.zeros(1, 1, 64, 64)
        square[..., 28 : 28 + side, 28 : 28 + side] = 1
        by_paper = int((density_map(square) > 0).sum())
        by_count = int((outlier_weight(square) > 0).sum())
        print(f"     {side} x {side} ({side * side} px): {by_paper:2d} and {by_count:2d}")


def draw_noise_test(path: Path) -> None:
    """Draw the input, D, w and the loss maps of the formulations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    image, target = noise_test()
    # As sure as a trained network: a doubt of 0.25 % everywhere.
    logits = (2 * image - 1) * 6
    extra = {
        formulation: (
            outlier_region_loss(logits, target, formulation=formulation, reduction="none")
            - outlier_region_loss(logits, target, strength=0, reduction="none")
        )
        for formulation in FORMULATIONS
    }
    panels = [
        ("Prediction: one true region, four\nnoise areas of at most 7 x 7 px", image, "gray"),
        ("Paper's density D: high on\nnoise, 0 on the true region", density_map(image), "viridis"),
        ("Outlier weight w: flags\nnoise, whole and alone", outlier_weight(image), "viridis"),
        ("“paper” adds -D: below 0,\na reward for noise", extra["paper"], "coolwarm"),
        (
            "“balanced” adds k w CE: noise\nweighs a tenth of the image",
            extra["balanced"],
            "coolwarm",
        ),
        (
            "“penalty” adds 0.1 w (-log(1 - q)):\nnoise costs, without a label",
            extra["penalty"],
            "coolwarm",
        ),
    ]
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 6.6), layout="constrained")
    for axis, (title, values, colours) in zip(axes.flat, panels, strict=True):
        limit = float(values.abs().max())
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
