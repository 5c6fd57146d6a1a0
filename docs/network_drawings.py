"""Draw every network from itself, an SVG of each.

A network runs once, and every tensor remembers which blocks it comes from. Rows are grids, the
image's on top; columns follow the order of the blocks.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from gliomaseg_layers import MSFEN, AttributeDeepLab, GatedSegmenter, MUNet, UNet

SIDE = 256
STEP = 1.6  # between the columns of a row
LEFT_OUT = (nn.ReLU, nn.BatchNorm2d, nn.Flatten)
BELOW = 99  # the row of what is no map
PLAIN = "#444444"
COLOURS = {
    "decides": "#8e44ad",
    "max pool": "#c0392b",
    "transposed convolution": "#27802f",
    "resize": "#2f6db5",
}
WORDS = {
    "max_pool2d": "max pool",
    "conv_transpose2d": "transposed convolution",
    "interpolate": "resize",
    "cat": "concatenate",
}
Source = tuple[str, frozenset[str]]  # a block, and what happened to its output since


@dataclass
class Block:
    """A box: a block of the network, or one of its inputs and outputs."""

    name: str
    kind: str
    shapes: list[tuple[int, ...]]
    sources: dict[str, frozenset[str]]
    row: int = 0
    column: float = 0.0


class Provenance(TorchFunctionMode):
    """Let the results of functions come from where their arguments do."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        word = WORDS.get(getattr(function, "__name__", ""))
        before = sources((args, kwargs))
        for tensor in tensors(out):
            happened = {word} if word else {"decides"} if tensor.dtype == torch.bool else set()
            tensor.sources = {  # type: ignore[attr-defined]
                (name, words | happened) for name, words in before
            }
        return out


def tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def sources(values: Any) -> set[Source]:
    """Return which blocks the tensors come from."""
    return set().union(*(getattr(tensor, "sources", set()) for tensor in tensors(values)))


def blocks_of(network: nn.Module) -> dict[str, nn.Module]:
    """Return the children that compute, lists of them one by one, but for transposed convolutions.

    Those, and what has no parameters, are what happens between two blocks.
    """
    found = {}
    for name, child in network.named_children():
        several = isinstance(child, nn.ModuleList)
        for part, module in child.named_children() if several else [("", child)]:
            if not isinstance(module, nn.ConvTranspose2d) and list(module.parameters()):
                found[f"{name} {part}".strip()] = module
    return found


def contents(module: nn.Module) -> str:
    """Name the layers that a block is made of, unless it is one itself."""
    counts: Counter[str] = Counter()

    def count(part: nn.Module) -> None:
        if isinstance(part, nn.Sequential) and type(part) is nn.Sequential:
            for child in part:
                count(child)
        elif not isinstance(part, LEFT_OUT):
            counts[type(part).__name__] += 1

    count(module)
    named = [name if number == 1 else f"{number} {name}" for name, number in counts.items()]
    return "\n".join(named)


def walk(network: nn.Module, inputs: dict[str, Tensor]) -> list[Block]:
    """Run the network and return its blocks in order, inputs first, outputs last."""
    blocks: list[Block] = []

    def add(name: str, kind: str, out: Any, come_from: set[Source]) -> None:
        maps = tensors(out)
        # Of several ways between two blocks the plainest is drawn.
        plainest = dict(sorted(come_from, key=lambda source: -len(source[1])))
        blocks.append(Block(name, kind, [tuple(x.shape[1:]) for x in maps], plainest))
        for tensor in maps:
            tensor.sources = {(name, frozenset())}  # type: ignore[attr-defined]

    before: dict[nn.Module, set[Source]] = {}
    names = {module: name for name, module in blocks_of(network).items()}
    for module in names:
        # Before it runs, because it may change its input in place.
        module.register_forward_pre_hook(lambda m, given: before.update({m: sources(given)}))
        module.register_forward_hook(
            lambda m, given, out: add(names[m], contents(m), out, before[m])
        )
    for name, tensor in inputs.items():
        add(name, "", tensor, set())
    with Provenance(), torch.no_grad():
        out = network(*inputs.values())
        add("logits", "", out, sources(out))
    return blocks


