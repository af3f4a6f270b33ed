"""A teacher's classes become the dataset's, by name.

The order may differ. Of classes that only the teacher knows, segmentation makes background (their probabilities add up
with its own); classification leaves them out (what remains are the probabilities given that it is one of the others).
A class that the teacher does not know is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medkd.engine.tensors import at_least_float32
from medkd.errors import InputError


class Reclassified(nn.Module):
    """A network whose logits are given in the order `order` of its classes.

    absorbed: classes whose probability is added to that of the first of `order`.
    Its output is the full-resolution logits alone, also of a network that stacks those of deeper levels.
    """

    def __init__(self, network: nn.Module, order: Sequence[int], absorbed: Sequence[int] = ()):
        super().__init__()
        self.network, self.absorbed = network, bool(absorbed)
        self.register_buffer("order", torch.tensor(order))
        self.register_buffer("first", torch.tensor([order[0], *absorbed]))

    order: Tensor
    first: Tensor

    def forward(self, image: Tensor) -> Tensor:
        output: Tensor = self.network(image)
        return self.mapped(output[:, 0] if output.ndim > image.ndim else output)

    def mapped(self, logits: Tensor) -> Tensor:
        """(B, K', *S) in the teacher's classes to (B, K, *S)."""
        ordered = logits.index_select(1, self.order)
        if not self.absorbed:
            return ordered
        background = at_least_float32(logits.index_select(1, self.first)).logsumexp(1, keepdim=True)
        return torch.cat([background, at_least_float32(ordered[:, 1:])], 1)


def reclassified(network: nn.Module, theirs: Sequence[str], ours: Sequence[str], background: bool) -> nn.Module:
    """The teacher in our classes; the network itself where they are the same.

    background: whether the first of our classes takes up what we do not know. Raises InputError, naming both lists.
    """
    if tuple(theirs) == tuple(ours):
        return network
    if missing := [name for name in ours if name not in theirs]:
        raise InputError(
            f"the teacher has the classes {', '.join(theirs)}; the dataset {', '.join(ours)}: it knows nothing of "
            f"{', '.join(missing)}"
        )
    order = [list(theirs).index(name) for name in ours]
    extra = [number for number in range(len(theirs)) if number not in order]
    return Reclassified(network, order, extra if background else ())
