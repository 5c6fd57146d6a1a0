"""Small tumours in noise, for programs that show how to call the library, not how well it does."""

import torch
from torch import Tensor


def tumours(count: int, *size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return images ``(count, 1, *size)`` and labels ``(count, *size)``: 1 rim, 2 core, else 0."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in size), indexing="ij")
    # Centres within the middle half, so that every image has both classes.
    centres = torch.rand(count, len(size), generator=generator) - 0.5
    centres = centres.view(count, len(size), *[1] * len(size))
    distance = (torch.stack(axes) - centres).norm(dim=1)
    labels = (distance < 0.6).long() + (distance < 0.3).long()
    noise = torch.randn(count, *size, generator=generator)
    return (labels + 0.2 * noise).unsqueeze(1), labels
