"""Export the losses and their gradients from PyTorch to ONNX, one model for each window.

The playground's page runs these models: what it shows is computed by the library's functions.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from examples.noise_image import noise_test
from gliomaseg_layers.functional import box_sum
from gliomaseg_layers.functional._cross_entropy import labelled_cross_entropy
from gliomaseg_layers.functional.outlier_region import outlier_term
from gliomaseg_layers.functional.outlier_weight import outlier_weight_of
from gliomaseg_layers.functional.region_density import density_of

# ONNX has no log-sigmoid of its own: log(sigmoid(x)) would be infinite where torch's is -x.
ATEN = torch.ops.aten
STABLE: Any = get_decompositions([ATEN.binary_cross_entropy_with_logits, ATEN.log_sigmoid_forward])
# The window of the outlier weight, which is the density's outer one, and the density's inner one.
WINDOWS = {9: 3, 15: 5, 21: 7, 27: 9}
LOSSES = ("outlier", "outlier_no_share", "density")
LEVELS = (0.1, 0.3, 0.5)
SIZE = 100
INPUTS = ("logits", "target", "max_noise_size", "threshold", "smooth", "strength", "share")
OUTPUTS = ("flag", "loss", "term", "loss_gradient", "term_gradient")


def maps_of(window: int) -> Callable[..., tuple[Tensor, ...]]:
    """Return the function that is exported: maps ``(3, H, W)``, one for each of LOSSES.

    ``flag`` is the weight w, or the density D; ``loss`` the loss of each pixel; ``term`` what it
    adds to the cross-entropy; the gradients are those of the sums of ``loss`` and ``term``.
    """

    def all_maps(
        logits: Tensor,
        target: Tensor,
        max_noise_size: Tensor,
        threshold: Tensor,
        smooth: Tensor,
        strength: Tensor,
        share: Tensor,
    ) -> tuple[Tensor, ...]:
        region: Any = {"window": window, "max_noise_size": max_noise_size}
        rows = []
        for name in LOSSES:
            z = logits.detach().requires_grad_()
            scores, cross_entropy = labelled_cross_entropy(
                z, target, "binary", True, None, None, None, None
            )
            if name == "density":
                flag = density_of(scores, WINDOWS[window], window, smooth, threshold)
                term = -flag
            else:
                flag = outlier_weight_of(scores, **region, levels=LEVELS)
                most = share if name == "outlier" else None
                term = outlier_term(
                    scores, cross_entropy, **region, levels=LEVELS, strength=strength, share=most
                )
            loss = cross_entropy + term
            (slope,) = torch.autograd.grad(loss.sum(), z, retain_graph=True)
            (term_slope,) = torch.autograd.grad(term.sum(), z)
            maps = (flag, loss, term, slope, term_slope)
            rows.append([values.detach()[0, 0] for values in maps])
        return tuple(torch.stack(column) for column in zip(*rows, strict=True))

    return all_maps


def captured(window: int, inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    """Capture forward and gradient as one graph, counting in int32."""
    # make_fx does not say that it captures; told so, box_sum adds without writing into views.
    with mock.patch.object(torch.compiler, "is_compiling", return_value=True):
        graph: fx.GraphModule = make_fx(maps_of(window), STABLE)(*inputs)
    for node in graph.graph.nodes:  # ONNX Runtime cannot pad or add narrower integers
        if node.kwargs.get("dtype") in (torch.int8, torch.int16):
            node.update_kwarg("dtype", torch.int32)
    graph.recompile()
    return graph.eval()


def export(folder: Path) -> None:
    """Write ``losses_<window>.onnx`` for each of WINDOWS."""
    folder.mkdir(parents=True, exist_ok=True)
    # Two images: make_fx knows its inputs by identity, and one tensor twice would be one input.
    images = (torch.zeros(1, 1, SIZE, SIZE), torch.ones(1, 1, SIZE, SIZE))
    inputs = (*images, *(torch.tensor(number) for number in (49.0, 33.0, 1.0, 1000.0, 0.1)))
    for window in WINDOWS:
        program = torch.onnx.export(
            captured(window, inputs),
            inputs,
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(folder / f"losses_{window}.onnx")


def presets() -> dict[str, tuple[Tensor, Tensor]]:
    """Return pictures to start from: what is predicted, and what is true."""
    noise, region = noise_test()
    generator = torch.Generator().manual_seed(23)
    row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    ragged = box_sum(torch.randn(1, 1, SIZE, SIZE, generator=generator), 9) / 9
    distance = ((row - 42) / 22) ** 2 + ((column - 55) / 16) ** 2
    lesion = (distance + 0.35 * ragged < 1).float()
    # Islands as networks leave them, near and far, a hole, and a true one that is as small.
    islands = lesion.clone()
    specks = ((8, 12, 4, 5), (80, 20, 6, 6), (88, 70, 2, 9), (14, 86, 3, 3), (38, 77, 4, 4))
    for top, left, height, width in specks:
        islands[..., top : top + height, left : left + width] = 1
    islands[..., 40:43, 52:56] = 0
    small = torch.zeros_like(lesion)
    small[..., 74:79, 84:89] = 1
    return {
        "figure 9": (noise, region),
        "lesion": (torch.maximum(islands, small), torch.maximum(lesion, small)),
    }


def write_presets(path: Path) -> None:
    """Write the indices of the white pixels of every preset."""
    white = {
        name: [image.flatten().nonzero().flatten().tolist() for image in pair]
        for name, pair in presets().items()
    }
    path.write_text(json.dumps(white))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    export(folder)
    write_presets(folder / "presets.json")


if __name__ == "__main__":
    main()
