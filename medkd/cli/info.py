"""medkd info: what lies at a path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer


def info(
    path: Annotated[Path, typer.Argument(help="a scan, a folder or zip of scans, a DICOMDIR, or a folder of medkd")],
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """Say what a path holds, by its headers, and whether medkd would take it. Names no patient."""
    from medkd.runs.info import inspect

    found = inspect(path)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print("\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    if "summary" in found:
        yield f"{found['path']}: {found['summary']}"
        return
    series = [one for study in found["studies"] for one in study["series"]]
    volumes = [volume for one in series for volume in one["volumes"]] + found["files"]
    patients = len({study["patient"] for study in found["studies"]})
    parts = [f"{patients} patients, {len(found['studies'])} studies, {len(series)} DICOM series"] if series else []
    parts += [f"{len(found['files'])} NIfTI or NRRD files"] if found["files"] else []
    parts.append(f"{sum(v['accepted'] for v in volumes)} of {len(volumes)} volumes accepted")
    yield f"{found['path']}: {'; '.join(parts)}"
    for number, study in enumerate(found["studies"], 1):
        yield f"study {number}, patient {study['patient']}"
        for one in study["series"]:
            yield from _series(one)
    for file in found["files"]:
        yield from _volume(file["file"], file)
    if found["refused"]:
        yield f"{len(found['refused'])} DICOM files cannot be used"
        yield from (f"  {one['file']}: {one['reason']}" for one in found["refused"])
    if found["ignored"]:
        yield f"{found['ignored']} other files"


def _series(one: dict[str, Any]) -> Iterator[str]:
    number = "" if one["number"] is None else f" {one['number']}"
    name = " ".join(part for part in (one["modality"], repr(one["description"])) if part)
    yield f"  series{number}: {name}, {one['files']} files in {one['folder']}, {', '.join(one['syntaxes'])}"
    if one["kind"] != "image":
        kind = {"segmentation": "labels (DICOM SEG)", "structures": "labels (RTSTRUCT)"}.get(one["kind"], "no image")
        yield f"    {kind}"
    for volume in one["volumes"]:
        yield from _volume(volume["name"], volume)


def _volume(name: str, volume: dict[str, Any]) -> Iterator[str]:
    parts = [name] if name else []
    if volume.get("shape"):
        parts.append(" x ".join(map(str, volume["shape"])))
        spacing = volume["spacing"]
        parts.append("spacing unknown" if spacing is None else f"{' x '.join(f'{v:.4g}' for v in spacing)} mm")
        parts += [f"axes {volume['axes']}"] if volume["axes"] else []
    yield f"    {', '.join(parts)}: {'accepted' if volume['accepted'] else 'refused'}"
    yield from (f"      - {problem}" for problem in volume["problems"])
    if volume.get("fix"):
        yield f"      with {volume['fix']}"
    yield from (f"      note: {note}" for note in volume["notes"])
