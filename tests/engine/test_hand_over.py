"""A student becomes the next teacher: weights handed over by name, through kills and chains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_problem import CPU, Interrupted, Regression, Stream, Task, equal_trees, network, phase

from medkd.engine.checkpoint import load_state
from medkd.engine.fit import Selection, fit
from medkd.engine.method import Batch, Method, StepContext, StepOutput
from medkd.engine.phases import Networks, Phase
from medkd.engine.randomness import seeded
from medkd.engine.teachers import FrozenTeacher
from medkd.errors import InputError


class Distil(Method):
    """The student learns the teacher's answers."""

    reads: Mapping[str, tuple[str, ...]] = {"student": ("labelled",)}

    def __init__(self, student: nn.Module, teacher: nn.Module):
        super().__init__()
        self.student, self.teacher = student, FrozenTeacher(teacher)

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        image = batch["labelled"].image
        return StepOutput((self.student(image) - self.teacher(image)).square().mean())


def three(stop: int | None = None, seen: list[dict[str, nn.Module]] | None = None) -> list[Phase]:
    """A teacher is trained, distilled into a student, which becomes the teacher of the last."""

    def build(networks: Networks) -> Distil:
        method = Distil(networks(0), networks("teacher"))
        if seen is not None:
            seen.append({"student": copied(method.student), "teacher": copied(method.teacher.network)})
        return method

    stream = Stream(stop=stop)
    return [
        phase("first", 3, stream, becomes="teacher", hand_over="last"),
        phase("second", 3, stream, build=build, becomes="teacher", hand_over="last"),
        phase("third", 3, stream, build=build),
    ]


def copied(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def run(out: Path, stop: int | None = None, resume: bool = False, seen: list | None = None) -> Selection:
    out.mkdir(exist_ok=True)
    return fit(three(stop, seen), network, Task(), CPU, 0, out=out, resume=resume, save_every=1)


def test_each_phase_gets_the_student_before_as_its_teacher(tmp_path: Path) -> None:
    seen: list = []
    run(tmp_path, seen=seen)
    first = fit([phase("first", 3, hand_over="last")], network, Task(), CPU, 0).last
    assert equal_trees(seen[0]["teacher"], first)
    assert equal_trees(seen[0]["student"], copied(network(0)))  # a teacher is not where its student starts
    second = fit(three()[:2], network, Task(), CPU, 0).last
    assert equal_trees(seen[1]["teacher"], second)
    assert not equal_trees(first, second)


@pytest.mark.parametrize("stop", range(1, 9))
def test_resuming_keeps_the_teacher(tmp_path: Path, stop: int) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", stop)
    resumed = run(tmp_path / "stopped", resume=True)
    assert equal_trees([resumed.best, resumed.last], [whole.best, whole.last])
    assert equal_trees(*(load_state(tmp_path / n / "last.safetensors") for n in ("whole", "stopped")))


def test_the_frozen_weights_are_in_the_checkpoint_once(tmp_path: Path) -> None:
    run(tmp_path)
    state = load_state(tmp_path / "last.safetensors")
    assert [name for name in state["method"] if "teacher" in name] == ["teacher._extra_state"]
    assert state["handed"].keys() == {"teacher"}


def test_another_frozen_teacher_is_refused_on_resume(tmp_path: Path) -> None:
    phases = three()[2:]
    fit(phases, network, Task(), CPU, 0, out=tmp_path, save_every=1)

    def other(which: int | str) -> nn.Module:
        made = network(0 if which == "teacher" else which)
        if which == "teacher":
            nn.init.ones_(made.weight)
        return made

    with pytest.raises(InputError, match="the frozen teacher is another network"):
        fit(phases, other, Task(), CPU, 0, out=tmp_path, resume=True)


def test_a_student_handed_over_starts_the_next_phase_only(tmp_path: Path) -> None:
    """first -> student of second; second becomes a teacher; the student of third starts anew."""
    seen: list[dict[str, torch.Tensor]] = []

    def spy(networks: Networks) -> Method:
        student = networks(0)
        seen.append(copied(student))
        return Distil(student, networks("teacher"))

    phases = [phase("first", 2), phase("second", 2, becomes="teacher"), phase("third", 2, build=spy)]
    fit(phases, network, Task(), CPU, 0)
    assert equal_trees(seen[0], copied(network(0)))


def test_a_search_calls_fit_again_and_again_and_each_call_is_its_own() -> None:
    """Two candidates scored in either order, one of them twice, give the same numbers."""

    def score(steps: int) -> float:
        return fit([phase("trial", steps)], network, Task(), CPU, 0).score

    forwards, backwards = [score(s) for s in (2, 6, 2)], [score(s) for s in (6, 2)]
    assert forwards[0] == forwards[2] == backwards[1]
    assert forwards[1] == backwards[0] != forwards[0]


class Several(Task):
    """The sum, and its double: two outputs."""

    def supervised_loss(self, output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return (output - torch.cat([label, 2 * label], 1)).square().mean()

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        x = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
        with torch.no_grad():
            return {"score": -float(self.supervised_loss(network(x), x.sum(1, keepdim=True)))}


def wider(which: int | str) -> nn.Module:
    with seeded("wider", which):
        return nn.Linear(2, 2)


def chain(stop: int | None = None, seen: list[dict[str, torch.Tensor]] | None = None) -> list[Phase]:
    """One output, then a task of two."""

    def build(networks: Networks) -> Regression:
        student = networks(0)
        if seen is not None:
            seen.append(copied(student))
        return Regression(student, dropout=0.0)

    stream = Stream(stop=stop)
    return [
        phase("one", 3, stream, hand_over="last"),
        phase("two", 3, stream, build=build, networks=wider, task=Several()),
    ]


def test_a_head_that_grows_keeps_what_it_knew() -> None:
    seen: list[dict[str, torch.Tensor]] = []
    last = fit(chain(seen=seen), network, Task(), CPU, 0)
    one, fresh = fit(chain()[:1], network, Task(), CPU, 0).last, wider(0).state_dict()
    for name in ("weight", "bias"):
        assert torch.equal(seen[0][name], torch.cat([one[name], fresh[name][1:]]))
        assert last.last[name].shape == fresh[name].shape
    assert last.score == Several().evaluate(loaded(wider(0), last.best))["score"]  # its own task chose


def loaded(module: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    module.load_state_dict(state)
    return module


@pytest.mark.parametrize("stop", [2, 4])
def test_a_chain_of_tasks_resumes(tmp_path: Path, stop: int) -> None:
    whole = fit(chain(), network, Task(), CPU, 0)
    with pytest.raises(Interrupted):
        fit(chain(stop), network, Task(), CPU, 0, out=tmp_path, save_every=1)
    resumed = fit(chain(), network, Task(), CPU, 0, out=tmp_path, resume=True, save_every=1)
    assert equal_trees([resumed.best, resumed.last], [whole.best, whole.last])


def test_a_head_neither_shrinks_nor_grows_unasked() -> None:
    """More outputs than the next network has, and a network that changes without being the phase's own."""
    narrow = [phase("two", 2, networks=wider, task=Several()), phase("one", 2, networks=network)]
    with pytest.raises(InputError, match="weights of another network"):
        fit(narrow, network, Task(), CPU, 0)
    sizes = iter([1, 2])
    with pytest.raises(InputError, match="weights of another network"):
        fit([phase("one", 1), phase("two", 1)], lambda which: nn.Linear(2, next(sizes)), Task(), CPU, 0)
