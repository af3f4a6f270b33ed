"""Training a controller through one virtual step of the student (one-step bilevel optimisation).

    theta' = theta - rate * grad inner(theta, w)        the student's step, tried out only
    d outer(theta'(w)) / dw = -rate * d/dw <grad outer(theta'), grad inner(theta, w)>

Three forms, which differ in where the outer gradient is taken and how the product is differentiated:

    unrolled            at theta', exactly (a second backward)
    finite_difference   at theta', by a central difference of two inner losses (no second backward)
    first_order         at theta, exactly: the outer loss expanded around theta, no virtual step

The student's weights, buffers and the random state are as before afterwards: forwards run through
`torch.func.functional_call` on copies, and every evaluation of a loss starts from the same random state.
Source: Liu et al., DARTS, ICLR 2019; the hypergradient is step 6 of the method card of TGeo-KD.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

Order = Literal["unrolled", "finite_difference", "first_order"]
Network = Callable[[Tensor], Tensor]
Loss = Callable[[Network], Tensor]
"""A scalar loss of a network, which it calls on the images it needs."""
STEP = 0.01  # length of the finite difference


def outer_loss(
    order: Order,
    student: nn.Module,
    inner: Loss,
    outer: Loss,
    rate: float,
    mean: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """The outer loss after the virtual step: a scalar whose gradient with respect to the controller is the one above.

    inner depends on the controller, outer on the student alone. mean: the mean over ranks of a gradient
    (`ctx.global_mean`), so that the virtual step is the whole batch's.
    """
    theta = {name: p.detach().clone().requires_grad_() for name, p in student.named_parameters() if p.requires_grad}
    values = list(theta.values())

    def evaluate(loss: Loss, weights: dict[str, Tensor]) -> Tensor:
        buffers = {name: b.clone() for name, b in student.named_buffers()}
        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=devices):
            return loss(lambda image: functional_call(student, {**weights, **buffers}, (image,)))

    def moved(by: Sequence[Tensor], factor: float | Tensor) -> dict[str, Tensor]:
        return {name: (p.detach() + factor * d).requires_grad_() for (name, p), d in zip(theta.items(), by)}

    exact = order != "finite_difference"
    gradient = _gradient(evaluate(inner, theta), values, create_graph=exact)
    point = theta if order == "first_order" else moved([mean(g.detach()) for g in gradient], -rate)
    loss = evaluate(outer, point)
    direction = [mean(g) for g in _gradient(loss, list(point.values()))]
    if exact:
        product = torch.stack([(d * g).sum() for d, g in zip(direction, gradient)]).sum()
    else:
        size = STEP / torch.nn.utils.get_total_norm(direction).clamp(min=1e-12)
        after, before = evaluate(inner, moved(direction, size)), evaluate(inner, moved(direction, -size))
        product = (after - before) / (2 * size)
    change = -rate * product
    return loss.detach() + (change - change.detach())


def _gradient(loss: Tensor, weights: list[Tensor], create_graph: bool = False) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, weights, create_graph=create_graph, allow_unused=True, materialize_grads=True)
