"""The evidence: losses as their sources define them, sums by hand, readers, a run in small."""

import itertools
import operator
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.morphology import remove_small_objects
from torch.nn import functional as F

from benchmarks.evidence import methods, run, scoring, sets, training
from benchmarks.evidence.methods import Batch, Setting
from examples.lgg.standin import write_standin
from gliomaseg_layers import CompoundLoss, OutlierRegionLoss
from gliomaseg_layers.functional import dice_loss
from gliomaseg_layers.metrics import count_regions

pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy")  # MONAI's own use of it
Array = NDArray[Any]
SCENES = {"binary": (1, 2), "multiclass": (3, 2), "multiclass 3-D": (3, 3)}


def scene(name: str) -> tuple[torch.Tensor, Batch, Setting]:
    """Return logits of two images, the first of two regions, the second, without labels, empty."""
    channels, axes = SCENES[name]
    side = 24 if axes == 2 else 14
    labels = torch.zeros(2, *[side] * axes, dtype=torch.long)
    labels[0][(slice(2, 10),) * axes] = 1
    labels[0][(slice(11, 13),) * axes] = min(channels, 2)
    regions = torch.from_numpy(ndimage.label(labels[0] > 0)[0])
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, channels, *[side] * axes, generator=generator)
    setting = Setting(name.split()[0], 9, 9, 3, slice(1))
    return logits, Batch(labels, torch.stack([regions, 0 * regions])), setting


@pytest.mark.parametrize("where", SCENES)
@pytest.mark.parametrize("few", [False, True])
def test_every_method_prefers_the_truth(few: bool, where: str) -> None:
    logits, batch, setting = scene(where)
    classes = max(logits.shape[1], 2)
    perfect, wrong = (
        20 * F.one_hot((batch.labels + turn) % classes, classes).movedim(-1, 1) - 10.0
        for turn in (0, 1)
    )
    if classes == 2:
        perfect, wrong = perfect[:, 1:], wrong[:, 1:]
    for name, method in (methods.FEW_LABELS if few else methods.METHODS).items():
        if name == "blob loss" and classes > 2:
            continue
        loss = method(logits.requires_grad_(), batch, setting)
        (grad,) = torch.autograd.grad(loss, logits)
        assert loss.shape == (), name
        assert grad.isfinite().all(), name
        assert grad.any(), name
        assert method(perfect, batch, setting) < loss < method(wrong, batch, setting), name


def test_what_has_no_labels_is_not_judged_by_them() -> None:
    logits, batch, setting = scene("binary")
    others = Batch(*(torch.cat([values[:1], 1 + values[1:]]) for values in batch))
    for method in methods.FEW_LABELS.values():
        assert method(logits, batch, setting) == method(logits, others, setting)


