"""Every integration runs in its host's own code, and changes no more of it than it says."""

import ast
import re
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import (
    DownsampleSegForDSTransform,
)
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform
from monai.networks import one_hot
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from skimage.io import imread
from torch import Tensor, nn

from examples.integrations import (
    hugging_face,
    lightning_ramp,
    monai_3d,
    nnunet,
    segmentation_models,
    timm_backbone,
    torchvision_reference,
)
from examples.integrations.toy_data import tumours
from gliomaseg_layers import CompoundLoss, DiceLoss, MultiScaleFusion, OutlierRegionLoss

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "integrations"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("[a-z]*.py") if path.stem != "toy_data")
MARK = "  # gliomaseg_layers"


def marks(source: str) -> Counter[str]:
    """Count the marked lines of every class and function, imports aside."""
    lines = source.splitlines()
    found: Counter[str] = Counter()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            body = lines[node.lineno - 1 : node.end_lineno]
            found[node.name] = sum(line.endswith(MARK) for line in body)
    return found


def unmarked(source: str) -> list[str]:
    """Name what is made of the library's on lines that are not marked, or on several."""
    lines, tree = source.splitlines(), ast.parse(source)
    ours = {
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "gliomaseg_layers"
        for alias in node.names
    }
    return [
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ours
        if node.lineno != node.end_lineno or not lines[node.lineno - 1].endswith(MARK)
    ]


@pytest.mark.parametrize("name", PROGRAMS)
def test_three_lines_at_most(name: str) -> None:
    source = (FOLDER / f"{name}.py").read_text()
    found = marks(source)
    assert found.total() > 0
    assert max(found.values()) <= 3
    assert unmarked(source) == []
    assert source.startswith('"""')


def test_the_count_sees_what_is_not_marked() -> None:
    source = "from gliomaseg_layers import A\n\ndef f():\n    a = A(){}\n    a = A(\n    ){}\n"
    assert unmarked(source.format(MARK, MARK)) == ["A"]
    assert unmarked(source.format("", "")) == ["A", "A"]
    assert marks(source.format(MARK, MARK)) == {"f": 2}


@pytest.mark.parametrize(
    "name", sorted(set(PROGRAMS) - {"distributed", "lightning_ramp", "nnunet"})
)
def test_runs_and_learns(name: str, capsys) -> None:
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    losses = re.findall(r"loss ([\d.]+) -> ([\d.]+)", printed)
    assert losses
    assert all(float(last) < 0.9 * float(first) for first, last in losses)
    assert all(float(dice) > 0.3 for dice in re.findall(r"Dice ([\d.]+)", printed))


def gradient_of(parameters: list[nn.Parameter]) -> float:
    """Return the least of the parameters' largest gradients."""
    return min(0.0 if p.grad is None else p.grad.abs().max().item() for p in parameters)


def test_unet_fuses_where_it_concatenated() -> None:
    model = segmentation_models.fusion_unet()
    images, labels = tumours(2, 64, 64)
    CompoundLoss(OutlierRegionLoss("multiclass"))(model(images), labels).backward()
    *fused, last = model.decoder.blocks
    assert len(fused) == len(model.encoder.out_channels) - 2
    for block in fused:
        assert isinstance(block.fuse, MultiScaleFusion)
        assert block.conv1[0].in_channels == block.fuse.channels  # nothing is concatenated
        assert gradient_of([block.fuse.shallow_weight, block.fuse.deep_weight]) > 0
    assert not hasattr(last, "fuse")


def test_attributes_reach_the_prediction() -> None:
    model = segmentation_models.AttributeDeepLab(attributes=20).eval()
    assert model.encoder.name == "regnetz_040"
    images, labels = tumours(2, 64, 64)
    with torch.no_grad():
        one, same, other = (
            model(images[:1], vector) for vector in torch.eye(20)[[0, 0, 1]].split(1)
        )
    assert torch.equal(one, same)
    assert (one - other).abs().max() > 1e-4 * one.abs().max()
    CompoundLoss(OutlierRegionLoss("multiclass"))(
        model(images, torch.rand(2, 20)), labels
    ).backward()
    assert gradient_of([model.known.mlp[-1].weight]) > 0


def test_monai_labels_and_one_hot_labels_give_the_same_loss() -> None:
    criterion = monai_3d.make_criterion()
    heads, labels = torch.randn(2, 3, 3, 4, 32, 32), torch.randint(3, (2, 1, 4, 32, 32)).float()
    hot = one_hot(labels, num_classes=3)
    assert hot.shape == heads[:, 0].shape
    torch.testing.assert_close(criterion(heads, labels), criterion(heads, hot))


def test_monai_looks_for_islands_within_a_slice() -> None:
    """The order of the slices does not matter; it does with a window of 21 slices."""
    heads = torch.zeros(1, 1, 2, 48, 32, 32)
    heads[:, :, 1] = -4
    heads[:, :, 1, ::4, 12:18, 12:18] = 4  # an island of 6 x 6 pixels in every fourth slice
    labels = torch.zeros(1, 1, 48, 32, 32)
    order = torch.arange(48).view(12, 4).T.flatten()  # 12 such slices side by side: a rod
    criterion, deep = monai_3d.make_criterion(), CompoundLoss(OutlierRegionLoss("multiclass"))
    torch.testing.assert_close(criterion(heads, labels), criterion(heads[:, :, :, order], labels))
    assert not torch.isclose(
        deep(heads[:, 0], labels), deep(heads[:, 0][:, :, order], labels), rtol=1e-3
    )


