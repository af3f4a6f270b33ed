"""What methods ask of a network whose inside they compare: logits, tensors by path, and their shapes in a dry pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from medkd.distill.class_map import Reclassified
from medkd.engine.method import Batch
from medkd.engine.taps import INPUT, replaced
from medkd.engine.teachers import TEACHER_LOGITS, FrozenTeacher, for_teacher
from medkd.engine.tensors import at_least_float32
from medkd.errors import InputError


def teacher_logits(teacher: nn.Module, x: Batch) -> Tensor:
    """The teacher's logits (B, K, *S) of a batch: those that came with it, or of a forward on the teacher's image."""
    stored = x.view.get(TEACHER_LOGITS)
    return logits_of(teacher, for_teacher(x)) if stored is None else at_least_float32(stored)


def inside(network: nn.Module) -> nn.Module:
    """The network that dotted paths are of, without what a teacher is wrapped in."""
    while isinstance(network, (FrozenTeacher, Reclassified)):
        network = cast(nn.Module, network.network)
    return network


def logits_of(network: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Full-resolution logits (B, K, *S), float32 at least."""
    return main_logits(network(image), image)


def main_logits(output: Tensor, image: Tensor) -> Tensor:
    """The full-resolution logits of a raw output, which may stack those of deeper levels."""
    return at_least_float32(output[:, 0] if output.ndim > image.ndim else output)


@contextmanager
def tapped(network: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Inside the block, the dict holds the output of each module in `paths` at its last forward, or for `PATH:input` a
    copy of its input, which an activation may change in place.

    Raises InputError for a module that gives, or gets first, no single tensor.
    """
    found: dict[str, Tensor] = {}

    def keep(path: str, output: Tensor) -> Tensor:
        if not isinstance(output, Tensor):
            raise InputError(f"{path} of {type(network).__name__} gives a {type(output).__name__}, not one tensor")
        found[path] = output.clone() if path.endswith(INPUT) else output
        return output

    with replaced(network, paths, keep):
        yield found


@contextmanager
def tried(network: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """`tapped` for a first forward, which finds out what cannot be tapped.

    Raises InputError for a module that the forward left out, and for one whose output was changed in place afterwards,
    as an activation behind a normalisation may do: what is compared would not be what the module gave.
    """
    versions: dict[str, int] = {}
    with tapped(network, paths) as found:

        def note(path: str, output: Tensor) -> Tensor:
            versions[path] = found[path]._version
            return output

        with replaced(network, paths, note):
            yield found
    for path in paths:
        if path not in found:
            raise InputError(f"{path} of {type(network).__name__} takes no part in its forward; name another module")
        if found[path]._version != versions[path]:
            raise InputError(
                f"the output of {path} of {type(network).__name__} is changed in place after it; name the block "
                "around it"
            )


@contextmanager
def dry(network: nn.Module) -> Iterator[None]:
    """In eval mode and without gradient inside, every module in its own mode again afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def dry_image(network: nn.Module, size: tuple[int, ...], side: int) -> Tensor:
    """An empty image (1, C, *size) of the channels and axes that the first convolution takes; `side` an axis if size
    is empty. Raises InputError for a network without one."""
    for module in network.modules():
        for dims, kind in ((2, nn.Conv2d), (3, nn.Conv3d)):
            if isinstance(module, kind):
                return module.weight.new_zeros(1, module.in_channels, *(size or (side,) * dims))
    raise InputError(f"{type(network).__name__} has no convolution to tell the shape of its input from")
