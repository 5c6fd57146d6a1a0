"""Draw the block diagrams of the guides: the layers, and how the package is built."""

from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

# A diagram: blocks by name with their column and row (0 is the top), and arrows between them.
# "name|label" names a block and its text; a name in round brackets has no box.
Blocks = dict[str, tuple[float, float]]
Arrows = list[tuple[str, str]]

LAYERS: dict[str, tuple[Blocks, Arrows]] = {
    "multi_scale_fusion": (
        {
            "(x)|shallow x": (0, 0),
            "(y)|deep y": (0, 2),
            "project|1 x 1 conv,\nresize to x": (1, 2),
            "merge|merged =\np1 x + p2 y + p3": (2, 1),
            "ca|channel\nattention": (3, 0.5),
            "sa|spatial\nattention": (3, 1.5),
            "gate|g = sigmoid\nof the sum": (4, 1),
            "out|merged +\ng x + (1 - g) y": (5, 1),
        },
        [
            ("(y)", "project"),
            ("project", "merge"),
            ("(x)", "merge"),
            ("merge", "ca"),
            ("merge", "sa"),
            ("ca", "gate"),
            ("sa", "gate"),
            ("gate", "out"),
        ],
    ),
    "channel_attention": (
        {
            "(x)|x": (0, 0.5),
            "pool|pools over\nthe image": (1, 1),
            "squeeze|1 x 1 conv, ReLU,\n1 x 1 conv": (2, 1),
            "sigmoid|sum,\nsigmoid": (3, 1),
            "times|multiply": (4, 0.5),
        },
        [
            ("(x)", "pool"),
            ("pool", "squeeze"),
            ("squeeze", "sigmoid"),
            ("sigmoid", "times"),
            ("(x)", "times"),
        ],
    ),
    "spatial_attention": (
        {
            "(x)|x": (0, 0.5),
            "statistics|mean and max\nover channels": (1, 1),
            "conv|7 x 7 conv": (2, 1),
            "sigmoid|sigmoid": (3, 1),
            "times|multiply": (4, 0.5),
        },
        [
            ("(x)", "statistics"),
            ("statistics", "conv"),
            ("conv", "sigmoid"),
            ("sigmoid", "times"),
            ("(x)", "times"),
        ],
    ),
    "attribute_encoder": (
        {
            "(a)|attributes\n(N, features)": (0, 0),
            "mlp|linear, ReLU,\ndropout": (1, 0),
            "last|linear,\nreshape": (2, 0),
            "resize|resize to\nthe features": (3, 0),
            "(map)|map, concatenated\nto the features": (4, 0),
        },
        [("(a)", "mlp"), ("mlp", "last"), ("last", "resize"), ("resize", "(map)")],
    ),
    "aspp": (
        {
            "(x)|x": (0, 2),
            "one|1 x 1 conv": (1.2, 0),
            "six|3 x 3 conv, rate 6": (1.2, 1),
            "twelve|3 x 3 conv, rate 12": (1.2, 2),
            "eighteen|3 x 3 conv, rate 18": (1.2, 3),
            "pool|image mean,\n1 x 1 conv": (1.2, 4),
            "join|concatenate": (2.6, 2),
            "out|1 x 1 conv,\ndropout": (3.8, 2),
        },
        [
            *(("(x)", name) for name in ("one", "six", "twelve", "eighteen", "pool")),
            *((name, "join") for name in ("one", "six", "twelve", "eighteen", "pool")),
            ("join", "out"),
        ],
    ),
    "spatial_pyramid_pooling": (
        {
            "(x)|x": (0, 1.5),
            "one|mean on 1 x 1,\n1 x 1 conv": (1.2, 0),
            "two|mean on 2 x 2,\n1 x 1 conv": (1.2, 1),
            "three|mean on 3 x 3,\n1 x 1 conv": (1.2, 2),
            "six|mean on 6 x 6,\n1 x 1 conv": (1.2, 3),
            "join|resize,\nconcatenate with x": (2.6, 1.5),
            "out|1 x 1 conv": (3.8, 1.5),
        },
        [
            *(("(x)", name) for name in ("one", "two", "three", "six")),
            *((name, "join") for name in ("one", "two", "three", "six")),
            ("(x)", "join"),
            ("join", "out"),
        ],
    ),
    "depthwise_separable_conv": (
        {
            "(x)|x": (0, 0),
            "depth|k x k conv,\neach channel alone": (1, 0),
            "point|1 x 1 conv\nover channels": (2.2, 0),
            "(y)|y": (3.2, 0),
        },
        [("(x)", "depth"), ("depth", "point"), ("point", "(y)")],
    ),
    "multi_scale_conv": (
        {
            "(x)|x": (0, 1),
            "three|3 x 3": (1, 0),
            "five|5 x 5": (1, 1),
            "seven|7 x 7": (1, 2),
            "ca|concatenate,\nchannel attention": (2.2, 1),
            "mix|1 x 1 conv": (3.4, 1),
            "sa|spatial\nattention": (4.4, 1),
            "sum|add": (5.4, 1),
            "(skip)|itself, or a 1 x 1 conv": (2.7, 3),
        },
        [
            *(("(x)", name) for name in ("three", "five", "seven")),
            *((name, "ca") for name in ("three", "five", "seven")),
            ("ca", "mix"),
            ("mix", "sa"),
            ("sa", "sum"),
            ("(x)", "(skip)"),
            ("(skip)", "sum"),
        ],
    ),
}
ARCHITECTURE: tuple[Blocks, Arrows] = (
    {
        "networks|networks\nshort compositions": (1, 0),
        "losses|losses\nmodule faces,\ncompound, ramp": (0, 1),
        "layers|layers\nattention, fusion,\npyramids": (1, 1),
        "windows|windows\na command": (2, 0),
        "metrics|metrics\nregions, lesions": (2, 1),
        "functional|functional\nthe mathematics": (1, 2),
        "checks|_checks, _reduction": (1, 3),
    },
    [
        ("networks", "layers"),
        ("losses", "functional"),
        ("layers", "functional"),
        ("windows", "metrics"),
        ("metrics", "functional"),
        ("functional", "checks"),
    ],
)


