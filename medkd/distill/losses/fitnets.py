"""FitNets: the student's features, through a small regressor, equal the teacher's."""

from __future__ import annotations

from torch import Tensor, nn

from medkd.distill.losses.projectors import applied, pointwise, to_common_size
from medkd.distill.losses.shared import mean_squared_difference


class FitNetLoss(nn.Module):
    """Mean of (r(f_s) - f_t)^2, with r a trained 1x1 convolution (spatial_dims 0: a linear map of (B, C)).

    Usual weight 100. r is not part of the student. Between families of networks the loss can do harm (OFA-KD).

    Shape: student (B, C_s, *S), teacher (B, C_t, *S'), the larger map average-pooled to the smaller; a scalar.
    Raises ValueError for different batches, InputError for spatial_dims above 3.
    Reference: Romero et al., ICLR 2015, arXiv 1412.6550.

    >>> import torch
    >>> loss = FitNetLoss(2, 1, spatial_dims=0)
    >>> _ = nn.init.ones_(loss.regressor.weight), nn.init.zeros_(loss.regressor.bias)
    >>> loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0]])).item()  # (1 + 2 - 5)^2
    4.0
    """

    def __init__(self, student_channels: int, teacher_channels: int, spatial_dims: int = 2):
        super().__init__()
        self.regressor = pointwise(spatial_dims, student_channels, teacher_channels)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = to_common_size(student, teacher)
        return mean_squared_difference(applied(self.regressor, student), teacher)
