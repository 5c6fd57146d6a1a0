"""The losses where the kernels weigh: on a GPU, or rehearsed on the CPU with what needs no GPU.

What only a GPU can show is skipped elsewhere, and says so.
"""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from gliomaseg_layers import CompoundLoss, OutlierRegionLoss
from gliomaseg_layers.functional import outlier_weight, outlier_weight_backend
from gliomaseg_layers.functional._scores import Scores
from gliomaseg_layers.functional.outlier_weight import counted_weight
from tests.support import references
from tests.support.cases import (
    F32,
    HALVES,
    SMALL,
    case,
    check,
    every_formula,
    every_mode,
    random,
    scene,
)
from tests.support.references import array
from tests.support.steps import same, step
from tests.support.tolerances import TOLERANCES

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not (torch.cuda.is_available() or INTERPRETED):
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)

from gliomaseg_layers.functional import outlier_weight_triton  # noqa: E402 - it wants Triton

DEVICE = "cpu" if INTERPRETED else "cuda"
needs_gpu = pytest.mark.skipif(INTERPRETED, reason="needs a GPU")
LEVELS = (0.1, 0.3, 0.5)


def given(spatial, mode="binary", channels=1, dtype=F32, **settings):
    x, target = case(spatial, mode, channels, **settings)
    return x.to(DEVICE, dtype), target.to(DEVICE)


def twin_is_the_definition(x, valid=None, window=(21, 21), most=49, levels=LEVELS):
    found = outlier_weight_triton.launch(x, valid, window, most, levels)
    scores = Scores(x, "multilabel", True, valid)
    assert torch.equal(found, counted_weight(scores, window, most, levels))
    return found


