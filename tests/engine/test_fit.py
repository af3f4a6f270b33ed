"""What the loop promises, on a problem of two inputs: hand-over, validation, accumulation, clipping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy_problem import CPU, Regression, Stream, Task, equal_trees, network, phase, phase_run

from medkd.engine.checkpoint import load_state
from medkd.engine.fit import fit, gradient_norm
from medkd.engine.options import LearningRate, Optimizer
from medkd.engine.phases import Networks
from medkd.engine.tracking import Tracker
from medkd.errors import InputError


def plain(networks: Networks) -> Regression:
    return Regression(networks(0), dropout=0.0)


def test_training_solves_the_problem() -> None:
    selection = fit([phase(steps=300, build=plain, validate_every=50)], network, Task(), CPU, 0)
    torch.testing.assert_close(selection.last["weight"], torch.ones(1, 2), rtol=0, atol=1e-3)
    assert selection.score > -1e-5


@pytest.mark.parametrize(("hand_over", "score"), [("best", 9.0), ("last", 1.0)])
def test_the_next_phase_starts_from_what_was_handed_over(hand_over: str, score: float) -> None:
    """Validation says step 2 of 4 was best; the student and its teacher both start there."""
    started: dict[str, dict[str, torch.Tensor]] = {}

    def spy(networks: Networks) -> Regression:
        method = Regression(networks(0))
        started["student"] = {k: v.clone() for k, v in method.student.state_dict().items()}
        started["teacher"] = {k: v.clone() for k, v in method.teacher.network.state_dict().items()}
        return method

    by_hand, weights = phase_run(phase("first")), {}
    for step in (1, 2, 3, 4):
        by_hand.train_one()
        weights[step] = {k: v.clone() for k, v in by_hand.method.student.state_dict().items()}
    task = Task(scores=[5.0, 5.0, 9.0, 0.0, 2.0, 0.0, 1.0, 0.0, *[0.0] * 8])  # student, teacher at each validation
    first = phase("first", validate_every=1, hand_over=hand_over)
    fit([first, phase("second", build=spy)], network, task, CPU, 0)
    expected = weights[2 if score == 9.0 else 4]
    assert equal_trees(started["student"], expected)
    assert equal_trees(started["teacher"], expected)


def test_the_first_of_equal_scores_is_best_and_nan_never_wins() -> None:
    student = [float("nan"), 3.0, 3.0, float("nan")]
    task = Task(scores=[value for score in student for value in (score, 0.0)])
    selection = fit([phase(validate_every=1)], network, task, CPU, 0)
    assert (selection.score, selection.step) == (3.0, 2)


def test_a_run_whose_every_score_is_nan_still_has_weights() -> None:
    selection = fit([phase(validate_every=2)], network, Task(scores=[float("nan")] * 4), CPU, 0)
    assert selection.best.keys() == selection.last.keys()


def test_another_candidate_is_selected() -> None:
    run = phase_run(phase())
    for _ in range(4):
        run.train_one()
    selection = fit([phase(candidate="teacher")], network, Task(), CPU, 0)
    assert equal_trees(selection.last, dict(run.method.teacher.network.state_dict()))
    assert not equal_trees(selection.last, dict(run.method.student.state_dict()))


@pytest.mark.parametrize(("every", "at"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (100, [5])])
def test_validation_comes_every_so_often_and_at_the_end(every: int, at: list[int]) -> None:
    tracker, task = Tracker(), Task()
    fit([phase(steps=5, validate_every=every)], network, task, CPU, 0, tracker=tracker)
    rows = [row for row in tracker.rows if row["kind"] == "validation"]
    assert [row["step"] for row in rows] == at
    assert all({"student/score", "teacher/score"} <= row.keys() for row in rows)
    assert task.limits == [2] + [None] * (2 * len(at))  # two cases before training, then all of every candidate


@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize("momentum", [0.5, 0.25])
def test_the_optimiser_is_carried_only_where_asked(tmp_path: Path, carry: bool, momentum: float) -> None:
    """The rate is so small that the weights stay. The momentum after phase 2 is g2, or g2 + m g1 if carried.

    m is what phase 2 says, not what was carried.
    """
    first = {"build": plain, "optimizer": Optimizer(lr=1e-12, momentum=0.5, weight_decay=0.0)}
    second = {"build": plain, "optimizer": Optimizer(lr=1e-12, momentum=momentum, weight_decay=0.0)}
    phases = [phase("a", 1, **first), phase("b", 1, **second, carry_optimizer=carry)]
    fit(phases, network, Task(), CPU, 0, out=tmp_path)
    gradients = []
    for step in (0, 1):
        net, batch = network(0), Stream().batch(step)
        Task().supervised_loss(net(batch.image), batch.labels).backward()
        gradients.append(net.weight.grad)
    found = load_state(tmp_path / "last.safetensors")["optimizers"]["student"]["state"][0]["momentum_buffer"]
    torch.testing.assert_close(found, gradients[1] + momentum * gradients[0] if carry else gradients[1])


class Two(Regression):
    """Two networks under one optimiser."""

    def __init__(self, student: nn.Module):
        super().__init__(student)
        self.second = nn.Linear(2, 1)

    def trainable(self, turn: str) -> list[nn.Parameter]:
        return [*self.student.parameters(), *self.second.parameters()]

    def candidates(self) -> dict[str, nn.Module]:
        return {"student": self.student, "both": nn.ModuleList([self.student, self.second])}


@pytest.mark.parametrize(
    "values",
    [{"build": lambda networks: Two(networks(0))}, {"optimizer": Optimizer(kind="adam")}],
    ids=["two networks", "another kind"],
)
def test_an_optimiser_that_cannot_be_carried_is_an_input_error(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"phase b has carry_optimizer on.*set carry_optimizer to false"):
        fit([phase("a", 1), phase("b", 1, carry_optimizer=True, **values)], network, Task(), CPU, 0)


def test_the_learning_rate_follows_its_schedule_in_each_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medkd.engine.fit.LOG_EVERY", 1)
    optimizer = Optimizer(lr=0.1, schedule=LearningRate(kind="poly", power=1.0))
    tracker = Tracker()
    fit([phase("a", optimizer=optimizer), phase("b", 2, optimizer=optimizer)], network, Task(), CPU, 0, tracker=tracker)
    rates = [row["lr"] for row in tracker.rows if row["kind"] == "train"]
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025, 0.1, 0.05])


def test_micro_batches_make_the_step_of_the_whole_batch() -> None:
    whole, halves = phase_run(phase(build=plain)), phase_run(phase(build=plain, accumulate=2))
    for _ in range(4):
        whole.train_one()
        halves.train_one()
    torch.testing.assert_close(whole.method.student.weight, halves.method.student.weight)
    assert halves.method.teacher.updates == 4  # once a step, not once a micro-batch


def test_clipping_bounds_the_norm_of_all_gradients_together() -> None:
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    for clip, expected in ((None, [[3.0, 0.0], [4.0]]), (1.0, [[0.6, 0.0], [0.8]]), (50.0, [[3.0, 0.0], [4.0]])):
        a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
        assert float(gradient_norm([a, b], clip)) == pytest.approx(5.0)
        torch.testing.assert_close(a.grad, torch.tensor(expected[0]), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(b.grad, torch.tensor(expected[1]), rtol=1e-5, atol=1e-6)


def test_a_clipped_step_moves_by_no_more_than_rate_times_bound() -> None:
    run = phase_run(phase(optimizer=Optimizer(lr=0.5, momentum=0.0, weight_decay=0.0, clip=0.01)))
    before = torch.cat([p.detach().flatten().clone() for p in run.method.student.parameters()])
    run.train_one()
    after = torch.cat([p.detach().flatten() for p in run.method.student.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_steps_are_counted_through_the_phases() -> None:
    stream = Stream()
    fit([phase("a", 3, stream), phase("b", 2, stream)], network, Task(), CPU, 0)
    assert stream.given == [0, 1, 2, 3, 4]


def test_weights_that_do_not_fit_the_next_phase_are_an_input_error() -> None:
    task = Task()
    task.evaluate = lambda network, limit=None: {"score": 0.0}  # type: ignore[method-assign]
    first = phase("a", 1, build=lambda networks: Two(networks(0)), candidate="both")
    with pytest.raises(InputError, match="what b starts from holds the weights of another network"):
        fit([first, phase("b")], network, task, CPU, 0)