def place(blocks: list[Block]) -> None:
    """Choose rows by grid, and columns to the right of what comes before."""
    known = {block.name: block for block in blocks}
    for block in blocks:
        grids = [shape for shape in block.shapes if len(shape) == 3]
        before = [known[name] for name in block.sources]
        blind = not grids or (before and all(source.row == BELOW for source in before))
        block.row = BELOW if blind else (SIDE // min(shape[-1] for shape in grids)).bit_length()
    ends: dict[int, float] = {}
    for block in blocks:
        steps = [
            known[name].column + (STEP if known[name].row == block.row else 0.85)
            for name in block.sources
        ]
        block.column = max([0.0, ends.get(block.row, 0.0), *steps])
        ends[block.row] = block.column + STEP
    rows = sorted({block.row for block in blocks})
    for block in blocks:
        block.row = rows.index(block.row)


def draw(title: str, blocks: list[Block]) -> Figure:
    place(blocks)
    known = {block.name: block for block in blocks}
    width = max(block.column for block in blocks) + 1.4
    height = 1 + max(block.row for block in blocks)
    figure, axes = plt.subplots(figsize=(1.22 * width, height + 0.8))
    boxes = {}
    for block in blocks:
        x, y = block.column, -block.row
        inner = bool(block.sources) and block.name != "logits"
        boxes[block.name] = axes.add_patch(
            FancyBboxPatch(
                (x - 0.63, y - 0.33),
                1.26,
                0.66,
                boxstyle="round,pad=0.03",
                facecolor="#eaf1f8" if inner else "#f6f0dc",
                edgecolor="#6b7f93",
                linewidth=0.8,
                zorder=2,
            )
        )
        shapes = [" x ".join(map(str, shape)) for shape in block.shapes]
        lines = [block.kind, *shapes] if block.kind else shapes
        axes.text(x, y + 0.23, block.name.replace("_", " "), size=8, weight="bold", **CENTRED)
        axes.text(x, y - 0.08, "\n".join(lines), size=6, linespacing=1.2, **CENTRED)
    for block in blocks:
        for name, words in block.sources.items():
            colour = next((COLOURS[word] for word in COLOURS if word in words), PLAIN)
            axes.add_patch(
                FancyArrowPatch(
                    (known[name].column, -known[name].row),
                    (block.column, -block.row),
                    patchA=boxes[name],
                    patchB=boxes[block.name],
                    arrowstyle="-|>",
                    mutation_scale=9,
                    color=colour,
                    linestyle="--" if "concatenate" in words else "-",
                    linewidth=1.2,
                    zorder=1,
                )
            )
    legend(axes, blocks)
    axes.set(xlim=(-0.8, width - 0.6), ylim=(0.4 - height, 0.6), title=title)
    axes.axis("off")
    return figure


CENTRED: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 3}


def legend(axes: Axes, blocks: list[Block]) -> None:
    used = set().union(*(words for block in blocks for words in block.sources.values()))
    lines = [
        Line2D([], [], color=colour, label=word) for word, colour in COLOURS.items() if word in used
    ]
    if "concatenate" in used:
        lines.append(Line2D([], [], color=PLAIN, linestyle="--", label="concatenated"))
    axes.legend(
        handles=lines,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        ncols=4,
        frameon=False,
        fontsize=8,
    )


def networks() -> dict[str, tuple[nn.Module, dict[str, tuple[int, ...]]]]:
    """Return what is drawn, with the shapes of its inputs."""
    classifier = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 1)
    )
    return {
        "UNet()": (UNet(), {"image": (3, SIDE, SIDE)}),
        "MUNet()": (MUNet(), {"image": (2, SIDE, SIDE)}),
        "MSFEN()": (MSFEN(), {"image": (4, SIDE, SIDE)}),
        "AttributeDeepLab(attributes=20)": (
            AttributeDeepLab(attributes=20),
            {"image": (3, SIDE, SIDE), "attributes": (20,)},
        ),
        "GatedSegmenter(classifier, UNet.mini())": (
            GatedSegmenter(classifier, UNet.mini()),
            {"image": (3, SIDE, SIDE)},
        ),
    }


def draw_all(folder: Path) -> None:
    # Text stays text, and the same network gives the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "networks"}):
        for title, (network, shapes) in networks().items():
            given = {name: torch.empty(1, *shape, device="meta") for name, shape in shapes.items()}
            figure = draw(title, walk(network.eval().to("meta"), given))
            path = folder / f"{type(network).__name__}.svg"
            figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
            plt.close(figure)
