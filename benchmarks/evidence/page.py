"""Write README.md's tables and its figure from what ``summary.py`` has left in results/."""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt

from benchmarks.evidence.islands import BESIDE
from benchmarks.evidence.methods import BASELINE, MAIN
from benchmarks.evidence.scoring import THRESHOLDS
from benchmarks.evidence.sets import SETS
from benchmarks.evidence.summary import RESULTS

HERE = Path(__file__).parent
MARK = "<!-- results -->"
TITLES = {
    "lgg": "LGG",
    "acdc": "ACDC",
    "busi": "BUSI",
    "hippocampus": "hippocampus, slices",
    "nuclei": "nuclei",
    "hippocampus-3d": "hippocampus, 3-D",
    "lgg-few": "LGG, few labels",
    "lgg-few-weak": "LGG, few labels, weak",
    "acdc-few": "ACDC, few labels",
    "acdc-few-weak": "ACDC, few labels, weak",
}
PLACES = ("beside true regions", "in images without foreground", "elsewhere")
SEEN = {
    "flagged": "flagged, % of all pixels",
    "flagged, islands": "of false islands",
    "flagged, holes": "of false holes",
    "gradient, islands": "gradient on islands, %",
    "gradient, holes": "on holes",
    "gradient, borders": "at true borders",
}
FIGURES = {
    "spurious": "spurious",
    "holes": "holes",
    "missed": "missed, %",
    "missed_small": "missed small, %",
    "f1": "F1 of regions",
    "dice": "Dice",
    "hd95": "HD95, px",
}


def read(kind: str, *, few: bool = False) -> dict[str, pd.DataFrame]:
    """Return the tables of the sets that were run, of those with few labels or the others."""
    names = [name for name in TITLES if few == ("few" in name)]
    paths = {name: RESULTS / f"{name}-{kind}.csv" for name in names}
    return {name: pd.read_csv(path) for name, path in paths.items() if path.exists()}


def interval(row: "pd.Series[float]", what: str, scale: float, form: str) -> str:
    low, value, high = (
        format(scale * row[name], form) for name in (f"{what}_low", what, f"{what}_high")
    )
    return f"{value} ({low} to {high})"


def saved_table(savings: dict[str, pd.DataFrame]) -> str:
    """Return what every method saves on every set, with its mask cleaned."""
    columns = {}
    for name, table in savings.items():
        cleaned = table[table["mask"] == "cleaned"].set_index("method")
        columns[TITLES[name]] = cleaned.apply(
            lambda row: interval(row, "part", 100, ".0f") + f" [{row['jobs']}]", axis=1
        )
    return markdown(pd.DataFrame(columns).fillna("").rename_axis("method").reset_index())


def place_table(islands: dict[str, pd.DataFrame]) -> str:
    """Return where the spurious regions of the main methods lie, per 100 images."""
    rows = []
    for name, table in islands.items():
        found = table.set_index("method").reindex(MAIN)
        per = found[list(PLACES)].mul(100).div(found["images"], axis=0)
        for place in PLACES:
            figures = per[place].map(lambda value: f"{value:.1f}")
            rows.append({"set": TITLES[name], "where": place} | dict(figures))
    return markdown(pd.DataFrame(rows))


def gradient_table(gradients: dict[str, pd.DataFrame]) -> str:
    """Return what is flagged and where gradients lie, means over the looks at a training."""
    rows = []
    for name, table in gradients.items():
        for method, figures in table.groupby("method", sort=False):
            means = figures[list(SEEN)].mean().rename(SEEN).map(lambda value: f"{value:.2g}")
            rows.append({"set": TITLES[name], "method": method} | dict(means))
    return markdown(pd.DataFrame(rows))


def lesion_table(islands: dict[str, pd.DataFrame]) -> str:
    """Return the lesion-wise F1 of the main methods."""
    columns = {}
    for name, table in islands.items():
        found = table.set_index("method")
        wrong = found["lesions missed"] + found["lesions spurious"]
        columns[TITLES[name]] = 2 * found["lesions"] / (2 * found["lesions"] + wrong)
    shown = pd.DataFrame(columns).map(lambda value: "" if pd.isna(value) else f"{value:.3f}")
    return markdown(shown.rename_axis("method").reset_index())


