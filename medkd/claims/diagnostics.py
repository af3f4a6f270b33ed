"""Pictures of what BCP does to a network, from finished runs: features, composites, test scans.

Labels of unlabelled training cases are read here to know the true class of a pixel: for these pictures only.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medkd.claims.experiment import Experiment
from medkd.claims.hidden_labels import CASES
from medkd.claims.runner import Run, finished, run_folder
from medkd.config.load import load_recipe
from medkd.config.models import load_model
from medkd.data.dataset import Case, read_dataset
from medkd.data.preprocess import prepare_label, prepare_scan
from medkd.engine.randomness import key
from medkd.engine.taps import replaced
from medkd.imaging.nifti import read_nifti
from medkd.inference.model_folder import Model, SegmentationModel
from medkd.networks.build import last_features
from medkd.report.distributions import Pair, distribution_grid
from medkd.report.pictures import composites
from medkd.runs.composites import bcp_composites
from medkd.runs.tasks.segmentation import build, plane_of

PIXELS = 200  # of a class of a sample: no single slice fills a histogram
BATCH = 16


def draw_diagnostics(experiment: Experiment, folder: Path) -> None:
    """Write FOLDER/{features,composites,overlays}.png from seed 0 of the first comparison, once its runs are there."""
    better, worse = (Run(arm, 0) for arm in experiment.comparisons[0])
    done = finished(experiment, folder)
    after, before = (run_folder(experiment, run, folder / "work") for run in (better, worse))
    if not {better, worse} <= done.keys() or not experiment.pictured(better):
        return
    models = [f / "model" / "model.yaml" for f in (before, after)]
    if not all(model.exists() for model in models):
        return
    drawn = folder / "features.png"  # the last that is drawn
    if drawn.exists() and drawn.stat().st_mtime > max(model.stat().st_mtime for model in models):
        return
    recipe = load_recipe(after / "recipe.yaml")
    dataset = read_dataset(Path(str(recipe.data)))
    labelled = dataset.select("train", labelled=True)
    hidden = [case for case in dataset.select("train", labelled=False) if case.label]
    hidden = hidden[:: max(1, len(hidden) // CASES)][:CASES]
    rows = {}
    for arm, run in ((worse.arm, before), (better.arm, after)):
        model = load_model(run)
        if last_features(model.network) is None or not hidden:
            return
        rows[arm] = class_pairs(pixel_features(model, labelled), pixel_features(model, hidden), dataset.classes)
    setup = build(recipe)
    pasted = composites(bcp_composites(setup, load_model(after)), dataset.classes, plane=plane_of(setup))
    (folder / "composites.png").write_bytes(pasted)
    shutil.copyfile(after / "evaluation" / "test_best" / "overlays.png", folder / "overlays.png")
    drawn.write_bytes(distribution_grid(rows))


@torch.inference_mode()
def pixel_features(model: Model, cases: Sequence[Case]) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, F) of pixels before the network's head, and their true classes (N,): `PIXELS` a class and sample."""
    assert isinstance(model.description, SegmentationModel)
    options, network, path = model.description.preprocess, model.network.eval(), last_features(model.network)
    assert path is not None
    caught: list[Tensor] = []

    def catch(_: str, output: Tensor) -> Tensor:
        caught.append(output)
        return output

    features, classes = [], []
    rng = np.random.default_rng(key("pixels") % 2**32)
    for case in cases:
        assert case.label is not None
        image, _ = prepare_scan([read_nifti(p) for p in case.images], options)
        label = prepare_label(read_nifti(case.label), options)
        image, label = centre(image, options.patch), centre(label, options.patch)
        for x, y in zip(image.split(BATCH), label.split(BATCH)):
            with replaced(network, [path], catch):
                network(x)
            found, truth = caught.pop().movedim(1, -1).numpy(), y.numpy()
            for sample, own in zip(found, truth):
                for c in np.unique(own):
                    where = np.flatnonzero(own.ravel() == c)
                    where = rng.permutation(where)[:PIXELS]
                    features.append(sample.reshape(-1, sample.shape[-1])[where])
                    classes.append(np.full(len(where), c))
    return np.concatenate(features), np.concatenate(classes)


def class_pairs(
    labelled: tuple[np.ndarray, np.ndarray], unlabelled: tuple[np.ndarray, np.ndarray], names: Sequence[str]
) -> dict[str, Pair]:
    """For every class, the features of both groups along the first principal axis of the two together (equal shares),
    in standard deviations."""
    pairs = {}
    rng = np.random.default_rng(0)
    for c, name in enumerate(names):
        groups = [features[classes == c] for features, classes in (labelled, unlabelled)]
        count = min(len(g) for g in groups)
        if count < 2:
            pairs[name] = (np.empty(0), np.empty(0))
            continue
        equal = np.concatenate([g[rng.permutation(len(g))[:count]] for g in groups]).astype(np.float64)
        mean = equal.mean(0)
        axis = np.linalg.svd(equal - mean, full_matrices=False)[2][0]
        axis = axis * np.sign(axis[np.abs(axis).argmax()])
        spread = max(float(((equal - mean) @ axis).std()), 1e-12)
        pairs[name] = tuple(((g - mean) @ axis / spread) for g in groups)
    return pairs


def centre(samples: Tensor, patch: tuple[int, ...]) -> Tensor:
    """The middle of samples (N, ..., *S), cropped or padded with zeros to `patch`."""
    for axis, size in zip(range(-len(patch), 0), patch):
        have = samples.shape[axis]
        start = max(0, (have - size) // 2)
        samples = samples.narrow(axis, start, min(size, have))
    missing = [size - have for size, have in zip(patch, samples.shape[-len(patch) :])]
    return F.pad(samples, [v for gap in reversed(missing) for v in (gap // 2, gap - gap // 2)])
