"""The gate: who passes, what an empty mask is in each mode, and what training sees."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from gliomaseg_layers import GatedSegmenter


class Brightness(nn.Module):
    """A classifier whose logit is the image's mean."""

    def forward(self, input: Tensor) -> Tensor:
        return input.flatten(1).mean(1, keepdim=True)


class Answer(nn.Module):
    """A classifier that says the same of every image."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, input: Tensor) -> Tensor:
        return input.new_full((len(input), 1), self.logit)


def images(*logits: float) -> Tensor:
    return torch.tensor(logits).view(-1, 1, 1, 1).expand(-1, 1, 6, 7).clone()


def test_masks_are_empty_below_the_threshold() -> None:
    segmenter = nn.Conv2d(1, 2, 3, padding=1)
    gate = GatedSegmenter(Brightness(), segmenter, threshold=0.7).eval()
    x = images(-3.0, 0.84, 0.85, 4.0)  # 0.7 has the logit 0.847
    out = gate(x)
    torch.testing.assert_close(out[2:], segmenter(x)[2:])
    assert (out[:2].sigmoid() < 1e-4).all()
    assert (gate.half()(x.half())[:2].sigmoid() < 1e-4).all()


def test_an_empty_mask_of_classes_is_background() -> None:
    gate = GatedSegmenter(Brightness(), nn.Conv2d(1, 3, 1), mode="multiclass").eval()
    absent, _ = gate(images(-1.0, 1.0)).softmax(1)
    assert (absent[0] > 0.999).all()
    assert (absent[1:] < 1e-4).all()


@pytest.mark.parametrize("mode", ["binary", "multiclass"])
def test_a_mean_over_flips_keeps_a_tumour_that_most_see(mode: str) -> None:
    """Nine of ten views: the tenth is one vote, not all of them. The other way round as well."""

    class Given(nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            return input if mode == "binary" else torch.cat([-input, input], 1) / 2

    gate = GatedSegmenter(Answer(1.0), Given(), mode=mode).eval()
    tumour = torch.full((1, 1, 6, 7), -3.0)
    tumour[..., 2:5, 2:5] = 5.0
    for seen, expected in ((9, tumour > 0), (1, tumour > 99)):
        votes = []
        for view in range(10):
            gate.classifier = Answer(1.0 if view < seen else -1.0)
            flips = [axis for axis in (2, 3) if view & (axis - 1)]
            votes.append(gate(tumour.flip(flips)).flip(flips))
        mean = torch.stack(votes).mean(0)
        found = mean > 0 if mode == "binary" else mean.argmax(1, keepdim=True) == 1
        assert torch.equal(found, expected)


def test_the_threshold_0_lets_all_pass() -> None:
    gate = GatedSegmenter(Brightness(), nn.Conv2d(1, 1, 1), threshold=0.0).eval()
    x = images(-1e30, -5.0)
    torch.testing.assert_close(gate(x), gate.segmenter(x))


def test_training_sees_both_ungated() -> None:
    gate = GatedSegmenter(nn.Sequential(nn.Flatten(), nn.Linear(42, 1)), nn.Conv2d(1, 1, 1))
    x = images(-50.0, 20.0)
    presence, logits = gate(x)
    torch.testing.assert_close(presence, gate.classifier(x))
    torch.testing.assert_close(logits, gate.segmenter(x))
    (presence.sum() + logits.sum()).backward()
    assert all(p.grad.abs().sum() > 0 for p in gate.parameters())
    assert len(list(gate.parameters())) == 4


@pytest.mark.parametrize("shape", [(2, 1, 6, 7), (2, 1, 5, 6, 7)])
def test_a_classifier_may_return_a_vector(shape: tuple[int, ...]) -> None:
    classifier = nn.Sequential(Brightness(), nn.Flatten(0))
    gate = GatedSegmenter(classifier, nn.Identity()).eval()
    x = torch.stack([torch.full(shape[1:], -1.0), torch.full(shape[1:], 1.0)])
    out = gate(x)
    assert (out[0] == -10).all()
    assert (out[1] == 1).all()
    assert gate(x[:0]).shape == (0, *shape[1:])


def test_captures_and_copies() -> None:
    gate = GatedSegmenter(Brightness(), nn.Conv2d(1, 1, 3, padding=1)).eval()
    x, other = torch.randn(2, 1, 8, 8), torch.randn(3, 1, 11, 9)
    dims = {axis: torch.export.Dim(f"axis{axis}", min=1 if axis == 0 else 2) for axis in (0, 2, 3)}
    program = torch.export.export(gate, (x,), dynamic_shapes=(dims,)).module()
    compiled = torch.compile(gate, fullgraph=True, backend="aot_eager", dynamic=True)
    again = [copy.deepcopy(gate), pickle.loads(pickle.dumps(gate))]
    for values in (x, other):
        for twin in (program, compiled, *again):
            torch.testing.assert_close(twin(values), gate(values))
    presence, logits = torch.compile(gate.train(), fullgraph=True, backend="aot_eager")(x)
    assert presence.shape == (2, 1)
    assert logits.shape == x.shape


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda: GatedSegmenter(torch.relu, nn.Identity()),
            TypeError,
            "`classifier` must be an nn.Module, got",
        ),
        (
            lambda: GatedSegmenter(nn.Identity(), None),
            TypeError,
            "`segmenter` must be an nn.Module, got NoneType",
        ),
        (
            lambda: GatedSegmenter(nn.Identity(), nn.Identity(), 1.0),
            ValueError,
            "`threshold` must be at least 0 and below 1, got 1.0",
        ),
        (
            lambda: GatedSegmenter(nn.Identity(), nn.Identity(), mode="softmax"),
            ValueError,
            "`mode` must be one of",
        ),
        (
            lambda: GatedSegmenter(nn.Flatten(), nn.Identity())(images(1.0, 2.0)),
            ValueError,
            r"`classifier` must return a logit for each of 2 images, got shape \(2, 42\)",
        ),
    ],
)
def test_errors(build, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()
