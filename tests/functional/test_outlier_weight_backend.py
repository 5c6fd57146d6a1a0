"""What the weight is computed with, and the operator. Fake tensors may lie on a GPU not there."""

import importlib
import inspect
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gliomaseg_layers import CompoundLoss, OutlierRegionLoss
from gliomaseg_layers.functional import (
    outlier_region_loss,
    outlier_weight,
    outlier_weight_backend,
)
from tests.support.cases import BF16, F16, F32, F64, MODES, SMALL, case, random

choice = importlib.import_module("gliomaseg_layers.functional.outlier_weight")
operator = torch.ops.gliomaseg_layers.outlier_weight.default
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LEVELS = (0.1, 0.3, 0.5)
needs_cuda_build = pytest.mark.skipif(
    not torch.backends.cuda.is_built() or torch.__version__ < "2.8",
    reason="torch computes on no GPU, not even on fake tensors",
)


@pytest.fixture
def launched(monkeypatch):
    """Return what the operator is given from now on, on machines that have all it needs."""
    calls, call = [], choice.weight_operator
    monkeypatch.setattr(choice, "weight_operator", lambda *args: calls.append(args) or call(*args))
    monkeypatch.setattr(choice, "NO_TRITON", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    return calls


def on_gpu(function, shape=(2, 3, 5, 70), dtype=F16, **settings):
    settings = {"mode": "multilabel", "from_logits": True, **settings}
    with FakeTensorMode():
        return function(torch.empty(shape, dtype=dtype, device="cuda"), **settings)


def loss_on_gpu(**settings):
    return on_gpu(lambda x, **more: outlier_region_loss(x, x > 0, **more), **settings)


@needs_cuda_build
@pytest.mark.parametrize("masked", [False, True])
def test_the_operator_is_called_once_for_a_loss(masked, launched):
    with FakeTensorMode():
        x = torch.empty(2, 3, 5, 70, dtype=F16, device="cuda", requires_grad=True)
        mask = torch.empty(2, 5, 70, dtype=torch.bool, device="cuda") if masked else None
        loss = OutlierRegionLoss(mode="multilabel")(x, x > 0, mask)
    assert len(launched) == 1
    assert (loss.shape, loss.dtype, loss.device.type) == ((), F32, "cuda")
    given, valid, mode, from_logits, *rest = launched[0]
    assert (mode, from_logits) == ("multilabel", True)
    assert (given.shape, given.dtype, given.requires_grad) == (x.shape, F16, False)
    assert valid is None if mask is None else valid.shape == (2, 1, 5, 70)
    assert rest == [(21, 21), 49, LEVELS]


@needs_cuda_build
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dtype": F32},
        {"dtype": BF16},
        {"shape": (1, 1, 1, 1), "mode": "binary"},
        {"window": 63},
        {"window": (1, 63), "levels": [0.5] * 8},
        {"levels": [0.5]},
    ],
    ids=str,
)
def test_where_the_kernels_serve(settings, launched):
    assert on_gpu(outlier_weight_backend, **settings) == "triton"
    weight = on_gpu(outlier_weight, **settings)
    assert (weight.dtype, weight.device.type) == (F32, "cuda")
    assert len(launched) == 1


@needs_cuda_build
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"mode": "multiclass"}, "the kernels serve binary and multilabel mode, not multiclass"),
        ({"from_logits": False}, "the kernels read logits, not probabilities"),
        ({"shape": (1, 1, 3, 4, 5)}, "the kernels read images of 2 axes, not of 3"),
        ({"dtype": F64}, "the kernels read fp32, bf16 and fp16, not torch.float64"),
        ({"shape": (0, 3, 5, 7)}, "there is no pixel to look at"),
        (
            {"window": (7, 65)},
            "the kernels count in windows of at most 63 pixels, not (7, 65)",
        ),
        ({"levels": [0.5] * 9}, "the kernels serve at most 8 levels, not 9"),
    ],
)
def test_what_the_kernels_do_not_serve(settings, reason, launched):
    assert on_gpu(outlier_weight_backend, **settings) == f"torch: {reason}"
    on_gpu(outlier_weight, **settings)
    assert not launched


@needs_cuda_build
@pytest.mark.parametrize(
    ("owner", "name", "value", "reason"),
    [
        (choice, "NO_TRITON", "Triton is not installed", "Triton is not installed"),
        (
            torch.cuda,
            "get_device_capability",
            lambda device: (7, 5),
            "Triton needs a GPU of compute capability 8.0 or later, not 7.5",
        ),
    ],
)
def test_where_the_kernels_cannot_run(owner, name, value, reason, launched, monkeypatch):
    monkeypatch.setattr(owner, name, value)
    assert on_gpu(outlier_weight_backend) == f"torch: {reason}"
    assert loss_on_gpu(reduction="none").shape == (2, 3, 5, 70)
    assert not launched


