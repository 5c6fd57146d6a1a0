"""Train a small network on generated slices, in plain torch: copy it, and put in your own data.

It needs torch and gliomaseg_layers alone, and less than a minute:

    python examples/train_minimal.py
"""

import torch
from torch import Tensor

from gliomaseg_layers import CompoundLoss, OutlierRegionLoss, UNet


def make_slices(count: int, size: int = 64) -> tuple[Tensor, Tensor]:
    """Return noisy slices with a bright tumour each, and their masks: ``(count, 1, H, W)``."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre_y, centre_x = (0.2 + 0.6 * torch.rand(2, count, 1, 1, 1)) * size
    radius = (0.08 + 0.12 * torch.rand(count, 1, 1, 1)) * size
    masks = (y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2
    return masks + 0.8 * torch.randn(masks.shape), masks


torch.manual_seed(0)
images, masks = make_slices(128)
network = UNet(in_channels=1, classes=1, widths=(8, 16, 32))
optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
outlier = OutlierRegionLoss()
criterion = CompoundLoss(outlier)  # cross-entropy + Dice + outlier term, of logits and 0/1 masks
criterion.check_values(network(images[:16]), masks[:16])  # once: finds NaN, masks of 0 and 255

for epoch in range(1, 11):
    losses = []
    for batch in torch.split(torch.randperm(len(images)), 16):
        loss = criterion(network(images[batch]), masks[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    islands = outlier.report(network(images[batch])).pixels.mean()  # in the last batch
    loss = sum(losses) / len(losses)
    print(f"epoch {epoch:2d}: loss {loss:.3f}, islands on {islands:.2%} of the pixels")

network.eval()
images, masks = make_slices(64)  # new ones
with torch.no_grad():
    found = network(images) > 0  # logits above 0 are probabilities above a half
dice = 2 * (found & masks).sum() / (found.sum() + masks.sum())
print(f"Dice on new slices: {dice:.3f}")
