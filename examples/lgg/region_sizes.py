"""Print how large the true regions and holes of a kaggle_3m folder are, and which window suits.

The loss takes a region for noise if it is no larger than a third of the window, so few true regions
should be so small. [WAN23] 4.1.3 chose its windows by such a count.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from examples.lgg.data import DataError, find_slices, read_mask
from gliomaseg_layers.metrics import region_sizes

PARTS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, help="kaggle_3m folder")
    parser.add_argument("--connectivity", type=int, default=2, choices=(1, 2), help="default: 2")
    parser.add_argument(
        "--part",
        type=float,
        default=0.02,
        help="of the true regions that may count as noise (default: 0.02)",
    )
    options = parser.parse_args(arguments)
    if not 0 <= options.part < 1:
        parser.error("--part must be at least 0 and below 1")
    try:
        slices = [piece for piece in find_slices(options.data) if piece.tumour_pixels]
    except (DataError, OSError) as error:
        print(f"region_sizes: {error}", file=sys.stderr)
        return 1
    sizes = region_sizes(
        (read_mask(piece.mask) for piece in slices), connectivity=options.connectivity
    )
    table = pd.DataFrame(
        {
            name: np.quantile(values, PARTS) if values.size else np.full(len(PARTS), np.nan)
            for name, values in (
                ("region, px", sizes.areas),
                ("region's longer side, px", sizes.boxes.max(1)),
                ("hole, px", sizes.hole_areas),
                ("hole's longer side, px", sizes.hole_boxes.max(1)),
            )
        },
        index=[f"{part:.0%}" for part in PARTS],
    )
    print(f"{len(sizes.areas)} regions and {len(sizes.hole_areas)} holes on {len(slices)} slices")
    print(table.round(1).to_string())
    for side in (7, 9, 11):
        inside = [int((boxes.max(1) <= side).sum()) for boxes in (sizes.boxes, sizes.hole_boxes)]
        print(f"{inside[0]} regions and {inside[1]} holes fit {side} x {side} px")
    side, window = sizes.suggest_windows(options.part)
    print(f"Suggested window: {window}, which takes up to {side} x {side} px for noise")
    return 0


if __name__ == "__main__":
    sys.exit(main())
