"""Read or replace intermediate tensors by dotted module path, for as long as a `with` block lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

INPUT = ":input"
"""`PATH:input` is what a module gets, not what it gives: a map before its activation."""


def module_of(path: str) -> str:
    """The path of the module itself."""
    return path.removesuffix(INPUT)


@contextmanager
def replaced(network: nn.Module, paths: Sequence[str], edit: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Inside the block, the output of each module in `paths` is `edit(path, output)`; its first input likewise for
    `PATH:input`. Unknown paths are an error."""
    modules = dict(network.named_modules())
    unknown = [path for path in paths if module_of(path) not in modules]
    if unknown:
        raise ValueError(f"no module {unknown} in {type(network).__name__}; it has {sorted(modules)[1:]}")

    def hook(path: str) -> Callable[..., Tensor]:
        def run(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            return edit(path, output)

        return run

    def before(path: str) -> Callable[..., tuple[Any, ...]]:
        def run(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return edit(path, inputs[0]), *inputs[1:]

        return run

    handles = [
        modules[module_of(path)].register_forward_pre_hook(before(path))
        if path.endswith(INPUT)
        else modules[path].register_forward_hook(hook(path))
        for path in paths
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
