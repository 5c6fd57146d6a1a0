"""The part that looks for better settings of the kernels, one setting at a time."""

from collections.abc import Callable
from typing import Any

from benchmarks.alternating import pairs
from benchmarks.gpu_report.report import Found, Tell
from benchmarks.workloads import batch
from gliomaseg_layers.functional import outlier_weight_triton as kernels

CHOICES = {
    "WORDS": (16, 32, 64, 128, 256),
    "COLUMNS": (64, 128, 256, 512),
    "ROWS": (32, 64, 128, 256),
    "PROGRAMS": (128, 256, 512, 1024, 2048),
    "warps to pack": (1, 2, 4, 8),
    "warps to count": (1, 2, 4, 8, 16),
}
WARPS = {"warps to pack": "_pack_kernel", "warps to count": "_count_kernel"}
SHAPES = ("64x1x512x512", "16x1x256x256", "1x1x4096x4096")


class WithWarps:
    """A kernel that is launched with a number of warps."""

    def __init__(self, kernel: Any, warps: int) -> None:
        self.kernel, self.warps = kernel, warps

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        return lambda *given, **more: self.kernel[grid](*given, **more, num_warps=self.warps)


def launcher(x: Any, changed: dict[str, int], original: dict[str, Any]) -> Callable[[], None]:
    """Return a launch with settings other than the code's."""

    def step() -> None:
        for name, value in original.items():
            setattr(kernels, name, value)
        for name, value in changed.items():
            kernel = WARPS.get(name)
            setattr(
                kernels, kernel or name, WithWarps(original[kernel], value) if kernel else value
            )
        kernels.launch(x, None, (21, 21), 49, (0.1, 0.3, 0.5))

    return step


def measure(tell: Tell, rehearse: bool) -> None:
    """Change one setting after the other, keep what is faster by more than 2 %, and say so."""
    names = ["WORDS", "COLUMNS", "ROWS", "PROGRAMS", *WARPS.values()]
    original = {name: getattr(kernels, name) for name in names}
    for full in SHAPES[:1] if rehearse else SHAPES:
        full = "1x1x16x40" if rehearse else full
        x = batch(full)[0].detach()
        best: dict[str, int] = {}
        for setting, values in CHOICES.items():
            kept = dict(best)
            fastest = 0.98
            for value in values[:2] if rehearse else values:
                tried = kept | {setting: value}
                found: Found = {"table": f"Kernels, {full}", "row": setting, "column": str(value)}
                found["over"] = "Over the settings kept so far, those of the code at first"
                new, old = (launcher(x, settings, original) for settings in (tried, kept))
                try:
                    found |= pairs(new, old, limit=0.02 if rehearse else 0.15)
                except Exception as error:  # as with more warps than there is room for
                    found["error"] = f"{type(error).__name__}: {error}"[:300]
                if found.get("ratio", 1) < fastest:
                    fastest, best = found["ratio"], tried
                tell(found)
        note = f"faster than the code's: {best}" if best else "the code's are best"
        tell({"table": f"Kernels, {full}", "row": "kept", "note": note})
    for name, value in original.items():
        setattr(kernels, name, value)
