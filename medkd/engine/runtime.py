"""Device, precision and ranks: the only file that talks to torch.distributed.

`torchrun` starts one process a rank. Each reads its slice of every global batch; gradients are summed once a turn;
everything a method holds is the same on every rank after every step. One process is the case of one rank: every
operation over the ranks is then free and changes nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medkd.engine.options import RuntimeOptions
from medkd.errors import InputError

if TYPE_CHECKING:
    from medkd.engine.method import Batch

_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}
BUCKET = 2**23  # values summed in one message
Item = TypeVar("Item")


@dataclass(frozen=True)
class Runtime:
    """Where training runs, in which precision, and which of how many ranks this process is."""

    device: torch.device
    precision: str = "fp32"
    channels_last: bool = False
    compile: bool = False
    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is the rank that writes files and shows progress."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[object]:
        """Autocast to the chosen precision; losses leave it again (they compute in float32)."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPE[self.precision])

    def scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler, active only in fp16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def place(self, network: nn.Module) -> nn.Module:
        """The network on the device, its convolution weights in channels-last order if wanted."""
        network = network.to(self.device)
        for p in network.parameters() if self.channels_last else ():
            p.data = _channels_last(p.data)
        return network

    def compiled(self, network: nn.Module) -> None:
        """Compile the network's forward in place if wanted: its class and the names of its weights stay."""
        if self.compile:
            network.compile()

    def batch(self, whole: Batch) -> Batch:
        """This rank's slice of a global batch, in channels-last order if wanted.

        Slices are runs of consecutive samples, so pairs stay together. A stream that made this slice alone (its draws
        know the size of the whole) is taken as it is.
        """
        mine = whole
        if self.world > 1 and whole.draws.total != len(whole) * self.world:
            mine = whole.micro(self.rank, self.world)
        return mine.with_image(_channels_last(mine.image)) if self.channels_last else mine

    # Over the ranks. All of them must make these calls, in the same order.

    def global_sum(self, values: Tensor) -> Tensor:
        """The sum over the ranks. Its gradient is such that the mean of the ranks' gradients is the whole batch's."""
        if self.world == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        scaled = values * self.world
        return scaled + (total - scaled).detach() if values.requires_grad else total

    def global_mean(self, values: Tensor) -> Tensor:
        """The mean over the ranks of a tensor without gradient."""
        return values if self.world == 1 else self.global_sum(values.detach()) / self.world

    def sum_gradients(self, parameters: Sequence[nn.Parameter], values: Tensor) -> Tensor:
        """Add up the gradients over the ranks, in flat buckets; return the vector `values` added up likewise.

        A parameter that has no gradient here but has one elsewhere gets the others'; one without any keeps None.
        """
        if self.world == 1:
            return values
        missing = [i for i, p in enumerate(parameters) if p.grad is None]
        for i in missing:
            parameters[i].grad = torch.zeros_like(parameters[i])
        present = torch.ones(len(parameters))
        present[missing] = 0.0
        tail = torch.cat([values, present.to(values)])
        gradients = [p.grad for p in parameters if p.grad is not None]
        for bucket in _buckets([*gradients, tail]):
            flat = torch.cat([t.reshape(-1) for t in bucket])
            dist.all_reduce(flat)
            for t, part in zip(bucket, flat.split([t.numel() for t in bucket])):
                t.copy_(part.view_as(t))
        values, present = tail.split([len(values), len(parameters)])
        for i in missing:
            if not present[i]:
                parameters[i].grad = None
        return values

    def average_buffers(self, module: nn.Module) -> None:
        """Give every rank the mean of the floating-point buffers: running statistics, matrices.

        Left out are those a module names in `replicated`: large ones that it keeps alike by itself, such as banks.
        """
        if self.world == 1:
            return
        buffers = [
            buffer
            for part in module.modules()
            for name, buffer in part.named_buffers(recurse=False)
            if buffer.is_floating_point() and name not in getattr(part, "replicated", ())
        ]
        for bucket in _buckets(buffers):
            flat = torch.cat([b.reshape(-1) for b in bucket])
            dist.all_reduce(flat)
            for b, part in zip(bucket, (flat / self.world).split([b.numel() for b in bucket])):
                b.copy_(part.view_as(b))

    def same_everywhere(self, module: nn.Module) -> None:
        """Give every rank the first rank's parameters and buffers."""
        for t in [*module.parameters(), *module.buffers()] if self.world > 1 else ():
            dist.broadcast(t.detach(), 0)

    def from_first(self, data: bytes | None) -> bytes | None:
        """The first rank's bytes (or None), on every rank."""
        if self.world == 1:
            return data
        length = torch.tensor(-1 if data is None else len(data), device=self.device)
        dist.broadcast(length, 0)
        if int(length) < 0:
            return None
        content = torch.empty(int(length), dtype=torch.uint8, device=self.device)
        if self.leads and data:
            content.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(content, 0)
        return content.cpu().numpy().tobytes()

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This rank's items: every `world`-th."""
        return list(items[self.rank :: self.world])

    def gather(self, rows: Tensor, total: int) -> Tensor:
        """The rows (n, ...) each rank made of its `share` of `total` items, in the order of the items, bit for bit."""
        if self.world == 1:
            return rows
        most = -(-total // self.world)
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, 1).flatten(0, 1)[:total]

    def joined(self, rows: Tensor) -> Tensor:
        """The rows (n, ...) of every rank, one rank after the other; n may differ from rank to rank."""
        if self.world == 1:
            return rows
        counts = torch.zeros(self.world, dtype=torch.int64, device=rows.device)
        counts[self.rank] = len(rows)
        dist.all_reduce(counts)
        numbers = counts.tolist()
        padded = rows.new_zeros(max(numbers), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in numbers]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, numbers)])

    @contextlib.contextmanager
    def one_before_the_others(self) -> Iterator[None]:
        """The first process of each machine runs the block before its others: what it stores, they find."""
        if self.local_rank == 0:
            yield
        self.wait()
        if self.local_rank != 0:
            yield

    def wait(self) -> None:
        """Return when every rank has come here."""
        if self.world > 1:
            float(self.global_sum(torch.zeros((), device=self.device)))


