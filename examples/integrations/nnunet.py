"""nnU-Net v2: its trainer with our loss in the place of its cross-entropy.

Copy this file into nnU-Net's `nnunetv2/training/nnUNetTrainer/variants/loss`, or into a folder of
its own whose path is in the environment variable `nnUNet_extTrainer`. Either way nnU-Net finds it:

    nnUNetv2_train DATASET CONFIGURATION FOLD -tr nnUNetTrainerOutlier

Run as a program, it makes up a data set of labels and one of regions, and runs nnU-Net's programs.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from skimage.io import imsave
from torch import Tensor, nn

from gliomaseg_layers import OutlierRegionLoss


class DiceAndOutlier(nn.Module):
    """nnU-Net's Dice loss and our cross-entropy, of labels or regions."""

    def __init__(self, dice: nn.Module, labels: LabelManager) -> None:
        super().__init__()
        self.dice = dice
        self.regions = labels.has_regions
        self.ignored = labels.ignore_label
        mode = "multilabel" if self.regions else "multiclass"
        self.outlier = OutlierRegionLoss(mode)  # gliomaseg_layers

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        mask = None
        if self.ignored is not None:
            if self.regions:
                # The ignored pixels are one more region, the last.
                target, mask = target[:, :-1], target[:, -1:] == 0
            else:
                mask = target != self.ignored
                # Any class will do there, but Dice has no channel for one more.
                target = target.where(mask, 0)
        outlier = self.outlier(logits, target, mask)  # gliomaseg_layers
        dice: Tensor = self.dice(logits, target, loss_mask=mask)
        return outlier + dice


class nnUNetTrainerOutlier(nnUNetTrainer):  # noqa: N801 - nnU-Net's trainers are called so
    """nnU-Net's trainer with our loss in the place of its cross-entropy."""

    def _build_loss(self) -> nn.Module:
        loss: Any = super()._build_loss()
        # nnU-Net's own Dice stays: the plans say whether it pools the batch, and with several GPUs
        # it pools theirs. So does the wrapper that weighs the outputs of deep supervision.
        if not self.enable_deep_supervision:
            return DiceAndOutlier(loss.dc, self.label_manager)
        loss.loss = DiceAndOutlier(loss.loss.dc, self.label_manager)
        return loss  # type: ignore[no-any-return]


class nnUNetTrainerOutlierTrial(nnUNetTrainerOutlier):  # noqa: N801
    """The same for a few steps, to see that all is in its place."""

    def on_train_start(self) -> None:
        super().on_train_start()
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 2, 1


def write_toy_data(folder: Path, regions: bool) -> None:
    """Write slices as nnU-Net wants raw data, with a stripe that nobody labelled."""
    from examples.integrations.toy_data import tumours  # an installed copy has no `examples`

    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    images, labels = tumours(5, 64, 64)
    labels[:, :8] = 3
    pictures = (60 * images[:, 0] + 60).clamp(0, 255).byte().numpy()
    for case, (picture, label) in enumerate(zip(pictures, labels.byte().numpy(), strict=True)):
        imsave(folder / "imagesTr" / f"case{case}_0000.png", picture, check_contrast=False)
        imsave(folder / "labelsTr" / f"case{case}.png", label, check_contrast=False)
    description = {
        "channel_names": {"0": "FLAIR"},
        "labels": {"background": 0, "rim": 1, "core": 2, "ignore": 3},
        "numTraining": len(labels),
        "file_ending": ".png",
    }
    if regions:
        description["labels"] = {"background": 0, "tumour": [1, 2], "core": 2, "ignore": 3}
        description["regions_class_order"] = [1, 2]
    (folder / "dataset.json").write_text(json.dumps(description))


def run(folder: Path) -> None:
    """Plan, preprocess, train and predict by nnU-Net's programs, all in one folder."""
    write_toy_data(folder / "raw" / "Dataset001_Labels", regions=False)
    write_toy_data(folder / "raw" / "Dataset002_Regions", regions=True)
    (folder / "trainers").mkdir()
    shutil.copy(__file__, folder / "trainers")
    settings = {
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(folder / "preprocessed"),
        "nnUNet_results": str(folder / "results"),
        "nnUNet_extTrainer": str(folder / "trainers"),
        "nnUNet_def_n_proc": "1",  # a toy needs no more
    }

    def nnunet(command: str, **more: str) -> None:
        program, *arguments = command.split()
        path = Path(sys.executable).with_name(f"nnUNetv2_{program}")
        subprocess.run([path, *arguments], env=os.environ | settings | more, check=True)

    nnunet("plan_and_preprocess -d 1 2 -c 2d -npfp 1 -np 1")
    trial = "-tr nnUNetTrainerOutlierTrial -device cpu"
    for number, name in (1, "Dataset001_Labels"), (2, "Dataset002_Regions"):
        nnunet(f"train {number} 2d 0 {trial}", nnUNet_n_proc_DA="0")
        places = f"-i {folder}/raw/{name}/imagesTr -o {folder}/predicted/{name}"
        nnunet(f"predict -d {number} -c 2d -f 0 {trial} -npp 0 -nps 0 {places}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder))


if __name__ == "__main__":
    main()
