"""Each error names the argument, says what was expected and shows what came."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from gliomaseg_layers import CompoundLoss, DensityLoss, DiceLoss, OutlierRegionLoss
from gliomaseg_layers.functional import (
    box_count,
    box_sum,
    density_loss,
    density_map,
    dice_loss,
    outlier_region_loss,
    outlier_weight,
    outlier_weight_backend,
    remove_outlier_regions,
    scnp,
)
from tests.support.cases import as_read

X, Y = torch.rand(2, 1, 6, 8), torch.zeros(2, 1, 6, 8)
VOLUME = torch.rand(2, 1, 3, 6, 8)
CLASSES, INDEX = torch.rand(2, 3, 6, 8), torch.zeros(2, 6, 8, dtype=torch.long)
MULTICLASS, MULTILABEL = {"mode": "multiclass"}, {"mode": "multilabel"}
META = {"device": "meta"}


def loss(x=X, y=Y, **settings):
    return outlier_region_loss(x, y, **settings)


def paper(x=X, y=Y, **settings):
    return density_loss(x, y, **settings)


def dice(x=X, y=Y, **settings):
    return dice_loss(x, y, **settings)


def density(x=X, **settings):
    return density_map(x, **settings)


def weight(x=X, **settings):
    return outlier_weight(x, **settings)


def remove(x=X, **settings):
    return remove_outlier_regions(x, **settings)


def backend(x=X, **settings):
    return outlier_weight_backend(x, **settings)


def worst(x=X, y=Y, **settings):
    return scnp(x, y, **settings)


def worst_loss(x=X, y=Y, **settings):
    return CompoundLoss(**settings)(x, y)


def compound_loss(x=X, y=Y, mask=None, **settings):
    return CompoundLoss(OutlierRegionLoss(**settings))(x, y, mask)


WINDOWED = [loss, weight, remove, OutlierRegionLoss]
DENSE = [paper, density, DensityLoss]
FORMULAS = [loss, paper, OutlierRegionLoss, DensityLoss]
LOSSES = [loss, paper, dice, compound_loss]
LABELLED = [*LOSSES, worst]
MODULES = [OutlierRegionLoss, DensityLoss, DiceLoss]
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
    (torch.ones(6, 8), TypeError, "int", "Tensor of shape (6, 8)"),
    (np.array([7, 7]), TypeError, "int", "ndarray of shape (2,)"),
]
AXES = [((3,), "(3,)"), ((3, 3, 3), "(3, 3, 3)"), ((), "()")]
NOT_NEGATIVE = [
    (-1, ValueError, ">= 0", "-1"),
    ("9", TypeError, "number", "9"),
    (True, TypeError, "number", "True"),
    (torch.nan, ValueError, ">= 0", "nan"),
    (torch.inf, ValueError, "finite", "inf"),
    (10**400, ValueError, "fp32", str(10**400)),
    (torch.tensor(1.0), TypeError, "number", "tensor(1.)"),
    (torch.ones(6, 8), TypeError, "number", "Tensor of shape (6, 8)"),
]
POSITIVE = [
    (0, ValueError, "> 0", "0"),
    (-1.0, ValueError, "> 0", "-1.0"),
    (torch.nan, ValueError, "> 0", "nan"),
    (1e-300, ValueError, "fp32", "1e-300"),
    (1e300, ValueError, "fp32", "1e+300"),
    ("1", TypeError, "number", "'1'"),
    (Fraction(1, 3), TypeError, "number", "1, 3"),
    (torch.tensor(1.0), TypeError, "number", "tensor(1.)"),
]
BOOL = [
    (1, TypeError, "True or False", "1"),
    ("yes", TypeError, "True or False", "'yes'"),
    (None, TypeError, "True or False", "None"),
    (X > 0, TypeError, "True or False", "Tensor of shape (2, 1, 6, 8)"),
    (X.numpy(force=True), TypeError, "True or False", "ndarray of shape (2, 1, 6, 8)"),
]
LEVELS = [
    (0.5, TypeError, "sequence", "0.5"),
    ("0.5", TypeError, "sequence", "'0.5'"),
    (None, TypeError, "sequence", "None"),
    (np.array([0.5, 0.1]), TypeError, "sequence", "ndarray of shape (2,)"),
    ((), ValueError, "at least one", "()"),
    ((0.5, 1.0), ValueError, "between 0 and 1", "1.0"),
    ((0, 0.5), ValueError, "between 0 and 1", "(0, 0.5)"),
    ((torch.nan,), ValueError, "between 0 and 1", "nan"),
    ([None], TypeError, "number", "None"),
]
MODES = [
    ("softmax", ValueError, "'multiclass'", "'softmax'"),
    ("Binary", ValueError, "'binary'", "'Binary'"),
    (None, ValueError, "'binary'", "None"),
    (np.array([3, 5]), ValueError, "'multiclass'", "ndarray of shape (2,)"),
]
REDUCTIONS = [
    ("avg", ValueError, "'mean'", "'avg'"),
    (None, ValueError, "'mean'", "None"),
    (X, ValueError, "'mean'", "Tensor of shape (2, 1, 6, 8)"),
]
WEIGHTS = [
    (-1.0, ValueError, ">= 0", "-1.0"),
    ("2", TypeError, "number", "'2'"),
    ([2.0], TypeError, "write torch.as_tensor", "[2.0]"),
    (np.array([1.0, 2.0]), TypeError, "write torch.as_tensor", "ndarray of shape (2,)"),
]
INDICES = [
    (1.5, TypeError, "int", "1.5"),
    ("a", TypeError, "int", "'a'"),
    (True, TypeError, "int", "True"),
    (Y, TypeError, "int", "Tensor of shape (2, 1, 6, 8)"),
]

# What is refused of an argument, by functions where they are called, by modules where they are
# built: the same error from both.
REFUSED = [
    (WINDOWED, "window", BAD_WINDOWS),
    (WINDOWED, "max_noise_size", NOT_NEGATIVE),
    ([loss, weight, OutlierRegionLoss], "levels", LEVELS),
    ([loss, OutlierRegionLoss], "strength", [*NOT_NEGATIVE, (None, TypeError, "number", "None")]),
    ([loss, OutlierRegionLoss], "share", POSITIVE),
    (DENSE, "inner", BAD_WINDOWS),
    (DENSE, "outer", BAD_WINDOWS),
    (DENSE, "threshold", NOT_NEGATIVE),
    ([*DENSE, dice, DiceLoss], "smooth", [*POSITIVE, (None, TypeError, "number", "None")]),
    ([worst], "size", BAD_WINDOWS),
    ([CompoundLoss], "scnp", [bad for bad in BAD_WINDOWS if bad[0] is not None]),
    ([*LABELLED, *WINDOWED, *DENSE, backend, DiceLoss], "mode", MODES),
    ([*LABELLED, *MODULES, weight, backend], "from_logits", BOOL),
    ([dice, DiceLoss], "batch", BOOL),
    ([dice, DiceLoss], "include_background", BOOL),
    ([dice, DiceLoss], "soft_label", BOOL),
    ([*LOSSES, *MODULES], "reduction", REDUCTIONS),
    ([*FORMULAS, compound_loss], "pos_weight", WEIGHTS),
    ([*LOSSES, *MODULES], "class_weights", WEIGHTS),
    ([*LABELLED, *MODULES], "ignore_index", INDICES),
    *(([CompoundLoss], name, NOT_NEGATIVE) for name in ("alpha", "beta", "gamma")),
]
BAD = [
    (call, (), {name: value}, error, name, said, got)
    for calls, name, values in REFUSED
    for call in calls
    for value, error, said, got in values
]
BAD += [
    *((box_sum, (X, w), {}, e, "window", said, got) for w, e, said, got in BAD_WINDOWS),
    *((box_count, ((6, 8), w), {}, e, "window", said, got) for w, e, said, got in BAD_WINDOWS),
    *((box_sum, (X, w), {}, ValueError, "window", "axis", got) for w, got in AXES),
    *((box_count, ((6, 8), w), {}, ValueError, "window", "axis", got) for w, got in AXES),
    *(
        (call, (), {"window": w}, ValueError, "window", "axis", got)
        for call in (loss, weight, remove, compound_loss)
        for w, got in AXES
    ),
    *((worst, (), {"size": w}, ValueError, "size", "axis", got) for w, got in AXES),
    *((worst_loss, (), {"scnp": w}, ValueError, "scnp", "axis", got) for w, got in AXES),
    (box_sum, (VOLUME, (3, 3)), {}, ValueError, "window", "3", "(3, 3)"),
    *((box_count, (s, 3), {}, ValueError, "spatial", "2 or 3", str(s)) for s in ((4,), (4,) * 4)),
    (box_sum, (X.bool(), 3), {}, TypeError, "input", "floating", "torch.bool"),
    (box_sum, (X.cfloat(), 3), {}, TypeError, "input", "floating", "torch.complex64"),
    (box_sum, (X.numpy(force=True), 3), {}, TypeError, "input", "torch.Tensor", "ndarray"),
    (box_sum, (X[0], 3), {}, ValueError, "input", "(N, C, H, W)", "(1, 6, 8)"),
    (box_sum, (X.to_sparse(), 3), {}, TypeError, "input", "strided", "torch.sparse_coo"),
    *((box_count, (s, 3), {}, TypeError, "spatial", "ints", str(s)) for s in (6, (6.0, 8), None)),
    (box_count, ((torch.tensor(6), 8), 3), {}, TypeError, "spatial", "ints", "tensor(6)"),
]
for call in DENSE:
    BAD += [
        (call, (), {"inner": 7, "outer": 7}, ValueError, "outer", "inner", "7"),
        (call, (), {"inner": 9, "outer": 7}, ValueError, "outer", "inner", "9"),
        (call, (), {"inner": (3, 5), "outer": (7, 3)}, ValueError, "outer", "inner", "(7, 3)"),
        (call, (), {"inner": (3, 3), "outer": (7,) * 3}, ValueError, *("inner", "axis", "(3, 3)")),
    ]
for call in (paper, density):
    BAD.append((call, (), {"inner": (3,) * 3, "outer": 9}, ValueError, "inner", "2", "(3, 3, 3)"))
    BAD.append((call, (), {"inner": 3, "outer": (9,) * 3}, ValueError, "outer", "2", "(9, 9, 9)"))
for mode in ("binary", "multilabel"):
    background = {"include_background": False, "mode": mode}
    said = (ValueError, "include_background", "multiclass mode", f"mode={mode!r}")
    BAD += [(dice, (X, Y), background, *said), (DiceLoss, (), background, *said)]
for call in FORMULAS:
    args = () if isinstance(call, type) else (CLASSES, INDEX)
    weighed = {**MULTICLASS, "pos_weight": 2.0}
    BAD.append((call, args, weighed, ValueError, "pos_weight", "class_weights", "multiclass"))
for call, name in [
    *((call, "input") for call in (*LABELLED, weight, backend)),
    (density, "probs"),
]:
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
VALID = [(density, "valid"), (weight, "valid"), (remove, "valid")]
for call, name in [*((call, "mask") for call in LABELLED), *VALID]:
    BAD += [(call, (), {name: mask}, e, name, said, got) for mask, e, said, got in MASKS]
for call in LABELLED:
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
        (call, (X, Y.to(**META)), {}, ValueError, "target", "cpu", "meta"),
        (call, (X, Y.cfloat()), {}, TypeError, "target", "floating", "torch.complex64"),
        (call, (X, Y.numpy(force=True)), {}, TypeError, "target", "torch.Tensor", "ndarray"),
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
for call in (loss, paper, dice, compound_loss):
    for name, setting in (
        *([] if call is dice else [("pos_weight", MULTILABEL)]),
        ("class_weights", MULTILABEL),
        ("class_weights", MULTICLASS),
    ):
        y = INDEX if setting is MULTICLASS else torch.zeros_like(CLASSES)
        for value, e, said, got in [
            (torch.ones(2), ValueError, "(3,)", "(2,)"),
            (torch.ones(8), ValueError, "(3,)", "(8,)"),
            (torch.ones(3, 1, 1), ValueError, "(3,)", "(3, 1, 1)"),
            (torch.ones(3, **META), ValueError, "cpu", "meta"),
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


GOOD = [
    (WINDOWED, {"window": [3, 5], "max_noise_size": 0}),
    (WINDOWED, {"max_noise_size": None}),
    ([loss, OutlierRegionLoss], {"levels": [0.5], "strength": 0, "share": None}),
    ([loss, OutlierRegionLoss], {"levels": (0.1, np.float32(0.5)), "share": np.float64(3)}),
    (DENSE, {"inner": [3, 5], "outer": (3, 7), "threshold": 0}),
    (DENSE, {"threshold": None, "smooth": np.float32(0.5)}),
    ([worst], {"size": [3, 5]}),
    ([worst], {"size": np.int64(1), "ignore_index": np.int64(255)}),
    ([worst_loss], {"scnp": None}),
    ([worst_loss], {"scnp": (1, 3)}),
    ([dice, DiceLoss], {"batch": True, "soft_label": True, "include_background": True}),
    ([*LOSSES, *MODULES], {"class_weights": torch.ones(1), "ignore_index": np.int64(255)}),
    (FORMULAS, {"pos_weight": torch.tensor(2), "class_weights": 0}),
]


@pytest.mark.parametrize(
    ("call", "settings"),
    [(call, settings) for calls, settings in GOOD for call in calls],
    ids=lambda value: getattr(value, "__name__", None) or "-".join(value),
)
def test_good_settings_pass(call, settings):
    """What the bad ones differ from."""
    call(**settings)


def test_no_message_holds_a_whole_tensor():
    many = torch.rand(2, 1, 60, 80)
    for call, name in (
        (lambda **given: CompoundLoss()(X, Y, **given), "return_terms"),
        *((module, "from_logits") for module in MODULES),
        *((OutlierRegionLoss, name) for name in ("window", "levels", "strength", "reduction")),
        (CompoundLoss, "outlier"),
        (CompoundLoss, "dice"),
        (CompoundLoss, "alpha"),
    ):
        for value in (many, many > 0.5, many.numpy(force=True)):
            with pytest.raises(
                (TypeError, ValueError), match=rf"`{name}` .* \(2, 1, 60, 80\)"
            ) as raised:
                call(**{name: value})
            assert len(str(raised.value)) < 200
