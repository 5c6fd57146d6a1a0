"""The kernels against the float64 references and the definition: on a GPU, or interpreted.

TRITON_INTERPRET=1 runs them on CPU tensors; Triton reads it once, so they want their own process.
"""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F
from torch.utils import deterministic

from gliomaseg_layers import CompoundLoss, OutlierRegionLoss, WeightRamp
from gliomaseg_layers.functional import _weighted_loss as choice
from gliomaseg_layers.functional import outlier_region_loss
from gliomaseg_layers.functional._operator import fused_backward
from tests.support import references
from tests.support.cases import (
    F16,
    F32,
    F64,
    SMALL,
    as_read,
    case,
    check,
    check_infinite_logits,
    every_formulation,
    random,
)
from tests.support.references import array
from tests.support.tolerances import TOLERANCES

if not (torch.cuda.is_available() or choice.INTERPRETED):
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)

DEVICE = "cpu" if choice.INTERPRETED else "cuda"
MODES = [("binary", 1), ("multilabel", 2)]
every_mode = pytest.mark.parametrize(("mode", "channels"), MODES)
TRITON = as_read({"backend": "triton"})


@pytest.fixture(autouse=True)
def _nothing_is_read_that_nobody_wrote():
    """torch.empty then holds NaN, or the largest integer."""
    torch.use_deterministic_algorithms(True)
    assert deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def on_device(settings):
    given = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in settings.items()}
    return {**given, **TRITON}


def fused(x, target, **settings):
    return outlier_region_loss(x.to(DEVICE), target.to(DEVICE), **on_device(settings)).cpu()


def fused_compound(x, target, mask=None, **settings):
    loss = CompoundLoss(**settings, **TRITON).to(DEVICE)
    return loss(
        x.to(DEVICE), target.to(DEVICE), mask=None if mask is None else mask.to(DEVICE)
    ).cpu()


def check_loss(x, target, **settings):
    return check(fused, references.outlier_region_loss, x, target, **settings)


def floats(*args, batch=1, **settings):
    x, target = case(*args, batch=batch, **settings)
    return x.float(), target


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@every_formulation
@every_mode
def test_matches_reference(mode, channels, formulation, reduction):
    settings = {"mode": mode, "formulation": formulation, "reduction": reduction, **SMALL}
    x, target = floats((9, 11), mode, channels, batch=2)
    loss, _ = check_loss(x, target, **settings)
    assert loss.shape == (x.shape if reduction == "none" else ())


def scattered(tensor, seed):
    """Return an equal tensor whose every axis has a stride of its own, between other numbers."""
    n, c, h, w = tensor.shape
    memory = (50 * random((w + 1, n + 2, h + 3, 2 * c + 5), seed) - 25).to(tensor.dtype)
    view = memory.permute(1, 3, 2, 0)[1 : n + 1, 3 : 2 * c + 3 : 2, 2 : h + 2, 1:]
    return view.copy_(tensor)


def check_everything(formulation, **settings):
    x, target = floats((4, 6), "multilabel", 2, batch=2)
    settings |= {"mode": "multilabel", "formulation": formulation}
    settings |= {"inner": (1, 3), "outer": (5, 3), "levels": (0.3, 0.5, 0.6)}
    settings |= {"pos_weight": torch.tensor([0.5, 3.0]), "class_weights": torch.tensor([2.0, 0.7])}
    if "ignore_index" in settings:
        target = target.masked_fill(random(target.shape) > 0.85, settings["ignore_index"])
    for reduction in ("none", "mean"):
        check_loss(scattered(x, 4), scattered(target, 5), reduction=reduction, **settings)


@every_formulation
def test_everything_but_a_mask(formulation):
    check_everything(formulation)


@every_formulation
def test_everything_at_once(formulation):
    mask = scattered(random((2, 2, 4, 6), 2) > 0.2, 3)
    check_everything(formulation, mask=mask, ignore_index=7)


