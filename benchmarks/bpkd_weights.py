"""Weights for the experiment of BPKD (`medkd reproduce bpkd`), chosen on images that no seed of it sees.

python benchmarks/bpkd_weights.py > docs/results/claims/bpkd_weights.txt      about 5 minutes of one core

Every arm gets the same factors on its usual weight.
"""

from __future__ import annotations

from statistics import fmean

import torch

from medkd.claims.bpkd import USUAL, run

FACTORS = (1.0, 0.3, 0.1, 0.03)
SEEDS = (1000, 1001)  # the experiment has seeds 0 to 4


def main() -> None:
    torch.set_num_threads(1)
    print(f"arm            factor  border IoU  Dice   HD95   (means over {len(SEEDS)} seeds)")
    for factor in FACTORS:
        found = [run(seed, factor) for seed in SEEDS]
        for arm in USUAL:
            border, dice, hd95 = (fmean(scores[arm][name] for scores in found) for name in ("border", "dice", "hd95"))
            print(f"{arm:14} {factor:6g}  {border:.3f}       {dice:.3f}  {hd95:.2f}", flush=True)


if __name__ == "__main__":
    main()
