"""Read the recipes' settings from TOML: defaults, recipe, variant, smoke test, user's own."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.lgg.data import DataError

Settings = dict[str, Any]

PRESETS = Path(__file__).with_name("recipes.toml")
CHOICES = {
    "data": ("lgg", "brats", "folder"),
    "mode": ("", "multilabel"),
    "network": (
        *("u-net", "u-net-mini", "mu-net", "mu-net-mini"),
        *("msfen", "fcn", "attribute-deeplab"),
    ),
    "attribute_set": ("all", "genomics", "clinical", "position"),
    "outlier": ("region", "density"),
    "optimizer": ("adam", "sgd"),
}
FUSION = ("channel-attention", "spatial-attention", "attention")
# What can be taken away from a network.
TAKEN = {
    "mu-net": FUSION,
    "mu-net-mini": FUSION,
    "msfen": (
        *("modality-attention", "channel-attention", "spatial-attention"),
        *("scales", "residual", "separable", "pyramid"),
    ),
}
POSITIVE = ("size", "classes", "folds", "epochs", "batch_size", "learning_rate")
# What the checkpoints of earlier versions lack; they were trained with the defaults.
LATER = (
    *("cosine_end", "without", "attribute_set", "attribute_shuffle"),
    *("window", "scnp", "importance"),
)
# What the data depend on: variants that are compared see the same slices.
SHARED = ("data", "channels", "classes", "size", "tumour_only", "parts", "folds", "seed")


@dataclass(frozen=True)
class Recipe:
    """A recipe and the variants that one run compares."""

    name: str
    title: str
    variants: dict[str, Settings]

    @property
    def shared(self) -> Settings:
        """The settings of the first variant, for what all have in common."""
        return next(iter(self.variants.values()))


def recipe_names(path: Path = PRESETS) -> list[str]:
    return [name for name in _read(path) if name not in ("defaults", "smoke")]


def read_recipe(
    name: str,
    *,
    path: Path = PRESETS,
    compare: str = "",
    only: Sequence[str] = (),
    changes: Sequence[str] = (),
    smoke: bool = False,
) -> Recipe:
    """Read a recipe; ``changes`` of the form ``key=value`` come last and go to every variant.

    ``only`` names the variants that are kept; all are if it is empty.
    """
    presets = _read(path)
    defaults = _read(PRESETS)["defaults"] | presets.get("defaults", {})
    if name not in recipe_names(path):
        raise DataError(f"no recipe {name!r} in {path}: it has {', '.join(recipe_names(path))}")
    recipe = dict(presets[name])
    groups: dict[str, dict[str, Any]] = recipe.pop("compare", {})
    if compare and compare not in groups:
        raise DataError(f"nothing to compare by {compare!r} in {name}: it has {', '.join(groups)}")
    group = groups.get(compare or "networks", {name: {}})
    variants = {key: its for key, its in group.items() if isinstance(its, dict)}
    recipe |= {key: value for key, value in group.items() if key not in variants}
    for variant in only:
        if variant not in variants:
            raise DataError(f"no variant {variant!r} in {name}: it has {', '.join(variants)}")
    variants = {key: its for key, its in variants.items() if not only or key in only}
    small = (presets.get("smoke") or _read(PRESETS)["smoke"]) if smoke else {}
    own = dict(_change(change) for change in changes)
    made = {
        variant: check(defaults | recipe | its | small | own) for variant, its in variants.items()
    }
    for key in SHARED:
        if len({str(settings[key]) for settings in made.values()}) > 1:
            raise DataError(f"variants that are compared must have one {key!r}: {name} {compare}")
    return Recipe(name, recipe.get("title") or name, made)


def check(settings: Settings) -> Settings:
    """Return the settings; what is unknown or does not fit is named."""
    defaults = _read(PRESETS)["defaults"]
    for key, value in settings.items():
        if key not in defaults:
            raise DataError(f"no setting {key!r}: there are {', '.join(defaults)}")
        kinds = (int, float) if isinstance(defaults[key], float) else (type(defaults[key]),)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise DataError(f"{key!r} must be {kinds[-1].__name__}, got {value!r}")
        if isinstance(value, list) and any(type(each) not in (int, float) for each in value):
            raise DataError(f"{key!r} must be a list of numbers, got {value}")
        if key in CHOICES and value not in CHOICES[key]:
            raise DataError(f"{key!r} must be one of {', '.join(CHOICES[key])}, got {value!r}")
        if (key in POSITIVE and not value > 0) or (not isinstance(value, str | list) and value < 0):
            raise DataError(f"{key!r} must be positive, got {value}")
    taken = TAKEN.get(settings["network"], ())
    if (without := settings.get("without")) and without not in taken:
        raise DataError(
            f"'without' must be one of {', '.join(taken) or 'none'} for {settings['network']}, "
            f"got {without!r}"
        )
    parts = settings["parts"]
    if len(parts) != 3 or min(parts) <= 0 or abs(sum(parts) - 1) > 1e-6:
        raise DataError(f"'parts' must be three that add up to 1, got {parts}")
    ramp = settings["ramp"]
    if ramp and (len(ramp) != 2 or not 0 <= ramp[0] <= ramp[1] <= 1):
        raise DataError(f"'ramp' must be [from, to], parts of the training, got {ramp}")
    if ramp and not settings["gamma"]:
        raise DataError("'ramp' raises 'gamma', which must not be 0 then")
    channels = settings["channels"]
    if not channels or any(type(channel) is not int or channel < 0 for channel in channels):
        raise DataError(f"'channels' must be whole numbers from 0 on, got {channels}")
    if settings["data"] != "folder" and max(channels) > 2:
        raise DataError(f"'channels' must be of 0, 1 and 2, got {channels}")
    if settings["classes"] == 2:
        raise DataError("'classes' counts the background: a mask is 1, and labels are 3 or more")
    for name in ("encoder", "gate"):
        if ":" in settings[name]:  # where timm would look elsewhere, as on a hub
            raise DataError(f"{name!r} must be a name of timm's own, got {settings[name]!r}")
    colours = [name for name in ("brightness", "contrast", "saturation") if settings[name]]
    if colours and settings["data"] == "brats":
        raise DataError(f"{colours[0]!r} is for slices in [0, 1], not for z-scores of BraTS cases")
    if settings["saturation"] and len(settings["channels"]) != 3:
        raise DataError("'saturation' needs three channels")
    if settings["attributes"] and settings["data"] != "lgg":
        raise DataError("'attributes' come from an LGG folder's data.csv; other data have none")
    return {name: defaults[name] for name in LATER} | settings


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"unreadable settings: {path} ({error})") from error


def _change(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise DataError(f"--set takes <setting>=<value>, got {text!r}")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:  # a word without its quotation marks
        return key, value
