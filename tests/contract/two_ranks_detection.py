"""Trains every detection method, and a relation with weights that stay, in the process group it is started in.

python two_ranks_detection.py OUT      with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set, or none of them
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from tiny_detection import NAMES, begun, network, phase, streams
from tiny_sites import SMALL
from torch import Tensor, nn

from medkd.detection.detectors.options import RetinaNetOptions
from medkd.engine.checkpoint import save_state
from medkd.engine.options import Optimizer, RuntimeOptions
from medkd.engine.phases import Phase
from medkd.engine.randomness import seeded
from medkd.engine.runtime import Runtime, open_runtime

STEPS = 3
STILL = Optimizer(lr=1e-30, momentum=0.0, weight_decay=0.0)
"""Too small to change a float32: every step then sees the weights of the start, whatever the losses divide by."""


def retinanet(which: int | str) -> nn.Module:
    """Samples no regions and has no batch statistics: what it finds in an image does not depend on the batch."""
    with seeded("retinanet"):
        backbone = SMALL.backbone.model_copy(update={"norm": "group"})
        made: Any = RetinaNetOptions(backbone=backbone, anchor_scale=4).build(2, 3, 2)
    with torch.no_grad():  # untrained it finds nothing: some things, of both classes
        made.head["classification_head"].cls_logits.bias.fill_(0.0)
        made.head["classification_head"].cls_logits.weight.mul_(20.0)
    return made


def method_state(run_phase: Phase, runtime: Runtime, networks: Any = network) -> dict[str, Tensor]:
    run = begun(run_phase, runtime=runtime, networks=networks)
    for _ in range(STEPS):
        run.train_one()
    assert run.skipped == 0
    return {k: v for k, v in run.method.state_dict().items() if isinstance(v, Tensor)}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    runtime = open_runtime(RuntimeOptions(device="cpu"), ranks=True)
    data = streams(size=4)
    results: dict[str, Any] = {name: method_state(phase(name, STEPS, data), runtime) for name in NAMES}
    for name in ("supervised_detection", "grounded_teacher"):
        still = phase(name, STEPS, data, optimizer=STILL)
        results[f"still {name}"] = method_state(still, runtime, retinanet)
    save_state(out / f"rank{os.environ.get('RANK', 'none')}.safetensors", results)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
