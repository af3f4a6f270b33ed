"""Stored signals: what a teacher said of every training image, computed once and read instead of a live teacher.

FOLDER/signals.yaml        task, classes, whose logits they are, and the preprocessing that made the images
FOLDER/CASE.safetensors    logits (n, K, *S) float32: n images (slices) of the case, padded to the patch; S empty for
                           one answer an image

Anybody may write such a folder: soft labels from elsewhere are signals. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from medkd.engine.options import Options
from medkd.errors import InputError

FORMAT, DESCRIPTION = 1, "signals.yaml"


class SignalsDescription(Options):
    """The content of signals.yaml."""

    format: int = FORMAT
    task: str
    classes: tuple[str, ...]
    of: str = Field("", description="whose logits: a model and its fingerprint")
    preprocess: dict[str, Any] = Field({}, description="how the images were made, for people")


@dataclass(frozen=True)
class Signals:
    """An opened folder. order: the position of each of the dataset's classes among those of the folder."""

    folder: Path
    description: SignalsDescription
    order: tuple[int, ...]
    shape: tuple[int, ...]

    def logits(self, case: str, number: int) -> np.ndarray:
        """(K, *S) float32 of the `number`-th image of a case. Raises InputError for what is not there."""
        with _opened(self.folder, case) as file:
            stored = file.get_slice("logits")
            count, _, *space = stored.get_shape()
            if number >= count or tuple(space) != self.shape:
                raise InputError(
                    f"{self.folder}/{case}.safetensors holds logits of {count} images of {tuple(space)}; needed: image "
                    f"{number + 1}, {self.shape}"
                )
            one: np.ndarray = stored[number]
        return one[list(self.order)]

    def mark(self) -> str:
        """Tells these signals from others: a hash of the description and of every file's name and content."""
        digest = hashlib.sha256(self.description.model_dump_json().encode())
        for path in sorted(self.folder.glob("*.safetensors")):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]


def is_signals(folder: Path) -> bool:
    return (folder / DESCRIPTION).is_file()


def open_signals(
    folder: Path, task: str, classes: Sequence[str], shape: tuple[int, ...], cases: Iterable[str]
) -> Signals:
    """Signals for these cases, in these classes. Raises InputError, naming both sides, where they do not fit."""
    try:
        content = yaml.safe_load((folder / DESCRIPTION).read_text())
        described = SignalsDescription.model_validate(content)
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise InputError(f"{folder / DESCRIPTION} does not describe stored signals: {error}") from None
    problems = []
    if described.task != task:
        problems.append(f"{folder} holds signals of {described.task}; the recipe's task is {task}")
    if sorted(described.classes) != sorted(classes):
        problems.append(
            f"{folder} has the classes {', '.join(described.classes)}; the dataset {', '.join(classes)}; they must be "
            "the same, in any order"
        )
    missing = [case for case in cases if not (folder / f"{case}.safetensors").is_file()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        problems.append(f"{folder} has no signals of {', '.join(missing[:5])}{more}; store them again for this dataset")
    if problems:
        raise InputError(problems)
    return Signals(folder, described, tuple(described.classes.index(name) for name in classes), shape)


def write_case(folder: Path, case: str, logits: np.ndarray) -> None:
    """Write the signals of one case, whole or not at all."""
    temporary = folder / f"{case}.partial"
    temporary.write_bytes(save({"logits": np.ascontiguousarray(logits, np.float32)}))
    temporary.replace(folder / f"{case}.safetensors")


def write_description(folder: Path, description: SignalsDescription) -> None:
    """Write signals.yaml, last: a folder without it is not finished."""
    temporary = folder / f"{DESCRIPTION}.partial"
    temporary.write_text(yaml.safe_dump(description.model_dump(mode="json"), sort_keys=False))
    temporary.replace(folder / DESCRIPTION)


def _opened(folder: Path, case: str) -> Any:
    try:
        return safe_open(folder / f"{case}.safetensors", "numpy")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{folder}/{case}.safetensors cannot be read: {error}") from None
