"""Export the loss and its gradient from PyTorch to ONNX, one model for each pair of windows.

The playground's page runs these models: what it shows is computed by the library's own functions.
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
from gliomaseg_layers._checks import FORMULATIONS
from gliomaseg_layers.functional import box_sum
from gliomaseg_layers.functional._outlier_terms import DEFAULT_LEVELS, outlier_terms
from gliomaseg_layers.functional.region_density import outlier_weights_of

# ONNX has no log-sigmoid of its own: log(sigmoid(x)) would be infinite where torch's is -x.
ATEN = torch.ops.aten
STABLE: Any = get_decompositions([ATEN.binary_cross_entropy_with_logits, ATEN.log_sigmoid_forward])
WINDOWS = ((3, 9), (5, 15), (7, 21), (9, 31))
SIZE = 100
INPUTS = ("logits", "target", "area", "gap", "smooth", "strength", "share")
OUTPUTS = ("flag", "loss", "term", "loss_gradient", "term_gradient")


def maps_of(inner: int, outer: int) -> Callable[..., tuple[Tensor, ...]]:
    """Return the function that is exported: maps ``(4, H, W)``, one for each of FORMULATIONS.

    ``flag`` is the weight w, or the density D in "paper"; ``loss`` the loss of each pixel;
    ``term`` what it adds to the cross-entropy; the gradients are those of the two maps' sums.
    ``area`` is the ``threshold`` of the weight, ``gap`` that of the density.
    """

    def all_maps(
        logits: Tensor,
        target: Tensor,
        area: Tensor,
        gap: Tensor,
        smooth: Tensor,
        strength: Tensor,
        share: Tensor,
    ) -> tuple[Tensor, ...]:
        rows = []
        for formulation in FORMULATIONS:
            z = logits.detach().requires_grad_()
            terms = outlier_terms(
                z,
                target,
                mode="binary",
                formulation=formulation,
                inner=inner,
                outer=outer,
                smooth=smooth,
                threshold=gap if formulation == "paper" else area,
                strength=strength,
                levels=None,
                share=share,
                from_logits=True,
                pos_weight=None,
                class_weights=None,
                ignore_index=None,
                mask=None,
            )
            if formulation == "paper":
                flag = -terms.extra
            else:
                levels = DEFAULT_LEVELS[formulation]
                flag = torch.stack(
                    outlier_weights_of(terms.scores, inner, outer, area, levels)
                ).mean(0)
            loss = terms.cross_entropy + terms.extra
            (slope,) = torch.autograd.grad(loss.sum(), z, retain_graph=True)
            (term_slope,) = torch.autograd.grad(terms.extra.sum(), z)
            maps = (flag, loss, terms.extra, slope, term_slope)
            rows.append([values.detach()[0, 0] for values in maps])
        return tuple(torch.stack(column) for column in zip(*rows, strict=True))

    return all_maps


def captured(inner: int, outer: int, inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    """Capture forward and gradient as one graph, counting in int32."""
    # make_fx does not say that it captures; told so, box_sum adds without writing into views.
    with mock.patch.object(torch.compiler, "is_compiling", return_value=True):
        graph: fx.GraphModule = make_fx(maps_of(inner, outer), STABLE)(*inputs)
    for node in graph.graph.nodes:  # ONNX Runtime cannot pad or add int16
        if node.kwargs.get("dtype") == torch.int16:
            node.update_kwarg("dtype", torch.int32)
    graph.recompile()
    return graph.eval()


def export(folder: Path) -> None:
    """Write ``outlier_region_<inner>_<outer>.onnx`` for every pair of WINDOWS."""
    folder.mkdir(parents=True, exist_ok=True)
    # Two images: make_fx knows its inputs by identity, and one tensor twice would be one input.
    images = (torch.zeros(1, 1, SIZE, SIZE), torch.ones(1, 1, SIZE, SIZE))
    inputs = (*images, *(torch.tensor(number) for number in (49.0, 33.0, 1.0, 4.0, 0.1)))
    for inner, outer in WINDOWS:
        program = torch.onnx.export(
            captured(inner, outer, inputs),
            inputs,
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(folder / f"outlier_region_{inner}_{outer}.onnx")


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
