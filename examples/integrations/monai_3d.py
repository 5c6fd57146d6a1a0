"""MONAI in 3-D: our loss under its deep supervision, with its trainer, inferer and metric."""

from collections.abc import Callable

import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanDice, from_engine
from monai.inferers import SlidingWindowInferer
from monai.losses import DeepSupervisionLoss
from monai.networks.nets import DynUNet
from monai.transforms import AsDiscreted
from torch import Tensor

from examples.integrations.toy_data import tumours
from gliomaseg_layers import CompoundLoss, OutlierRegionLoss

CLASSES = 3


def make_network() -> DynUNet:
    """Return a network that keeps the few slices: its kernels and strides act within one first."""
    return DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=CLASSES,
        kernel_size=[(1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)],
        strides=[(1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2)],
        upsample_kernel_size=[(1, 2, 2), (1, 2, 2), (2, 2, 2)],
        filters=[8, 16, 16, 16],
        deep_supervision=True,
        deep_supr_num=2,
    )


def make_criterion() -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of all heads of the network."""
    # MONAI's `softmax=True` is "multiclass", its `sigmoid=True` "multilabel". `to_onehot_y` has no
    # counterpart: labels (N, 1, D, H, W) go in as they are, and one-hot float ones do too.
    # The slices are thick, so the window lies within one.
    loss = CompoundLoss(OutlierRegionLoss("multiclass", window=(1, 21, 21)))  # gliomaseg_layers
    criterion = DeepSupervisionLoss(loss)  # type: ignore[arg-type] # any module will do
    # A DynUNet stacks its heads along axis 1; the loss wants a list.
    return lambda heads, labels: criterion(heads.unbind(1), labels)


def main() -> None:
    torch.manual_seed(0)
    images, labels = tumours(4, 8, 64, 64)
    # MONAI's labels have a channel.
    cases = Dataset(
        [
            {"image": image, "label": label.unsqueeze(0).float()}
            for image, label in zip(images, labels, strict=True)
        ]
    )
    network = make_network()
    losses: list[float] = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=8,
        train_data_loader=DataLoader(cases, batch_size=2),
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=1e-2),
        loss_function=make_criterion(),
        decollate=False,
    )
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: losses.append(trainer.state.output["loss"])
    )
    trainer.run()
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(cases, batch_size=1),
        network=network,
        inferer=SlidingWindowInferer(roi_size=(8, 48, 48), overlap=0.25),
        postprocessing=AsDiscreted(keys=["pred", "label"], argmax=[True, False], to_onehot=CLASSES),
        key_val_metric={
            "dice": MeanDice(
                include_background=False, output_transform=from_engine(["pred", "label"])
            )
        },
    )
    evaluator.run()
    dice = evaluator.state.metrics["dice"]
    print(f"DynUNet in 3-D: loss {losses[0]:.3f} -> {losses[-1]:.3f}, Dice {dice:.3f}")


if __name__ == "__main__":
    main()
