"""Whole calls, drawn by Hypothesis: shapes, dtypes, layouts, values, targets, masks, settings."""

from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.support.cases import F32, F64, HALVES, outside_of, scene
from tests.support.references import valid_pixels

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
INDICES = [torch.int64, torch.int32, torch.int16, torch.uint8]
EXTREME_LOGITS = [0.0, -0.0, 1e-40, -1e-40, 0.25, -0.25, 30.0, -30.0, 100.0, -100.0, 1e30, -1e30]
EXTREME_PROBS = [0.0, 1.0, 0.5, 1e-40, 1.2e-38, 1e-30, 1e-6]
JUNK = [torch.nan, torch.inf, -torch.inf, 6e4]
LAYOUTS = ["plain", "last", "strided", "transposed", "offset"]
WINDOWS = [(1, 3), (1, 15), (3, 5), (3, 7), (5, 31), (7, 21), (3, 10001)]

dtypes = st.sampled_from([F64, F32, *HALVES])
booleans = st.booleans()
seeds = st.integers(0, 2**32 - 1)


class Call(NamedTuple):
    """An input, its target, and the settings that a function takes besides."""

    input: Tensor
    target: Tensor
    settings: dict[str, Any]

    def only(self, *names: str) -> dict[str, Any]:
        """Return those of the settings that a function knows."""
        return {name: self.settings[name] for name in names}


