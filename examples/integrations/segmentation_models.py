"""segmentation_models.pytorch: our fusion in its U-Net, attributes in its DeepLabV3+, and our loss.

`mode` means the same in both libraries. The toolkit's own training epochs are deprecated, so that
the loop is plain torch.
"""

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from torch import Tensor

from examples.integrations.toy_data import tumours
from gliomaseg_layers import (
    ASPP,
    AttributeEncoder,
    CompoundLoss,
    MultiScaleFusion,
    OutlierRegionLoss,
)


class FusionBlock(UnetDecoderBlock):
    """A decoder block that fuses what comes from below with the skip connection."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        # The fused map has the channels of the skip connection; nothing is concatenated to it.
        super().__init__(skip_channels, 0, out_channels)
        self.fuse = MultiScaleFusion(skip_channels, in_channels)  # gliomaseg_layers

    def forward(
        self, feature_map: Tensor, height: int, width: int, skip_connection: Tensor
    ) -> Tensor:
        fused = self.fuse(skip_connection, feature_map)  # gliomaseg_layers
        return super().forward(fused, height, width)  # type: ignore[no-any-return]


def fusion_unet(encoder: str = "resnet18", classes: int = 3) -> smp.Unet:
    """Return a U-Net whose decoder fuses; its last block has no skip connection and stays."""
    model = smp.Unet(encoder, encoder_weights=None, in_channels=1, classes=classes)
    skips = model.encoder.out_channels[-2:0:-1]
    for level, (block, skip) in enumerate(zip(model.decoder.blocks, skips, strict=False)):
        convolution = block.conv1[0]
        model.decoder.blocks[level] = FusionBlock(
            convolution.in_channels - skip, skip, convolution.out_channels
        )
    return model


class AttributeDeepLab(smp.DeepLabV3Plus):
    """DeepLabV3+ that sees a patient's attributes beside the deepest features."""

    def __init__(self, attributes: int, encoder: str = "tu-regnetz_040", classes: int = 3) -> None:
        super().__init__(encoder, encoder_weights=None, in_channels=1, classes=classes)
        self.known = AttributeEncoder(attributes)  # gliomaseg_layers
        # The toolkit's ASPP has no room for more channels; these are its settings.
        width, rates = self.encoder.out_channels[-1] + self.known.out_channels, (12, 24, 36)
        self.decoder.aspp[0] = ASPP(width, rates=rates, separable=True)  # gliomaseg_layers

    def forward(self, images: Tensor, attributes: Tensor) -> Tensor:
        *features, deepest = self.encoder(images)
        known = self.known(attributes, deepest.shape[2:])  # gliomaseg_layers
        features.append(torch.cat([deepest, known], 1))
        return self.segmentation_head(self.decoder(features))  # type: ignore[no-any-return]


def train(model: torch.nn.Module, inputs: list[Tensor], labels: Tensor, steps: int) -> list[float]:
    """Train on one batch and return the losses."""
    criterion = CompoundLoss(OutlierRegionLoss("multiclass", ignore_index=255))  # gliomaseg_layers
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = criterion(model(*inputs), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    torch.manual_seed(0)
    images, labels = tumours(4, 64, 64)
    losses = train(fusion_unet(), [images], labels, steps=5)
    print(f"U-Net with fusion: loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    model, attributes = AttributeDeepLab(attributes=20), torch.rand(4, 20)
    losses = train(model, [images, attributes], labels, steps=5)
    print(f"DeepLabV3+ with attributes: loss {losses[0]:.3f} -> {losses[-1]:.3f}")


if __name__ == "__main__":
    main()