@every_formulation
@pytest.mark.parametrize(
    ("spatial", "settings"),
    [
        ((1, 1), {}),
        ((1, 40), {}),
        ((3, 300), SMALL),  # two tiles of columns
        ((67, 5), SMALL),  # three tiles of rows
        ((5, 70), {"inner": 7, "outer": 63}),
        ((9, 12), {"inner": (3, 1), "outer": (5, 33), "smooth": 0.1, "threshold": 4.5}),
    ],
)
def test_shapes_and_windows(formulation, spatial, settings):
    x, target = floats(spatial, "binary", 1)
    check_loss(x, target, formulation=formulation, reduction="none", **settings)


@every_formulation
def test_several_tiles_of_both(formulation):
    x, target = floats((33, 257), "binary", 1)
    check_loss(x, target, formulation=formulation, inner=1, outer=3)


@every_formulation
def test_several_tiles_of_columns(formulation):
    x, target = floats((6, 257), "binary", 1, batch=2)
    check_loss(x, target, formulation=formulation, inner=5, outer=7)


@every_formulation
def test_several_tiles_of_rows(formulation):
    x, target = floats((66, 2), "binary", 1)
    check_loss(x, target, formulation=formulation, inner=1, outer=3)


def test_rows_of_many_words():
    x, target = floats((1, 2145), "binary", 1, batch=2)
    check_loss(x, target, formulation="suppress", inner=(1, 5), outer=(1, 63))


@every_formulation
def test_windows_as_wide_as_words(formulation):
    dots = (random((1, 1, 1, 100)) < 0.1).float()
    x = torch.cat([8 * dots - 4, 4 - 8 * dots])
    for width in (31, 33, 63):
        settings = {"inner": (1, 5), "outer": (1, width), "reduction": "none"}
        check_loss(x, torch.cat([dots, dots]), formulation=formulation, **settings)


@every_formulation
def test_islands_near_one_half_and_full_windows(formulation):
    x = torch.full((4, 1, 7, 9), -40.0)
    x[:3, 0, 3, 4] = torch.tensor([0.5, 0.0, -0.5])
    x[3] = 40.0
    check_loss(x, (x > 9).float(), formulation=formulation, reduction="none", **SMALL)


def test_a_count_that_equals_the_threshold():
    x = torch.zeros(1, 1, 7, 7)  # probabilities of a half: a gap of 40 pixels holds 20
    loss, _ = check_loss(x, x, formulation="paper", threshold=19.5, reduction="none", **SMALL)
    assert loss[0, 0, 3, 3] < math.log(2)  # kept


def test_cross_entropy_is_exact():
    """But for its last digits, which a comparison of whole losses would not see."""
    x = torch.linspace(-4, 4, 256).view(1, 1, 1, 256).requires_grad_()
    settings = {"formulation": "suppress", "strength": 0.0, "reduction": "none"}
    loss = fused(x, torch.ones_like(x), **settings)
    (grad,) = torch.autograd.grad(loss.sum(), x)
    wide = x.detach().double()
    close = 4e-7 if choice.INTERPRETED else 1e-6  # a GPU's exponentials are less exact
    torch.testing.assert_close(loss.double(), F.softplus(-wide), rtol=close, atol=0)
    torch.testing.assert_close(grad.double(), -torch.sigmoid(-wide), rtol=close, atol=1e-7)


@every_formulation
def test_addresses_beyond_32_bits(formulation):
    torch.use_deterministic_algorithms(False)  # or all of this memory is written
    memory = torch.empty(2**31 + 8, dtype=F16, device=DEVICE)
    far = memory.as_strided((1, 1, 1, 3), (1, 1, 1, 2**30))
    far.copy_(torch.tensor([1.0, -2.0, 3.0]))
    check_loss(far, torch.zeros(1, 1, 1, 3), formulation=formulation, **SMALL)


@every_formulation
def test_levels_strength_and_share(formulation):
    x, target = floats((5, 7), "multilabel", 2, sharpness=0.5)
    settings = {"mode": "multilabel", "formulation": formulation, **SMALL}
    check_loss(x, target, levels=(0.05, 0.3, 0.5, 0.9, 0.95), strength=2.5, **settings)
    check_loss(x, target, levels=(0.2,), share=3.0, reduction="none", **settings)