ONE_PROCESS = Runtime(torch.device("cpu"))


def open_runtime(options: RuntimeOptions, *, ranks: bool = False) -> Runtime:
    """Choose the device, set the threads; with `ranks`, join the processes that torchrun started.

    Raises InputError if the device is not there.
    """
    rank, world, local_rank = _environment() if ranks else (0, 1, 0)
    device = _device(options.device, local_rank, world)
    if options.threads:
        torch.set_num_threads(options.threads)
    if world > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave)
    return Runtime(device, options.precision, options.channels_last, options.compile, rank, world, local_rank)


def _device(name: str, local_rank: int, world: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    allowed = "allowed: auto, cpu, cuda, cuda:N"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"runtime.device is {name!r}; {allowed}") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"runtime.device is {name!r}; {allowed}")
    if world > 1 and device.type == "cuda":
        if device.index is not None:
            raise InputError(
                f"runtime.device is {name!r} under torchrun, where every process has a device of its own; use "
                "runtime.device=cuda and choose devices with CUDA_VISIBLE_DEVICES"
            )
        device = torch.device("cuda", local_rank)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("runtime.device is 'cuda', but no CUDA device is visible here; use runtime.device=cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise InputError(
            f"runtime.device is {str(device)!r}, but CUDA devices 0 to {count - 1} are visible here; use one of these"
        )
    return device


def _environment() -> tuple[int, int, int]:
    """(rank, world, local rank) as torchrun says; one process without it."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return 0, 1, 0
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", 0))


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors of one type together, about BUCKET values a bucket; the same split on every rank."""
    made: list[list[Tensor]] = []
    open_: dict[torch.dtype, list[Tensor]] = {}
    for t in tensors:
        bucket = open_.get(t.dtype)
        if bucket is None or sum(b.numel() for b in bucket) + t.numel() > BUCKET:
            bucket = open_[t.dtype] = []
            made.append(bucket)
        bucket.append(t)
    return made


def _channels_last(x: Tensor) -> Tensor:
    """Images (B, C, H, W) and volumes (B, C, D, H, W) in channels-last order; other tensors as they are."""
    orders = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=orders[x.ndim]) if x.ndim in orders else x
