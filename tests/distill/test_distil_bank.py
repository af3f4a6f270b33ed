"""Distil with a memory bank (CRD): rows belong to images, move after real steps alone, and resume bit for bit."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import finished, ranks
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medkd.distill.losses.crd import CRDLoss
from medkd.distill.options import DistilOptions
from medkd.engine.fit import PhaseRun, fit
from medkd.engine.method import Batch, StepContext, StepOutput
from medkd.engine.options import Optimizer, RuntimeOptions
from medkd.engine.phases import Phase
from medkd.engine.randomness import Draws, generator, seeded
from medkd.engine.runtime import Runtime, open_runtime
from medkd.engine.tracking import Tracker
from medkd.errors import InputError

IMAGES = torch.randn(12, 1, 8, 8, generator=generator("bank"))
CLASSES = torch.arange(12) % 3
NAMES = tuple(f"image{i:02}" for i in range(12))
CPU = Runtime(torch.device("cpu"))
CRD = {"kind": "crd", "student": "2", "teacher": "2", "dim": 8, "temperature": 0.5}


class Task:
    primary = "score"

    def supervised_loss(self, output: Tensor, label: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, label)

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        return {"score": 0.0}


@dataclass(frozen=True)
class Images:
    size: int = 4
    stop: int | None = None

    def batch(self, global_step: int) -> Batch:
        if global_step == self.stop:
            raise KeyboardInterrupt
        chosen = torch.arange(self.size * global_step, self.size * (global_step + 1)) % len(IMAGES)
        draws = Draws((0, global_step, "labelled"), self.size)
        return Batch(IMAGES[chosen], CLASSES[chosen], tuple(NAMES[i] for i in chosen), draws)

    def case_classes(self) -> Mapping[str, int]:
        return dict(zip(NAMES, CLASSES.tolist()))


def network(which: int | str) -> nn.Module:
    width = 6 if which == "teacher" else 4
    with seeded("bank network", which):
        return nn.Sequential(
            nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(width, 3),
        )  # fmt: skip


def phase(steps: int = 4, stream: Any = None, accumulate: int = 1) -> Phase:
    options = DistilOptions(losses=[CRD], label_weight=0.0, dry_size=8)
    optimizer = Optimizer(lr=0.05, weight_decay=0.0)
    return Phase("student", options.build, steps, {"labelled": stream or Images()}, optimizer, accumulate=accumulate)


def started(runtime: Runtime = CPU, **values: Any) -> PhaseRun:
    return PhaseRun(phase(**values), network, Task(), runtime, 0, Tracker(), {}, {}, 0)


def bank(run: PhaseRun) -> CRDLoss:
    (loss,) = run.method.losses
    assert isinstance(loss, CRDLoss)
    return loss


def state(run: PhaseRun) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in run.method.state_dict().items()}


def test_rows_are_those_of_the_images() -> None:
    """Loss and banks of two steps, as the loss's own calls give them."""
    run = started()
    reference = CRDLoss(4, 6, CLASSES, dim=8, temperature=0.5)
    for step in range(2):
        reference.load_state_dict(bank(run).state_dict())
        x = Images().batch(step)
        with torch.no_grad():
            s, t = (n[:3](x.image).mean((2, 3)) for n in (run.method.student, run.method.teacher.network))
        index = torch.tensor([NAMES.index(case) for case in x.case_ids])
        negatives = reference.negatives(index, x.draws.uniform("negatives 0", 12))
        expected = reference(s, t, index, negatives)
        torch.testing.assert_close(loss_of_a_step(run), 0.8 * expected.detach())  # the published weight
        reference.load_state_dict({k: v for k, v in bank(run).state_dict().items() if "embedding" in k}, strict=False)
        reference.update(s, t, index)  # with the embeddings after the step
        torch.testing.assert_close(bank(run).student_bank, reference.student_bank)
        torch.testing.assert_close(bank(run).teacher_bank, reference.teacher_bank)


