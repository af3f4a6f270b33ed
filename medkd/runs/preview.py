"""A scan, and perhaps its mask, as one picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.orientations import aff2axcodes

from medkd.data.scan_files import SUFFIXES, DicomVolume, ScanFile, VolumeFile
from medkd.errors import InputError
from medkd.imaging.dicom.find import Found, find_series
from medkd.imaging.dicom.rtstruct import read_structures
from medkd.imaging.dicom.seg import read_segmentation
from medkd.imaging.dicom.volumes import Volume, plan_volumes
from medkd.imaging.geometry import Grid, realign, to_canonical, voxel_sizes
from medkd.imaging.nifti import Scan


@dataclass(frozen=True)
class Previewed:
    """The file that was written, and what a reader had to assume, in words."""

    file: Path
    notes: tuple[str, ...]


def preview(image: Path, out: Path, mask: Path | None = None) -> Previewed:
    """Write a PNG of three planes of a scan with its mask outlined. The picture names neither file nor patient.

    image: a NIfTI or NRRD file, or a DICOM file, folder, DICOMDIR or zip that holds one volume. mask: a NIfTI or NRRD
    file, a DICOM SEG or an RTSTRUCT, on the grid of the image, with any order of axes. Raises InputError.
    """
    from medkd.report.preview import three_planes

    if out.suffix.lower() != ".png":
        raise InputError(f"the picture is {out.name}; give it a name that ends in .png")
    scan, notes = _read(image)
    label: np.ndarray | None = None
    names: list[str] = []
    if mask is not None:
        label, names, more = _mask(mask, scan)
        notes += more
    array, affine, _ = to_canonical(scan.array, scan.affine)
    picture = three_planes(
        array,
        None if label is None else to_canonical(label, scan.affine)[0],
        _spacing(scan, affine),
        names,
        _title(scan),
        _oblique(affine),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.partial")
    temporary.write_bytes(picture)
    temporary.replace(out)
    return Previewed(out, notes)


def _read(path: Path) -> tuple[Scan, tuple[str, ...]]:
    if path.name.endswith(SUFFIXES):
        return VolumeFile(path).read()
    with find_series(path) as found:
        return _only_volume(path, found).read()


def _only_volume(path: Path, found: Found) -> ScanFile:
    volumes = [volume for series in found.series for volume in plan_volumes(series)]
    if len(volumes) == 1:
        return DicomVolume(volumes[0])
    if not volumes:
        why = "; ".join(sorted({refused.reason for refused in found.refused})[:3])
        raise InputError(f"{path} holds no image{f': {why}' if why else ''}")
    listed = "\n".join(f"  {_line(volume)}" for volume in volumes)
    raise InputError(f"{path} holds {len(volumes)} volumes; give the folder or a file of one:\n{listed}")


def _line(volume: Volume) -> str:
    series = volume.series
    parts = [f"series {series.number}" if series.number is not None else "", series.modality, series.description]
    size = " x ".join(map(str, volume.shape))
    return f"{series.files[0].parent}: {', '.join(p for p in (*parts, volume.name, size) if p)}"


def _mask(path: Path, scan: Scan) -> tuple[np.ndarray, list[str], tuple[str, ...]]:
    """A label on the grid of a scan, the names of its values, and notes."""
    if path.name.endswith(SUFFIXES):
        found, notes = VolumeFile(path).read()
        if found.array.dtype.kind not in "iu" and not np.array_equal(found.array, np.rint(found.array)):
            raise InputError(f"{path.name} holds fractions; a mask of whole numbers is needed")
        try:
            return realign(found.array, found.affine, scan), [], notes
        except InputError as error:
            raise InputError(
                [f"{path.name} does not lie on the scan: {problem}" for problem in error.problems]
            ) from None
    with find_series(path) as found_series:
        drawn = [s for s in found_series.series if s.kind in ("segmentation", "structures") for _ in s.files]
        if len(drawn) != 1:
            raise InputError(f"{path} holds {len(drawn)} DICOM segmentations and structure sets; give one file")
        return _drawn(drawn[0].kind, drawn[0].files[0], scan)


def _drawn(kind: str, file: Path, grid: Grid) -> tuple[np.ndarray, list[str], tuple[str, ...]]:
    """Regions that overlap are painted in the order of the file, the last on top: a picture may do that."""
    if kind == "segmentation":
        seg = read_segmentation(file, grid)
        labels = {segment.number: segment.label for segment in seg.segments}
        names = [labels.get(number, "") for number in range(max(labels) + 1)]
        return seg.merged(list(labels)), names, seg.notes
    found = read_structures(file)
    areas = [structure for structure in found.structures if structure.contours]
    label = found.merged(grid, [structure.number for structure in areas])
    return label, ["", *(structure.name for structure in areas)], ()


def _spacing(scan: Scan, canonical: np.ndarray) -> tuple[float, float, float]:
    if scan.spacing is None:
        return (1.0, 1.0, 1.0)
    x, y, z = (float(size) for size in voxel_sizes(canonical))
    return x, y, z


def _title(scan: Scan) -> str:
    size = " x ".join(map(str, scan.shape))
    spacing = "spacing unknown" if scan.spacing is None else " x ".join(f"{s:.3g}" for s in scan.spacing) + " mm"
    return f"{size} voxels, {spacing}, axes {''.join(aff2axcodes(scan.affine))}"


def _oblique(canonical: np.ndarray) -> str:
    """How far the planes are from those of the body: the slices are shown as they were stored."""
    axes = canonical[:3, :3] / voxel_sizes(canonical)
    angle = float(np.degrees(np.arccos(np.clip(np.diag(axes).min(), -1, 1))))
    shear = float(np.degrees(np.arcsin(np.clip(np.abs(axes.T @ axes - np.eye(3)).max(), 0, 1))))
    notes = [f"Slices as stored: turned by up to {angle:.0f}° against the planes of the body."] if angle >= 0.5 else []
    notes += [f"The grid is sheared by {shear:.1f}°, which the picture straightens."] if shear >= 0.5 else []
    return " ".join(notes)
