"""Channel-Wise Distillation (CWD), for dense prediction: where in space each channel is active."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medkd.distill.losses.projectors import applied, convolution
from medkd.distill.losses.shared import compared, log_kl, masked_mean, require_positive
from medkd.errors import InputError


def cwd_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0, present: Tensor | None = None) -> Tensor:
    """T^2 KL( softmax over positions of f_t / T || that of f_s / T ), the mean over samples and channels.

    A constant added to a channel changes nothing. present: the channels to compare; of a patch without an organ the
    map of its class is almost uniform and only dilutes the mean.

    Shape: student, teacher (B, C, *S), logits or features; present (B, C) bool; a scalar.
    Raises ValueError for other shapes; InputError for T <= 0 or maps of one position.
    Reference: Shu et al., ICCV 2021, arXiv 2011.13256.

    >>> import torch  # (1/2, 1/2) against (1/4, 3/4): 1/4 ln 1/2 + 3/4 ln 3/2
    >>> round(cwd_loss(torch.zeros(1, 1, 2), torch.tensor([[[1.0, 3.0]]]).log()).item(), 6)
    0.130812
    """
    require_positive(temperature=temperature)
    s, t = compared(student, teacher)
    if s.ndim < 3:
        raise ValueError(f"student has shape {tuple(s.shape)}; needed: (B, C, *S), maps over space")
    if s.shape[2:].numel() < 2:
        raise InputError("maps of 1 position have nothing to compare over space: use maps before the pooling")
    return temperature**2 * masked_mean(spatial_kl(s, t, temperature), present)


def spatial_kl(student: Tensor, teacher: Tensor, temperature: float, keep: Tensor | None = None) -> Tensor:
    """(B, C): KL over the positions of (B, C, *S) where `keep` (same shape) is True; zero for a map without any."""
    s, t = student.flatten(2) / temperature, teacher.flatten(2) / temperature
    if keep is None:
        return log_kl(s.log_softmax(2), t.log_softmax(2), dim=2)
    keep = keep.flatten(2)
    lowest = torch.finfo(s.dtype).min  # not -infinity, of which a map without a kept position would make NaN
    s, t = (x.masked_fill(~keep, lowest).log_softmax(2) for x in (s, t))
    return (t.exp() * (t - s)).where(keep, 0).sum(2)


class CWDLoss(nn.Module):
    """`cwd_loss` with stored options; channels=(C_s, C_t) puts a trained 1x1 convolution before the student's side.

    Usual weight 5 on segmentation logits (T = 1), 3 at T = 4; 50 on features.
    """

    def __init__(self, temperature: float = 1.0, channels: tuple[int, int] | None = None, spatial_dims: int = 2):
        super().__init__()
        require_positive(temperature=temperature)
        self.temperature = temperature
        self.projector = nn.Identity() if channels is None else convolution(spatial_dims, *channels)

    def forward(self, student: Tensor, teacher: Tensor, present: Tensor | None = None) -> Tensor:
        return cwd_loss(applied(self.projector, student), teacher, self.temperature, present)