@pytest.mark.parametrize("dtype", [torch.bfloat16, F16])
@pytest.mark.parametrize(
    "target_dtype", [torch.bool, torch.uint8, torch.int64, F32, F16, F64], ids=str
)
@pytest.mark.parametrize("formulation", ["balanced", "paper"])
def test_dtypes_are_read_as_they_are(formulation, dtype, target_dtype):
    x, target = floats((7, 9), "binary", 1)
    check_loss(x.to(dtype), target.to(target_dtype), formulation=formulation, **SMALL)


@pytest.mark.parametrize("layout", ["channels_last", "strided", "transposed", "expanded"])
@pytest.mark.parametrize("formulation", ["suppress", "paper"])
def test_memory_layout_does_not_matter(formulation, layout):
    def change(x):
        return {
            "channels_last": x.to(memory_format=torch.channels_last),
            "strided": x[..., 1::2, ::2],
            "transposed": x.transpose(-1, -2),
            "expanded": x[:1].expand(2, *x.shape[1:]),
        }[layout]

    x, target = (change(tensor) for tensor in floats((8, 10), "multilabel", 2, batch=2))
    settings = {"mode": "multilabel", "formulation": formulation, "reduction": "none", **SMALL}
    check_loss(x, target, **settings)


@pytest.mark.parametrize(
    ("mode", "channels", "reduction"), [("binary", 1, "none"), ("multilabel", 2, "mean")]
)
@every_formulation
def test_ignored_pixels(mode, channels, formulation, reduction):
    x, target = floats((4, 6), mode, channels, batch=2)
    target = target.masked_fill(random(target.shape) > 0.8, 255)
    settings = {"mode": mode, "formulation": formulation, "reduction": reduction, **SMALL}
    for outside in (
        {"ignore_index": 255, "mask": random((2, 4, 6), 2) > 0.2},
        {"ignore_index": 255},
    ):
        loss, grad = check_loss(x, target, **settings, **outside)
        out = ~np.broadcast_to(
            references.valid_pixels(x.shape, target, mode=mode, **outside), x.shape
        )
        again = check_loss(
            x.masked_fill(torch.from_numpy(out), torch.nan), target, **settings, **outside
        )
        assert torch.equal(again[0], loss)
        assert torch.equal(again[1], grad)
    nothing = {"mask": torch.zeros(2, 4, 6, dtype=torch.bool)}
    loss, grad = check_loss(x, target, **settings, **nothing)
    assert not loss.any()
    assert not grad.any()


@every_formulation
def test_a_mask_alone(formulation):
    x, target = floats((4, 5), "binary", 1, batch=2)
    mask = random((2, 4, 5)) > 0.2
    settings = {"formulation": formulation, "inner": 1, "outer": 3, "threshold": 1000.0}
    check_loss(x, target, mask=mask, **settings)


@pytest.mark.parametrize("common", [True, False])
@every_formulation
def test_weights_of_channels(formulation, common):
    x, target = floats((4, 6), "multilabel", 3)
    weights = 2.5 if common else torch.tensor([0.5, 1.0, 3.0])
    settings = {"mode": "multilabel", "formulation": formulation, **SMALL}
    check_loss(x, target, pos_weight=weights, class_weights=weights, **settings)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@every_formulation
@every_mode
def test_compound_loss(mode, channels, formulation, reduction):
    x, target = floats((2, 6), mode, channels, batch=3)
    settings = {"mode": mode, "formulation": formulation, "reduction": reduction, **SMALL}
    settings |= {"alpha": 0.3, "beta": 0.7, "gamma": 1.9, "dice_smooth": 0.5}
    check(fused_compound, references.compound_loss, x, target, **settings)
    one_pixel = torch.zeros(3, 1, 2, 6, dtype=torch.bool)
    one_pixel[1, 0, 1, 3] = True
    check(fused_compound, references.compound_loss, x, target, mask=one_pixel, **settings)
    settings |= {"ignore_index": 0, "mask": random((3, 1, 2, 6)) > 0.3}
    check(fused_compound, references.compound_loss, x, target, **settings)
    mask = settings.pop("mask")
    criterion = CompoundLoss(**settings, **TRITON).to(DEVICE)
    _, terms = criterion(
        x.to(DEVICE).requires_grad_(), target.to(DEVICE), True, mask=mask.to(DEVICE)
    )
    _, _, expected = references.compound_loss(x, target, mask=mask, **settings)
    for name, term in terms.items():
        assert not term.requires_grad
        np.testing.assert_allclose(array(term.cpu()), expected[name], **TOLERANCES[F32])