def nnunet_loss(
    trainer_class: type[nnUNetTrainer],
    regions: bool,
    ignore: int | None,
    batch_dice: bool,
    *,
    deep: bool = True,
    ddp: bool = False,
) -> Any:
    """Let a trainer build its loss, with no more of its state than the loss is made from."""
    trainer = trainer_class.__new__(trainer_class)
    trainer.label_manager = SimpleNamespace(has_regions=regions, ignore_label=ignore)
    trainer.configuration_manager = SimpleNamespace(
        batch_dice=batch_dice, pool_op_kernel_sizes=[[1, 1], [2, 2], [2, 2]]
    )
    trainer.device, trainer.is_ddp = torch.device("cpu"), ddp
    trainer.enable_deep_supervision = deep
    return trainer._build_loss()


def nnunet_targets(regions: bool, ignore: int | None) -> list[Tensor]:
    """Return what nnU-Net's own transforms make of labels, for outputs of two sizes."""
    _, labels = tumours(2, 64, 64)
    if ignore is not None:
        labels[0, :20] = ignore
        labels[1, :, :7] = ignore
    targets = labels.unsqueeze(1).short()
    if regions:
        channels = [(1, 2), (2,), *([] if ignore is None else [ignore])]
        convert = ConvertSegmentationToRegionsTransform(channels)
        targets = torch.stack([convert(segmentation=each)["segmentation"] for each in targets])
    shrink = DownsampleSegForDSTransform([[1, 1], [0.5, 0.5]])
    pairs = [shrink(segmentation=each)["segmentation"] for each in targets]
    return [torch.stack(sizes) for sizes in zip(*pairs, strict=True)]


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("ignore", [None, 3])
@pytest.mark.parametrize("regions", [False, True])
def test_nnunet_without_the_outlier_term_is_nnunets_own(
    regions: bool, ignore: int | None, batch_dice: bool
) -> None:
    """Values and gradients, of labels and regions; with the term it is the sum of our losses."""
    targets = nnunet_targets(regions, ignore)
    channels = 2 if regions else 3
    outputs = [
        torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(size))
        for size in (64, 32)
    ]
    settings = regions, ignore, batch_dice
    theirs = nnunet_loss(nnUNetTrainer, *settings)
    ours = nnunet_loss(nnunet.nnUNetTrainerOutlier, *settings)
    assert ours.weight_factors == theirs.weight_factors
    if regions and ignore is not None:
        # There nnU-Net divides the sum over all regions by the pixels alone.
        theirs.loss.weight_ce = 1 / channels

    mode = "multilabel" if regions else "multiclass"
    outlier = OutlierRegionLoss(mode)
    dice = DiceLoss(mode, batch=batch_dice, include_background=regions, smooth=1e-5)

    def summed(outputs: list[Tensor], targets: list[Tensor]) -> Tensor:
        loss = torch.zeros(())
        for weight, logits, target in zip(ours.weight_factors, outputs, targets, strict=True):
            mask = torch.ones_like(target[:, :1], dtype=torch.bool)
            if ignore is not None and regions:
                target, mask = target[:, :-1], ~target[:, -1:]
            elif ignore is not None:
                mask = target != ignore
                target = target * mask
            both = outlier(logits, target, mask) + dice(logits, target, mask)
            loss = loss + weight * (both - 1)  # nnU-Net's Dice loss is minus the coefficient
        return loss

    def results(loss: Callable[[list[Tensor], list[Tensor]], Tensor]) -> tuple[Tensor, ...]:
        leaves = [output.clone().requires_grad_() for output in outputs]
        value = loss(leaves, [target.clone() for target in targets])
        return value, *torch.autograd.grad(value, leaves, materialize_grads=True)

    torch.testing.assert_close(results(ours), results(summed))
    with_term = results(ours)[0]
    ours.loss.outlier.strength = 0.0
    torch.testing.assert_close(results(ours), results(theirs))
    assert not torch.isclose(results(ours)[0], with_term)


@pytest.mark.parametrize("regions", [False, True])
def test_nnunet_sees_nothing_that_is_ignored(regions: bool) -> None:
    loss = nnunet_loss(nnunet.nnUNetTrainerOutlier, regions, 3, True, deep=False)
    assert isinstance(loss, nnunet.DiceAndOutlier)
    target = nnunet_targets(regions, 3)[0]
    logits = torch.randn(2, 2 if regions else 3, 64, 64, requires_grad=True)
    loss(logits, target).backward()
    ignored = target[:, -1:] if regions else target == 3
    assert logits.grad is not None
    assert (logits.grad[ignored.expand_as(logits)] == 0).all()
    assert (logits.grad[~ignored.expand_as(logits)] != 0).all()


