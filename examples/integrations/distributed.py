"""torch.distributed: what two processes compute on half a batch each is what one does on all of it.

Run it by `torchrun --nproc_per_node 2 -m examples.integrations.distributed`; without torchrun it
starts that itself.
"""

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.run import main as torchrun
from torch.nn.parallel import DistributedDataParallel

from examples.integrations.toy_data import tumours
from gliomaseg_layers import CompoundLoss, OutlierRegionLoss


def make_network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)
    return nn.Sequential(*layers).double()


def loss_and_gradient(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the loss and all gradients in one vector."""
    criterion = CompoundLoss(OutlierRegionLoss("multiclass", ignore_index=255))  # gliomaseg_layers
    loss = criterion(network(images), labels)
    loss.backward()
    gradients = [
        weight.grad.flatten() for weight in network.parameters() if weight.grad is not None
    ]
    return torch.cat([loss.detach().view(1), *gradients])


def difference(images: Tensor, labels: Tensor) -> float:
    """Return the largest difference between this process's half, averaged, and the whole batch."""
    half = slice(dist.get_rank(), None, dist.get_world_size())
    parts = loss_and_gradient(DistributedDataParallel(make_network()), images[half], labels[half])
    # DDP has averaged the gradients; the loss is each process's own.
    dist.all_reduce(parts[:1])
    parts[:1] /= dist.get_world_size()
    return (parts - loss_and_gradient(make_network(), images, labels)).abs().max().item()


def main() -> None:
    dist.init_process_group("gloo")
    images, labels = tumours(4, 64, 64)
    # Double precision, so that rounding hides no difference.
    images = images.double()
    same = difference(images, labels)
    # Every mean is over the pixels that a process has: the average of the means is the mean of all
    # only where the processes have equally many. Here the second ignores half of its pixels, so
    # that each of them counts twice; so it would with a smaller last batch.
    labels[1::2, :32] = 255
    uneven = difference(images, labels)
    if dist.get_rank() == 0:
        print(f"largest difference of loss and gradients, equally many pixels: {same:.1e}")
        print(f"the same, half of one process's pixels ignored: {uneven:.1e}")
    dist.destroy_process_group()


if __name__ == "__main__":
    if "RANK" in os.environ:
        main()
    else:
        torchrun(
            ["--standalone", "--nproc_per_node", "2", "-m", "examples.integrations.distributed"]
        )
