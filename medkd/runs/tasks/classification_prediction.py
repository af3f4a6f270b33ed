"""Classify new images: a file or a folder in, a table of probabilities out.

OUT/predictions.csv   file, predicted, p_CLASS of each class
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import torch

from medkd.classification.classify import probabilities, read_images
from medkd.classification.model import ClassificationModel
from medkd.data.dataset import write_whole
from medkd.data.image_files import find_images
from medkd.errors import InputError
from medkd.inference.model_folder import Model
from medkd.runs.tasks.protocol import Predicted, Progress


def predict(
    model: Model, source: Path, out: Path, device: torch.device, overwrite: bool, progress: Progress | None
) -> Predicted:
    """Write the probabilities of every image of `source`, in one table. An image that cannot be read costs one line.

    out: a folder, or the name of a .csv file.
    """
    description = model.description
    assert isinstance(description, ClassificationModel)
    files = find_images(source, description.preprocess.dims)
    target = out if out.suffix == ".csv" else out / "predictions.csv"
    done = Predicted()
    if target.exists() and not overwrite:
        done.kept.append(target)
        return done
    network, table = model.network.to(device), io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file", "predicted", *(f"p_{name}" for name in description.classes)])
    for number, file in enumerate(files, 1):
        try:
            image = read_images([file], len(description.channels), description.preprocess)
            found = probabilities(network, image.to(device))[0]
            best = description.classes[int(found.argmax())]
            writer.writerow([file.name, best, *(f"{p:.6g}" for p in found.tolist())])
        except InputError as error:
            done.refused.extend(error.problems)
        if progress:
            progress(number, len(files))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, table.getvalue())
    done.written.append(target)
    return done
