"""torchvision: our loss in the loop of its reference training for segmentation.

As in `references/segmentation/train.py` of torchvision, the model returns a dict of "out" and, with
`aux_loss=True`, "aux"; the criterion takes that dict; pixels of 255 are ignored; and the learning
rate falls with every step.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassConfusionMatrix
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

from examples.integrations.toy_data import tumours
from gliomaseg_layers import CompoundLoss, OutlierRegionLoss

CLASSES = 3
Batches = DataLoader[tuple[Tensor, ...]]
Criterion = Callable[[dict[str, Tensor], Tensor], Tensor]


def make_criterion() -> Criterion:
    """Return the reference's criterion, with our loss in the place of its cross-entropy."""
    loss = CompoundLoss(OutlierRegionLoss("multiclass", ignore_index=255))  # gliomaseg_layers

    def criterion(outputs: dict[str, Tensor], target: Tensor) -> Tensor:
        losses: dict[str, Tensor] = {name: loss(x, target) for name, x in outputs.items()}
        if len(losses) == 1:
            return losses["out"]
        return losses["out"] + 0.5 * losses["aux"]

    return criterion


def train_one_epoch(
    model: nn.Module,
    criterion: Criterion,
    optimizer: torch.optim.Optimizer,
    loader: Batches,
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    """Train for an epoch and return its mean loss."""
    model.train()
    losses = []
    for images, target in loader:
        loss = criterion(model(images), target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        lr_scheduler.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.inference_mode()
def evaluate(model: nn.Module, loader: Batches) -> Tensor:
    """Return the confusion matrix: a row for each true class, a column for each predicted."""
    model.eval()
    matrix = MulticlassConfusionMatrix(CLASSES, ignore_index=255)
    for images, target in loader:
        matrix.update(model(images)["out"], target)
    return matrix.compute()


def main() -> None:
    torch.manual_seed(0)
    images, labels = tumours(16, 64, 64)
    images = images.repeat(1, 3, 1, 1)
    labels[:, :8] = 255  # as where the reference's crop reaches beyond an image
    loader = DataLoader(TensorDataset(images, labels), batch_size=4, shuffle=True)
    model = deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.2  # its statistics must follow a training of seconds
    epochs = 6
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    lr_scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, len(loader) * epochs, 0.9)
    criterion = make_criterion()
    losses = [
        train_one_epoch(model, criterion, optimizer, loader, lr_scheduler) for _ in range(epochs)
    ]
    matrix = evaluate(model, loader)
    both = matrix.diag()
    iou = both / (matrix.sum(0) + matrix.sum(1) - both)
    print(f"DeepLabV3: loss {losses[0]:.3f} -> {losses[-1]:.3f}, mean IoU {iou.mean():.2f}")


if __name__ == "__main__":
    main()
