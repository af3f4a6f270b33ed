"""The loop. Trains every phase of a run, one after the other, and can be stopped and resumed anywhere.

    for each phase:                      a method is built around the network the last phase handed over
        for each step:
            for each turn of the method: batch -> loss -> backward -> sum over ranks -> check -> clip -> optimiser step
            after_step                   teachers and banks, only if the step was real
            log, validate, save
        hand over the best (or the last) candidate, by name

`fit` keeps no global state: it can be called again and again in one process and gives the same numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medkd.engine.checkpoint import grown, load_module
from medkd.engine.method import Batch, Method, StepContext
from medkd.engine.phases import Networks, Phase
from medkd.engine.randomness import seeded
from medkd.engine.recovery import Checkpoints, TrainingError
from medkd.engine.runtime import Runtime
from medkd.engine.selection import Selection, snapshot
from medkd.engine.shallow_convolutions import guard_shallow_convolutions
from medkd.engine.signals import Stopped, StopRequest
from medkd.engine.task import Task
from medkd.engine.tracking import Clock, Tracker
from medkd.errors import InputError

LOG_EVERY = 20
VALIDATION_CASES_BEFORE_TRAINING = 2
NON_FINITE_IN_A_ROW = 3
Handed = dict[str, dict[str, Tensor]]
"""Weights that phases handed over: `student` for the next phase alone, other names for all later ones."""


def fit(
    phases: Sequence[Phase],
    network: Networks,
    task: Task,
    runtime: Runtime,
    seed: int,
    *,
    out: Path | None = None,
    resume: bool = False,
    tracker: Tracker | None = None,
    save_every: int = 200,
    stop: StopRequest | None = None,
) -> Selection:
    """Train the phases in order; return the weights of the last phase's candidate.

    network(i) makes the i-th network of a method, always with the same weights for the same i; network(name) a trained
    one, for methods that ask for it (`Networks`).
    out: folder of the checkpoints. resume: continue from the newest, bit for bit on a CPU at the same thread count and
    world size. stop: when it is requested, the run saves after the step and raises Stopped.
    """
    tracker, stop = tracker or Tracker(), stop or StopRequest()
    checkpoints = Checkpoints(out, runtime, tracker)
    saved = checkpoints.newest() if resume else None
    tracker.rewind(saved["global_step"] if saved else 0)
    first = saved["phase"] if saved else 0
    handed: Handed = saved.get("handed", {}) if saved else {}
    optimizers_before: dict[str, Any] = {}
    selection = Selection()
    for number, phase in enumerate(phases):
        if number < first:
            continue
        offset = sum(p.steps for p in phases[:number])
        run = PhaseRun(phase, network, task, runtime, seed, tracker, handed, optimizers_before, offset, stop)
        if saved and number == first:
            run.restore(saved)
        elif number == 0:
            run.task.evaluate(run.method.candidates()[phase.candidate], VALIDATION_CASES_BEFORE_TRAINING)
        while run.step < phase.steps:
            run.train_one()
            if run.stopping:
                stop.answer()
            due = run.step == phase.steps
            if due or run.step % phase.validate_every == 0:
                run.validate()
            if due or run.stopping or run.step % save_every == 0:
                later = {name: w for name, w in handed.items() if name != "student"}  # the student's are in the method
                checkpoints.save({"phase": number, "handed": later, **run.state()})
            if run.stopping:
                raise Stopped(f"stopped on request after step {run.step} of phase {phase.name}")
        selection = run.finish()
        weights = selection.best if phase.hand_over == "best" else selection.last
        handed = {name: w for name, w in handed.items() if name != "student"} | {phase.becomes: weights}
        optimizers_before = {turn: o.state_dict() for turn, o in run.optimizers.items()}
    return selection


class PhaseRun:
    """One phase in progress: the method, its optimisers, and where it stands."""

    def __init__(
        self,
        phase: Phase,
        network: Networks,
        task: Task,
        runtime: Runtime,
        seed: int,
        tracker: Tracker,
        handed: Handed,
        optimizers_before: dict[str, Any],
        offset: int,
        stop: StopRequest | None = None,
    ):
        def start(which: int | str) -> nn.Module:
            made = runtime.place((phase.networks or network)(which))
            name = which if isinstance(which, str) else "student" if which == 0 else ""
            if name in handed:
                what = "what" if name == "student" else f"the {name} that"
                given = grown(made, handed[name]) if phase.networks and name == "student" else handed[name]
                load_module(made, given, f"{what} {phase.name} starts from")
            return made

        self.phase, self.runtime, self.seed, self.tracker = phase, runtime, seed, tracker
        self.task = phase.task or task
        self.offset, self.stop, self.stopping = offset, stop or StopRequest(), False
        with seeded(seed, "build", phase.name):
            self.method: Method = phase.build(start)
            self.method.prepare(phase.streams)
        self.method.to(runtime.device).train()
        if (runtime.device.type, runtime.precision) == ("cpu", "bf16"):
            guard_shallow_convolutions(self.method)
        runtime.same_everywhere(self.method)
        runtime.compiled(self.method.student)
        turns = dict.fromkeys(self.method.turns)
        self.options = {turn: phase.optimizers.get(turn, phase.optimizer) for turn in turns}
        self.optimizers = {turn: o.build(self.method.trainable(turn)) for turn, o in self.options.items()}
        if phase.carry_optimizer:
            for turn in self.optimizers.keys() & optimizers_before.keys():
                self.carry(turn, optimizers_before[turn])
        self.scaler = runtime.scaler()
        self.step = self.skipped = self.skipped_in_a_row = 0
        self.selection = Selection()
        self.clock = Clock()

    def carry(self, turn: str, before: dict[str, Any]) -> None:
        """Take over what the optimiser of the phase before had gathered; the rates and decays are this phase's own."""
        optimizer = self.optimizers[turn]
        groups = optimizer.state_dict()["param_groups"]
        if [(len(g["params"]), *g) for g in groups] != [(len(g["params"]), *g) for g in before["param_groups"]]:
            raise InputError(
                f"phase {self.phase.name} has carry_optimizer on, but the optimiser of the phase before is of another "
                "kind or trains another number of networks; set carry_optimizer to false"
            )
        optimizer.load_state_dict({"state": before["state"], "param_groups": groups})

    def train_one(self) -> None:
        """One iteration: every turn of the method, then its after_step."""
        phase, where = self.phase, self.offset + self.step
        ctx = StepContext(self.step, phase.steps, where, self.seed, self.task, self.runtime)
        started = time.perf_counter()
        streams = dict.fromkeys(name for turn in self.optimizers for name in self.method.reads[turn])
        batches = {name: self.runtime.batch(phase.streams[name].batch(where)) for name in streams}
        self.clock.data += time.perf_counter() - started

        real = True
        logs: dict[str, Tensor] = {}
        for turn in self.method.turns:
            loss, finite, turn_logs = self.take_turn(turn, batches, ctx)
            real, logs = real and finite, {**logs, "loss": loss, **turn_logs}
        with torch.no_grad():
            self.runtime.average_buffers(self.method)
            if real:
                self.method.after_step(ctx)
        self.count_skips(real, batches)
        self.step += 1
        self.clock.steps += 1
        if self.step % LOG_EVERY == 0 or self.step == phase.steps:
            self.log(logs)

    def take_turn(
        self, turn: str, batches: dict[str, Batch], ctx: StepContext
    ) -> tuple[Tensor, bool, dict[str, Tensor]]:
        """Losses of the turn's micro-batches, their gradients over all ranks, one optimiser step if all is finite."""
        runtime, options, optimizer = self.runtime, self.options[turn], self.optimizers[turn]
        for group in optimizer.param_groups:
            group["lr"] = options.lr * options.schedule(self.step, self.phase.steps)
        optimizer.zero_grad(set_to_none=True)
        parameters, parts = self.method.trainable(turn), self.phase.accumulate
        share = parts * runtime.world  # equal micro-batches, whose mean is the global batch's
        total = torch.zeros((), device=runtime.device)
        logs: dict[str, Tensor] = {}
        for part in range(parts):
            micro = {name: batches[name].micro(part, parts) for name in self.method.reads[turn]}
            with seeded(self.seed, ctx.global_step, turn, runtime.rank * parts + part), runtime.autocast():
                output = self.method.step(turn, micro, ctx)
            self.scaler.scale(output.loss / share).backward()
            total += output.loss.detach() / share
            logs = dict(output.logs)

        asked = torch.full_like(total, float(self.stop.requested))
        total, asked = runtime.sum_gradients(parameters, torch.stack([total, asked]))
        self.scaler.unscale_(optimizer)
        norm = gradient_norm(parameters, options.clip)
        sums, stopping = torch.stack([(total + norm).float(), asked]).tolist()  # the one host sync of a step
        finite, self.stopping = math.isfinite(sums), self.stopping or stopping > 0
        if finite:
            self.scaler.step(optimizer)
        self.scaler.update()  # an active scaler lowers its scale after infinite gradients
        return total, finite, {**logs, "gradient_norm": norm}

    def count_skips(self, real: bool, batches: dict[str, Batch]) -> None:
        """A step with a non-finite loss or gradient changed nothing; several in a row without a scaler end the run."""
        self.skipped += not real
        self.skipped_in_a_row = 0 if real else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= NON_FINITE_IN_A_ROW and not self.scaler.is_enabled():
            cases = {name: list(dict.fromkeys(batch.case_ids)) for name, batch in batches.items()}
            raise TrainingError(
                f"{NON_FINITE_IN_A_ROW} steps in a row had a non-finite loss or gradient (phase {self.phase.name}, "
                f"step {self.step}); the last batch held {cases}. Lower optimizer.lr, set optimizer.clip, "
                "or look at these cases"
            )

    def log(self, logs: dict[str, Tensor]) -> None:
        speed = self.clock.report()
        local = torch.stack([v.detach().float().to(self.runtime.device) for v in logs.values()])
        values = dict(zip(logs, self.runtime.global_mean(local).tolist()))
        rate = self.optimizers[self.method.turns[0]].param_groups[0]["lr"]
        where = {"phase": self.phase.name, "step": self.step, "global_step": self.offset + self.step}
        self.tracker.row("train", **where, **values, lr=rate, skipped=self.skipped, **speed)
        text = f"{speed['iterations_per_second']:.1f} it/s, data {100 * speed['data_share']:.0f} %"
        self.tracker.advance(self.phase.name, self.offset + self.step, text)

    def validate(self) -> None:
        """Score every candidate on the validation cases; keep the weights of the chosen one if they are the best."""
        where = {"phase": self.phase.name, "step": self.step, "global_step": self.offset + self.step}
        scores: dict[str, float] = {}
        for name, network in self.method.candidates().items():
            for metric, value in self.task.evaluate(network).items():
                scores[f"{name}/{metric}"] = value
        self.tracker.row("validation", **where, **scores)
        chosen = self.method.candidates()[self.phase.candidate]
        score = scores.get(f"{self.phase.candidate}/{self.task.primary}", math.nan)  # none without validation cases
        self.selection.offer(chosen, score, self.step)
        self.clock = Clock()  # validation is not training time

    def finish(self) -> Selection:
        """The weights to keep. Where no validation gave a score the last are also the best."""
        kept = self.selection
        kept.last = snapshot(self.method.candidates()[self.phase.candidate])
        kept.extras = {name: value.detach().cpu().clone() for name, value in self.method.extras().items()}
        if not kept.scored:
            kept.best, kept.step = kept.last, self.step
        return kept

    def state(self) -> dict[str, Any]:
        """Everything needed to go on from here. Random numbers and samplers need nothing: they depend on the step."""
        return {
            "step": self.step,
            "global_step": self.offset + self.step,
            "method": self.method.state_dict(),
            "optimizers": {turn: o.state_dict() for turn, o in self.optimizers.items()},
            "scaler": self.scaler.state_dict(),
            "skipped": [self.skipped, self.skipped_in_a_row],
            "selection": [self.selection.score, self.selection.step, self.selection.best],
        }

    def restore(self, state: dict[str, Any]) -> None:
        load_module(self.method, state["method"], "last.safetensors")
        for turn, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][turn])
        self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self.skipped, self.skipped_in_a_row = state["skipped"]
        score, step, best = state["selection"]
        self.selection = Selection(score, step, best)


def gradient_norm(parameters: list[nn.Parameter], clip: float | None) -> Tensor:
    """The norm of all gradients together; scaled down to `clip` in place where it is larger."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if clip is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    return norm
