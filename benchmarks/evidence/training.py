"""Train small networks side by side, each by its own loss; on a GPU all steps are one graph."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from monai.networks.nets.unet import UNet
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.evidence.methods import Batch, Method, Setting

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LEARNING_RATE = 1e-3
TURN, SCALE, GAIN = 0.2, 0.1, 0.2  # radians, and parts of 1


class Stream:
    """Augmented batches, the same for the same seed, which lie in the same memory at every step."""

    images: Tensor
    batch: Batch

    def __init__(self, images: Tensor, labels: Tensor, regions: Tensor) -> None:
        self.data = images, labels, regions

    def start(
        self, cases: Sequence[NDArray[np.int64]], sizes: Sequence[int], steps: int,
        flips: Sequence[int], seed: int,
    ) -> None:  # fmt: skip
        """Draw the cases of all steps, so many of each kind, and how each is turned."""
        numbers = np.random.default_rng(seed)
        drawn = [
            numbers.choice(kind, (steps, size)) for kind, size in zip(cases, sizes, strict=True)
        ]
        self.drawn = torch.from_numpy(np.concatenate(drawn, 1)).to(DEVICE)
        turns = turning(steps * sum(sizes), self.data[0].dim() - 2, flips, numbers)
        self.turns = torch.from_numpy(turns.reshape(steps, -1, *turns.shape[1:])).to(DEVICE)
        gains = numbers.uniform(1 - GAIN, 1 + GAIN, (steps, sum(sizes))).astype(np.float32)
        self.gains = torch.from_numpy(gains).to(DEVICE)

    def fill(self, step: int) -> None:
        """Put the batch of a step in its place."""
        images, labels, regions = (values[self.drawn[step]].float() for values in self.data)
        grid = F.affine_grid(self.turns[step], list(images.shape), align_corners=False)
        gain = self.gains[step].view(-1, *[1] * (images.dim() - 1))
        images = gain / 255 * F.grid_sample(images, grid, align_corners=False)
        both = torch.stack([labels, regions], 1)
        both = F.grid_sample(both, grid, mode="nearest", align_corners=False).long()
        if not hasattr(self, "images"):
            self.images, self.batch = images, Batch(both[:, 0].clone(), both[:, 1].clone())
        self.images.copy_(images)
        for place, values in zip(self.batch, both.unbind(1), strict=True):
            place.copy_(values)


def turning(
    count: int, axes: int, flips: Sequence[int], numbers: np.random.Generator
) -> NDArray[np.float32]:
    """Return affine matrices: a turn in the plane of the last two axes, a scale, flips."""
    angle = numbers.uniform(-TURN, TURN, count)
    matrix = np.tile(np.eye(axes), (count, 1, 1))
    matrix[:, 0, 0] = matrix[:, 1, 1] = np.cos(angle)
    matrix[:, 0, 1], matrix[:, 1, 0] = -np.sin(angle), np.sin(angle)
    matrix *= numbers.uniform(1 - SCALE, 1 + SCALE, (count, 1, 1))
    for axis in flips:  # the matrix has the last axis first
        matrix[:, :, axes - 1 - axis] *= numbers.choice([-1, 1], (count, 1))
    return np.concatenate([matrix, np.zeros((count, axes, 1))], 2).astype(np.float32)


class Member:
    """A network, its optimizer and its loss, on the batches of a stream."""

    def __init__(self, stream: Stream, axes: int, channels: int, classes: int) -> None:
        self.stream = stream
        self.network = network(axes, channels, classes).to(DEVICE)
        self.weights = list(self.network.parameters())
        self.optimizer = torch.optim.Adam(self.weights, capturable=DEVICE.type == "cuda")
        self.loss: Callable[[Tensor, Batch], Tensor]

    def step(self) -> None:
        loss = self.loss(self.network(self.stream.images), self.stream.batch)
        grads = torch.autograd.grad(loss, self.weights)
        for weight, grad in zip(self.weights, grads, strict=True):
            weight.grad = grad
        self.optimizer.step()

    def restart(self, state: dict[str, Tensor]) -> None:
        """Take over the weights, in place, and forget the optimizer's moments."""
        self.network.load_state_dict(state)
        for moments in self.optimizer.state.values():
            for value in moments.values():
                value.zero_()

    def state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.network.state_dict().items()}


def network(axes: int, channels: int, classes: int) -> nn.Module:
    """Return a U-Net of about 0.7 M weights."""
    widths = (16, 32, 64, 128, 256) if axes == 2 else (16, 32, 64, 96)
    unet = UNet(axes, channels, 8, widths, [2] * (len(widths) - 1), act="RELU")
    # Its last layer is a transposed convolution, which draws a checkerboard unless one smooths it.
    smooth = (nn.Conv2d if axes == 2 else nn.Conv3d)(8, 1 if classes == 2 else classes, 3, 1, 1)
    return nn.Sequential(unet, nn.ReLU(), smooth)


class Together:
    """Members that take their steps at the same time."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self.graph: Any = None
        self.rate = torch.tensor(LEARNING_RATE, device=DEVICE)
        for member in members:
            member.optimizer.param_groups[0]["lr"] = self.rate

    def train(self, steps: int, *, falling: bool = False) -> Iterator[int]:
        """Take steps, one each time; a falling rate goes to 0 along half a cosine."""
        streams = list({id(member.stream): member.stream for member in self.members}.values())
        for step in range(steps):
            for stream in streams:
                stream.fill(step)
            cosine = 0.5 + 0.5 * np.cos(np.pi * step / steps)
            self.rate.fill_(LEARNING_RATE * (cosine if falling else 1.0))
            self.step()
            yield step + 1

    def step(self) -> None:
        if DEVICE.type == "cpu":
            for member in self.members:
                member.step()
        else:
            if self.graph is None:
                self.record()
            self.graph.replay()

    def record(self) -> None:
        """Record the steps of all members as one CUDA graph, each on a stream of its own."""
        kept = [member.state() for member in self.members]
        sides = [torch.cuda.Stream() for _ in self.members]  # type: ignore[no-untyped-call]

        def run() -> None:
            main = torch.cuda.current_stream()
            for member, side in zip(self.members, sides, strict=True):
                side.wait_stream(main)
                with torch.cuda.stream(side):
                    member.step()
            for side in sides:
                main.wait_stream(side)

        for _ in range(3):
            run()
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            run()
        for member, state in zip(self.members, kept, strict=True):
            member.restart(state)


@torch.no_grad()
def predict(network: nn.Module, images: Tensor, size: int = 64) -> tuple[Tensor, Tensor]:
    """Return the probability of foreground ``(N, *spatial)``, and the class it has where it is."""
    foreground, best = [], []
    for part in torch.split(images, size):
        logits = network(part.float() / 255)
        if logits.shape[1] == 1:
            foreground.append(logits.sigmoid().squeeze(1))
            best.append(torch.ones_like(foreground[-1], dtype=torch.uint8))
        else:
            foreground.append(1 - logits.softmax(1)[:, 0])
            best.append((logits[:, 1:].argmax(1) + 1).to(torch.uint8))
    return torch.cat(foreground), torch.cat(best)


def bind(method: Method, setting: Setting) -> Callable[[Tensor, Batch], Tensor]:
    return lambda logits, batch: method(logits, batch, setting)