def spatials(longest: int = 9) -> st.SearchStrategy[tuple[int, ...]]:
    plane, volume = st.integers(1, longest), st.integers(1, longest // 2)
    return st.one_of(st.tuples(plane, plane), st.tuples(volume, volume, volume))


@st.composite
def windows(draw: Any, axes: int) -> dict[str, Any]:
    """Draw the windows of all losses, as ints or as one side an axis."""
    count = draw(st.sampled_from([1, axes]))
    pairs = [draw(st.sampled_from(WINDOWS)) for _ in range(count)]
    inner, outer = zip(*pairs, strict=True)
    window = tuple(draw(st.sampled_from([1, 3, 5, 7, 21, 31, 10001])) for _ in range(count))
    drawn = {"inner": inner, "outer": outer, "window": window}
    return drawn if count > 1 else {name: sides[0] for name, sides in drawn.items()}


def lay_out(x: Tensor, layout: str) -> Tensor:
    """Lay values out in memory in another way; "expanded" repeats the first image."""
    if layout == "last" and x.dim() > 3:
        last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        return x.contiguous(memory_format=last)
    if layout == "strided":
        return x.new_empty(*x.shape[:-1], 2 * x.shape[-1])[..., 1::2].copy_(x)
    if layout == "transposed":
        return x.mT.contiguous().mT
    if layout == "offset":
        return torch.cat([x.new_zeros(3), x.flatten()])[3:].view(x.shape)
    if layout == "expanded":
        return x[:1].expand(x.shape)
    return x


def logits(shape: tuple[int, ...], mode: str, kind: str, rng: Any) -> tuple[Tensor, Tensor]:
    """Return float64 logits and true classes.

    Logits are steps of a 64th: no rounding takes one across the logit of a level.
    """
    x, truth = scene(shape, mode, int(rng.integers(2**31)))
    if kind == "flat":
        x = torch.zeros_like(x) + float(rng.choice(EXTREME_LOGITS))
    elif kind == "noise":
        x = torch.from_numpy(3 * rng.standard_normal(shape))
    elif kind == "doubtful":
        x = x / 4
    return (x * 64).round() / 64, truth


@st.composite
def calls(draw: Any, junk: bool = True) -> Call:
    """Draw a call that every loss must answer, with all settings of all of them."""
    rng = np.random.default_rng(draw(seeds))
    mode = draw(st.sampled_from(["binary", "multilabel", "multiclass"]))
    spatial = draw(spatials())
    channels = {"binary": 1, "multilabel": rng.integers(1, 4), "multiclass": rng.integers(2, 5)}
    n, c = draw(st.sampled_from([1, 2, 3, 0])), int(channels[mode])
    dtype, from_logits = draw(dtypes), draw(booleans)
    x, truth = logits((n, c, *spatial), mode, draw(kinds), rng)
    if not from_logits:
        x = x.softmax(1) if mode == "multiclass" else x.sigmoid()
    extreme = torch.from_numpy(
        rng.choice(EXTREME_LOGITS if from_logits else EXTREME_PROBS, x.shape)
    )
    some = torch.from_numpy(rng.random(x.shape) < draw(st.sampled_from([0.0, 0.1, 1.0])))
    limit = torch.finfo(dtype).max
    x = extreme.where(some, x).clamp(-limit, limit).to(dtype)

    ignore_index = draw(st.sampled_from([None, 255, -100, 1, 0]))
    target = truth
    soft = draw(booleans)
    if mode == "multiclass" and soft:
        ignore_index = None
        target = torch.from_numpy(rng.dirichlet(np.ones(c), truth.shape)).movedim(-1, 1)
        target = target.to(draw(dtypes))
    elif soft:
        target = torch.from_numpy(rng.random(truth.shape)).to(draw(dtypes))
    else:
        kept = [torch.bool] if mode != "multiclass" or c == 2 else []
        target = truth.to(draw(st.sampled_from([*INDICES, F32, *kept])))
    some = torch.from_numpy(rng.random(target.shape) < 0.2)
    holds = target.dtype != torch.bool and (target.dtype != torch.uint8 or ignore_index != -100)
    if ignore_index is not None and holds:
        target = target.masked_fill(some, ignore_index)
    if mode == "binary" and draw(booleans):
        target = target.squeeze(1)
    elif mode == "multiclass" and target.dim() == x.dim() - 1 and draw(booleans):
        target = target.unsqueeze(1)

    mask = None
    part = draw(st.sampled_from([None, 1.0, 0.8, 0.1, 0.0]))
    if part is not None:
        shapes = [(n, *spatial), (n, 1, *spatial), *([] if mode == "multiclass" else [x.shape])]
        mask = torch.from_numpy(rng.random(draw(st.sampled_from(shapes))) < part)
    if junk and draw(booleans):
        inside = valid_pixels(x.shape, target, mode=mode, ignore_index=ignore_index, mask=mask)
        x = x.masked_fill(outside_of(inside, x), draw(st.sampled_from(JUNK)))

    layout = draw(st.sampled_from([*LAYOUTS, "expanded"]))
    others = layout if layout == "expanded" else draw(st.sampled_from(LAYOUTS))
    device = draw(st.sampled_from(DEVICES))
    x, target = lay_out(x, layout).to(device), lay_out(target, others).to(device)
    settings = {
        "mode": mode,
        "from_logits": from_logits,
        "ignore_index": ignore_index,
        "mask": mask if mask is None else lay_out(mask, others).to(device),
        "pos_weight": None if mode == "multiclass" else draw(pixel_weights(c, device)),
        "class_weights": draw(pixel_weights(c, device)),
        "reduction": draw(st.sampled_from(["none", "mean", "sum"])),
        **draw(windows(len(spatial))),
        **draw(outlier_settings),
    }
    return Call(x, target, settings)


kinds = st.sampled_from(["scene", "doubtful", "noise", "flat"])
outlier_settings = st.fixed_dictionaries(
    {
        "smooth": st.sampled_from([1.0, 1, 0.5, 30.0]),
        "threshold": st.sampled_from([None, 0, 2.0, 9, 1e9]),
        "max_noise_size": st.sampled_from([None, 0, 2.5, 9, 1e9]),
        "levels": st.sampled_from([(0.1, 0.3, 0.5), (0.5,), [0.1, 0.6], (0.9,)]),
        "strength": st.sampled_from([1000.0, 0, 2.5]),
        "share": st.sampled_from([0.1, None, 3, 0.001]),
        "batch": booleans,
        "soft_label": booleans,
    }
)


def pixel_weights(channels: int, device: str) -> st.SearchStrategy[Any]:
    """Draw a weight of channels, in every accepted form."""
    each = torch.arange(1, channels + 1, device=device) / 2
    several = [torch.tensor(1.5, device=device), each, each.double(), each.half()]
    return st.sampled_from([None, 0, 2, 0.75, *several])
