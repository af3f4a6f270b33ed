"""The voxels of a planned volume."""

from __future__ import annotations

from medkd.imaging.dicom.volumes import Volume
from medkd.imaging.nifti import Scan


def read_volume(volume: Volume, allow_resample: bool = False) -> Scan:
    """Read a volume on the grid that its plan states, modality values (slope and intercept applied).

    Array (X, Y, Z): an integer type where every slope is 1 and every intercept integral, else float32, or float64 where
    float32 would round. Raises InputError that lists every problem of the plan (`allow_resample` lets those pass that
    resampling solves: linear along the slice normal, as `volume.fix` says) or says why the pixels cannot be decoded.
    """
    raise NotImplementedError
