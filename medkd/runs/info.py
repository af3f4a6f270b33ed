"""What lies at a path: the DICOM series of an archive, NIfTI and NRRD files, or a folder of medkd; headers only.

Nothing here imports torch, and nothing gives the name or the number of a patient.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import yaml

from medkd.data.classification_dataset import read_classification_dataset
from medkd.data.dataset import SPLITS, Dataset, read_dataset
from medkd.data.detection_dataset import read_detection_dataset
from medkd.data.image_cases import ImageFolder
from medkd.data.scan_files import SUFFIXES, VolumeFile
from medkd.errors import InputError
from medkd.imaging.dicom.find import Found, find_series
from medkd.imaging.dicom.series import Series
from medkd.imaging.dicom.volumes import Volume, plan_volumes
from medkd.runs.archive_verdict import Headless, Verdict, headless, judge


def inspect(path: Path) -> dict[str, Any]:
    """All that `medkd info --json` prints of a path. Raises InputError if nothing is there or nothing is known of it.

    kind: "dataset", "run" or "model" with a `summary` of one line; else "scans": `studies` of DICOM series with their
    volumes, `files` that are NIfTI or NRRD, `refused` DICOM files, and how many files were `ignored` as neither.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no file or folder {path}")
    if path.is_dir() and (ours := _ours(path)):
        return {"path": str(path)} | ours
    if path.is_file() and path.name.endswith(SUFFIXES):
        return {"path": str(path), "kind": "scans", "studies": [], "files": [_file(path)], "refused": [], "ignored": 0}
    with find_series(path) as found:
        known = [file for file in found.ignored if file.name.endswith(SUFFIXES) and file.is_file()]
        answer = {
            "path": str(path),
            "kind": "scans",
            "studies": _studies(found),
            "files": [_file(file) for file in known],
            "refused": [{"file": str(refused.file), "reason": refused.reason} for refused in found.refused],
            "ignored": len(found.ignored) - len(known),
        }
    if not (answer["studies"] or answer["files"] or answer["refused"]):
        raise InputError(
            f"{path} holds {answer['ignored']} files, none of them DICOM, NIfTI (.nii, .nii.gz) or NRRD (.nrrd)"
            if path.is_dir()
            else f"{path} is not DICOM, NIfTI (.nii, .nii.gz), NRRD (.nrrd), or a zip or folder of these"
        )
    return answer


def _ours(folder: Path) -> dict[str, Any] | None:
    """A folder that medkd wrote, in a line."""
    if (folder / "dataset.yaml").is_file():
        data = _dataset(folder)
        splits = ", ".join(f"{len(data.select(name))} {name}" for name in SPLITS)
        patients = len({case.patient for case in data.cases})
        text = f"{data.task} dataset of {len(data.cases)} cases of {patients} patients ({splits}); "
        text += f"channels {', '.join(data.channels)}; classes {', '.join(data.classes)}"
        return {"kind": "dataset", "summary": text}
    if (folder / "recipe.yaml").is_file() and (folder / "manifest.json").is_file():
        phases = _yaml(folder / "recipe.yaml").get("phases") or []
        methods = ", ".join(str(phase.get("method", {}).get("kind")) for phase in phases)
        state = "finished: model/ holds what it learnt" if (folder / "model" / "model.yaml").is_file() else "unfinished"
        return {"kind": "run", "summary": f"training run of {methods}; {state}"}
    if (folder / "model.yaml").is_file():
        about = _yaml(folder / "model.yaml")
        network = (about.get("network") or about.get("detector") or {}).get("kind")
        text = f"{about.get('task')} model, {network} in {about.get('preprocess', {}).get('dims')}-D; "
        text += f"channels {', '.join(about.get('channels', ()))}; classes {', '.join(about.get('classes', ()))}"
        return {"kind": "model", "summary": text}
    return None


def _dataset(folder: Path) -> Dataset | ImageFolder:
    match _yaml(folder / "dataset.yaml").get("task"):
        case "detection":
            return read_detection_dataset(folder, annotations=False)
        case "classification":
            return read_classification_dataset(folder)
    return read_dataset(folder)


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} is not the file that medkd wrote: it holds no keys")
    return found


def _studies(found: Found) -> list[dict[str, Any]]:
    """Series by study; patients and studies are numbered, never named."""
    patients: dict[str, int] = {}
    studies: dict[tuple[str, str], dict[str, Any]] = {}
    cut_short = headless(found)
    for series in found.series:
        patient = patients.setdefault(series.patient, len(patients) + 1)
        study = studies.setdefault(
            (series.patient, series.study_uid), {"study": series.study_uid, "patient": patient, "series": []}
        )
        study["series"].append(_series(series, cut_short))
    return list(studies.values())


def _series(series: Series, cut_short: Headless) -> dict[str, Any]:
    return {
        "series": series.uid,
        "number": series.number,
        "kind": series.kind,
        "modality": series.modality,
        "description": series.description,
        "folder": str(series.files[0].parent),
        "files": len(series.files),
        "syntaxes": list(series.syntaxes),
        "burned_in": series.burned_in,
        "volumes": [_volume(volume, judge(volume, cut_short)) for volume in plan_volumes(series)],
    }


def _volume(volume: Volume, verdict: Verdict) -> dict[str, Any]:
    return {
        "name": volume.name,
        "shape": list(volume.shape),
        "slices": len(volume.frames),
        "spacing": _rounded(volume.spacing),
        "axes": _axes(volume.affine) if volume.spacing else None,
        "accepted": not verdict.problems,
        "problems": list(verdict.problems),
        "fix": verdict.fix,
        "notes": list(volume.notes),
    }


def _file(path: Path) -> dict[str, Any]:
    """A NIfTI or NRRD file by its header."""
    answer: dict[str, Any] = {"file": str(path), "accepted": False, "problems": [], "notes": []}
    try:
        header = VolumeFile(path).header()
    except InputError as error:
        return answer | {"problems": error.problems}
    return answer | {
        "shape": list(header.shape),
        "spacing": _rounded(header.spacing),
        "axes": _axes(header.affine),
        "accepted": True,
        "notes": list(header.notes),
    }


def _rounded(values: Iterable[float] | None) -> list[float] | None:
    return [float(f"{value:.6g}") for value in values] if values is not None else None


def _axes(affine: Any) -> str:
    """Where the array axes point most nearly: RAS, LPS, PSR ..."""
    return "".join(nib.orientations.aff2axcodes(affine))
