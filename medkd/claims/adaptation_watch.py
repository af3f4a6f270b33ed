"""What happens inside a source-free adaptation over time: the quality of its pseudo-labels, its relation matrix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from medkd.claims.hidden_boxes import HiddenBoxes
from medkd.claims.runner import Line
from medkd.detection.grounded_teacher import GroundedTeacher
from medkd.engine.method import Method
from medkd.engine.phases import Networks
from medkd.runs.tasks.protocol import Setup


class AdaptationWatch(HiddenBoxes):
    """`HiddenBoxes`, with the target's relation matrix of Grounded Teacher beside the student's scores, an entry a
    score: `relation_TRUTH_ANSWER`."""

    def __init__(self, setup: Setup):
        super().__init__(setup)
        self.method: Method | None = None
        build = setup.phases[0].build

        def caught(networks: Networks) -> Method:
            self.method = build(networks)
            return self.method

        setup.phases[0] = replace(setup.phases[0], build=caught)

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        scores = super().evaluate(network, limit)
        method, names = self.method, self.hidden.dataset.classes
        if limit is None and isinstance(method, GroundedTeacher) and network is method.student:
            matrix = method.context("target").matrix().tolist()
            scores |= {f"relation_{a}_{b}": matrix[i][j] for i, a in enumerate(names) for j, b in enumerate(names)}
        return scores


def relations(line: Line, classes: tuple[str, ...]) -> dict[int, np.ndarray]:
    """The matrices of a line by step; empty for a run without any."""
    key = "student/relation_{}_{}".format
    return {
        row["step"]: np.array([[row[key(a, b)] for b in classes] for a in classes])
        for row in line["validation"]
        if key(classes[0], classes[0]) in row
    }
