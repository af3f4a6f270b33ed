"""SimKD inside Distil: the student is a `ReusedHead`, and its head becomes the teacher's."""

from __future__ import annotations

from torch import nn

from medkd.distill.methods.compared import known
from medkd.errors import InputError
from medkd.networks.reused_head import ReusedHead


def reuse_head(student: nn.Module, teacher: nn.Module, path: str) -> None:
    """Copy the teacher's linear head at `path` into the student, where nothing trains it any more.

    Raises InputError for a student without room for it, and for a head that is not linear or does not fit.
    """
    if not isinstance(student, ReusedHead):
        raise InputError(
            f"simkd ships the teacher's head behind a projector, and the student is a {type(student).__name__}; give "
            "it network: {kind: ReusedHead, encoder: ..., width: channels of the teacher's last map}"
        )
    known("teacher", teacher, [path])
    head, mine = teacher.get_submodule(path), student.head
    if not isinstance(head, nn.Linear):
        raise InputError(f"SimKD reuses a linear classifier; the teacher's {path} is a {type(head).__name__}")
    if head.weight.shape != mine.weight.shape or head.bias is None:
        raise InputError(
            f"the teacher's {path} maps {head.in_features} features to {head.out_features} classes"
            f"{'' if head.bias is not None else ' without a bias'}; the student's head {mine.in_features} to "
            f"{mine.out_features}: set the network's width to {head.in_features}"
        )
    mine.load_state_dict(head.state_dict())
    mine.requires_grad_(False)
