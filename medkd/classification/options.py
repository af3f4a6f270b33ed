"""Typed options of the classification room. No torch at import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from medkd.engine.options import Options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medkd.classification.loss import WeightedCrossEntropy


class ClassificationLoss(Options):
    """Cross-entropy.

    balance: the share with which classes are weighed against their frequency in the labelled training images: 0 counts
    every image alike, 1 every class. The weights have mean 1 over these images, and a loss is a plain mean: it does not
    change with micro-batches.
    """

    balance: float = Field(0.0, ge=0, le=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)

    def build(self, counts: Sequence[int]) -> WeightedCrossEntropy:
        """counts: labelled training images of each class."""
        from medkd.classification.loss import WeightedCrossEntropy, class_weights

        return WeightedCrossEntropy(class_weights(counts, self.balance), self.label_smoothing)
