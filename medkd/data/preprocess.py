"""Preprocessing, the one owner: a scan becomes what the network sees, and logits become a mask on the scan's own grid.

    canonical axes (RAS+)  ->  slice axis last (2-D)  ->  intensities  ->  resize or resample
and for a prediction the same steps backwards, resampling logits before the argmax.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medkd.data.options import Intensity, Preprocess
from medkd.imaging.geometry import Reorientation, to_canonical
from medkd.imaging.nifti import Scan

RESTORE_CHUNK = 32  # slices (2-D) resampled together; bounds the memory of restoring a long scan


@dataclass(frozen=True)
class Plan:
    """How a scan was changed: what `restore` undoes."""

    reorientation: Reorientation
    slice_axis: int | None  # in canonical axes; None for 3-D
    shape: tuple[int, int, int]  # after reorientation and moving the slice axis last, before resampling


def prepare_scan(channels: list[Scan], options: Preprocess) -> tuple[Tensor, Plan]:
    """Channels of one scan to a float32 tensor on the CPU: (Z, C, H, W) for dims 2, (1, C, X, Y, Z) for dims 3."""
    arrays = []
    for scan in channels:
        array, affine, reorientation = to_canonical(scan.array, scan.affine)
        axis = thickest_axis(affine) if options.dims == 2 else None
        arrays.append(normalise(array if axis is None else np.moveaxis(array, axis, 2), options.intensity))
    spacing = _spacing(affine, axis)
    plan = Plan(reorientation, axis, arrays[0].shape)
    volume = torch.from_numpy(np.stack(arrays))
    samples = volume.permute(3, 0, 1, 2) if options.dims == 2 else volume[None]
    target = target_shape(tuple(samples.shape[2:]), spacing[: options.dims], options)
    return _resize(samples.contiguous(), target, options.interpolation), plan


def prepare_label(label: Scan, options: Preprocess) -> Tensor:
    """The label of a scan on the same grid as `prepare_scan` gives: (Z, H, W) or (1, X, Y, Z), uint8."""
    array, affine, _ = to_canonical(label.array, label.affine)
    axis = thickest_axis(affine) if options.dims == 2 else None
    if axis is not None:
        array = np.moveaxis(array, axis, 2)
    volume = torch.from_numpy(np.ascontiguousarray(array).astype(np.uint8))
    samples = volume.permute(2, 0, 1) if options.dims == 2 else volume[None]
    target = target_shape(tuple(samples.shape[1:]), _spacing(affine, axis)[: options.dims], options)
    if target == tuple(samples.shape[1:]):
        return samples.contiguous()
    return _resize(samples[:, None].float(), target, "nearest")[:, 0].to(torch.uint8)


def restore(logits: Tensor, plan: Plan) -> np.ndarray:
    """Logits (Z, K, H, W) or (1, K, X, Y, Z) to a class map (uint8) on the scan's own voxel grid."""
    two_d = plan.slice_axis is not None
    target = plan.shape[:2] if two_d else plan.shape
    classes = [
        _resize(part.float(), target, "linear").argmax(1).to(torch.uint8).cpu() for part in logits.split(RESTORE_CHUNK)
    ]
    labels = torch.cat(classes)
    volume = (labels.permute(1, 2, 0) if two_d else labels[0]).numpy()
    if plan.slice_axis is not None:
        volume = np.moveaxis(volume, 2, plan.slice_axis)
    return plan.reorientation.undo(volume)


def normalise(array: np.ndarray, options: Intensity) -> np.ndarray:
    """Intensities of one channel of one volume, float32. A constant volume becomes zeros."""
    values = array.astype(np.float32)
    match options.kind:
        case "zscore":
            spread = float(values.std())
            return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)
        case "minmax":
            low, high = float(values.min()), float(values.max())
        case "percentile":
            low, high = (float(v) for v in np.percentile(values, options.percentiles))
        case "window":
            low, high = options.low, options.high
    if high <= low:
        return np.zeros_like(values)
    return (values.clip(low, high) - low) / (high - low)


def thickest_axis(affine: np.ndarray) -> int:
    """The axis along which slices lie: the largest spacing, and the last axis where spacings are equal."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0).round(4)
    return int(2 - np.argmax(spacing[::-1]))


def target_shape(shape: tuple[int, ...], spacing: np.ndarray, options: Preprocess) -> tuple[int, ...]:
    """The shape a sample is resampled to."""
    if options.size:
        return tuple(options.size)
    if options.spacing:
        return tuple(max(1, round(n * s / t)) for n, s, t in zip(shape, spacing, options.spacing))
    return shape


def _spacing(affine: np.ndarray, slice_axis: int | None) -> np.ndarray:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return spacing if slice_axis is None else np.append(np.delete(spacing, slice_axis), spacing[slice_axis])


def _resize(samples: Tensor, shape: tuple[int, ...], mode: str) -> Tensor:
    if tuple(samples.shape[2:]) == shape:
        return samples
    if mode == "linear":
        return F.interpolate(samples, shape, mode="bilinear" if len(shape) == 2 else "trilinear", align_corners=False)
    return F.interpolate(samples, shape, mode="nearest-exact" if mode == "nearest" else "area")
