"""Whether a program runs as it is written, or is captured or transformed."""

import torch


def runs_eagerly() -> bool:
    """Tell whether no compiler, no tracer and no transform of torch.func is at work."""
    return not (
        torch.compiler.is_compiling() or is_traced() or torch._C._are_functorch_transforms_active()
    )


def is_traced() -> bool:
    """Tell whether torch.jit traces the program. Sizes are tensors then."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def is_transformed() -> bool:
    """Tell whether a transform of torch.func is at work, outside what torch.compile captures."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