@pytest.mark.parametrize("ddp", [False, True])
def test_nnunets_dice_goes_on_pooling_all_processes(ddp: bool) -> None:
    settings = {"batch_dice": True, "deep": False, "ddp": ddp}
    loss = nnunet_loss(nnunet.nnUNetTrainerOutlier, False, None, **settings)
    assert isinstance(loss.dice, MemoryEfficientSoftDiceLoss)
    assert (loss.dice.ddp, loss.dice.batch_dice, loss.dice.do_bg) == (ddp, True, False)


def test_nnunets_programs_take_the_trainer(tmp_path: Path, capfd) -> None:
    """They plan, preprocess, train, validate and predict, with labels and with regions."""
    nnunet.run(tmp_path)
    printed = capfd.readouterr().out
    assert printed.count("train_loss") == printed.count("Mean Validation Dice") == 2
    for name in ("Dataset001_Labels", "Dataset002_Regions"):
        (results,) = (tmp_path / "results" / name).iterdir()
        assert results.name == "nnUNetTrainerOutlierTrial__nnUNetPlans__2d"
        assert (results / "fold_0" / "checkpoint_final.pth").is_file()
        predicted = sorted((tmp_path / "predicted" / name).glob("*.png"))
        assert len(predicted) == 5
        for path in predicted:
            picture = imread(path)
            assert picture.shape == (64, 64)
            assert picture.max() < 3  # never the label that is ignored


@pytest.mark.parametrize("aux", [False, True])
def test_torchvisions_criterion_takes_what_the_model_returns(aux: bool) -> None:
    logits = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    target = torch.randint(3, (2, 32, 32))
    target[:, :9] = 255
    outputs = dict(zip(("out", "aux") if aux else ("out",), logits, strict=False))
    ours = CompoundLoss(OutlierRegionLoss("multiclass", ignore_index=255))
    expected = ours(logits[0], target) + (0.5 * ours(logits[1], target) if aux else 0)
    torch.testing.assert_close(torchvision_reference.make_criterion()(outputs, target), expected)


def test_torchvision_counts_what_is_labelled() -> None:
    class Model(nn.Module):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"out": nn.functional.one_hot(images[:, 0].long(), 3).movedim(-1, 1).float()}

    target = torch.tensor([[[0, 1, 2, 255]]])
    images = torch.tensor([[[[0, 1, 1, 1]]]])
    matrix = torchvision_reference.evaluate(Model(), [(images, target)])
    assert matrix.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3_small_050", "convnext_atto"])
def test_timm_backbones(backbone: str) -> None:
    model = timm_backbone.Segmenter(backbone)
    images, labels = tumours(2, 64, 64)
    logits = model(images)
    assert logits.shape == (2, 3, 64, 64)
    CompoundLoss(OutlierRegionLoss("multiclass"))(logits, labels).backward()
    weights = [fuse.shallow_weight for fuse in model.fusions]
    assert gradient_of([*weights, model.context.project[0].weight]) > 0


def test_lightning_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    whole, through = lightning_ramp.train(4)
    half, first = lightning_ramp.train(2)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed, second = lightning_ramp.train(4, resume=tmp_path / "half.ckpt")
    assert first.weights + second.weights == through.weights == [step / 8 for step in range(8)]
    pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert float(resumed.model.criterion.gamma) == 1


def test_lightning_ramp_counts_steps_of_the_optimiser() -> None:
    _, callback = lightning_ramp.train(3, accumulate=2)
    assert callback.weights == [0, 0, 1 / 8, 1 / 8, 2 / 8, 2 / 8]


def test_lightning_program(capsys) -> None:
    runpy.run_path(str(FOLDER / "lightning_ramp.py"), run_name="__main__")
    assert "after it: [0.5, 0.625, 0.75, 0.875]" in capsys.readouterr().out


def test_hugging_face_evaluates_and_accumulates(tmp_path: Path) -> None:
    """An accumulated loss is a mean too: undivided, it would be twice as large."""
    whole = hugging_face.train(str(tmp_path), steps=1)
    accumulated = hugging_face.train(str(tmp_path), steps=1, batch_size=2, accumulate=2)
    losses = [trainer.state.log_history[0]["loss"] for trainer in (whole, accumulated)]
    assert losses[1] == pytest.approx(losses[0], rel=0.2)
    assert 0 < whole.evaluate(hugging_face.Cases())["eval_loss"] < 2 * losses[0]


def test_accelerate_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    criterion = CompoundLoss(OutlierRegionLoss("multiclass"))
    weights = hugging_face.train_plainly(criterion, str(tmp_path), steps=3)
    weights += hugging_face.train_plainly(criterion, str(tmp_path), steps=3, resume=True)
    assert weights == [step / 8 for step in range(6)]
    assert float(criterion.gamma) == 6 / 8


def test_two_processes_compute_what_one_does() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    program = ["--nproc_per_node", "2", "-m", "examples.integrations.distributed"]
    done = subprocess.run([*command, *program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    same, uneven = (float(x) for x in re.findall(r": (\d\.\de[-+]\d+)$", done.stdout, re.M))
    assert same < 1e-6
    assert uneven > 1e-4
