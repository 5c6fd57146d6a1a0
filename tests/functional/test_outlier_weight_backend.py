"""Where the loss is computed. Fake tensors may lie on a GPU that is not there."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gliomaseg_layers.functional import _weighted_loss as choice
from gliomaseg_layers.functional import outlier_region_loss
from tests.support.cases import F16, F32, F64, SMALL, as_read, case, every_formulation
from tests.support.tolerances import TOLERANCES

needs_cuda_build = pytest.mark.skipif(
    not torch.backends.cuda.is_built() or torch.__version__ < "2.8",
    reason="torch computes on no GPU, not even on fake tensors",
)


@pytest.fixture
def launched(monkeypatch):
    """Return what the operator is given from now on, on machines that have all it needs."""
    calls, operator = [], choice.fused_loss
    monkeypatch.setattr(choice, "fused_loss", lambda *args: calls.append(args) or operator(*args))
    monkeypatch.setattr(choice, "NO_TRITON", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    return calls


def loss_on_gpu(**settings):
    with FakeTensorMode():
        logits = torch.empty(2, 3, 5, 70, dtype=F16, device="cuda")
        settings = {"mode": "multilabel", **SMALL, **settings}
        return outlier_region_loss(logits, logits > 0, **as_read(settings))


@pytest.mark.parametrize("reduction", ["none", "mean"])
@every_formulation
def test_a_captured_program_holds_the_kernels(formulation, reduction, launched):
    loss = loss_on_gpu(formulation=formulation, reduction=reduction)
    assert len(launched) == 1
    assert loss.shape == ((2, 3, 5, 70) if reduction == "none" else ())
    assert (loss.dtype, loss.device.type) == (F32, "cuda")


@needs_cuda_build
@pytest.mark.parametrize(
    ("owner", "name", "value", "reason"),
    [
        (choice, "NO_TRITON", "Triton is not installed", "Triton is not installed"),
        (torch.cuda, "get_device_capability", lambda device: (7, 5), "capability 8.0"),
    ],
)
def test_where_the_kernels_cannot_run(owner, name, value, reason, launched, monkeypatch):
    monkeypatch.setattr(owner, name, value)
    assert loss_on_gpu(reduction="none").shape == (2, 3, 5, 70)
    with pytest.raises(RuntimeError, match=f"`backend` 'triton' cannot run: .*{reason}"):
        loss_on_gpu(backend="triton")
    assert not launched


@needs_cuda_build
def test_the_definition_on_a_gpu(launched):
    loss_on_gpu(backend="eager")
    assert not launched


@needs_cuda_build
@pytest.mark.parametrize(
    ("name", "some", "most", "more"),
    [("outer", 5, 63, (7, 65)), ("levels", [0.5], [0.5] * 8, [0.5] * 9)],
)
def test_limits_of_the_kernels(name, some, most, more, launched, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for served in (some, most):
        loss_on_gpu(backend="triton", reduction="none", **{name: served})
    assert len(launched) == 2
    loss_on_gpu(reduction="none", **{name: more})
    with pytest.raises(RuntimeError, match=r"`backend` 'triton' cannot run: it.* at most \d+ "):
        loss_on_gpu(backend="triton", **{name: more})
    assert len(launched) == 2


def test_amds_capabilities_are_not_nvidias(launched, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    loss_on_gpu()
    assert len(launched) == 1


@every_formulation
def test_torch_func_transforms_the_definition(formulation):
    def loss(x, target, backend="auto"):
        settings = {"formulation": formulation, "backend": backend, **SMALL}
        return outlier_region_loss(x[None], target[None], **settings)

    x, target = case((9, 11), "binary", 1, batch=3)
    found = torch.func.vmap(torch.func.grad(loss))(x, target)
    for image, label, grad in zip(x, target, found, strict=True):
        leaf = image.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(leaf, label), leaf)
        torch.testing.assert_close(grad, expected, **TOLERANCES[F64])
    with pytest.raises(RuntimeError, match=r"torch\.func transforms"):
        torch.func.grad(loss)(x[0], target[0], "triton")
