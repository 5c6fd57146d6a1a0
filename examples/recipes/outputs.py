"""What a network's channels stand for: one class, classes, or regions that overlap."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Output:
    """The channels in one of the library's three modes.

    "binary" has one logit, "multiclass" one for every class, and "multilabel" one for every region,
    as whole tumour, core and enhancing tumour, each by itself.
    """

    mode: str
    classes: int  # with the background
    regions: list[list[int]]  # the labels of each; a later one lies over those before it

    @classmethod
    def of(cls, recipe: dict[str, Any]) -> "Output":
        plain = "binary" if recipe["classes"] == 1 else "multiclass"
        mode = recipe["settings"]["mode"] or plain
        return cls(mode, max(recipe["classes"], 2), recipe["regions"])

    @property
    def channels(self) -> int:
        counts = {"binary": 1, "multiclass": self.classes, "multilabel": len(self.regions)}
        return counts[self.mode]

    def target(self, labels: Tensor) -> Tensor:
        """Turn labels ``(N, H, W)`` into what the loss compares the logits with."""
        if self.mode == "multiclass":
            return labels
        if self.mode == "binary":
            return labels.unsqueeze(1)
        inside = [torch.isin(labels, labels.new_tensor(region)) for region in self.regions]
        return torch.stack(inside, 1).float()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the classes' probabilities, of background too, or the regions'."""
        if self.mode == "multiclass":
            return logits.softmax(1)
        found = logits.sigmoid()
        return torch.cat([1 - found, found], 1) if self.mode == "binary" else found

    def region(self, probs: Tensor, members: list[int]) -> Tensor:
        """Return a region's probability ``(N, H, W)``."""
        if self.mode == "multilabel":
            return probs[:, self.regions.index(members)]
        return probs[:, members].sum(1)

    def foreground(self, probs: Tensor) -> Tensor:
        """Return the probability ``(N, H, W)`` of any class but background, or of any region."""
        return probs.amax(1) if self.mode == "multilabel" else 1 - probs[:, 0]

    def labels(self, probs: Tensor) -> Tensor:
        """Decide on a label for every pixel: the likeliest class, or the last region above 1/2."""
        if self.mode != "multilabel":
            return probs.argmax(1)
        labels = torch.zeros_like(probs[:, 0], dtype=torch.long)
        for number, region in enumerate(self.regions):
            later = {label for other in self.regions[number + 1 :] for label in other}
            own = next(label for label in region if label not in later)
            labels[probs[:, number] > 0.5] = own
        return labels

    def nothing(self) -> Tensor:
        """Return the probabilities ``(K, 1, 1)`` where there is nothing to find."""
        if self.mode == "multilabel":
            return torch.zeros(self.channels, 1, 1)
        return torch.eye(self.classes)[0].view(-1, 1, 1)
