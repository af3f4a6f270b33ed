"""The claim of BCP: which experiment the data calls for."""

from __future__ import annotations

from pathlib import Path

from medkd.claims import bcp_acdc, bcp_hippocampus
from medkd.claims.bcp_phantom import phantom
from medkd.claims.experiment import Experiment
from medkd.data.dataset import read_dataset
from medkd.errors import InputError


def experiment_on(data: Path | None, seeds: int) -> Experiment:
    """The experiment for a dataset folder, told by its classes; on generated patients without one."""
    if data is None:
        return phantom(seeds)
    dataset = read_dataset(data)
    if dataset.classes == bcp_acdc.CLASSES:
        return bcp_acdc.acdc(dataset, seeds)
    if dataset.classes == bcp_hippocampus.CLASSES:
        return bcp_hippocampus.hippocampus(dataset, seeds)
    raise InputError(
        f"{data} has the classes {', '.join(dataset.classes)}; there is an experiment for ACDC "
        f"({', '.join(bcp_acdc.CLASSES)}) and for the hippocampus task ({', '.join(bcp_hippocampus.CLASSES)})"
    )
