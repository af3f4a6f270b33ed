"""What several losses share: the pair of tensors compared, softened class probabilities, means over valid elements.

Every loss is float32 inside whatever the input and the autocast (float64 stays float64), and gives the teacher no
gradient. Means are over the valid elements of what it is given; with none the loss is zero, attached to the graph.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medkd.engine.tensors import at_least_float32, need
from medkd.errors import InputError


def compared(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both at full precision, the teacher detached. Raises ValueError for different shapes."""
    need("teacher", teacher, [student.shape])
    return full_precision(student, teacher)


def full_precision(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32, or float64 where the student is; the teacher detached."""
    student = at_least_float32(student)
    return student, teacher.detach().to(student.dtype)


def compared_logits(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """`compared` for logits (B, C, *S) under a softmax. Raises InputError for one class."""
    if student.ndim < 2:
        raise ValueError(f"logits have shape {tuple(student.shape)}; needed: (B, C) or (B, C, *S)")
    if student.shape[1] < 2:
        raise InputError("logits of 1 class: a softmax over it is always 1; for sigmoid outputs use bernoulli_kd_loss")
    return compared(student, teacher)


def require_positive(**options: float) -> None:
    """Raise InputError unless every option is above 0."""
    for name, value in options.items():
        if not value > 0:
            raise InputError(f"{name} is {value}; it must be above 0")


def require_classes(logits: Tensor, classes: int) -> None:
    """Raise ValueError unless logits (B, C, *S) have the number of classes the module was checked for."""
    if logits.ndim < 2 or logits.shape[1] != classes:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; needed: {classes} classes, (B, {classes}, *S)")


def masked_mean(values: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean of values where valid (bool, same shape) is True; zero, attached to the graph, where nothing is."""
    if valid is None:
        return values.sum() / max(values.numel(), 1)
    need("valid", valid, [values.shape])
    return values.where(valid, 0).sum() / valid.sum().clamp(min=1)


def mean_squared_difference(projected: Tensor, teacher: Tensor) -> Tensor:
    """Mean of (r(f_s) - f_t)^2 over samples, channels and positions: what a projector is trained by.

    Shape: both (B, C, *S); a scalar. Raises ValueError for different shapes.

    >>> mean_squared_difference(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])).item()
    2.5
    """
    s, t = compared(projected, teacher)
    return masked_mean((s - t).square())


def label_mask(labels: Tensor, logits: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Labels (B, *S) with the ignored ones set to 0, and where they are valid. ValueError for other shapes."""
    need("labels", labels, [(logits.shape[0], *logits.shape[2:])])
    valid = labels != ignore_index
    return labels.where(valid, 0), valid


def softened_kl(student: Tensor, teacher: Tensor, temperature: float, dim: int = 1) -> Tensor:
    """KL( softmax(teacher / T) || softmax(student / T) ), summed over `dim`, without the factor T^2."""
    return log_kl((student / temperature).log_softmax(dim), (teacher / temperature).log_softmax(dim), dim)


def log_kl(log_student: Tensor, log_teacher: Tensor, dim: int = 1) -> Tensor:
    """KL(teacher || student) of log-probabilities, summed over `dim`."""
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim)


def no_autocast(x: Tensor) -> torch.autocast:
    """A block in which matrix products keep the precision of their inputs."""
    return torch.autocast(x.device.type, enabled=False)
