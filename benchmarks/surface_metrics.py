"""Surface metrics against MONAI and medpy: equal numbers where the definitions are equal, and the time each takes.

    python benchmarks/surface_metrics.py [--cases 6] [--rounds 5]

Writes docs/results/surface_metrics.md. Masks are generated: a smooth blob and a distorted copy of it in a larger field,
with anisotropic spacing. All contenders run in turn, round by round: read the ratios, not the milliseconds. Values are
compared before anything is timed.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import torch
from medpy.metric import binary as medpy
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from medkd.claims.accounting import processor
from medkd.claims.page import markdown
from medkd.metrics.overlap import dice
from medkd.metrics.surface import surface_distances

RESULTS = Path(__file__).parents[1] / "docs" / "results"
SHAPES: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {
    "volume, 192 x 192 x 48": ((192, 192, 48), (1.4, 1.4, 5.0)),
    "small volume, 35 x 50 x 36": ((35, 50, 36), (1.0, 1.0, 1.0)),
    "slice, 256 x 256": ((256, 256), (1.4, 1.4)),
}
TOLERANCE = 2.0  # mm
Mask = np.ndarray
Metric = Callable[[Mask, Mask, tuple[float, ...]], float]


def masks(shape: tuple[int, ...], seed: int) -> tuple[Mask, Mask]:
    """A blob about the middle and a distorted copy: prediction and reference."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    wave = [ndimage.gaussian_filter(rng.normal(size=shape), [n / 12 for n in shape]) for _ in range(2)]
    centre = rng.uniform(-0.2, 0.2, len(shape)).reshape(-1, *[1] * len(shape))
    radius = np.sqrt(((grid - centre) ** 2).sum(0))
    first, second = (radius + 0.08 * w / w.std() for w in wave)
    return first < 0.35, second < 0.35


def tensors(*arrays: Mask) -> list[torch.Tensor]:
    """(1, 2, *S) one-hot, as MONAI wants it."""
    return [torch.from_numpy(np.stack([~a, a])[None]) for a in arrays]


def monai_metric(name: str) -> Metric:
    def run(p: Mask, r: Mask, spacing: tuple[float, ...]) -> float:
        y_pred, y = tensors(p, r)
        match name:
            case "hd95":
                value = compute_hausdorff_distance(y_pred, y, percentile=95, spacing=spacing)
            case "assd":
                value = compute_average_surface_distance(y_pred, y, symmetric=True, spacing=spacing)
            case _:
                value = compute_surface_dice(y_pred, y, [TOLERANCE], spacing=spacing, use_subvoxels=False)
        return float(value)

    return run


COMPARED: dict[str, tuple[str, Metric, Metric]] = {
    "HD95, larger of the two directed percentiles": (
        "MONAI", lambda p, r, s: surface_distances(p, r, s).hd95("max"), monai_metric("hd95"),
    ),
    "HD95, percentile of both directions pooled": (
        "medpy", lambda p, r, s: surface_distances(p, r, s).hd95("pooled"), medpy.hd95,
    ),
    "ASSD, both directions pooled": ("MONAI", lambda p, r, s: surface_distances(p, r, s).assd(), monai_metric("assd")),
    "ASSD, both directions pooled ": ("medpy", lambda p, r, s: surface_distances(p, r, s).assd(), medpy.assd),
    f"NSD at {TOLERANCE:g} mm, surface voxels counted": (
        "MONAI", lambda p, r, s: surface_distances(p, r, s).nsd(TOLERANCE), monai_metric("nsd"),
    ),
    "Dice": ("medpy", lambda p, r, s: dice(p, r), lambda p, r, s: medpy.dc(p, r)),
}  # fmt: skip


def ours_together(p: Mask, r: Mask, s: tuple[float, ...]) -> None:
    d = surface_distances(p, r, s)
    d.hd95("max"), d.hd95("pooled"), d.assd(), d.nsd(TOLERANCE)


def monai_together(p: Mask, r: Mask, s: tuple[float, ...]) -> None:
    for name in ("hd95", "assd", "nsd"):
        monai_metric(name)(p, r, s)


def medpy_together(p: Mask, r: Mask, s: tuple[float, ...]) -> None:
    medpy.hd95(p, r, s), medpy.assd(p, r, s)


TIMED = {
    "medkd: HD95 both ways, ASSD, NSD": ours_together,
    "MONAI: HD95, ASSD, NSD": monai_together,
    "medpy: HD95, ASSD": medpy_together,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    a = parser.parse_args()
    cases = {name: [(*masks(shape, seed), s) for seed in range(a.cases)] for name, (shape, s) in SHAPES.items()}

    rows = []
    for name, (other, mine, theirs) in COMPARED.items():
        gap = max(abs(mine(*case) - theirs(*case)) for group in cases.values() for case in group)
        rows.append([name.strip(), other, f"{gap:.1e}", "equal" if gap < 1e-4 else "**NOT equal**"])
    times = []
    for group, members in cases.items():
        seconds: dict[str, list[float]] = {name: [] for name in TIMED}
        for _ in range(a.rounds):
            for name, work in TIMED.items():
                start = time.perf_counter()
                for case in members:
                    work(*case)
                seconds[name].append((time.perf_counter() - start) / len(members))
        base = seconds[next(iter(TIMED))]
        for name, s in seconds.items():
            ratio = median(x / y for x, y in zip(s, base))
            times.append([group, name, f"{1e3 * median(s):.1f}", f"{ratio:.1f}"])

    machine = f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    versions = ", ".join(f"{n} {version(n)}" for n in ("monai", "medpy", "scipy", "numpy"))
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "surface_metrics.md").write_text(
        f"# Surface metrics against MONAI and medpy\n\n`python benchmarks/surface_metrics.py --cases {a.cases} "
        f"--rounds {a.rounds}` wrote this page. {machine}; {versions}. {a.cases} pairs of masks of every size.\n\n"
        "A surface voxel is one with a face neighbour outside the mask; distances run between voxel centres, in mm.\n\n"
        f"## Values\n\n{markdown(['metric and definition', 'against', 'largest difference', ''], rows)}\n\n"
        "MONAI computes in float32, medkd and medpy in float64. The two HD95 are different numbers on the same masks: "
        "which one is meant stands in every column name.\n\n"
        "## Time of all of them together\n\n"
        f"{markdown(['masks', 'routine', 'ms a pair', 'times medkd'], times)}\n"
    )


if __name__ == "__main__":
    main()
