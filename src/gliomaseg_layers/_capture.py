"""Whether somebody captures or transforms the program that runs."""

import torch


def runs_eagerly() -> bool:
    """Tell whether nobody captures or transforms the program: who does wants the plain formula."""
    return not (
        torch.compiler.is_compiling() or is_traced() or torch._C._are_functorch_transforms_active()
    )


def is_traced() -> bool:
    """Tell whether torch.jit traces the program: sizes are tensors then."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def is_transformed() -> bool:
    """Tell whether a transform of torch.func is at work, outside what torch.compile captures."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
