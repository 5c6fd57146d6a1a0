"""A gated network under MONAI's inferer, which averages the logits of overlapping windows."""

import pytest
import torch
from monai.inferers.inferer import SlidingWindowInferer
from torch import Tensor, nn

from gliomaseg_layers import GatedSegmenter

SIDE = 10


class Corner(nn.Module):
    """A classifier that sees no tumour in windows whose first pixel is marked."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.where(input[:, 0, 0, 0] == MARK, -1.0, 1.0)


MARK = -7.0


def dice(found: Tensor, true: Tensor) -> float:
    return float(2 * (found & true).sum() / (found.sum() + true.sum()))


@pytest.fixture
def image() -> Tensor:
    """A row of windows, ten of which see the tumour, and one of these ten is marked."""
    image = torch.full((1, 1, SIDE, 40), -3.0)
    image[..., 3:7, 20] = 4.0
    image[..., 0, 15] = MARK
    return image


def tile(network: nn.Module, image: Tensor) -> Tensor:
    inferer = SlidingWindowInferer((SIDE, SIDE), overlap=0.9, sw_batch_size=4)
    return inferer(image, network)


def test_a_tumour_that_nine_windows_of_ten_see_survives(image: Tensor) -> None:
    gate = GatedSegmenter(Corner(), nn.Identity()).eval()
    assert dice(tile(gate, image) > 0, image > 0) == 1
    probabilities = tile(nn.Sequential(gate, nn.Sigmoid()), image)
    assert dice(probabilities > 0.5, image > 0) == 1


def test_a_segmenter_may_tile_within_the_gate(image: Tensor) -> None:
    class Tiled(nn.Module):
        def __init__(self, segmenter: nn.Module) -> None:
            super().__init__()
            self.segmenter = segmenter

        def forward(self, input: Tensor) -> Tensor:
            return tile(self.segmenter, input)

    gate = GatedSegmenter(Corner(), Tiled(nn.Identity())).eval()
    torch.testing.assert_close(gate(image), image)
