"""Each error names the argument, says what was expected and shows what came."""

import importlib.util
import re
from fractions import Fraction
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.torch_version import TorchVersion

from gliomaseg_layers import CompoundLoss, DiceLoss, OutlierRegionLoss
from gliomaseg_layers.functional import (
    _weighted_loss,
    box_count,
    box_sum,
    density_map,
    dice_loss,
    outlier_region_loss,
    outlier_weight,
)
from tests.support.cases import SMALL, as_read

X, Y = torch.rand(2, 1, 6, 8), torch.zeros(2, 1, 6, 8)
VOLUME = torch.rand(2, 1, 3, 6, 8)
CLASSES, INDEX = torch.rand(2, 3, 6, 8), torch.zeros(2, 6, 8, dtype=torch.long)
MULTICLASS, MULTILABEL = {"mode": "multiclass"}, {"mode": "multilabel"}
META = {"device": "meta"}


def loss(x=X, y=Y, **settings):
    return outlier_region_loss(x, y, **settings)


def dice(x=X, y=Y, **settings):
    return dice_loss(x, y, **settings)


def density(x=X, **settings):
    return density_map(x, **settings)


def weight(x=X, **settings):
    return outlier_weight(x, **settings)


def layer(**settings):
    return OutlierRegionLoss(**settings)


def compound(**settings):
    return CompoundLoss(**settings)


def compound_loss(x=X, y=Y, mask=None, **settings):
    return CompoundLoss(**settings)(x, y, mask=mask)


WINDOWED = [loss, density, weight, layer, compound]
LOSSES = [loss, dice, compound_loss]
BAD_WINDOWS = [
    (4, ValueError, "odd", "4"),
    (0, ValueError, "positive", "0"),
    (-3, ValueError, "positive", "-3"),
    (7.0, TypeError, "int", "7.0"),
    (True, TypeError, "int", "True"),
    ("7", TypeError, "int", "7"),
    (None, TypeError, "int", "None"),
    ((7, 4), ValueError, "odd", "(7, 4)"),
    ((7, 2.5), TypeError, "int", "2.5"),
]
AXES = [((3,), "(3,)"), ((3, 3, 3), "(3, 3, 3)"), ((), "()")]

BAD = [
    *((box_sum, (X, w), {}, e, "window", said, got) for w, e, said, got in BAD_WINDOWS),
    *((box_count, ((6, 8), w), {}, e, "window", said, got) for w, e, said, got in BAD_WINDOWS),
    *((box_sum, (X, w), {}, ValueError, "window", "axis", got) for w, got in AXES),
    *((box_count, ((6, 8), w), {}, ValueError, "window", "axis", got) for w, got in AXES),
    (box_sum, (VOLUME, (3, 3)), {}, ValueError, "window", "3", "(3, 3)"),
    *((box_count, (s, 3), {}, ValueError, "spatial", "2 or 3", str(s)) for s in ((4,), (4,) * 4)),
    (box_sum, (X.bool(), 3), {}, TypeError, "input", "floating", "torch.bool"),
    (box_sum, (X.cfloat(), 3), {}, TypeError, "input", "floating", "torch.complex64"),
    (box_sum, (X.numpy(), 3), {}, TypeError, "input", "torch.Tensor", "ndarray"),
    (box_sum, (X[0], 3), {}, ValueError, "input", "(N, C, H, W)", "(1, 6, 8)"),
    (box_sum, (X.to_sparse(), 3), {}, TypeError, "input", "strided", "torch.sparse_coo"),
    *((box_count, (s, 3), {}, TypeError, "spatial", "ints", str(s)) for s in (6, (6.0, 8), None)),
    (box_count, ((torch.tensor(6), 8), 3), {}, TypeError, "spatial", "ints", "tensor(6)"),
]
for call in WINDOWED:
    for w, e, said, got in BAD_WINDOWS:
        BAD.append((call, (), {"inner": w}, e, "inner", said, got))
        BAD.append((call, (), {"outer": w}, e, "outer", said, got))
    BAD += [
        (call, (), {"inner": 7, "outer": 7}, ValueError, "outer", "inner", "7"),
        (call, (), {"inner": 9, "outer": 7}, ValueError, "outer", "inner", "9"),
        (call, (), {"inner": (3, 5), "outer": (7, 3)}, ValueError, "outer", "inner", "(7, 3)"),
        (call, (), {"threshold": -1}, ValueError, "threshold", ">= 0", "-1"),
        (call, (), {"threshold": "9"}, TypeError, "threshold", "number", "9"),
        (call, (), {"threshold": 10**400}, ValueError, "threshold", "fp32", str(10**400)),
        (call, (), {"mode": "softmax"}, ValueError, "mode", "'multiclass'", "'softmax'"),
        (call, (), {"mode": np.array([3, 5])}, ValueError, "mode", "'multiclass'", "array([3, 5])"),
    ]
    if call is not weight:
        BAD.append((call, (), {"smooth": 0}, ValueError, "smooth", "> 0", "0"))
        BAD.append((call, (), {"smooth": -1.0}, ValueError, "smooth", "> 0", "-1.0"))
        BAD.append((call, (), {"smooth": torch.nan}, ValueError, "smooth", "> 0", "nan"))
        BAD.append((call, (), {"smooth": 1e-300}, ValueError, "smooth", "fp32", "1e-300"))
        BAD.append((call, (), {"smooth": 1e300}, ValueError, "smooth", "fp32", "1e+300"))
        BAD.append((call, (), {"smooth": "1"}, TypeError, "smooth", "number", "'1'"))
        BAD.append((call, (), {"smooth": Fraction(1, 3)}, TypeError, "smooth", "number", "1, 3"))
