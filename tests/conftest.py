"""Which data the run used, said in its header: no test is skipped for want of the real slices."""

import os
from pathlib import Path

import pytest


def pytest_report_header() -> str:
    folder = os.environ.get("LGG_DATA")
    if folder is None:
        return "LGG slices: a generated stand-in (set LGG_DATA to a kaggle_3m folder for real ones)"
    return f"LGG slices: {Path(folder).name} from LGG_DATA"


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    torch.manual_seed(23)
