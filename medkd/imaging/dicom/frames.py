"""What the headers say of each slice of a series: its place, its size and what tells it from slices at that place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom import Dataset

from medkd.imaging.dicom import mosaic, tags
from medkd.imaging.dicom.series import Series
from medkd.imaging.dicom.values import integer, item, items, number, numbers, text

LARGEST = 1e5  # mm: a place or size beyond is rubbish
Key = tuple[str, str | tuple[float, ...]]


@dataclass(frozen=True)
class Frame:
    """One slice. file: index into series.files; index: frame in the file, or tile of its mosaic.

    rows, columns; spacing in mm between rows and between columns; orientation: the unit vectors along a row and down a
    column; position: of the first pixel, LPS mm; None where not stated. gap: the distance to the next slice in mm if
    the header states one. keys: what may tell it from other slices at its position, by name. uid: of its file.
    """

    file: int
    index: int
    name: str
    instance: int | None
    uid: str
    rows: int
    columns: int
    spacing: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    gap: float | None
    reference: str
    keys: dict[str, str | tuple[float, ...]]


def frames_of(series: Series) -> tuple[list[Frame], list[str]]:
    """The slices of every file, and why some of the files cannot be placed, one sentence a file."""
    frames: list[Frame] = []
    problems = []
    for file, header in enumerate(series.headers):
        instance = integer(header, tags.INSTANCE_NUMBER, "IS")
        name = f"instance {instance}" if instance is not None else f"file {file + 1}"
        count = integer(header, tags.NUMBER_OF_FRAMES, "IS") or 1
        per_frame = items(header, tags.PER_FRAME_FUNCTIONAL_GROUPS)
        if mosaic.is_mosaic(header):
            tiles = mosaic.layout(header)
            if isinstance(tiles, str):
                problems.append(f"{name}: {tiles}")
            else:
                frames += _mosaic(file, header, tiles, name, instance)
        elif per_frame:
            if len(per_frame) != count:
                problems.append(f"{name} says {count} frames and describes {len(per_frame)}")
            frames += _enhanced(file, header, per_frame[:count], name)
        elif count > 1:
            problems.append(f"{name} holds {count} frames without a position for each")
        else:
            frames.append(_classic(file, header, name, instance))
    return frames, problems


def _classic(file: int, header: Dataset, name: str, instance: int | None) -> Frame:
    return Frame(
        file, 0, name, instance, text(header, tags.SOP_INSTANCE_UID), *_size(header), **_place(header, [header]),
        keys=dict(_classic_keys(header)),
    )  # fmt: skip


def _mosaic(file: int, header: Dataset, tiles: mosaic.Layout, name: str, instance: int | None) -> Iterator[Frame]:
    keys = dict(_classic_keys(header))
    if instance is not None:
        keys["instance"] = (float(instance),)
    place = _place(header, [header])
    for index, position in enumerate(tiles.positions):
        place |= {"position": tuple(float(v) for v in position), "gap": tiles.gap}
        yield Frame(
            file, index, f"{name} tile {index + 1}", instance, f"{text(header, tags.SOP_INSTANCE_UID)}/{index}",
            tiles.rows, tiles.columns, **place, keys=keys,
        )  # fmt: skip


def _enhanced(file: int, header: Dataset, per_frame: list[Dataset], name: str) -> Iterator[Frame]:
    shared = item(header, tags.SHARED_FUNCTIONAL_GROUPS)
    rows, columns = _size(header)
    uid = text(header, tags.SOP_INSTANCE_UID)
    for index, own in enumerate(per_frame):
        groups = [g for g in (own, shared) if g is not None]
        yield Frame(
            file, index, f"{name} frame {index + 1}", index + 1, f"{uid}/{index}", rows, columns,
            **_place(header, groups), keys=dict(_enhanced_keys(groups)),
        )  # fmt: skip


def _size(header: Dataset) -> tuple[int, int]:
    return integer(header, tags.ROWS) or 0, integer(header, tags.COLUMNS) or 0


def _place(header: Dataset, groups: list[Dataset]) -> dict:
    """Spacing, orientation, position, gap and frame of reference: of a header, or of functional groups."""

    def of(sequence: int, tag: int, count: int) -> tuple[float, ...] | None:
        if groups[0] is header:
            return numbers(header, tag, count)
        found = (numbers(i, tag, count) for group in groups if (i := item(group, sequence)) is not None)
        return next((value for value in found if value), None)

    position = of(tags.PLANE_POSITION, tags.IMAGE_POSITION_PATIENT, 3)
    spacing = of(tags.PIXEL_MEASURES, tags.PIXEL_SPACING, 2)
    gap = of(tags.PIXEL_MEASURES, tags.SPACING_BETWEEN_SLICES, 1) or numbers(header, tags.SPACING_BETWEEN_SLICES, 1)
    gap = gap or of(tags.PIXEL_MEASURES, tags.SLICE_THICKNESS, 1)
    return {
        "spacing": spacing if spacing and min(spacing) > 1 / LARGEST and max(spacing) < LARGEST else None,
        "orientation": of(tags.PLANE_ORIENTATION, tags.IMAGE_ORIENTATION_PATIENT, 6),
        "position": position if position and max(map(abs, position)) < LARGEST else None,
        "gap": abs(gap[0]) if gap and 0 < abs(gap[0]) < LARGEST else None,
        "reference": text(header, tags.FRAME_OF_REFERENCE_UID),
    }


def _classic_keys(header: Dataset) -> Iterator[Key]:
    yield "type", text(header, tags.IMAGE_TYPE)
    for name, tag, vr in (
        ("time", tags.TEMPORAL_POSITION_IDENTIFIER, "IS"),
        ("echo", tags.ECHO_NUMBERS, "IS"),
        ("echo time", tags.ECHO_TIME, "DS"),
        ("trigger time", tags.TRIGGER_TIME, "DS"),
        ("frame time", tags.FRAME_REFERENCE_TIME, "DS"),
        ("acquisition", tags.ACQUISITION_NUMBER, "IS"),
        ("acquired at", tags.ACQUISITION_DATE_TIME, "DS"),
        ("acquired at", tags.ACQUISITION_TIME, "DS"),
        ("content time", tags.CONTENT_TIME, "DS"),
    ):
        if (value := number(header, tag, vr)) is not None:
            yield name, (value,)
    if (b := numbers(header, tags.DIFFUSION_B_VALUE, 1, "FD")) is not None:
        yield "b value", b
        yield "diffusion", b + (numbers(header, tags.DIFFUSION_GRADIENT_ORIENTATION, 3, "FD") or ())


def _enhanced_keys(groups: list[Dataset]) -> Iterator[Key]:
    def first(sequence: int) -> Dataset | None:
        return next((found for group in groups if (found := item(group, sequence)) is not None), None)

    for sequence in (tags.MR_IMAGE_FRAME_TYPE, tags.CT_IMAGE_FRAME_TYPE):
        if (kind := first(sequence)) is not None:
            yield "type", text(kind, tags.FRAME_TYPE) + "\\" + text(kind, tags.COMPLEX_IMAGE_COMPONENT)
    if (content := first(tags.FRAME_CONTENT)) is not None:
        yield "stack", text(content, tags.STACK_ID)
        if (time := numbers(content, tags.TEMPORAL_POSITION_INDEX, 1, "UL")) is not None:
            yield "time", time
    if (echo := first(tags.MR_ECHO)) is not None:
        yield "echo time", numbers(echo, tags.EFFECTIVE_ECHO_TIME, 1, "FD") or ()
    if (diffusion := first(tags.MR_DIFFUSION)) is not None:
        b = numbers(diffusion, tags.DIFFUSION_B_VALUE, 1, "FD") or ()
        direction = item(diffusion, tags.DIFFUSION_GRADIENT_DIRECTION)
        yield "b value", b
        along = numbers(direction, tags.DIFFUSION_GRADIENT_ORIENTATION, 3, "FD") if direction is not None else None
        yield "diffusion", b + (along or ())
