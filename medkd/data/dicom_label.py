"""The label of a case from a DICOM SEG or RTSTRUCT file: structures by name become classes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medkd.errors import InputError
from medkd.imaging.dicom import rtstruct, seg, tags
from medkd.imaging.dicom.series import Series
from medkd.imaging.dicom.values import items, text, words
from medkd.imaging.dicom.volumes import Volume
from medkd.imaging.nifti import Scan
from medkd.imaging.overlap import merge


@dataclass(frozen=True)
class DicomLabel:
    """File `number` of a series of segmentations or structure sets, on the grid of its image.

    classes: names by label value, background first; a class is every structure of that name, in any case. Structures of
    other names are left out. in_order: where classes share voxels, the later one is kept; else they are refused.
    """

    series: Series
    number: int
    image: Volume
    classes: tuple[str, ...]
    in_order: bool = False

    @property
    def name(self) -> str:
        return self.series.files[self.number].name

    def read(self) -> tuple[Scan, tuple[str, ...]]:
        wanted = {name.casefold(): value for value, name in enumerate(self.classes) if value}
        masks: dict[int, np.ndarray] = {}
        notes: list[str] = []
        others = 0
        for name, mask, remarks in self._regions(frozenset(wanted)):
            if mask is None:
                others += 1
                continue
            value = wanted[name.casefold()]
            masks[value] = masks[value] | mask if value in masks else mask
            notes += [f"{self.classes[value]}: {remark}" for remark in remarks]
        if not masks:
            raise InputError(
                f"it shows none of the classes {', '.join(self.classes[1:])}, but {others} other structures"
            )
        if others:
            notes.append(f"{others} structures that are no class were left out")
        if absent := [name for value, name in enumerate(self.classes) if value and value not in masks]:
            notes.append(f"no structure is named {', '.join(absent)}: taken as absent")
        regions = [(value, self.classes[value], mask) for value, mask in sorted(masks.items())]
        try:
            label = merge(regions, self.image.shape, ordered=self.in_order)
        except InputError as error:
            shared = "; ".join(problem.split("; say in which order")[0] for problem in error.problems)
            raise InputError(f"{shared} (with --in-order the class named later is kept)") from None
        return Scan(label, self.image.affine, self.image.spacing), tuple(notes)

    def stamp(self) -> str:
        header = self.series.headers[self.number]
        what = (text(header, tags.SOP_INSTANCE_UID), self.series.files[self.number].stat().st_size)
        return hashlib.sha256(repr((what, self.classes, self.in_order)).encode()).hexdigest()

    def _regions(self, wanted: frozenset[str]) -> Iterator[tuple[str, np.ndarray | None, tuple[str, ...]]]:
        """Name, mask and notes of each structure; no mask for those that are not wanted."""
        file = self.series.files[self.number]
        if self.series.kind == "segmentation":
            found = seg.read_segmentation(file, self.image)
            for segment in found.segments:
                mask = found.mask(segment.number) if segment.label.casefold() in wanted else None
                yield segment.label, mask, found.notes
            return
        for structure in rtstruct.read_structures(file).structures:
            if structure.name.casefold() in wanted:
                drawn = rtstruct.raster(structure, self.image)
                yield structure.name, drawn.mask, drawn.notes
            else:
                yield structure.name, None, ()


def references(series: Series, number: int) -> tuple[str, ...]:
    """UIDs of the image series on which a file of a label series was drawn."""
    header = series.headers[number]
    if series.kind == "segmentation":
        found = items(header, seg.REFERENCED_SERIES)
    else:
        studies = [s for frame in items(header, rtstruct.FRAMES_OF_REFERENCE) for s in items(frame, rtstruct.STUDIES)]
        found = [series for study in studies for series in items(study, rtstruct.SERIES)]
    uids = [text(one, tags.SERIES_INSTANCE_UID) for one in found]
    return tuple(dict.fromkeys(uid for uid in uids if uid))


def structures(series: Series, number: int) -> tuple[str, ...]:
    """Names of the structures that a file of a label series shows."""
    header = series.headers[number]
    sequence, name = (
        (seg.SEGMENT_SEQUENCE, seg.SEGMENT_LABEL)
        if series.kind == "segmentation"
        else (rtstruct.STRUCTURES, rtstruct.ROI_NAME)
    )
    return tuple(words(described, name) for described in items(header, sequence))
