"""The playground computes what the library computes, and a browser can work it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from docs.playground import export_models
from examples.noise_image import descend, noise_test
from gliomaseg_layers import DensityLoss, OutlierRegionLoss
from gliomaseg_layers.functional import density_map, outlier_weight
from tests.support.site import SITE

onnxruntime = pytest.importorskip("onnxruntime")

needs_site = pytest.mark.skipif(
    not (SITE / "generated" / "models").exists(), reason="no site: run `make docs`"
)
NUMBERS = {
    "max_noise_size": 49.0,
    "threshold": 33.0,
    "smooth": 1.0,
    "strength": 1000.0,
    "share": 0.1,
}


def public_maps(
    logits: Tensor, target: Tensor, name: str, window: int, numbers: Any
) -> dict[str, Tensor]:
    """Compute by public functions, in float64, what a model computes."""
    z, target = logits.double().requires_grad_(), target.double()
    region: Any = {"window": window, "max_noise_size": numbers["max_noise_size"]}
    cross_entropy = F.binary_cross_entropy_with_logits(z, target, reduction="none")
    if name == "density":
        density: Any = {"inner": export_models.WINDOWS[window], "outer": window}
        density |= {name: numbers[name] for name in ("smooth", "threshold")}
        flag = density_map(z.detach().sigmoid(), **density)
        loss = DensityLoss(**density, reduction="none")(z, target)
    else:
        flag = outlier_weight(z, from_logits=True, **region)
        share = numbers["share"] if name == "outlier" else None
        criterion = OutlierRegionLoss(
            **region, strength=numbers["strength"], share=share, reduction="none"
        )
        loss = criterion(z, target)
    term = loss - cross_entropy
    (loss_gradient,) = torch.autograd.grad(loss.sum(), z, retain_graph=True)
    (term_gradient,) = torch.autograd.grad(term.sum(), z)
    maps = (flag, loss, term, loss_gradient, term_gradient)
    return dict(zip(export_models.OUTPUTS, (m.detach()[0, 0].float() for m in maps), strict=True))


@needs_site
@pytest.mark.parametrize("window", export_models.WINDOWS)
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"max_noise_size": 12.0, "threshold": 20.0},
        {"smooth": 0.3, "strength": 4.0, "share": 0.7},
    ],
)
def test_models_equal_the_public_functions(window: int, changed: dict[str, float]) -> None:
    numbers = NUMBERS | changed
    session = onnxruntime.InferenceSession(SITE / "generated" / "models" / f"losses_{window}.onnx")
    image, target = noise_test()
    for logits in (
        (2 * image - 1) * 6 + torch.randn_like(image),
        30 * torch.randn_like(image) - 50,
    ):
        feeds = {"logits": logits, "target": target}
        feeds |= {name: torch.tensor(number) for name, number in numbers.items()}
        outputs = session.run(
            export_models.OUTPUTS, {name: value.numpy() for name, value in feeds.items()}
        )
        for row, loss in enumerate(export_models.LOSSES):
            expected = public_maps(logits, target, loss, window, numbers)
            for name, output in zip(export_models.OUTPUTS, outputs, strict=True):
                torch.testing.assert_close(
                    torch.from_numpy(output[row]), expected[name], rtol=1e-4, atol=1e-4
                )


@pytest.fixture
def playground(page: Any, address: str) -> Any:
    page.goto(f"{address}/playground/")
    page.wait_for_function("document.getElementById('pg-status').textContent === 'Ready.'")
    return page


def settle(page: Any, timeout: float = 30_000) -> None:
    page.wait_for_function("document.getElementById('pg').ariaBusy === 'false'", timeout=timeout)


def shown(page: Any, name: str, side: str) -> float:
    cell = page.locator(f"tr[data-name='{name}'] td[data-side='{side}']")
    return float(cell.get_attribute("data-value"))


def point(page: Any, row: int, column: int, canvas: str = "pg-prediction") -> None:
    box = page.locator(f"#{canvas}").bounding_box()
    side = box["width"] / export_models.SIZE
    page.mouse.move(box["x"] + (column + 0.5) * side, box["y"] + (row + 0.5) * side)


def set_range(page: Any, name: str, value: float) -> None:
    page.locator(f"#{name}").evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
    )
    settle(page)


NAMES = {
    "flag": "density D, weight w",
    "loss": "loss",
    "term": "added to the cross-entropy",
    "loss_gradient": "gradient of the loss",
    "term_gradient": "gradient of what is added",
}


def check_pixel(
    page: Any, logits: Tensor, target: Tensor, at: tuple[int, int], **numbers: float
) -> None:
    for side, loss in (("density", "density"), ("ours", "outlier")):
        expected = public_maps(logits, target, loss, 21, NUMBERS | numbers)
        for name, label in NAMES.items():
            torch.testing.assert_close(
                shown(page, label, side), float(expected[name][at]), rtol=1e-4, atol=1e-4
            )


@needs_site
def test_paint_and_move_a_slider(playground: Any) -> None:
    image, target = noise_test()
    image[..., 48:53, 10:15] = 1  # the brush is 5 px wide
    point(playground, 50, 12)
    playground.mouse.down()
    playground.mouse.up()
    settle(playground)
    check_pixel(playground, (2 * image - 1) * 6, target, (50, 12))
    set_range(playground, "max_noise_size", 30)
    set_range(playground, "smooth", 0.5)  # a power of ten
    set_range(playground, "pg-confidence", 4)
    numbers = {"max_noise_size": 30.0, "smooth": 10**0.5}
    check_pixel(playground, (2 * image - 1) * 4, target, (50, 12), **numbers)
    assert shown(playground, NAMES["flag"], "ours") > 0


@needs_site
def test_truth_and_keyboard(playground: Any) -> None:
    image, target = noise_test()
    playground.locator("#pg-truth").focus()
    for _ in range(10):
        playground.keyboard.press("ArrowUp")
    for _ in range(45):
        playground.keyboard.press("ArrowLeft")
    playground.keyboard.press(" ")
    settle(playground)
    target[..., 38:43, 3:8] = 1
    check_pixel(playground, (2 * image - 1) * 6, target, (40, 5))


@needs_site
def test_descent_is_the_one_of_the_example(playground: Any) -> None:
    image, target = noise_test()
    playground.get_by_role("button", name="Descend").click()
    playground.wait_for_function(
        "document.getElementById('pg-steps').textContent === '400 steps'", timeout=120_000
    )
    settle(playground)
    sides: tuple[tuple[str, Any, int], ...] = (
        ("density", DensityLoss(reduction="sum"), 2382),
        ("ours", OutlierRegionLoss(reduction="sum"), 0),
    )
    for side, criterion, left in sides:
        caption = playground.locator(f"#pg-{side}-logits + figcaption").inner_text()
        assert caption.endswith(f": {left} false px")

        def term(logits: Tensor, criterion: Any = criterion) -> Tensor:
            plain = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
            difference: Tensor = criterion(logits, target) - plain
            return difference

        end = descend(term, (2 * image - 1) * 6)
        assert int(((end > 0) & (target == 0)).sum()) == left
        point(playground, 10, 10, f"pg-{side}-logits")
        torch.testing.assert_close(
            shown(playground, "logit", side), float(end[0, 0, 10, 10]), rtol=0.02, atol=0.05
        )


@needs_site
def test_every_choice_runs(playground: Any) -> None:
    for preset in ("lesion", "random noise", "clear", "figure 9"):
        playground.get_by_role("button", name=preset, exact=True).click()
        settle(playground)
    for window in export_models.WINDOWS:
        playground.locator("#pg-window").select_option(str(window))
        settle(playground)
    for loss in export_models.LOSSES[:2]:
        playground.locator("#pg-loss").select_option(loss)
        settle(playground)
    for shown_map in export_models.OUTPUTS[1:]:
        playground.locator("#pg-map").select_option(shown_map)
    playground.set_viewport_size({"width": 360, "height": 700})
    wide = playground.evaluate("document.documentElement.scrollWidth")
    assert wide <= 360, "a phone's page must not scroll sideways"
