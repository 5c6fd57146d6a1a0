"""nnU-Net v2: a trainer with our loss, through nnU-Net's own set-up and its own training step.

`nnUNetv2_train ... -tr nnUNetTrainerOutlier` finds the trainer where `nnUNet_extTrainer` names the
folder of a copy of this file. Plans and data are made up here; real ones come from
`nnUNetv2_plan_and_preprocess`.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn
from torch.nn import functional as F

from gliomaseg_layers import CompoundLoss, OutlierRegionLoss


class nnUNetTrainerOutlier(nnUNetTrainer):  # noqa: N801 - nnU-Net's trainers are called so
    """nnU-Net's trainer with our loss in the place of its Dice and cross-entropy."""

    def _build_loss(self) -> nn.Module:
        if self.label_manager.has_regions:
            # Regions overlap: mode="multilabel", and the ignored pixels are a channel of their own.
            raise NotImplementedError("this example has labels, not regions")
        ignored = self.label_manager.ignore_label
        outlier = OutlierRegionLoss("multiclass", ignore_index=ignored)  # gliomaseg_layers
        loss = CompoundLoss(outlier)  # gliomaseg_layers
        if not self.enable_deep_supervision:
            return loss
        wrapper: nn.Module = super()._build_loss()
        # Lists of outputs, and nnU-Net's weight of each, stay the business of its wrapper.
        wrapper.loss = loss  # gliomaseg_layers
        return wrapper


def toy_plans() -> dict[str, Any]:
    """Return plans of a small 2-D U-Net, as nnU-Net writes them."""
    stages = 3
    return {
        "dataset_name": "Dataset001_Toy",
        "plans_name": "nnUNetPlans",
        "label_manager": "LabelManager",
        "continue_training": False,
        "configurations": {
            "2d": {
                "data_identifier": "nnUNetPlans_2d",
                "batch_size": 2,
                "patch_size": [64, 64],
                "batch_dice": True,
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet."
                    "PlainConvUNet",
                    "arch_kwargs": {
                        "n_stages": stages,
                        "features_per_stage": [8, 16, 32],
                        "conv_op": "torch.nn.modules.conv.Conv2d",
                        "kernel_sizes": [[3, 3]] * stages,
                        "strides": [[1, 1], [2, 2], [2, 2]],
                        "n_conv_per_stage": [1] * stages,
                        "n_conv_per_stage_decoder": [1] * (stages - 1),
                        "conv_bias": True,
                        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
                        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                        "dropout_op": None,
                        "dropout_op_kwargs": None,
                        "nonlin": "torch.nn.LeakyReLU",
                        "nonlin_kwargs": {"inplace": True},
                    },
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            }
        },
    }


def toy_trainer(folder: Path) -> nnUNetTrainerOutlier:
    """Return a trainer that nnU-Net has initialised, with its files in a folder."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(folder / name)
    # nnU-Net tells the format of a data set from the names of its files.
    case = folder / "preprocessed" / "Dataset001_Toy" / "nnUNetPlans_2d" / "case.b2nd"
    case.parent.mkdir(parents=True)
    case.touch()
    dataset = {
        "channel_names": {"0": "FLAIR"},
        "labels": {"background": 0, "rim": 1, "core": 2, "ignore": 3},
        "file_ending": ".nii.gz",
    }
    trainer = nnUNetTrainerOutlier(toy_plans(), "2d", 0, dataset, device=torch.device("cpu"))
    trainer.initialize()
    return trainer


def toy_batch(trainer: nnUNetTrainerOutlier) -> dict[str, Tensor | list[Tensor]]:
    """Return a batch as nnU-Net's loader gives it: labels (N, 1, H, W) for every output."""
    from examples.integrations.toy_data import tumours  # not by nnU-Net, which loads a copy

    images, labels = tumours(2, 64, 64)
    labels[:, :, :8] = trainer.label_manager.ignore_label
    targets = labels.unsqueeze(1).float()
    scales = trainer._get_deep_supervision_scales()
    return {
        "data": images,
        "target": [F.interpolate(targets, scale_factor=scale).short() for scale in scales],
    }


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = toy_trainer(Path(folder))
        batch = toy_batch(trainer)
        losses = [float(trainer.train_step(batch)["loss"]) for _ in range(12)]
    print(f"nnU-Net, 12 steps: loss {losses[0]:.3f} -> {losses[-1]:.3f}")


if __name__ == "__main__":
    main()