def set_table(name: str, curves: pd.DataFrame, savings: pd.DataFrame) -> str:
    """Return the figures of a set at the threshold of 0.5."""
    half = curves[curves["threshold"] == 0.5].set_index(["method", "mask"])
    more = savings.set_index(["method", "mask"])
    rows = half[list(FIGURES)].rename(columns=FIGURES).map(lambda value: f"{value:.3g}")
    rows["Dice over the baseline's"] = more.apply(
        lambda row: interval(row, "dice", 1, "+.3f"), axis=1
    )
    rows["saved per 100 images"] = more.apply(lambda row: interval(row, "saved", 1, ".1f"), axis=1)
    return f"### {TITLES[name]}\n\n{markdown(rows.reset_index())}"


def markdown(table: pd.DataFrame) -> str:
    rows = [list(table), ["---"] * len(table.columns), *table.astype(str).to_numpy()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw(curves: dict[str, pd.DataFrame]) -> None:
    """Draw islands against misses over the thresholds, masks cleaned."""
    figure, axes = plt.subplots(2, 3, figsize=(11, 7), layout="constrained")
    for axis, (name, table) in zip(axes.flat, curves.items(), strict=False):
        cleaned = table[table["mask"] == "cleaned"].set_index("method")
        for method in MAIN:
            curve = cleaned.loc[method]
            half = curve[curve["threshold"] == 0.5]
            (line,) = axis.plot(curve["missed"], curve["islands"], marker=".", label=method)
            axis.plot(half["missed"], half["islands"], "o", color=line.get_color())
            if method == BASELINE:
                right = half["missed"].max() + 8
        axis.set(title=TITLES[name], xlabel="true regions missed, %", xlim=(None, right))
        axis.set_ylim(0, None)
    for axis in axes[:, 0]:
        axis.set_ylabel("spurious regions + holes per 100 images")
    title = f"thresholds {THRESHOLDS[0]} to {THRESHOLDS[-1]}, masks cleaned; large dot: 0.5"
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, title=title, loc="outside lower center", ncols=len(MAIN))
    for axis in axes.flat[len(curves) :]:
        axis.axis("off")
    figure.savefig(HERE / "images" / "curves.svg", metadata={"Date": None})


def main() -> None:
    mpl.rcParams["svg.hashsalt"] = "evidence"
    curves, savings = read("curves"), read("savings")
    draw({name: table for name, table in curves.items() if SETS[name].axes == 2})
    few_curves, few_savings = read("curves", few=True), read("savings", few=True)
    islands = read("islands")
    parts = [
        "## Saved at the misses of CE + Dice\n",
        "Percent of spurious regions and holes, masks cleaned; in square brackets the folds run.\n",
        saved_table(savings),
        "\n![Islands against misses](images/curves.svg)\n",
        "## The same, with few labels, from a good or a weak network\n",
        saved_table(few_savings) + "\n",
        "## Where islands are, and who sees them\n",
        f"Spurious regions per 100 images at a threshold of 0.5, as predicted; beside a true one: "
        f"within {BESIDE} pixels.\n",
        place_table(islands),
        "\nWhat the weight flags of the test images, and on which pixels the gradient of the "
        "method's own loss lies: means over the start and every 200 steps of fold 0.\n",
        gradient_table(read("gradients")),
        "\n## Lesion-wise F1\n",
        "At a threshold of 0.5, masks cleaned, over all images and classes. True regions that "
        "touch when dilated by 3 pixels are one lesion, and what touches it then has found it.\n",
        lesion_table(islands),
        "\n## All figures, at a threshold of 0.5\n",
        *(set_table(name, curves[name], savings[name]) + "\n" for name in curves),
        *(set_table(name, few_curves[name], few_savings[name]) + "\n" for name in few_curves),
    ]
    readme = HERE / "README.md"
    text = readme.read_text().split(MARK)[0]
    readme.write_text(text + MARK + "\n\n" + "\n".join(parts).rstrip() + "\n")


if __name__ == "__main__":
    main()