@pytest.mark.parametrize("window", [21, 63])
def test_large_images(window):
    """And the reference at a corner, where the rest of the image is out of sight."""
    side, corner = (96, 24) if INTERPRETED else (4096, 64)
    x = torch.randn(1, 1, side // 8, side // 8, generator=torch.Generator().manual_seed(0))
    x = torch.nn.functional.interpolate(6 * x - 4, size=(side, side), mode="bilinear").to(DEVICE)
    most = (window // 3) ** 2
    found = twin_is_the_definition(x, window=(window, window), most=most)
    seen = corner + window // 2
    settings = {"window": window, "max_noise_size": most, "levels": LEVELS, "from_logits": True}
    expected = references.outlier_weight(x[..., -seen:, -seen:], mode="binary", **settings)
    ours, theirs = array(found)[..., -corner:, -corner:], expected[..., -corner:, -corner:]
    np.testing.assert_allclose(ours, theirs, **TOLERANCES[F32])
    assert found.any()


@pytest.mark.parametrize("seed", range(3 if INTERPRETED else 30))
def test_drawn_settings(seed):
    """Shapes, strides, masks, dtypes, windows, sizes and levels that nobody chose."""
    rng = np.random.default_rng(seed)
    most = 48 if INTERPRETED else 400
    n, c = (int(size) for size in rng.integers(1, 4, 2))
    h, w = (int(size) for size in rng.integers(1, most, 2))
    window = tuple(int(radius) * 2 + 1 for radius in rng.integers(0, 32, 2))
    levels = rng.uniform(0.01, 0.99, rng.integers(1, 9)).tolist()
    x = torch.from_numpy(rng.normal(-1, 3, (n, c, h, w))).to(DEVICE, [F32, *HALVES][seed % 3])
    if seed % 2:
        x = x.to(memory_format=torch.channels_last)
    valid = random((n, 1, h, w), seed) > 0.2 if seed % 4 < 2 else None
    valid = valid if valid is None else valid.to(DEVICE)
    size = int(rng.integers(0, np.prod(window) // 2 + 1))
    twin_is_the_definition(x, valid, window, size, levels)


@needs_gpu
def test_maps_beyond_2_to_the_31_bytes():
    x = torch.randn(33, 1, 512, 512, device=DEVICE).repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert x.nbytes > 2**31
    found = outlier_weight_triton.launch(x, None, (21, 21), 49, LEVELS)
    for image in (0, 16, 32):
        part = x[image : image + 1]
        assert torch.equal(found[image : image + 1], twin_is_the_definition(part))


@every_formula
@every_mode
@pytest.mark.parametrize("spatial", [(19, 23), (5, 9, 7)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("dtype", [F32, *HALVES], ids=str)
def test_losses_and_gradients_match_the_reference(dtype, spatial, mode, channels, formula):
    x, target = given(spatial, mode, channels, dtype)
    mask = (random((2, *spatial)) > 0.1).to(DEVICE)
    settings = {"mode": mode, "reduction": "none", **formula.small}
    check(formula.function, formula.reference, x, target, **settings)
    check(formula.function, formula.reference, x, target, mask=mask, **settings)


LOSSES = [
    OutlierRegionLoss(**SMALL),
    *(CompoundLoss(OutlierRegionLoss("multiclass", **SMALL), scnp=size) for size in (None, 3)),
]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=["outlier", "compound", "compound, scnp"])


def sized(loss, batch, spatial):
    channels = 3 if isinstance(loss, CompoundLoss) else 1
    return given(spatial, "multiclass" if channels > 1 else "binary", channels, batch=batch)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@each_loss
def test_compiled(loss, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(loss.to(DEVICE), fullgraph=True, dynamic=dynamic)
    for batch, spatial in ((2, (17, 19)), (3, (24, 33))):
        x, target = sized(loss, batch, spatial)
        for found, expected in zip(step(compiled, x, target), step(loss, x, target), strict=True):
            torch.testing.assert_close(found, expected, **TOLERANCES[F32])


@each_loss
def test_exported(loss):
    x, target = sized(loss, 2, (17, 19))
    program = torch.export.export(loss.to(DEVICE), (x, target))
    torch.testing.assert_close(program.module()(x, target), loss(x, target))


@each_loss
def test_equal_from_run_to_run(loss):
    x, target = sized(loss, 2, (65, 67))
    assert same(step(loss.to(DEVICE), x, target), step(loss, x, target))


@needs_gpu
@each_loss
def test_a_training_step_as_a_graph(loss):
    loss = loss.to(DEVICE)
    x, target = sized(loss, 2, (64, 64))
    leaf, side = x.clone().requires_grad_(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            torch.autograd.grad(loss(leaf, target), leaf)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = loss(leaf, target)
        (grad,) = torch.autograd.grad(value, leaf)
    for seed in (1, 2):
        x = leaf.detach().roll(seed, -1) * 0.9
        leaf.data.copy_(x)
        graph.replay()
        for found, expected in zip([value.detach(), grad], step(loss, x, target), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@needs_gpu
def test_two_streams_at_once():
    loss, streams = OutlierRegionLoss().to(DEVICE), [torch.cuda.Stream() for _ in range(2)]
    inputs = [given((256, 256), batch=8, seed=seed) for seed in range(2)]
    expected = [step(loss, *pair) for pair in inputs]
    torch.cuda.synchronize()
    for _ in range(20):
        found = []
        for stream, pair in zip(streams, inputs, strict=True):
            with torch.cuda.stream(stream):
                found.append(step(loss, *pair))
        torch.cuda.synchronize()
        assert all(map(same, found, expected))


@needs_gpu
def test_out_of_memory_breaks_nothing():
    loss, pair = OutlierRegionLoss().to(DEVICE), given((64, 64))
    expected = step(loss, *pair)
    x = torch.zeros(16, 1, 2048, 2048, device=DEVICE)
    torch.cuda.empty_cache()
    most = torch.cuda.memory_reserved() + x.nbytes // 2
    torch.cuda.set_per_process_memory_fraction(most / torch.cuda.mem_get_info()[1])
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            step(loss, x, x)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    del x
    assert same(step(loss, *pair), expected)
    assert outlier_weight_backend(pair[0], from_logits=True) == "triton"


@needs_gpu
@pytest.mark.skipif(not shutil.which("compute-sanitizer"), reason="needs compute-sanitizer")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_the_sanitizer_finds_nothing(tool):
    """On a small case, with a mask and a width that no tile divides."""
    script = (
        "import torch; from gliomaseg_layers.functional import outlier_weight; "
        "x = torch.randn(2, 1, 70, 301, device='cuda'); valid = torch.rand_like(x) > 0.2; "
        "outlier_weight(x, from_logits=True, valid=valid); torch.cuda.synchronize()"
    )
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable]
    run = subprocess.run([*command, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]


def test_the_library_takes_the_twin():
    x = scene((2, 1, 33, 47), "binary")[0].to(DEVICE, F32)
    chosen = outlier_weight_backend(x, from_logits=True)
    assert chosen == ("torch: Triton does not serve the device cpu" if INTERPRETED else "triton")
    assert torch.equal(outlier_weight(x, from_logits=True), twin_is_the_definition(x))
