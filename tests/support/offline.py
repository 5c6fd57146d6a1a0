"""Import and use all that is public, in a process that ends where anything asks for a network.

python -m tests.support.offline
"""

import doctest
import importlib
import os
import sys
from importlib.util import find_spec
from typing import Any

REFUSED = 99


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """End the process at the first name or connection asked for; an exception might be caught.

    An audit hook sees what Python does with sockets, in whichever module.
    """
    if not event.startswith("socket.") or event in ("socket.__new__", "socket.gethostname"):
        return
    # By such a one urllib3 finds out, at import, whether the machine has IPv6.
    if event != "socket.bind" or arguments[1][0] != "::1":
        print(f"asked for a network: {event} {arguments}", file=sys.stderr, flush=True)
        os._exit(REFUSED)


def use_everything() -> None:
    # Here, so that what happens at import is seen too.
    import torch

    import gliomaseg_layers
    from tests.support.module_cases import LAYERS, MODULES, inputs, make
    from tests.test_architecture import modules

    names = modules()
    if find_spec("timm") is None:  # an extra
        names.remove("gliomaseg_layers.networks.attribute_deeplab")
    for name in names:
        assert doctest.testmod(importlib.import_module(name)).failed == 0
    used = {"AttributeEncoder", "GatedSegmenter", "WeightRamp", "functional", "__version__"}
    for name in MODULES:
        for dims in (2, 3) if name in LAYERS else (2,):
            make(name, dims)(*inputs(name, dims)).sum().backward()
        used.add(name.partition(",")[0])
    logits = torch.randn(2, 1, 24, 24, requires_grad=True)
    for loss in (
        gliomaseg_layers.DiceLoss(),
        gliomaseg_layers.OutlierRegionLoss(),
        gliomaseg_layers.DensityLoss(),
        gliomaseg_layers.CompoundLoss(),
    ):
        loss(logits, logits.detach() > 1).backward()
        used.add(type(loss).__name__)
    if find_spec("timm") is None:
        used.add("AttributeDeepLab")
    assert used == set(gliomaseg_layers.__all__)


if __name__ == "__main__":
    sys.addaudithook(refuse)
    use_everything()