for call in (loss, density, weight, compound_loss):
    BAD.append((call, (), {"inner": (3,) * 3, "outer": 9}, ValueError, "inner", "2", "(3, 3, 3)"))
    BAD.append((call, (), {"inner": 3, "outer": (9,) * 3}, ValueError, "outer", "2", "(9, 9, 9)"))
for call in (loss, weight, layer, compound):
    BAD += [
        (call, (), {"levels": 0.5}, TypeError, "levels", "sequence", "0.5"),
        (call, (), {"levels": "0.5"}, TypeError, "levels", "sequence", "'0.5'"),
        (call, (), {"levels": ()}, ValueError, "levels", "at least one", "()"),
        (call, (), {"levels": (0.5, 1.0)}, ValueError, "levels", "between 0 and 1", "1.0"),
        (call, (), {"levels": (0, 0.5)}, ValueError, "levels", "between 0 and 1", "(0, 0.5)"),
        (call, (), {"levels": [None]}, TypeError, "levels", "number", "None"),
    ]
for call in (loss, layer, compound):
    BAD += [
        (call, (), {"inner": (3, 3), "outer": (7,) * 3}, ValueError, "inner", "axis", "(3, 3)"),
        (call, (), {"strength": -0.1}, ValueError, "strength", ">= 0", "-0.1"),
        (call, (), {"strength": True}, TypeError, "strength", "number", "True"),
        (call, (), {"strength": torch.inf}, ValueError, "strength", "finite", "inf"),
        (call, (), {"share": 0}, ValueError, "share", "> 0", "0"),
        (call, (), {"share": None}, TypeError, "share", "number", "None"),
        (call, (), {"formulation": "x"}, ValueError, "formulation", "'suppress'", "'x'"),
        (call, (), {"reduction": "avg"}, ValueError, "reduction", "'mean'", "'avg'"),
        (call, (), {"backend": "cuda"}, ValueError, "backend", "'auto'", "'cuda'"),
        (call, (), {"from_logits": 1}, TypeError, "from_logits", "True or False", "1"),
        (call, (), {"pos_weight": -1.0}, ValueError, "pos_weight", ">= 0", "-1.0"),
        (call, (), {"pos_weight": [2.0]}, TypeError, "pos_weight", "tensor", "[2.0]"),
        (call, (), {"ignore_index": "a"}, TypeError, "ignore_index", "int", "'a'"),
    ]
BAD.append((weight, (), {"from_logits": 0}, TypeError, "from_logits", "True or False", "0"))
for call in (loss, compound_loss):
    refused = {"backend": "triton"}
    BAD += [
        (call, (X, Y), refused, RuntimeError, "backend", "'eager'", "device cpu"),
        (call, (X.double(), Y), refused, RuntimeError, "backend", "float32", "torch.float64"),
        (call, (VOLUME, VOLUME), refused, RuntimeError, "backend", "two", "(2, 1, 3, 6, 8)"),
        (call, (X[:0], Y[:0]), refused, RuntimeError, "backend", "'eager'", "empty"),
        (call, (X, Y), refused | {"outer": 65}, RuntimeError, "backend", "63", "65"),
        (call, (X, Y), refused | {"levels": [0.5] * 9}, RuntimeError, "backend", "8", "9"),
        (call, (X, Y), refused | {"from_logits": False}, RuntimeError, "backend", "logits", "prob"),
        (call, (CLASSES, INDEX), refused | MULTICLASS, RuntimeError, "backend", "'eager'", "multi"),
        (call, (X, Y.clone().requires_grad_()), refused, RuntimeError, "backend", "gradient", ""),
    ]