def loss_of_a_step(run: PhaseRun) -> Tensor:
    seen: list[Tensor] = []
    step = run.method.step

    def watched(*given: Any) -> StepOutput:
        output = step(*given)
        seen.append(output.loss.detach())
        return output

    run.method.step = watched  # type: ignore[method-assign]
    run.train_one()
    run.method.step = step  # type: ignore[method-assign]
    return seen[0]


def test_embeddings_are_trained_and_never_ship() -> None:
    run = started()
    owned = {id(p) for p in run.method.trainable("student")}
    assert all(id(p) in owned for p in bank(run).parameters())
    before = state(run)
    run.train_one()
    after = state(run)
    assert not torch.equal(before["losses.0.student_embedding.weight"], after["losses.0.student_embedding.weight"])
    (shipped,) = run.method.candidates().values()
    assert shipped.state_dict().keys() == network(0).state_dict().keys()


def test_a_skipped_step_moves_no_row() -> None:
    run = started()
    run.train_one()
    before = bank(run).student_bank.clone()
    step_of = run.method.step
    run.method.step = lambda *a: replace(out := step_of(*a), loss=out.loss * float("nan"))  # type: ignore[method-assign]
    run.train_one()
    assert torch.equal(bank(run).student_bank, before)
    run.method.step = step_of  # type: ignore[method-assign]
    run.train_one()
    moved = (bank(run).student_bank != before).any(1).nonzero()[:, 0].tolist()
    assert moved == [8, 9, 10, 11]  # of the third batch alone: the images of the skipped one are forgotten


def test_micro_batches_move_the_rows_of_the_whole_batch() -> None:
    run = started(accumulate=2)
    before = bank(run).student_bank.clone()
    run.train_one()
    assert (bank(run).student_bank != before).any(1).nonzero()[:, 0].tolist() == [0, 1, 2, 3]


def test_a_resumed_run_has_the_same_banks(tmp_path: Path) -> None:
    whole = fit([phase(6)], network, Task(), CPU, 0)
    with pytest.raises(KeyboardInterrupt):
        fit([phase(6, Images(stop=4))], network, Task(), CPU, 0, out=tmp_path, save_every=2)
    resumed = fit([phase(6)], network, Task(), CPU, 0, out=tmp_path, resume=True)
    assert all(torch.equal(v, resumed.last[k]) for k, v in whole.last.items())


def test_an_image_without_a_row_is_an_error() -> None:
    run = started()
    x = replace(Images().batch(0), case_ids=("image00", "new", "image01", "newer"))
    with pytest.raises(InputError, match="new, newer had no place in the memory bank"):
        run.method.banks.loss(0, bank(run), torch.zeros(4, 4), torch.zeros(4, 6), x, StepContext(0, 1, 0, 0, Task()))


@pytest.mark.slow
def test_two_processes_hold_one_bank(tmp_path: Path) -> None:
    """Each sees half of the batch, and both move the rows of the whole."""
    with ranks([sys.executable, __file__, str(tmp_path)], 2, PYTHONPATH=os.pathsep.join(sys.path)) as two:
        finished(two, within=200)
    first, second = (load_file(tmp_path / f"rank{r}.safetensors") for r in range(2))
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=0, atol=0)
    before = bank(started()).student_bank
    moved = (first["losses.0.student_bank"] != before).any(1).nonzero()[:, 0].tolist()
    assert moved == [0, 1, 2, 3, 4, 5, 6, 7]  # two steps of four images


if __name__ == "__main__":
    run = started(open_runtime(RuntimeOptions(device="cpu"), ranks=True))
    for _ in range(2):
        run.train_one()
    tensors = {k: v for k, v in run.method.state_dict().items() if "extra_state" not in k}
    save_file(tensors, Path(sys.argv[1]) / f"rank{run.runtime.rank}.safetensors")
