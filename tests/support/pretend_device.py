"""A second device that needs no hardware: its tensors hold their numbers on the CPU.

As on a GPU, an operation on tensors of two devices is an error, and so is NumPy's look at one.
What a program makes on the CPU and forgets to move is thus found on any machine.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "pretend"
MOVES = ("aten::_to_copy", "aten::copy_")


class PretendTensor(Tensor):
    """A tensor of the device; ``held`` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "PretendTensor":
        tensor = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        tensor.held = held
        return tensor

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"can't convert {NAME} device type tensor to numpy")
        return self.held.detach().numpy()

    def __format__(self, spec: str) -> str:
        return format(self.held, spec)

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(operation, args, kwargs or {})


def run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU; the result is of the device that was asked for, or of the arguments'."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    pretend = [isinstance(tensor, PretendTensor) for tensor in tensors]
    device, name = kwargs.get("device"), operation._schema.name
    if any(pretend) and name not in MOVES:
        for tensor, here in zip(tensors, pretend, strict=True):
            if not here and tensor.dim():
                raise RuntimeError(f"{name} got tensors of the devices {NAME} and {tensor.device}")
    there = any(pretend) if device is None else torch.device(device).type == NAME
    if device is not None and there:
        kwargs = kwargs | {"device": torch.device("cpu")}
    held_args, held_kwargs = tree_map_only(PretendTensor, lambda t: t.held, (args, kwargs))
    result = operation(*held_args, **held_kwargs)
    if (
        operation._schema.is_mutable
        and args
        and isinstance(args[0], Tensor)
        and isinstance(result, Tensor)
    ):
        return args[0]
    return tree_map_only(Tensor, PretendTensor, result) if there else result


class PretendDevice(TorchDispatchMode):
    """Let tensors be made on the device, while it is active."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(operation, args, kwargs or {})


def register() -> PretendDevice:
    """Make torch know the device's name."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME)
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor makes them on the CPU and moves them
    return PretendDevice()
