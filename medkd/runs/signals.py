"""Ask a teacher once about every training image of a dataset folder, for `teacher: FOLDER` in a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from medkd.config.models import load_model
from medkd.data.arrays import TrainingArrays, training_arrays
from medkd.data.dataset import read_dataset
from medkd.data.signals import DESCRIPTION, SignalsDescription, write_case, write_description
from medkd.engine.checkpoint import fingerprint
from medkd.engine.options import RuntimeOptions
from medkd.engine.runtime import open_runtime
from medkd.errors import InputError, raise_all
from medkd.inference.model_folder import SegmentationModel
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
    logit a voxel, other channels than the dataset's, images larger than the patch (training would see parts of them, of
    which the teacher may think otherwise), a folder of another teacher's signals.
    """
    model = load_model(model_path)
    described = model.description
    if not isinstance(described, SegmentationModel):
        raise InputError(f"{model_path} is a model of {described.task}, whose logits cannot be stored yet")
    dataset, options = read_dataset(data), described.preprocess
    if described.channels != dataset.channels:
        raise InputError(
            f"{model_path} has the channels {', '.join(described.channels)}; the dataset {', '.join(dataset.channels)}"
        )
    arrays = training_arrays(dataset, options)
    _check_sizes(arrays, options.patch)
    description = SignalsDescription(
        task=described.task, classes=described.classes, of=f"{described.task} model {fingerprint(model.network)}",
        preprocess=options.model_dump(mode="json"),
    )  # fmt: skip
    _check_folder(out, description, overwrite)
    where = open_runtime(RuntimeOptions(device=device)).device
    network, done = model.network.to(where).eval(), Predicted()
    for number, case in enumerate(arrays.cases):
        target = out / f"{case.id}.safetensors"
        if target.exists() and not overwrite:
            done.kept.append(target)
        else:
            write_case(out, case.id, _logits(network, arrays, number, options.patch, where))
            done.written.append(target)
        if progress:
            progress(number + 1, len(arrays.cases))
    write_description(out, description)
    return done


@torch.inference_mode()
def _logits(
    network: torch.nn.Module, arrays: TrainingArrays, case: int, patch: tuple[int, ...], device: torch.device
) -> np.ndarray:
    """(n, K, *patch) of the samples of a case, as the training stream cuts them."""
    samples = []
    for sample in np.flatnonzero(arrays.case == case):
        image = torch.from_numpy(np.array(arrays.image(sample))).float()
        missing = [side for n, p in zip(reversed(image.shape[1:]), reversed(patch)) for side in (0, p - n)]
        samples.append(F.pad(image, missing))
    parts = []
    for part in torch.stack(samples).split(SAMPLES_AT_ONCE[len(patch)]):
        output = network(part.to(device))
        parts.append((output[:, 0] if output.ndim > part.ndim else output).float().cpu())
    return torch.cat(parts).numpy()


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