for call in (dice, DiceLoss):
    BAD += [
        (call, (), {"smooth": 0.0}, ValueError, "smooth", "> 0", "0.0"),
        (call, (), {"reduction": None}, ValueError, "reduction", "'mean'", "None"),
        (call, (), {"from_logits": X}, TypeError, "from_logits", "True or False", "tensor"),
        (call, (), {"batch": 1}, TypeError, "batch", "True or False", "1"),
        (call, (), {"mode": "Binary"}, ValueError, "mode", "'binary'", "'Binary'"),
    ]
BAD += [
    *((compound, (), {n: -1}, ValueError, n, ">= 0", "-1") for n in ("alpha", "beta", "gamma")),
    *((compound, (), {n: None}, TypeError, n, "number", "None") for n in ("alpha", "gamma")),
    (compound, (), {"dice_smooth": 0}, ValueError, "dice_smooth", "> 0", "0"),
    (compound, (), {"reduction": "none"}, ValueError, "reduction", "'mean'", "'none'"),
]
for call, name in [*((call, "input") for call in (*LOSSES, weight)), (density, "probs")]:
    BAD += [
        (call, (X.long(),), {}, TypeError, name, "floating", "torch.int64"),
        (call, (X.bool(),), {}, TypeError, name, "floating", "torch.bool"),
        (call, (X.cfloat(),), {}, TypeError, name, "floating", "torch.complex64"),
        (call, (X.tolist(),), {}, TypeError, name, "torch.Tensor", "list"),
        (call, (None,), {}, TypeError, name, "torch.Tensor", "NoneType"),
        *(
            (call, (torch.rand((2,) * d),), {}, ValueError, name, "(N, C,", str((2,) * d))
            for d in (0, 1, 2, 3, 6)
        ),
        (call, (CLASSES,), {"mode": "binary"}, ValueError, name, "1 channel", "3"),
        (call, (CLASSES[:, :0],), {}, ValueError, name, "1 channel", "0"),
        (call, (X,), MULTICLASS, ValueError, name, "2 or more", "1"),
    ]
MASKS = [
    (torch.ones(2, 6, 9).bool(), ValueError, "(2, 6, 8)", "(2, 6, 9)"),
    (torch.ones(1, 6, 8).bool(), ValueError, "(2, 6, 8)", "(1, 6, 8)"),
    (torch.ones(6, 8).bool(), ValueError, "(2, 6, 8)", "(6, 8)"),
    (torch.ones(2, 2, 6, 8).bool(), ValueError, "(2, 1, 6, 8)", "(2, 2, 6, 8)"),
    (torch.ones(2, 6, 8), TypeError, "bool", "torch.float32"),
    (torch.ones(2, 6, 8, dtype=torch.uint8), TypeError, "bool", "torch.uint8"),
    (torch.ones(2, 6, 8, **META).bool(), ValueError, "cpu", "meta"),
    ([[True]], TypeError, "torch.Tensor", "list"),
]
for call, name in [*((call, "mask") for call in LOSSES), (density, "valid"), (weight, "valid")]:
    BAD += [(call, (), {name: mask}, e, name, said, got) for mask, e, said, got in MASKS]
for call in LOSSES:
    classes = torch.ones(2, 3, 6, 8).bool()
    BAD += [
        (
            call,
            (CLASSES, INDEX),
            {**MULTICLASS, "mask": classes},
            ValueError,
            "mask",
            "(2, 6, 8)",
            "(2, 3, 6, 8)",
        ),
        *(
            (call, (X, y), {}, ValueError, "target", "(2, 1, 6, 8)", str(tuple(y.shape)))
            for y in (Y[:1], Y[..., :-1], Y[0, 0], Y.expand(2, 2, 6, 8), Y[..., None], Y[..., 0])
        ),
        *(
            (
                call,
                (CLASSES, y),
                MULTILABEL,
                ValueError,
                "target",
                "(2, 3, 6, 8)",
                str(tuple(y.shape)),
            )
            for y in (Y, INDEX, CLASSES[:, :2])
        ),
        *(
            (call, (CLASSES, y), MULTICLASS, ValueError, "target", "(2, 6, 8)", str(tuple(y.shape)))
            for y in (INDEX[:1], INDEX[:, :5], INDEX[:, None].expand(2, 3, 6, 8))
        ),
        *(
            (
                call,
                (CLASSES, y),
                MULTICLASS,
                ValueError,
                "target",
                "(2, 3, 6, 8)",
                str(tuple(y.shape)),
            )
            for y in (CLASSES[:, :2], CLASSES[:1])
        ),
        (call, (), {"ignore_index": 1.5}, TypeError, "ignore_index", "int", "1.5"),
        (call, (X, Y.to(**META)), {}, ValueError, "target", "cpu", "meta"),
        (call, (X, Y.cfloat()), {}, TypeError, "target", "floating", "torch.complex64"),
        (call, (X, Y.numpy()), {}, TypeError, "target", "torch.Tensor", "ndarray"),
        (
            call,
            (CLASSES, CLASSES),
            {**MULTICLASS, "ignore_index": 1},
            ValueError,
            "ignore_index",
            "indices",
            "1",
        ),
    ]
