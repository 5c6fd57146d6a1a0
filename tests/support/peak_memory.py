"""How much memory a training step holds at once, counted by tensors: the same on any machine."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """Count the bytes that the results of operations hold while they live, backward with forward.

    What an operation allocates and frees inside itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known = weakref.WeakSet[torch.UntypedStorage]()

    def ignore(self, *given: torch.Tensor) -> None:
        """Leave out tensors that are there before."""
        self.known.update(tensor.untyped_storage() for tensor in given)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage() not in self.known:
                storage = tensor.untyped_storage()
                self.known.add(storage)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return out

    def _freed(self, size: int) -> None:
        self.live -= size


def peak_of_training_step(
    function: Callable[..., torch.Tensor], given: list[torch.Tensor], upstream: torch.Tensor
) -> int:
    """Return the peak in bytes over forward and backward, gradients with it, inputs without."""
    with PeakMemory() as memory:
        memory.ignore(*given, upstream)
        out = function(*given)
        torch.autograd.grad(out, given, upstream)
    return memory.peak
