"""The dataset folder of a classification task: images, each with one class.

    dataset.yaml, cases.csv, images/   as image_cases.py says; cases.csv has a column `label`, the name of the class

`label` is empty for unlabelled training cases, and only for them: what the source knew of these is not in the folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from medkd.data.image_cases import ImageCase, ImageFolder, read_image_folder, write_image_folder
from medkd.errors import InputError, raise_all


@dataclass(frozen=True)
class ClassificationDataset(ImageFolder):
    """A checked dataset folder. labels: 0 .. K - 1 by case id, of labelled training cases, val and test."""

    labels: Mapping[str, int] = field(default_factory=dict)

    task: ClassVar[str] = "classification"

    def truth(self, case: ImageCase) -> int:
        """The class of a case. Raises InputError for an unlabelled one."""
        if case.id not in self.labels:
            raise InputError(f"case {case.id} (split {case.split}) is not labelled")
        return self.labels[case.id]


def read_classification_dataset(root: Path) -> ClassificationDataset:
    """Read and check a dataset folder. Raises InputError with everything that is wrong with it."""
    problems: list[str] = []
    found, rows = read_image_folder(Path(root), "classification", problems, ("label",))
    if len(found.classes) < 2:
        problems.append(f"classes are {list(found.classes)}; two are needed to tell anything apart")
    labels = {}
    for case in found.cases:
        name = rows[case.id]["label"]
        if not case.open_to_training and name:
            problems.append(f"case {case.id} is unlabelled and has the label {name!r}; leave it empty")
        elif case.open_to_training and name not in found.classes:
            problems.append(f"case {case.id}: label is {name!r}; allowed: {', '.join(found.classes)}")
        elif name:
            labels[case.id] = found.classes.index(name)
    raise_all(problems)
    return ClassificationDataset(found.root, found.channels, found.classes, found.unit, found.cases, labels)


def write_classification_dataset(dataset: ClassificationDataset, about: Mapping[str, Any]) -> None:
    """Write cases.csv, then dataset.yaml; each whole or not at all. Images must lie there already."""
    names = {case: dataset.classes[label] for case, label in dataset.labels.items()}
    write_image_folder(dataset, about, {"label": names})