for call in (loss, compound_loss):
    BAD.append(
        (
            call,
            (CLASSES, INDEX),
            {**MULTICLASS, "pos_weight": 2.0},
            ValueError,
            "pos_weight",
            "class_weights",
            "multiclass",
        )
    )
    for name, setting in (
        ("pos_weight", MULTILABEL),
        ("class_weights", MULTILABEL),
        ("class_weights", MULTICLASS),
    ):
        y = INDEX if setting is MULTICLASS else torch.zeros_like(CLASSES)
        for value, e, said, got in [
            (torch.ones(2), ValueError, "(3,)", "(2,)"),
            (torch.ones(8), ValueError, "(3,)", "(8,)"),
            (torch.ones(3, 1, 1), ValueError, "(3,)", "(3, 1, 1)"),
            (torch.ones(3, **META), ValueError, "cpu", "meta"),
            (-1.0, ValueError, ">= 0", "-1.0"),
            ([1.0, 2.0, 3.0], TypeError, "number", "[1.0, 2.0, 3.0]"),
        ]:
            BAD.append((call, (CLASSES, y), {**setting, name: value}, e, name, said, got))


def described(bad):
    call, args, settings, _, name, _, got = bad
    return f"{call.__name__}-{name}-{got}-{len(args)}{''.join(settings)}".replace(" ", "")


@pytest.mark.parametrize("bad", BAD, ids=described)
def test_message(bad):
    call, args, settings, error, name, expected, got = bad
    with pytest.raises(error) as raised:
        call(*args, **as_read(settings))
    message = str(raised.value)
    assert type(raised.value) is error
    assert f"`{name}`" in message
    assert expected in message.replace(f"`{name}`", "", 1)
    assert got in message


@pytest.mark.parametrize("index", [3, -1, 255])
@pytest.mark.parametrize("call", LOSSES)
def test_a_class_index_out_of_range_raises(call, index):
    y = INDEX.clone()
    y[1, 2, 3] = index
    with pytest.raises((RuntimeError, IndexError)):
        call(CLASSES, y, mode="multiclass")
    call(CLASSES, y, mode="multiclass", ignore_index=index)


@pytest.mark.parametrize("call", WINDOWED)
def test_good_settings_pass(call):
    """What the bad ones differ from."""
    call(**SMALL, threshold=0)
    call(inner=[3, 5], outer=(3, 7))


def imported_anew():
    """Return the module that chooses, as another process would import it."""
    module = ModuleType(_weighted_loss.__name__)
    _weighted_loss.__loader__.exec_module(module)
    return module


@pytest.mark.parametrize(("value", "expected"), [(None, False), ("0", False), ("1", True)])
def test_tritons_switch_is_read_as_triton_does(monkeypatch, value, expected):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if value is not None:
        monkeypatch.setenv("TRITON_INTERPRET", value)
    assert imported_anew().INTERPRETED is expected


@pytest.mark.parametrize(
    ("version", "found", "reason"),
    [
        ("2.7.1+cu126", True, "its kernels need torch 2.8 or later, got 2.7.1+cu126"),
        ("2.8.0", True, None),
        ("2.10.0", True, None),
        ("2.10.0", False, "Triton is not installed"),
    ],
)
def test_kernels_are_left_to_newer_versions(monkeypatch, version, found, reason):
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found or None)
    here = imported_anew().NO_TRITON
    assert here == reason
    monkeypatch.setattr(_weighted_loss, "INTERPRETED", True)
    monkeypatch.setattr(_weighted_loss, "NO_TRITON", here or "nothing")
    with pytest.raises(RuntimeError, match=rf"'triton' cannot run: {re.escape(here or 'nothing')}"):
        loss(**as_read({"backend": "triton"}))
    loss()
