"""relation.json: the relational context of a source training, which travels with the source model.

K rows of K numbers (K + 1 with the background), row and column in the order of the model's classes. It holds no image
and no patient.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from medkd.errors import InputError

RELATION = "relation.json"
"""Its name in a model folder."""


def matrix_text(matrix: Tensor) -> str:
    """The content of the file."""
    return json.dumps(matrix.tolist())


def read_matrix(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Raises InputError: not there, not numbers, of other classes, rows that are neither empty nor sum to 1."""
    try:
        matrix = torch.tensor(json.loads(path.read_text()), dtype=torch.float32)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"source_matrix {path} cannot be read as rows of numbers: {error}") from None
    sums = matrix.sum(-1)
    if tuple(matrix.shape) != shape or (matrix < 0).any() or not (((sums - 1).abs() < 1e-3) | (sums == 0)).all():
        raise InputError(
            f"source_matrix {path} is of shape {tuple(matrix.shape)}; needed: {shape}, each row 0 or with the sum 1 "
            "(with include_background in the source training and here, or in neither)"
        )
    return matrix