# Arrows are imports, as in ARCHITECTURE.
FUNCTIONAL: tuple[Blocks, Arrows] = (
    {
        "dice|dice\nDice": (0, 0),
        "losses|outlier_region\nCE (1 + k w), CE - D": (1.15, 0),
        "removal|outlier_removal\nw at inference": (2.35, 0),
        "ce|_cross_entropy\nCE": (0, 1),
        "density|region_density\nD": (1.15, 1),
        "weight|outlier_weight\nw": (2.35, 1),
        "twin|outlier_weight_triton\nw on a GPU": (3.7, 1),
        "scores|_scores\ninput, target, mask\nin every mode": (0.55, 2),
        "sums|box_filter\nsums over windows": (1.9, 2),
    },
    [
        ("dice", "ce"),
        ("losses", "ce"),
        ("losses", "density"),
        ("losses", "weight"),
        ("removal", "weight"),
        ("ce", "scores"),
        ("density", "scores"),
        ("weight", "scores"),
        ("density", "sums"),
        ("weight", "sums"),
        ("weight", "twin"),
    ],
)


def draw(diagram: tuple[Blocks, Arrows], path: Path) -> None:
    """Draw one diagram; arrows leave and enter blocks at their borders."""
    blocks, arrows = diagram
    columns, rows = zip(*blocks.values(), strict=True)
    wide, tall = max(columns) - min(columns) + 1, max(rows) - min(rows) + 1
    figure, axis = plt.subplots(figsize=(1.7 * wide, 0.85 * tall))
    axis.set_xlim(min(columns) - 0.5, max(columns) + 0.5)
    axis.set_ylim(max(rows) + 0.55, min(rows) - 0.5)
    axis.set_axis_off()
    figure.subplots_adjust(0, 0, 1, 1)
    boxes: dict[str, Any] = {}
    for block, place in blocks.items():
        name, _, label = block.partition("|")
        bare = name.startswith("(")
        edge = {"boxstyle": "round,pad=0.4", "fc": "none", "ec": "none" if bare else "black"}
        boxes[name] = axis.text(*place, label, ha="center", va="center", size=9, bbox=edge)
    for start, end in arrows:
        axis.annotate(
            "",
            boxes[end].get_position(),
            boxes[start].get_position(),
            arrowprops={
                "arrowstyle": "-|>",
                "fc": "black",
                "patchA": boxes[start].get_bbox_patch(),
                "patchB": boxes[end].get_bbox_patch(),
            },
        )
    figure.savefig(path, transparent=True, metadata={"Date": None})
    plt.close(figure)


def draw_all(folder: Path) -> None:
    for name, diagram in LAYERS.items():
        draw(diagram, folder / f"{name}.svg")
    draw(ARCHITECTURE, folder / "architecture.svg")
    draw(FUNCTIONAL, folder / "functional.svg")