def test_blob_loss_masks_the_other_regions_out() -> None:
    logits, batch, setting = scene("binary")
    logits = logits.double().requires_grad_()
    losses = []
    for number in (1, 2):
        one = batch.regions[:1, None] == number
        use = one | (batch.regions[:1, None] == 0)
        cost = F.binary_cross_entropy_with_logits(logits[:1][use], one[use].double())
        losses.append(cost + dice_loss(logits[:1], one, mask=use))
    base = methods.ce_dice(logits, batch, setting)
    expected = 2 * base + (losses[0] + losses[1]) / 2 / 2  # two regions, two images
    found = methods.blob(logits, batch, setting)
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(loss, logits, retain_graph=True) for loss in (found, expected)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("where", SCENES)
def test_top_k_and_our_loss_are_their_definitions(where: str) -> None:
    logits, batch, setting = scene(where)
    dice = dice_loss(logits, batch.labels, mode=setting.mode)
    costs = methods.cross_entropy(logits, batch.labels).flatten().sort(descending=True).values
    hardest = costs[: len(costs) // 10].mean()
    torch.testing.assert_close(methods.top_k(logits, batch, setting), hardest + dice)
    for share in (None, 0.1, 1.0):
        found = methods.ours(logits, batch, setting, share=share)
        times = 1 + methods.emphasis(logits, setting, share)
        torch.testing.assert_close(found, methods.ce_dice(logits, batch, setting, times=times))


@pytest.mark.parametrize("where", SCENES)
def test_the_main_methods_are_what_the_library_offers(where: str) -> None:
    logits, batch, setting = scene(where)
    found = OutlierRegionLoss(
        setting.mode, window=setting.window, max_noise_size=setting.max_noise_size
    )
    offered = (
        CompoundLoss(found, gamma=0),
        CompoundLoss(found),
        CompoundLoss(found, gamma=0, scnp=3),
    )
    for name, loss in zip(methods.MAIN, offered, strict=True):
        target = batch.labels if setting.mode == "multiclass" else batch.labels.unsqueeze(1)
        expected = methods.METHODS[name](logits, batch, setting)
        torch.testing.assert_close(loss(logits, target), expected)


def random_masks(seed: int, shape: tuple[int, ...], part: float) -> Array:
    """Return smooth random numbers of which so many are above 0, image by image."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    smooth = ndimage.gaussian_filter(noise, (0, *[1.2] * (len(shape) - 1)))
    return np.asarray(smooth - np.quantile(smooth, 1 - part))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("shape", [(6, 40, 36), (4, 14, 16, 15)])
def test_scores_are_those_of_single_images(shape: tuple[int, ...], classes: int) -> None:
    """The truth has no holes here, and an image is empty; class 2 lies beside class 1."""
    noise, axes = 6, len(shape) - 1
    masks = random_masks(0, shape, 0.2) > 0
    masks[0] = False
    half = np.arange(shape[-1]) < shape[-1] // 2
    labels = np.zeros(shape, np.uint8)
    for index, side in enumerate([half | ~half] if classes == 2 else [half, ~half], 1):
        for image, mask in zip(labels, masks & side, strict=True):
            image[ndimage.binary_fill_holes(mask)] = index
    confidence = random_masks(1, shape, 0.5) + random_masks(0, shape, 0.3)
    ranks = np.digitize(confidence, np.linspace(-0.4, 0.9, 13)).astype(np.uint8)
    best = (1 + (classes - 2) * (random_masks(2, shape, 0.5) > 0)).astype(np.uint8)
    groups = np.array(["b", "a", "b", "c", "a", "a"])[: shape[0]]

    ranks[-1] = 0
    found = scoring.score(ranks, best, labels, groups, noise)
    expected = np.zeros((3, 13, 2, len(scoring.MEASURES)))
    for number, place, way in np.ndindex(shape[0], 13, 2):
        sums: defaultdict[str, float] = defaultdict(float, images=1)
        for index in range(1, classes):
            truth = labels[number] == index
            mask = (ranks[number] > place) & (best[number] == index)
            if way:
                mask = remove_small_objects(mask, max_size=noise, connectivity=axes)
            counts = count_regions(mask, truth, connectivity=axes)
            for name in ("spurious", "holes", "missed"):
                sums[name] += getattr(counts, name)
            regions, count = ndimage.label(truth, np.ones([3] * axes))
            for region in (regions == one + 1 for one in range(count)):
                small = region.sum() <= 4 * noise
                sums["true"] += 1
                sums["true_small"] += small
                sums["missed_small"] += small and not mask[region].any()
            if truth.any():
                sums["dice_of"] += 1
                sums["dice"] += 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
            if truth.any() and scoring.THRESHOLDS[place] == 0.5:
                sums["hd95_of"] += 1
                if mask.any():
                    one, other = (torch.from_numpy(each)[None, None] for each in (mask, truth))
                    distance = compute_hausdorff_distance(one, other, True, percentile=95)
                    sums["hd95"] += distance.item()
                else:
                    sums["hd95"] += float(np.linalg.norm(shape[1:]))
        values = [sums[name] for name in scoring.MEASURES]
        expected["abc".index(groups[number]), place, way] += values
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert expected.any((0, 1, 2)).all()  # the scene has all of it


def test_a_hole_upon_a_true_one_is_true() -> None:
    """Of two holes one is; the class that no prediction has is missed."""
    labels = np.zeros((1, 12, 24), np.uint8)
    labels[0, 1:11, 1:11], labels[0, 4:7, 4:7] = 1, 0
    labels[0, 2:4, 20:22] = 2
    ranks = np.where(labels == 1, 13, 0).astype(np.uint8)
    ranks[0, 4, 4:6] = 13  # the true hole, but smaller
    ranks[0, 8, 8] = 0
    sums = scoring.score(ranks, np.ones_like(labels), labels, np.array(["a"]), 4)
    found = dict(zip(scoring.MEASURES, sums[0, scoring.HALF, 0], strict=True))
    assert (found["holes"], found["missed"], found["true"]) == (1, 1, 2)


@pytest.mark.parametrize("labelled", [None, 3])
def test_splits_share_no_group_and_test_each_once(labelled: int | None) -> None:
    groups = np.random.default_rng(0).choice([f"patient {number}" for number in range(30)], 200)
    tested: list[str] = []
    for fold in range(sets.FOLDS):
        parts = sets.split(groups, fold, labelled)
        training, kept, validation, test = (set(groups[part]) for part in parts)
        used = np.concatenate([parts.training, parts.validation, parts.test])
        assert sorted(used) == [*range(200)]
        assert len(training | validation | test) == len(training) + len(validation) + len(test)
        assert (len(validation), len(test)) == (2, 10)
        assert kept <= training
        assert len(kept) == (labelled or 18)
        assert set(parts.labelled) == {case for case in parts.training if groups[case] in kept}
        tested += test
    assert sorted(tested) == sorted(set(groups))


def write(path: Path, values: Array, mode: str | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).convert(mode).save(path)


def check(cases: sets.Cases, shape: tuple[int, ...], groups: list[str]) -> None:
    assert cases.images.dtype == cases.labels.dtype == np.uint8
    assert cases.images.shape == (len(groups), *shape)
    assert cases.labels.shape == (len(groups), *shape[1:])
    assert [*cases.groups] == groups


def test_lgg_is_read_from_several_folders(tmp_path: Path) -> None:
    write_standin(tmp_path / "kaggle_3m", patients=2, slices=3, size=128)
    cases = sets.read_lgg([tmp_path, tmp_path / "kaggle_3m"])
    homes = sorted(path for path in (tmp_path / "kaggle_3m").iterdir() if path.is_dir())
    check(cases, (3, 128, 128), [home.name for home in homes for _ in range(3)] * 2)
    for part in (slice(6), slice(6, 12)):
        for index, (home, number) in enumerate(itertools.product(homes, (1, 2, 3))):
            image, mask = (
                np.asarray(Image.open(home / f"{home.name}_{number}{end}.tif"))
                for end in ("", "_mask")
            )
            assert np.array_equal(cases.images[part][index], np.moveaxis(image, -1, 0))
            assert np.array_equal(cases.labels[part][index], mask > 0)
    assert cases.labels.any()


def test_busi_is_made_smaller_and_padded(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("case,class,group\nbenign_001,benign,g1\nb_2,benign,g2\n")
    image, mask = np.full((200, 256), 90, np.uint8), np.zeros((200, 256), np.uint8)
    mask[:, :100] = mask[10, 100] = 255  # a pixel is a quarter of one
    for name, turn in (("benign_001", np.asarray), ("b_2", np.transpose)):
        write(tmp_path / "images" / f"{name}.png", turn(image))
        write(tmp_path / "masks" / f"{name}.png", turn(mask), "1")
    cases = sets.read_busi([tmp_path])
    check(cases, (1, 128, 128), ["g1", "g2"])
    grey, lesion = np.zeros((2, 128, 128), np.uint8)
    grey[14:114], lesion[14:114, :50] = 90, 1
    assert np.array_equal(cases.images[:, 0], [grey, grey.T])
    assert np.array_equal(cases.labels, [lesion, lesion.T])


def test_acdc_is_cropped_and_padded_and_its_double_left_out(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    numbers = np.random.default_rng(0)
    image, label = numbers.integers((256, 4), size=(2, 140, 101, 2), dtype=np.uint8).T.swapaxes(
        1, 3
    )
    for name in ("patient001_frame01", "patient076_frame01", "patient100_frame12"):
        np.savez(tmp_path / "half" / f"{name}.npz", image=image, label=label)
    cases = sets.read_acdc([tmp_path])
    check(cases, (1, 128, 128), ["patient001"] * 2 + ["patient100"] * 2)
    for found, values in ((cases.images[:, 0], image), (cases.labels, label)):
        assert np.array_equal(found[2:, :, 13:114], values[:, 6:134])
        assert not found[:, :, :13].any()
        assert not found[:, :, 114:].any()


def test_hippocampus_is_read_as_volumes_and_as_slices(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    label = np.zeros((36, 50, 30))
    label[10:20, 10:30, 5:9], label[10:20, 30:40, 5:9] = 1, 2
    image = 1 + label + 0.1 * numbers.random(label.shape)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for number, scale, kind in ((3, 1.0, np.float32), (4, 50_000.0, np.uint8), (6, 9.0, np.uint8)):
        for name, values in (("images", np.float32(scale * image)), ("labels", label.astype(kind))):
            path = tmp_path / name / f"hippocampus_{number:03}.nii.gz"
            nib.save(nib.Nifti1Image(values, np.eye(4)), path)  # type: ignore[no-untyped-call]
    volumes = sets.read_hippocampus([tmp_path])
    check(volumes, (1, 48, 64, 48), ["2", "2", "3"])
    there = np.s_[:, 6:42, 7:57, 9:39]
    assert np.array_equal(volumes.labels[there], [label] * 3)
    assert volumes.labels.sum() == 3 * label.sum()
    assert abs(volumes.images[:, 0][there] - 255 / image.max() * image).max() < 2
    assert np.array_equal(volumes.images[0], volumes.images[1])
    slices = sets.read_hippocampus_slices([tmp_path])
    check(slices, (1, 48, 64), ["2"] * 60 + ["3"] * 30)
    assert np.array_equal(slices.images[35, 0], volumes.images[1, 0, ..., 14])
    assert np.array_equal(slices.labels[35], volumes.labels[1, ..., 14])


def test_nuclei_are_cut_into_tiles(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("case,h,mosaic_group\none,256,m\ntwo,256,m\n")
    numbers = np.random.default_rng(0)
    image = numbers.integers(256, size=(256, 320), dtype=np.uint8)
    label = (1000 * numbers.integers(3, size=image.shape)).astype(np.uint16)
    for name, mode in (("one", "L"), ("two", "RGB")):
        write(tmp_path / "images" / f"{name}.png", image, mode)
        write(tmp_path / "labels" / f"{name}.png", label)
    cases = sets.read_nuclei([tmp_path])
    check(cases, (1, 128, 128), ["m"] * 8)
    for found, values in ((cases.images[:, 0], image), (cases.labels, label > 0)):
        tiles = values[:256, :256].reshape(2, 128, 2, 128).swapaxes(1, 2).reshape(4, 128, 128)
        assert np.array_equal(found, [*tiles, *tiles])


def ramps(axes: int) -> training.Stream:
    """Return a stream of cases whose labels are their images, and rise along every axis."""
    sides = (24, 20, 18)[:axes]
    steps = (5, 3, 2)[:axes]
    values = sum(step * grid for step, grid in zip(steps, np.indices(sides), strict=True))
    inside = torch.from_numpy(np.pad(np.ones([side - 2 for side in sides]), 1))
    images = torch.from_numpy(np.stack([values, values[::-1]]).astype(np.uint8))
    return training.Stream(images[:, None], images, torch.stack([inside, inside]))


def batches(
    stream: training.Stream, seed: int, flips: tuple[int, ...]
) -> list[tuple[torch.Tensor, ...]]:
    stream.start([np.array([0, 1])], [3], 4, flips, seed)
    found: list[tuple[torch.Tensor, ...]] = []
    for step in range(4):
        stream.fill(step)
        labels, inside = (values.clone() for values in stream.batch)
        found.append((stream.images.clone(), labels, inside, stream.gains[step]))
    return found


@pytest.mark.parametrize("axes", [2, 3])
def test_images_and_labels_are_turned_alike(axes: int) -> None:
    stream = ramps(axes)
    first, again, other = (batches(stream, seed, (0, 1)) for seed in (1, 1, 2))
    for one, two, three in zip(first, again, other, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, two, strict=True))
        assert not torch.equal(one[0], three[0])
    places = [stream.images, *stream.batch]
    stream.fill(0)  # into the same memory
    assert all(map(operator.is_, places, [stream.images, *stream.batch]))
    for images, labels, inside, gains in first:
        grey = 255 * images[:, 0] / gains.view(-1, *[1] * axes)
        far = (grey - labels).abs()[inside > 0].max()
        assert 1 < far <= 0.5 * sum((5, 3, 2)[:axes]) + 0.01  # the nearest pixel's label


@pytest.mark.parametrize(("axes", "flips"), [(2, ()), (2, (0,)), (2, (1,)), (3, (0, 2)), (3, (1,))])
def test_flips_are_along_allowed_axes_alone(
    axes: int, flips: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TURN", "SCALE", "GAIN"):
        monkeypatch.setattr(training, name, 0.0)
    stream = ramps(axes)
    cases = stream.data[1]
    mirrors = {
        chosen: torch.stack([case.flip(chosen) if chosen else case for case in cases])
        for count in range(len(flips) + 1)
        for chosen in itertools.combinations(flips, count)
    }
    seen = set()
    for step, (images, labels, *_) in enumerate(batches(stream, 0, flips)):
        for image, label, case in zip(images[:, 0], labels, stream.drawn[step], strict=True):
            same = [chosen for chosen in mirrors if torch.equal(mirrors[chosen][case], label)]
            assert len(same) == 1
            seen.add(same[0])
            torch.testing.assert_close(255 * image, label.float(), atol=1e-3, rtol=0)
    assert seen == set(mirrors)


def test_members_train_side_by_side_as_alone_and_restart() -> None:
    """Started again alone, a member ends where it did, so its moments were forgotten."""
    images, labels = map(torch.from_numpy, read_tiny([])[:2])
    stream = training.Stream(images, labels, labels)
    setting = Setting("binary", 9, 9, 1, slice(None))
    members = [training.Member(stream, 2, 1, 2) for _ in range(2)]
    start = members[0].state()
    for member, name in zip(members, (methods.BASELINE, "SCNP"), strict=True):
        member.restart(start)
        member.loss = training.bind(methods.METHODS[name], setting)
    stream.start([np.arange(24)], [4], 3, (0, 1), 0)
    both = training.Together(members)
    rates = [float(both.rate) for _ in both.train(3, falling=True)]
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.25e-3])
    ends = [member.state() for member in members]
    assert not all(torch.equal(ends[0][name], ends[1][name]) for name in start)
    for member, end in zip(members, ends, strict=True):
        assert not all(torch.equal(start[name], end[name]) for name in start)
        member.restart(start)
        for _ in training.Together([member]).train(3, falling=True):
            pass
        state = member.state()
        assert all(torch.equal(state[name], end[name]) for name in start)


@pytest.mark.parametrize("channels", [1, 4])
def test_predictions_are_foreground_and_its_class(channels: int) -> None:
    images = torch.randint(256, (5, channels, 6, 7), dtype=torch.uint8)
    foreground, best = training.predict(torch.nn.Identity(), images, size=2)
    logits = images / 255 if channels > 1 else torch.cat([0 * images, images], 1) / 255
    probabilities = logits.softmax(1)
    torch.testing.assert_close(foreground, probabilities[:, 1:].sum(1))
    assert torch.equal(best.long(), 1 + logits[:, 1:].argmax(1))


def read_tiny(folders: Any) -> sets.Cases:
    """Return bright squares of 2 x 2 and more upon noise, two cases a group."""
    numbers = np.random.default_rng(0)
    labels = np.zeros((24, 32, 32), np.uint8)
    for image in labels:
        for row, column in numbers.integers(2, 24, (2, 2)):
            image[row : row + column // 3, column : column + 6] = 1
    images = 100 * labels + numbers.integers(100, size=labels.shape, dtype=np.uint8)
    return sets.Cases(images[:, None], labels, np.repeat([f"{n:02}" for n in range(12)], 2))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put sets of tiny cases in place, and few steps."""
    for name, labelled in (("tiny", None), ("tiny-few", 3)):
        found = sets.DataSet(read_tiny, 9, 4, batch=4, labelled=labelled, warm_steps=4)
        monkeypatch.setitem(sets.SETS, name, found)
    monkeypatch.setattr(run, "RUNS", tmp_path)
    for name, steps in (("LOOK_EVERY", 2), ("METHOD_STEPS", 2)):
        monkeypatch.setattr(run, name, steps)
    return tmp_path


def test_a_run_in_small_repeats_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (methods.BASELINE, "SCNP", "top 10 %")
    options = ["--set", "tiny", "--jobs", "2", "--side-by-side", "2", "--methods", *names]
    monkeypatch.setattr(sys, "argv", ["run", *options])
    run.main()
    homes = [tiny / "tiny" / str(job) for job in run.JOBS[:2]]
    results = [
        home / f"{name}{end}" for home in homes for name in names for end in (".npz", ".npy")
    ]
    starts = [home.with_name(f"{home.name}.pt") for home in homes]
    wanted = {*results, *starts, *homes, tiny / "tiny", tiny / "cases", tiny / "cases" / "tiny.npz"}
    assert set(tiny.rglob("*")) == wanted
    saved = torch.load(starts[0])
    assert saved["dice"] == pytest.approx(max(saved["curve"]), abs=1e-4)
    assert saved["step"] == 2 + 2 * int(np.argmax(saved["curve"]))
    cases = sets.read_set("tiny", [], tiny / "cases")
    for home, job in zip(homes, run.JOBS, strict=False):
        test = sets.split(cases.groups, job.fold, None).test
        with np.load(home / "SCNP.npz") as predicted:
            maps = predicted["ranks"], predicted["best"]
        sums = scoring.score(*maps, cases.labels[test], cases.groups[test], 4)
        np.testing.assert_allclose(np.load(home / "SCNP.npy"), sums, rtol=1e-6)

    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (*results, *starts)}
    results[2].unlink()
    results[3].unlink()
    results[5].unlink()
    # To start a process takes longer than all the rest.
    monkeypatch.setattr(run, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    run.main()
    for path, (when, what) in before.items():
        assert path.read_bytes() == what  # SCNP alone trains as it did beside another
        assert (path.stat().st_mtime_ns == when) == (path not in (*results[2:4], results[5]))


def test_regions_are_numbered_and_half_of_a_batch_has_labels(tiny: Path) -> None:
    cases = sets.read_set("tiny-few", [], tiny)
    evidence = run.Evidence("tiny-few", cases, run.JOBS, [], 2)
    counts = []
    for number, mask in enumerate(cases.labels):
        regions, count = ndimage.label(mask, np.ones((3, 3)))
        assert np.array_equal(evidence.data[2][number], regions)
        counts.append(count)
    assert evidence.setting.most_regions == max(counts) == 2
    assert evidence.setting.labelled == slice(2)
    assert evidence.wanted == methods.FEW_LABELS
    parts = evidence.split(run.JOBS[0])
    evidence.start(evidence.stream, run.JOBS[0], 40, 0)
    drawn = evidence.stream.drawn
    assert set(drawn[:, :2].flatten().tolist()) == set(parts.labelled)
    assert set(drawn[:, 2:].flatten().tolist()) == set(parts.training)
