"""timm: a U-shaped network of our layers on any of its convolutional backbones."""

from itertools import pairwise
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.integrations.toy_data import tumours
from gliomaseg_layers import ASPP, CompoundLoss, MultiScaleFusion, OutlierRegionLoss


class Segmenter(nn.Module):
    """A backbone, context on its deepest features, and a fusion with every shallower one."""

    def __init__(self, backbone: str = "resnet18", classes: int = 3) -> None:
        super().__init__()
        self.backbone = timm.create_model(
            backbone, features_only=True, pretrained=False, in_chans=1
        )
        info: Any = self.backbone.feature_info
        widths = info.channels()[::-1]
        self.context = ASPP(widths[0], widths[0], rates=(1, 2, 3))  # gliomaseg_layers
        pairs = pairwise(widths)
        self.fusions = nn.ModuleList(MultiScaleFusion(y, x) for x, y in pairs)  # gliomaseg_layers
        self.head = nn.Conv2d(widths[-1], classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        *shallower, deepest = self.backbone(images)
        deep = self.context(deepest)
        for fuse, shallow in zip(self.fusions, reversed(shallower), strict=True):
            deep = fuse(shallow, deep)  # gliomaseg_layers
        return F.interpolate(self.head(deep), images.shape[2:], mode="bilinear")


def main() -> None:
    torch.manual_seed(0)
    images, labels = tumours(4, 64, 64)
    model = Segmenter()
    criterion = CompoundLoss(OutlierRegionLoss("multiclass"))  # gliomaseg_layers
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"timm's resnet18 with our layers: loss {losses[0]:.3f} -> {losses[-1]:.3f}")


if __name__ == "__main__":
    main()
