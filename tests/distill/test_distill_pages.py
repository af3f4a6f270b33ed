"""The Python examples of the pages on distillation run as they are written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medkd.engine.randomness import generator, seeded

PAGES = Path(__file__).parents[2] / "docs" / "methods"
IMAGES = torch.randn(12, 1, 4, 4, generator=generator("pages"))
IDS = [f"case{i}" for i in range(12)]


def run(page: str, **given: object) -> dict[str, object]:
    """All examples of a page, one after the other, with what they do not define."""
    for example in re.findall(r"```python\n(.*?)```", (PAGES / page).read_text(), re.DOTALL):
        exec(compile(example, page, "exec"), given)
    return given


def encoder(name: str, outputs: int = 6) -> nn.Module:
    with seeded("pages", name):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, outputs))


def test_retrieval(tmp_path: Path) -> None:
    rows = torch.arange(12)
    student = encoder("student")
    before = [p.clone() for p in student.parameters()]
    said = run(
        "retrieval.md", teacher=encoder("teacher"), student=student, images=IMAGES, case_ids=IDS, new_images=IMAGES[:2],
        path=tmp_path / "stored", batches=[*rows.split(4)] * 400, pairs=[(a, b) for a in IDS for b in IDS],
        pair_scores=torch.randn(144, generator=generator("scores")), triples=[([0, 1], [2, 3], [4, 5])],
    )  # fmt: skip
    assert [found[0] for found in said["found"]] == ["case0", "case1"]
    assert said["loss"].item() > 0
    assert all(not torch.equal(a, b) for a, b in zip(before, student.parameters()))


def test_self_distillation() -> None:
    x = np.linspace(0, 1, 12)[:, None]
    y = np.sin(6 * x)

    def fit(targets: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        line = np.linalg.lstsq(np.hstack([x, x**0]), targets, rcond=None)[0]
        return lambda at: np.hstack([at, at**0]) @ line

    said = run(
        "self_distillation.md", X=x, y=y[:, 0], X_val=x, y_val=y[:, 0], X_new=x, fit=fit, x=x, one_hot=y, x_val=x,
        one_hot_val=y, x_new=x,
    )  # fmt: skip
    assert said["model"].filters_.shape == (6, 12)
    assert len(said["done"]) == 5


def test_the_concordance() -> None:
    loss = run("distillation_losses.md", student=encoder("s", 2), teacher=encoder("t", 2), images=IMAGES)["loss"]
    loss.backward()
    assert 0 < loss.item() < 2
