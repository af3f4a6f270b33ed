"""Which class a detector mistakes for which: the relational context of Grounded Teacher (card 3.2).

A row is the class a region is labelled with, a column the class the student calls it, so entry (i, j) is the confusion
of i with j. It is a moving average of row-normalised counts, without gradient, and no label counts enter it: a class is
in the majority by how well it is recognised.

Without source data the labels are pseudo-labels: the matrix is disagreement with a teacher, not with the truth, and
errors that both share are invisible to it. Hence the matrix of the source training travels with the source model.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from medkd.engine.method import StepContext
from medkd.engine.tensors import need
from medkd.errors import InputError

FIRST_DECAY = 0.5


class RelationalContext(nn.Module):
    """The moving average of the confusion matrix, (K, K), or (K, K+1) with `include_background`.

    momentum: weight of the OLD row, reached from 0.5 along a cubic over `warmup` updates. bias_correct: divide by the
    weight gathered so far, so that a row sums to 1 from the first time it is seen; else it sums to 1 - prod(decays).
    include_background: the last column counts regions of a class that the student calls background (an extension; the
    paper's matrix holds regions that both call foreground).

    With one class and no background column the matrix is [[1]], nothing is mixed and every weight is 1: a warning says
    so. Counts of an iteration are gathered by `collect` and enter the average in one `update`; in a method `observe`
    and `settle` do so for all ranks and micro-batches.
    """

    average: Tensor
    left: Tensor
    rows_seen: Tensor
    updates: Tensor
    pending: Tensor

    def __init__(
        self,
        classes: int,
        momentum: float = 0.99,
        warmup: int = 0,
        include_background: bool = False,
        bias_correct: bool = True,
    ):
        super().__init__()
        if classes < 1 or not 0 <= momentum < 1 or warmup < 0:
            raise InputError(
                f"a relational context of {classes} classes, momentum {momentum}, warm-up {warmup}; allowed: at least "
                "one class, momentum from 0 to below 1, warm-up 0 or more"
            )
        self.classes, self.momentum, self.warmup = classes, momentum, warmup
        self.observed_at: int | None = None  # the iteration whose counts are pending
        self.include_background, self.bias_correct = include_background, bias_correct
        if self.inert:
            warnings.warn(
                "a relational context of one class is [[1]] whatever happens: it mixes nothing and weights nothing. "
                "Set include_background, or split the class (by size, by density)",
                stacklevel=2,
            )
        columns = classes + include_background
        self.register_buffer("average", torch.zeros(classes, columns))
        self.register_buffer("left", torch.ones(classes))  # weight that the zeros of the start still have
        self.register_buffer("rows_seen", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("pending", torch.zeros(classes, columns, dtype=torch.int64))

    @property
    def inert(self) -> bool:
        """Whether the module can have any effect: not with one class alone."""
        return self.classes == 1 and not self.include_background

    def matrix(self) -> Tensor:
        """(K, K) or (K, K+1). Rows never seen are zero."""
        if not self.bias_correct:
            return self.average.clone()
        return torch.where(self.left[:, None] < 1, self.average / (1 - self.left)[:, None], self.average)

    def start_from(self, matrix: Tensor) -> None:
        """Take over another matrix, as if its non-empty rows had been seen forever."""
        need("matrix", matrix, [self.average.shape])
        self.average.copy_(matrix)
        self.left.copy_((matrix.sum(1) == 0).to(self.left))

    def counts(self, gt: Tensor, predicted: Tensor) -> Tensor:
        """How often a region of class i (R,) was called j (R,), both in 0..K with K = background; int64."""
        columns = self.average.shape[1]
        valid = (gt < self.classes) & (predicted < columns)
        cell = torch.where(valid, gt * columns + predicted, self.classes * columns)
        counted = torch.zeros(self.classes * columns + 1, dtype=torch.int64, device=gt.device)
        counted.scatter_add_(0, cell, torch.ones_like(cell))
        return counted[:-1].view(self.classes, columns)

    def observe(self, gt: Tensor, predicted: Tensor, ctx: StepContext) -> None:
        """Count regions of this iteration, of all ranks. Every rank must call it, also with no region."""
        counts = ctx.global_sum(self.counts(gt, predicted))
        self.collect(counts, first=self.observed_at != ctx.global_step)
        self.observed_at = ctx.global_step

    def settle(self, ctx: StepContext) -> None:
        """Average in what this iteration observed, if it did: for `after_step`, which a skipped step does not reach."""
        if self.observed_at == ctx.global_step:
            self.update()

    def collect(self, counts: Tensor, first: bool = True) -> None:
        """Keep the counts of this iteration, summed over the ranks; `first`: forget those of one that was skipped."""
        self.pending.copy_(counts if first else self.pending + counts)

    def update(self) -> None:
        """Average the collected counts in, once an iteration and label set. Rows without a region stay as they are."""
        decay = cubic_decay(self.updates, self.warmup, self.momentum)
        total = self.pending.sum(1, keepdim=True)
        rows = self.pending / total.clamp(min=1)
        seen = total[:, 0] > 0
        self.average.copy_(torch.where(seen[:, None], decay * self.average + (1 - decay) * rows, self.average))
        self.left.copy_(torch.where(seen, decay * self.left, self.left))
        self.rows_seen += seen
        self.updates += 1
        self.pending.zero_()


def cubic_decay(updates: Tensor | float, length: float, momentum: float = 0.99) -> Tensor:
    """0.5 + (momentum - 0.5) (updates / length)^3, momentum from `length` on, or at once for length 0.

    >>> [round(float(cubic_decay(k, 10_000)), 8) for k in (0, 2500, 5000, 10_000)]
    [0.5, 0.50765625, 0.56125, 0.99]
    """
    done = torch.as_tensor(updates, dtype=torch.float64) / length if length else torch.ones((), dtype=torch.float64)
    return FIRST_DECAY + (momentum - FIRST_DECAY) * done.clamp(max=1) ** 3


def majority(matrix: Tensor) -> Tensor:
    """(K,) bool: classes recognised better than the average class, C[i,i] > mean C[k,k]. The others are the minority.

    >>> majority(torch.tensor([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5]])).tolist()
    [True, False, False]
    """
    diagonal = matrix.diagonal()
    return diagonal > diagonal.mean()


def partners(matrix: Tensor, target: bool) -> Tensor:
    """(K, K): with which weight class i (row) is mixed with class j (column); all zero where i is not mixed.

    A majority class meets those that are mistaken FOR it (its column, itself excluded), a minority class what IT is
    mistaken for (its row). In the target stream minority classes stay as they are.

    >>> c = torch.tensor([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5]])
    >>> partners(c, target=False)[0].tolist() == [0, c[1, 0], c[2, 0]]
    True
    """
    confusions = matrix[:, : len(matrix)]
    into = confusions.T - torch.diag(confusions.diagonal())
    often = majority(matrix)[:, None]
    return torch.where(often, into, torch.zeros_like(into) if target else confusions)


def blended(source: Tensor, target: Tensor, step: int, length: int) -> Tensor:
    """From the source's matrix to the target's over the first `length` steps; a row that only one has seen is its."""
    share = min(step / length, 1.0) if length else 1.0
    mixed = (1 - share) * source + share * target
    mixed = torch.where(source.sum(1, keepdim=True) > 0, mixed, target)
    return torch.where(target.sum(1, keepdim=True) > 0, mixed, source)
