"""Ask a teacher once about every training image of a dataset folder, for `teacher: FOLDER` in a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from medkd.classification.model import ClassificationModel
from medkd.config.models import load_model
from medkd.data.arrays import TrainingArrays, training_arrays
from medkd.data.classification_dataset import read_classification_dataset
from medkd.data.dataset import DatasetFolder, read_dataset
from medkd.data.image_arrays import image_arrays
from medkd.data.signals import DESCRIPTION, SignalsDescription, write_case, write_description
from medkd.engine.checkpoint import fingerprint
from medkd.engine.options import RuntimeOptions
from medkd.engine.runtime import open_runtime
from medkd.errors import InputError, raise_all
from medkd.inference.model_folder import Model, SegmentationModel
from medkd.inference.windows import SAMPLES_AT_ONCE
from medkd.runs.tasks.protocol import Predicted


def store_signals(
    model_path: Path,
    data: Path,
    out: Path,
    *,
    device: str = "auto",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Predicted:
    """Write the model's logits of every training case into a folder of signals (`data/signals.py`).

    The images are those that training reads, padded to the model's patch. Cases that are there already are kept unless
    `overwrite`, so that an interrupted run continues; `signals.yaml` comes last. Raises InputError: a model without a
    logits, other channels than the dataset's, images larger than the patch (training would see parts of them, of
    which the teacher may think otherwise), a folder of another teacher's signals.
    """
    model = load_model(model_path)
    described: Any = model.description
    asking = {"segmentation": _ask_scans, "classification": _ask_images}.get(described.task)
    if asking is None:
        raise InputError(f"{model_path} is a model of {described.task}, which has no logits that could be stored")
    where = open_runtime(RuntimeOptions(device=device)).device
    model.network.to(where).eval()
    cases, ask = asking(model, data, where)
    description = SignalsDescription(
        task=described.task, classes=described.classes, of=f"{described.task} model {fingerprint(model.network)}",
        preprocess=described.preprocess.model_dump(mode="json"),
    )  # fmt: skip
    _check_folder(out, description, overwrite)
    done = Predicted(what="cases with logits")
    for number, case in enumerate(cases):
        target = out / f"{case}.safetensors"
        if target.exists() and not overwrite:
            done.kept.append(target)
        else:
            write_case(out, case, ask(number))
            done.written.append(target)
        if progress:
            progress(number + 1, len(cases))
    write_description(out, description)
    return done


Ask = Callable[[int], np.ndarray]
"""The number of a case -> its logits (n, K, *S)."""


def _ask_scans(model: Model, data: Path, device: torch.device) -> tuple[list[str], Ask]:
    assert isinstance(model.description, SegmentationModel)
    dataset, options = read_dataset(data), model.description.preprocess
    _check_channels(model, dataset)
    arrays = training_arrays(dataset, options)
    _check_sizes(arrays, options.patch)

    def ask(case: int) -> np.ndarray:
        """Of the samples as the training stream cuts them."""
        samples = []
        for sample in np.flatnonzero(arrays.case == case):
            image = torch.from_numpy(np.array(arrays.image(int(sample)))).float()
            missing = [side for n, p in zip(reversed(image.shape[1:]), reversed(options.patch)) for side in (0, p - n)]
            samples.append(F.pad(image, missing))
        return _logits(model.network, torch.stack(samples), SAMPLES_AT_ONCE[options.dims], device)

    return [case.id for case in arrays.cases], ask


def _ask_images(model: Model, data: Path, device: torch.device) -> tuple[list[str], Ask]:
    assert isinstance(model.description, ClassificationModel)
    dataset = read_classification_dataset(data)
    _check_channels(model, dataset)
    arrays = image_arrays(dataset.root, dataset.select("train"), model.description.preprocess, canonical=True)
    return [case.id for case in arrays.cases], lambda n: _logits(model.network, arrays.image(n)[None], 1, device)


@torch.inference_mode()
def _logits(network: torch.nn.Module, images: torch.Tensor, at_once: int, device: torch.device) -> np.ndarray:
    """(n, K, *S) of images (n, C, *S), or (n, K) of a network that gives one answer an image."""
    parts = []
    for part in images.split(at_once):
        output = network(part.to(device))
        parts.append((output[:, 0] if output.ndim > part.ndim else output).float().cpu())
    return torch.cat(parts).numpy()


def _check_channels(model: Model, dataset: DatasetFolder) -> None:
    theirs = model.description.channels
    if theirs != dataset.channels:
        raise InputError(
            f"{model.folder} has the channels {', '.join(theirs)}; the dataset {', '.join(dataset.channels)}"
        )


def _check_sizes(arrays: TrainingArrays, patch: tuple[int, ...]) -> None:
    large = arrays.case[(arrays.shape > np.array(patch)).any(1)]
    if len(large):
        first = arrays.cases[large[0]]
        size, window = (" x ".join(map(str, n)) for n in (arrays.shape[arrays.case == large[0]].max(0), patch))
        raise InputError(
            f"{len(set(large.tolist()))} cases are larger than the model's patch of {window}, such as {first.id} of "
            f"{size}: training cuts parts out of them, of which the teacher may think otherwise than of the whole; let "
            "the teacher be live (teacher: MODEL)"
        )


def _check_folder(out: Path, description: SignalsDescription, overwrite: bool) -> None:
    """Start the folder with a note of whose signals they are, so that those of two teachers never mix."""
    note, problems = out / "of.txt", []
    if out.is_dir() and any(out.iterdir()):
        if not note.is_file():
            problems.append(f"{out} holds other files; give a folder of its own")
        elif note.read_text() != description.of and not overwrite:
            problems.append(f"{out} holds signals of {note.read_text()}, not of {description.of}; --overwrite them")
    raise_all(problems)
    out.mkdir(parents=True, exist_ok=True)
    (out / DESCRIPTION).unlink(missing_ok=True)
    note.write_text(description.of)