@needs_cuda_build
def test_a_size_that_is_a_tensor_takes_the_definition(launched):
    with FakeTensorMode():
        x = torch.empty(1, 1, 5, 7, device="cuda")
        scores = choice.read_scores(x, "binary", True, None)
        choice.outlier_weight_of(scores, 3, torch.zeros((), dtype=torch.int64), LEVELS)
    assert not launched


@needs_cuda_build
def test_amds_capabilities_are_not_nvidias(launched, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    loss_on_gpu()
    assert len(launched) == 1


def test_a_cpu_takes_the_definition(launched):
    x = case((9, 11), "binary", 1)[0]
    reason = "torch: Triton does not serve the device cpu"
    assert outlier_weight_backend(x, from_logits=True) == reason
    outlier_weight(x, from_logits=True)
    assert not launched


@pytest.mark.parametrize(
    "function",
    [outlier_weight, outlier_weight_backend, outlier_region_loss, CompoundLoss],
)
def test_nobody_is_asked_what_to_compute_with(function):
    assert "backend" not in inspect.signature(function).parameters


@needs_cuda_build
def test_torch_func_transforms_the_definition(launched):
    with FakeTensorMode():
        x = torch.empty(3, 1, 9, 11, device="cuda")
        torch.func.vmap(lambda x: outlier_weight(x[None], from_logits=True))(x)
    assert not launched


def given(masked, levels=LEVELS):
    x = case((9, 37), "multilabel", 2)[0].to(DEVICE, F32)
    valid = (random((2, 1, 9, 37)) > 0.2).to(DEVICE) if masked else None
    return x, valid, "multilabel", True, (7, 5), 9, levels


@pytest.mark.parametrize("masked", [False, True])
def test_the_operator_passes_opcheck(masked):
    torch.library.opcheck(operator, given(masked))
    torch.library.opcheck(operator, given(masked, [0.5]))
    x, valid, _, _, *settings = given(masked)
    probs = x.sigmoid().double(), valid, "multilabel", False, *settings
    classes = x, valid if valid is None else valid[:, 0], "multiclass", True, *settings
    torch.library.opcheck(operator, probs)
    torch.library.opcheck(operator, classes)


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_the_operator_is_the_definition(masked, dtype):
    x, valid, _, _, window, size, levels = given(masked)
    x = x.to(dtype).to(memory_format=torch.channels_last)
    found = operator(x, valid, "multilabel", True, window, size, levels)
    settings = {"window": window, "max_noise_size": size, "levels": levels, "valid": valid}
    expected = outlier_weight(
        x.cpu(), mode="multilabel", from_logits=True, **settings_on_cpu(settings)
    )
    assert torch.equal(found.cpu(), expected)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = operator(x, valid, "multilabel", True, window, size, levels)
    assert (fake.shape, fake.dtype, fake.device) == (found.shape, found.dtype, found.device)
    assert fake.stride() == found.stride()


def settings_on_cpu(settings):
    return {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in settings.items()}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(("mode", "channels"), MODES[::3])
def test_captured_by_compile(mode, channels, dynamic):
    """As one operator: a compiler would compute the sums over windows anew for every pixel."""
    criterion, seen = OutlierRegionLoss(mode, ignore_index=255, **SMALL), []

    def backend(graph, inputs):
        seen.append([str(node.target) for node in graph.graph.nodes])
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(criterion, fullgraph=True, dynamic=dynamic, backend=backend)
    for batch, spatial in ((3, (7, 9)), (4, (12, 5))):
        x, target = (t.to(DEVICE) for t in case(spatial, mode, channels, batch=batch))
        mask, results = (random((batch, *spatial)) > 0.2).to(DEVICE), []
        for function in (compiled, criterion):
            leaf = x.float().requires_grad_()
            loss = function(leaf, target, mask)
            results.append((loss, *torch.autograd.grad(loss * 7, leaf)))
        torch.testing.assert_close(*results, rtol=0, atol=0)
    assert len(seen) == (1 if dynamic else 2)
    for targets in seen:
        assert sum("outlier_weight" in target for target in targets) == 1


def test_an_exported_program_loads_without_triton(tmp_path):
    x, target = (t.to(DEVICE) for t in case((7, 9), "binary", 1))
    criterion = OutlierRegionLoss(**SMALL)
    program = torch.export.export(criterion, (x.float(), target))
    assert any(node.target == operator for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x.float(), target), criterion(x.float(), target))
    torch.export.save(program, tmp_path / "loss.pt2")
    script = (
        "import sys; sys.modules['triton'] = None; import torch, gliomaseg_layers; "
        f"program = torch.export.load({str(tmp_path / 'loss.pt2')!r}); "
        "print(any('outlier_weight' in str(node.target) for node in program.graph.nodes), "
        "'gliomaseg_layers.functional.outlier_weight_triton' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout.split() == ["True", "False"], run.stderr


@needs_cuda_build
def test_newer_gpus_serve_and_probabilities_are_the_default(launched, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert on_gpu(outlier_weight_backend) == "triton"
    with FakeTensorMode():
        probs = torch.empty(1, 1, 5, 7, device="cuda")
        assert outlier_weight_backend(probs) == "torch: the kernels read logits, not probabilities"
