"""Weights for the experiment of BPKD (`medkd reproduce bpkd`), chosen on images that no seed of it sees.

python benchmarks/bpkd_weights.py      about 4 minutes of one core; every arm gets the same factors on its usual weight
"""

from __future__ import annotations

from statistics import fmean

import torch

from medkd.claims import bpkd

FACTORS = (1.0, 0.3, 0.1, 0.03)
SEEDS = (1000, 1001)  # the experiment has seeds 0 to 4


def border(arm: str, factor: float, seed: int) -> dict[str, float]:
    """Scores of an arm whose added loss is `factor` times its usual one."""
    usual = bpkd.USUAL[arm]
    bpkd.EXTRA = {arm: lambda s, t, y: factor * usual(s, t, y)}
    return bpkd.run(seed)[arm]


def main() -> None:
    torch.set_num_threads(1)
    print("arm            factor  border IoU  Dice   HD95   (means over 2 seeds)")
    for arm in bpkd.USUAL:
        for factor in FACTORS if arm != "labels" else (1.0,):
            found = [border(arm, factor, seed) for seed in SEEDS]
            scores = [fmean(s[name] for s in found) for name in ("border", "dice", "hd95")]
            print(f"{arm:14} {factor:6g}  {scores[0]:.3f}       {scores[1]:.3f}  {scores[2]:.2f}", flush=True)


if __name__ == "__main__":
    main()