@every_formulation
def test_more_images_than_are_added_up_at_once(formulation):
    x, target = floats((1, 3), "multilabel", 2, batch=9)
    settings = {"mode": "multilabel", "formulation": formulation, "reduction": "sum", **SMALL}
    check(fused_compound, references.compound_loss, x, target, **settings)


@every_formulation
def test_a_graph_serves_twice(formulation):
    x, target = (t.to(DEVICE) for t in floats((5, 7), "binary", 1))
    x.requires_grad_()
    criterion = CompoundLoss(formulation=formulation, **SMALL, **TRITON).to(DEVICE)
    ramp = WeightRamp(criterion, "gamma", total_steps=4, start=0.5)
    loss = criterion(x, target)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    ramp.step()
    assert torch.equal(first, torch.autograd.grad(loss, x)[0])
    again = criterion(x, target)
    assert not torch.equal(again, loss)


@every_formulation
def test_second_derivatives_are_the_definitions(formulation):
    target = floats((5, 6), "binary", 1)[1]
    results = []
    for backend in ("triton", "eager"):
        x = (floats((5, 6), "binary", 1)[0] / 2).requires_grad_()
        settings = {"formulation": formulation, "inner": 3, "outer": 5, "backend": backend}
        loss = outlier_region_loss(x.to(DEVICE), target.to(DEVICE), **settings)
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.square().sum(), x)
        results.append((loss, slope, curvature))
    torch.testing.assert_close(*results, **TOLERANCES[F32])
    assert results[0][2].any()


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")
@every_formulation
def test_infinite_logits_propagate_as_in_torch(formulation):
    x, target = (t.to(DEVICE) for t in floats((7, 9), "binary", 1, batch=3))
    settings = {"formulation": formulation, "strength": 0.0, **SMALL, **TRITON}
    check_infinite_logits(x, target, **settings)
    huge = torch.where(x > 0, 1e30, -1e30).requires_grad_()
    loss = outlier_region_loss(huge, target, formulation=formulation, **SMALL, **TRITON)
    (grad,) = torch.autograd.grad(loss, huge)
    assert loss.isfinite()
    assert grad.isfinite().all()


