"""Time of the largest-component clean-up of pseudo-labels: medkd against one skimage (and cc3d) call an image and class.

    python benchmarks/components.py [--rounds 20] [--threads 1] [--device cuda]

The loop is what BCP's reference does with a batch: each image and class to skimage by itself; on a GPU it includes the
copy to the host and back. All contenders run in turn, round by round, so that a busy machine slows all of them alike;
read the ratios, not the milliseconds. Every result is compared before anything is timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from skimage.measure import label as skimage_label
from torch import Tensor

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
    classes = torch.arange(1, CLASSES, device=labels.device).reshape(-1, *[1] * (labels.ndim - 1))
    masks = labels[:, None] == classes
    keep = _largest_on_device(masks.flatten(0, 1), labels.ndim - 1).reshape(masks.shape).any(1)
    return torch.where(keep, labels, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cuda = torch.device(arguments.device).type == "cuda"
    where = torch.cuda.get_device_name() if cuda else f"{platform.processor() or platform.machine()}, CPU"
    print(f"torch {torch.__version__}, {where}, {arguments.threads} thread(s), median of {arguments.rounds} rounds")
    for shape, smooth in (((12, 256, 256), 6.0), ((2, 112, 112, 80), 4.0)):
        labels = blobs(shape, smooth).to(arguments.device)
        contenders: dict[str, Callable[[], Tensor]] = {
            "medkd": lambda: largest_component(labels, CLASSES),
            "torch path": lambda: in_torch(labels),
            "skimage loop": lambda: one_by_one(labels, skimage_label),
        }
        if importlib.util.find_spec("cc3d"):
            import cc3d

            widest = 8 if len(shape) == 3 else 26
            contenders["cc3d loop"] = lambda: one_by_one(labels, lambda m: cc3d.connected_components(m, widest))
        expected = contenders["skimage loop"]()
        different = [name for name, run in contenders.items() if not torch.equal(run(), expected)]
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(arguments.rounds):
            for name, run in contenders.items():
                if cuda:
                    torch.cuda.synchronize()
                start = time.perf_counter()
                run()
                if cuda:
                    torch.cuda.synchronize()
                seconds[name].append(time.perf_counter() - start)
        print(f"\n{'x'.join(map(str, shape))}, {CLASSES} classes")
        for name, times in seconds.items():
            ratios = [t / own for t, own in zip(times, seconds["medkd"])]
            low, middle, high = np.percentile(ratios, (10, 50, 90))
            print(
                f"  {name:13s}{1e3 * statistics.median(times):9.1f} ms   {middle:6.2f} x medkd ({low:.2f} to {high:.2f})"
                f"{'   OTHER RESULT' if name in different else ''}"
            )


if __name__ == "__main__":
    main()
