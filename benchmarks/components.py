"""Time of the largest-component clean-up of pseudo-labels: medkd against one call an image and class.

    python benchmarks/components.py [--rounds 20] [--threads 1] [--device cuda]

The loop is what BCP's reference does with a batch: each image and class to skimage by itself (and to cc3d, if it is
there); on a GPU it includes the copy to the host and back. All contenders run in turn, round by round, so that a busy
machine slows all of them alike: read the ratios, not the milliseconds. Results are compared before anything is timed.
Writes docs/results/components.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from skimage.measure import label as skimage_label
from torch import Tensor

from medkd.claims.accounting import processor
from medkd.claims.page import markdown
from medkd.data.components import _largest_on_device, largest_component

CLASSES = 4


def blobs(shape: tuple[int, ...], smooth: float, seed: int = 0) -> Tensor:
    """A batch of label maps like the argmax of an early teacher: a few large regions and many specks."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(CLASSES, *shape))
    scores = ndimage.gaussian_filter(scores, (0, 0, *[smooth] * (len(shape) - 1)))
    scores /= scores.std()
    scores[0] += 1.0
    scores += rng.normal(scale=0.15, size=scores.shape)
    return torch.from_numpy(scores.argmax(0))


def one_by_one(labels: Tensor, find: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """The loop of the reference: one call an image and class."""
    result = np.zeros(labels.shape, np.int64)
    for image, out in zip(labels.cpu().numpy(), result):
        for c in range(1, CLASSES):
            components = find(image == c)
            sizes = np.bincount(components.ravel())[1:]
            if len(sizes):
                out[components == sizes.argmax() + 1] = c
    return torch.from_numpy(result).to(labels.device)


def in_torch(labels: Tensor) -> Tensor:
    """The path for GPUs, wherever the labels are."""
    return torch.where(_largest_on_device(labels, CLASSES, labels.ndim - 1), labels, 0)


def contenders() -> dict[str, Callable[[Tensor], Tensor]]:
    runs: dict[str, Callable[[Tensor], Tensor]] = {
        "medkd": lambda labels: largest_component(labels, CLASSES),
        "torch path": in_torch,
        "skimage loop": lambda labels: one_by_one(labels, skimage_label),
    }
    if importlib.util.find_spec("cc3d"):
        import cc3d

        def find(mask: np.ndarray) -> np.ndarray:
            return cc3d.connected_components(mask, connectivity=8 if mask.ndim == 2 else 26)

        runs["cc3d loop"] = lambda labels: one_by_one(labels, find)
    return runs


def compare(labels: Tensor, runs: dict[str, Callable[[Tensor], Tensor]], rounds: int) -> list[list[str]]:
    """Routine, median milliseconds, ratio to medkd (10th to 90th percentile), and whether the result is the loop's."""
    expected = runs["skimage loop"](labels)
    different = [name for name, run in runs.items() if not torch.equal(run(labels), expected)]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run(labels)
            if labels.is_cuda:
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, times in seconds.items():
        low, middle, high = np.percentile(np.divide(times, seconds["medkd"]), (10, 50, 90))
        same = "**other result**" if name in different else "same"
        rows.append([name, f"{1e3 * statistics.median(times):.1f}", f"{middle:.2f} ({low:.2f} to {high:.2f})", same])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cuda = torch.device(arguments.device).type == "cuda"
    where = torch.cuda.get_device_name() if cuda else f"{processor()}, {os.cpu_count()} cores"
    command = f"python benchmarks/components.py --rounds {arguments.rounds} --threads {arguments.threads}"
    parts = [
        "# Largest components of pseudo-labels",
        f"`{command}{' --device cuda' if cuda else ''}` wrote this page. torch {torch.__version__}, {where}, "
        f"{arguments.threads} thread(s), load {os.getloadavg()[0]:.1f}; median of {arguments.rounds} rounds, all "
        "in turn: read the ratios. A loop calls skimage or cc3d for one image and class at a time, as BCP's reference "
        "does; torch path: the one for GPUs, here on the same device for comparison.",
    ]
    for shape, smooth in (((12, 256, 256), 6.0), ((2, 112, 112, 80), 4.0)):
        rows = compare(blobs(shape, smooth).to(arguments.device), contenders(), arguments.rounds)
        heads = ["routine", "ms", "times medkd", "result"]
        parts += [f"{' x '.join(map(str, shape))}, {CLASSES} classes", markdown(heads, rows)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "components.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