@every_formulation
def test_equal_from_run_to_run_and_to_the_definition(formulation):
    x, target = (t.to(DEVICE) for t in floats((9, 11), "multilabel", 2))
    settings = {"mode": "multilabel", "formulation": formulation, **SMALL}
    runs = []
    for backend in ("triton", "triton", "eager"):
        leaf = x.clone().requires_grad_()
        loss = outlier_region_loss(leaf, target, backend=backend, **settings)
        runs.append((loss, *torch.autograd.grad(loss, leaf)))
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    torch.testing.assert_close(runs[0], runs[2], rtol=1e-5, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@every_formulation
def test_captured_by_compile(formulation, dynamic):
    criterion = CompoundLoss(formulation=formulation, ignore_index=255, **SMALL, **TRITON)
    criterion = criterion.to(DEVICE)
    torch._dynamo.reset()
    compiled = torch.compile(criterion, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for spatial in ((7, 9), (12, 5)):
        x, target = (t.to(DEVICE) for t in floats(spatial, "binary", 1))
        mask, results = (random((1, *spatial)) > 0.2).to(DEVICE), []
        for function in (compiled, criterion):
            leaf = x.clone().requires_grad_()
            loss = function(leaf, target, mask=mask)
            results.append((loss, *torch.autograd.grad(loss * 7, leaf)))
        torch.testing.assert_close(*results, rtol=0, atol=0)
    _, terms = compiled(leaf, target, return_terms=True)
    assert not any(term.requires_grad for term in terms.values())


def operator_arguments(formulation, masked, reduction):
    """Return what the operator takes, and what the definition takes for the same."""
    width = 33 if masked else 32  # columns fill words of 32 bits
    x, target = (t.to(DEVICE) for t in floats((3, width), "multilabel", 2))
    weights = [torch.tensor(w, device=DEVICE) for w in (0.5, 2.0, 1.5)]
    settings = dict(OutlierRegionLoss(mode="multilabel", formulation=formulation).term_arguments())
    settings |= SMALL | {"pos_weight": 2.0}
    mask = (random((1, 3, width)) > 0.2).to(DEVICE) if masked else None
    maps = choice.read_maps(x.requires_grad_(), target, mask, settings)
    dice_smooth = 1.0 if reduction == "mean" else None
    plan = choice.make_plan(2, settings, reduction, dice_smooth)
    given = weights if reduction == "mean" else [None] * 3
    weights = weights if reduction == "mean" else [1.0, 0.0, 1.0]
    defined = (x, target, mask, weights, dice_smooth, reduction, settings)
    return (*maps, *plan, *given), defined


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@every_formulation
def test_the_operator_is_the_definition(formulation, masked, reduction):
    given, defined = operator_arguments(formulation, masked, reduction)
    found, (expected, terms) = choice.fused_loss(*given), choice.definition(*defined)
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1][: len(terms)], terms)
    upstream = random(expected.shape).float().to(DEVICE)
    gradients = [torch.autograd.grad(loss, given[0], upstream) for loss in (found[0], expected)]
    torch.testing.assert_close(*gradients)
    with FakeTensorMode(allow_non_fake_inputs=True):
        faked = choice.fused_loss(*given)
        gradient = fused_backward(upstream, *faked[2:], *given[:-3])
    for fake, real in zip((*faked, gradient), (*found, given[0]), strict=True):
        assert isinstance(fake, FakeTensor)
        assert (fake.shape, fake.dtype, fake.device) == (real.shape, real.dtype, real.device)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(("reduction", "masked"), [("mean", True), ("none", False)])
@every_formulation
def test_the_operator_passes_opcheck(formulation, masked, reduction):
    torch.use_deterministic_algorithms(False)  # what it compares may hold memory nobody wrote
    given, _ = operator_arguments(formulation, masked, reduction)
    torch.library.opcheck(choice.fused_loss, given)


def test_an_exported_program_loads_without_triton(tmp_path):
    x, target = (t.to(DEVICE) for t in floats((7, 9), "binary", 1))
    program = torch.export.export(OutlierRegionLoss(**SMALL, **TRITON), (x, target))
    assert any("outlier_region_loss" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(
        program.module()(x, target), outlier_region_loss(x, target, **SMALL, **TRITON)
    )
    torch.export.save(program, tmp_path / "loss.pt2")
    script = (
        "import sys, torch, gliomaseg_layers; before = set(sys.modules); "
        f"torch.export.load({str(tmp_path / 'loss.pt2')!r}); "
        "print([n for n in sys.modules if n.startswith('gliomaseg_layers') and 'triton' in n])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


def test_cuda_graphs():
    if DEVICE == "cpu":
        return  # nothing to capture: the interpreter runs on the host
    x, target = (t.to(DEVICE) for t in floats((64, 64), "binary", 1))
    x.requires_grad_()
    graph = torch.cuda.CUDAGraph()
    for _ in range(3):
        torch.autograd.grad(outlier_region_loss(x, target), x)
    with torch.cuda.graph(graph):
        loss = outlier_region_loss(x, target)
        (grad,) = torch.autograd.grad(loss, x)
    with torch.no_grad():
        x.neg_()
    graph.replay()
    expected = outlier_region_loss(x, target)
    assert torch.equal(loss, expected)
    assert torch.equal(grad, torch.autograd.grad(expected, x)[0])
