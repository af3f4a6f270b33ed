"""A dataset folder with more of its training patients labelled: links to the same files, another cases.csv."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medkd.data.dataset import Dataset, write_dataset
from medkd.errors import InputError


def relabelled(dataset: Dataset, patients: int, out: Path) -> Path:
    """Write (or find) the dataset folder `out`, where the first `patients` training patients are labelled.

    First as in cases.csv, where published orders are kept, so that the patients already labelled must come first.
    Raises InputError if they do not, or if one of the first has a scan without a label.
    """
    train = dataset.select("train")
    order = list(dict.fromkeys(case.patient for case in train))
    before = {case.patient for case in train if case.labelled}
    chosen = set(order[:patients])
    hidden = [case.id for case in train if case.patient in chosen and case.label is None]
    if len(chosen) < patients or hidden or before - chosen:
        raise InputError(
            f"{patients} labelled training patients are needed, in the order of {dataset.root / 'cases.csv'}: it has "
            f"{len(order)}, {len(hidden)} of the scans that would be labelled have no label, and "
            f"{len(before - chosen)} of the patients now labelled come later; prepare it from a source with all labels"
        )
    out.mkdir(parents=True, exist_ok=True)
    for name in ("images", "labels"):
        if not (out / name).exists():
            (out / name).symlink_to((dataset.root / name).resolve(), target_is_directory=True)
    cases = tuple(
        replace(
            case,
            labelled=case.patient in chosen if case.split == "train" else case.labelled,
            images=tuple(out / path.relative_to(dataset.root) for path in case.images),
            label=out / case.label.relative_to(dataset.root) if case.label else None,
        )
        for case in dataset.cases
    )
    about = {"derived_from": dataset.fingerprint, "labelled_patients": patients}
    write_dataset(replace(dataset, root=out, cases=cases), about)
    return out
