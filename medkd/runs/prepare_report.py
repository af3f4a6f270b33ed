"""What `medkd prepare` read, changed, left out and decided: as JSON, and as a page with a picture of every case."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medkd.data.checks import CaseCheck
from medkd.data.dataset import SPLITS, Dataset
from medkd.data.scan_files import DicomVolume
from medkd.imaging.geometry import to_canonical, voxel_sizes
from medkd.imaging.nifti import Scan
from medkd.report.contact_sheet import contact_sheet
from medkd.report.page import Page
from medkd.report.slices import Slice, cut
from medkd.runs.prepare_names import Names
from medkd.runs.prepare_source import Found, Source

A_SHEET = 24  # cases
THUMBNAIL = 160  # pixels along the longer side


@dataclass(frozen=True)
class Prepared:
    """A dataset that is decided: its cases, the cases of the source and their checks in the same order."""

    dataset: Dataset
    source: Source
    cases: tuple[Found, ...]
    checks: tuple[CaseCheck, ...]
    names: Names
    decisions: dict[str, Any]

    @property
    def resampled(self) -> list[str]:
        """The cases whose voxels were interpolated, by id."""
        return [
            case.id
            for case, found in zip(self.dataset.cases, self.cases)
            if any(isinstance(image, DicomVolume) and image.resampled for image in found.images)
        ]


def facts(done: Prepared) -> dict[str, Any]:
    """What was read, assumed, changed and left out; with private names nothing here tells a patient or a path."""
    dataset, source, names = done.dataset, done.source, done.names
    notes = {
        case.id: [names.public(note, found) for note in check.notes]
        for case, found, check in zip(dataset.cases, done.cases, done.checks)
        if check.notes
    }
    unused = {kind: files for kind, files in source.unused.items() if files}
    return {
        "cases": len(dataset.cases),
        "patients": len({c.patient for c in dataset.cases}),
        "splits": {s: len(dataset.select(s)) for s in SPLITS},
        "labelled": len(dataset.select("train", labelled=True)),
        "label_values": sorted({v for check in done.checks for v in check.values}),
        "spacing_unknown": sum(c.spacing is None for c in dataset.cases),
        "changed": "headers are written anew without free text and extensions, labels as uint8; voxel values are kept, "
        "and every file of a case has the affine of its first channel"
        + ("; the cases under resampled were interpolated to a regular grid" if done.resampled else ""),
        "resampled": done.resampled,
        "refused": [{"id": names.refused(one), "reason": names.public(one.reason, one)} for one in source.refused]
        if source.skips
        else "nothing: a source with a problem is not written",
        "warnings": source.warnings,
        "remarks": source.remarks,
        "notes": notes,
        "unused": {kind: len(files) for kind, files in unused.items()} if names.key else unused,
        "decisions": done.decisions,
    }


def thumbnail(case: str, image: Scan, label: Scan | None) -> Slice:
    """The slice with most foreground, else the middle one, small enough to keep one of every case."""
    array, affine, _ = to_canonical(image.array, image.affine)
    truth = to_canonical(label.array, image.affine)[0] if label else None
    x, y, z = (float(v) for v in voxel_sizes(affine))
    axis = int(2 - np.argmax(np.round([z, y, x], 4)))
    found = cut(case, array, truth, spacing=(x, y, z), axis=axis)
    step = max(1, -(-max(found.image.shape) // THUMBNAIL))
    small = (slice(None, None, step),) * 2
    return Slice(
        case, np.array(found.image[small]), None if found.truth is None else np.array(found.truth[small]),
        spacing=(found.spacing[0] * step, found.spacing[1] * step), note=found.note, plane=found.plane,
    )  # fmt: skip


def write_page(path: Path, done: Prepared, report: dict[str, Any], pictures: list[Slice]) -> None:
    """Write report.html."""
    dataset = done.dataset
    private = done.names.key is not None
    page = Page("Dataset", f"{report['cases']} cases of {report['patients']} patients")
    page.facts(
        {
            "cases": ", ".join(f"{n} {name}" for name, n in report["splits"].items()),
            "training cases with labels": report["labelled"],
            "classes": dataset.classes,
            "series and files left out": len(done.source.refused),
            "cases interpolated": len(report["resampled"]),
            "files that belong to no case": sum(map(len, done.source.unused.values())),
            **{name: words(value) for name, value in report["decisions"].items()},
        }
    )
    if private:
        page.text(
            "Names of patients and cases are keyed hashes. Which is which stands in the private key file, which lies "
            "outside this folder: keep it, and do not pass it on."
        )
    for warning in report["warnings"]:
        page.warning(f"{warning[0].upper()}{warning[1:]}.")
    for remark in report["remarks"]:
        page.text(f"{remark[0].upper()}{remark[1:]}.")
    page.section("Every case")
    page.text("Look at each: a wrong label, a flipped scan or text in the picture is seen here first.")
    for start in range(0, len(pictures), A_SHEET):
        part = pictures[start : start + A_SHEET]
        names = f"{part[0].case} to {part[-1].case}" if len(part) > 1 else part[0].case
        page.picture(contact_sheet(part, dataset.classes), f"Cases {names}.", f"a slice of each of {len(part)} cases")
    page.table(*_case_table(done), "Size in voxels and spacing in mm along the array axes, which point as axes says.")
    if done.source.skips:
        page.section("Left out")
        if report["refused"]:
            rows = [[one["id"], one["reason"]] for one in report["refused"]]
            page.table(["series or file", "why"], rows, "The private key file says where each lies." if private else "")
        else:
            page.text("Nothing.")
    if report["notes"]:
        page.section("Assumed and changed")
        page.table(["case", "what"], [[case, note] for case, notes in report["notes"].items() for note in notes])
    page.text(f"In every file: {report['changed']}.")
    page.write(path)


def _case_table(done: Prepared) -> tuple[list[str], list[list[object]]]:
    classes = done.dataset.classes[1:]
    headers = ["case", "split", "labelled", "modality", "size", "spacing", "axes"]
    rows: list[list[object]] = []
    for case, found, check in zip(done.dataset.cases, done.cases, done.checks):
        spacing = " × ".join(f"{v:.4g}" for v in case.spacing) if case.spacing else "unknown"
        millilitres = float(np.prod(case.spacing)) / 1000 if case.spacing else None
        row = [case.id, case.split, case.labelled, found.modality or None]
        volumes = [
            check.voxels.get(value, 0) * (millilitres or 1) if check.voxels else None
            for value in range(1, len(classes) + 1)
        ]
        rows.append([*row, " × ".join(map(str, case.shape)), spacing, check.axes, *volumes])
    unit = "ml" if all(case.spacing for case in done.dataset.cases) else "voxels, or ml where spacing is known"
    return [*headers, *(f"{name} ({unit})" for name in classes)], rows


def words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {words(v)}" for name, v in value.items())
    if isinstance(value, (list, tuple)):
        return "/".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
    return str(value)
