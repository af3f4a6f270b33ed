"""Trains every method for three steps in the process group it is started in, and stores what each rank ends with.

    python two_ranks.py OUT            with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set, or none of them

One group serves all methods in turn. float64, no normalisation, no dropout: nothing depends on how a batch is split.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from tiny_setting import NAMES, STREAMS, Stream, Task, network, options, phase
from torch import Tensor, nn

from medkd.engine.checkpoint import save_state
from medkd.engine.fit import PhaseRun
from medkd.engine.method import Batch, Method
from medkd.engine.options import RuntimeOptions
from medkd.engine.phases import Networks, Phase
from medkd.engine.runtime import open_runtime
from medkd.engine.tracking import Tracker

STEPS = 3


def plain(which: int | str) -> nn.Module:
    """The network of the suite without normalisation, in float64; its last layer is confident here and there."""
    made = network("instance", dropout=0.0)(which)
    for module in list(made.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.InstanceNorm2d):
                setattr(module, name, nn.Identity())
    with torch.no_grad():
        made.final_conv.weight *= 10
    return made.double()


def double(batch: Batch, step: int) -> Batch:
    return replace(batch, image=batch.image.double())


def prepared(name: str) -> Phase:
    given = options(name, dice="sample_linear", weight=10.0)

    def build(networks: Networks) -> Method:
        return given.build(networks).double()

    data = {stream: Stream(stream, size=8, edit=double) for stream in STREAMS}
    return replace(phase(name, STEPS, data, given), build=build)


def trained(name: str) -> dict[str, Tensor]:
    """Everything in the method's state after the steps, and what was logged."""
    runtime = open_runtime(RuntimeOptions(device="cpu"), ranks=True)
    run = PhaseRun(prepared(name), plain, Task("sample_linear"), runtime, 0, Tracker(), {}, {}, 0)
    for _ in range(STEPS):
        run.train_one()
    assert run.skipped == 0
    row = next(row for row in run.tracker.rows if row["kind"] == "train")
    logs = {f"log.{k}": torch.tensor(v) for k, v in row.items() if k in ("loss", "gradient_norm", "alpha", "certain")}
    return {k: v for k, v in run.method.state_dict().items() if isinstance(v, Tensor)} | logs


def main(out: Path) -> None:
    torch.set_num_threads(1)
    results = {name: trained(name) for name in NAMES}
    save_state(out / f"rank{os.environ.get('RANK', 'none')}.safetensors", results)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
