from __future__ import annotations

import numpy as np
import pytest
import torch

from medkd.claims.diagnostics import centre, class_pairs
from medkd.errors import InputError
from medkd.report.distributions import distribution_grid, overlap


def test_features_along_their_main_axis() -> None:
    """One class alike in both groups, one shifted by ten sd along an axis of large variance, one that a group lacks."""
    rng = np.random.default_rng(0)
    alike = [rng.normal(size=(4000, 5)) * (5, 1, 1, 1, 1) for _ in range(2)]
    shifted = [rng.normal(size=(500, 5)), rng.normal([0, 0, 10, 0, 0], size=(900, 5))]
    alone = rng.normal(size=(50, 5))
    labelled = np.concatenate([alike[0], shifted[0], alone]), np.repeat([0, 1, 2], [4000, 500, 50])
    unlabelled = np.concatenate([alike[1], shifted[1]]), np.repeat([0, 1], [4000, 900])
    pairs = class_pairs(labelled, unlabelled, ("same", "moved", "lacking"))
    assert overlap(*pairs["same"]) > 0.93
    assert overlap(*pairs["moved"]) == 0
    assert len(pairs["moved"][1]) == 900
    assert abs(abs(pairs["moved"][0].mean() - pairs["moved"][1].mean()) - 2) < 0.1  # in sd of both, equal shares
    assert len(pairs["lacking"][0]) == 0
    assert distribution_grid({"net": pairs}).startswith(b"\x89PNG")


def test_nothing_to_compare() -> None:
    with pytest.raises(InputError, match="no class"):
        distribution_grid({"net": {"lv": (np.empty(0), np.ones(3))}})


def test_the_middle_of_a_sample() -> None:
    x = torch.arange(2 * 5 * 4).reshape(2, 5, 4)
    assert torch.equal(centre(x, (3, 2)), x[:, 1:4, 1:3])
    padded = centre(x, (7, 4))
    assert padded.shape == (2, 7, 4)
    assert torch.equal(padded[:, 1:6], x)
    assert centre(torch.ones(1, 1, 3, 3, 3), (2, 4, 3)).sum() == 2 * 3 * 3
