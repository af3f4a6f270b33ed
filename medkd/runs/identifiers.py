"""The words by which a scan can be traced to its patient, and texts without them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from medkd.imaging.dicom import tags
from medkd.imaging.dicom.series import Series
from medkd.imaging.dicom.values import text, words

NAMES = (tags.PATIENT_NAME, tags.PATIENT_ID, 0x00080090)  # the last is the referring physician
TEXTS = (tags.SERIES_DESCRIPTION, 0x00081030, 0x00080080, 0x00181030)  # of study and protocol; the institution
IN_CODE = (tags.STUDY_INSTANCE_UID, tags.SERIES_INSTANCE_UID, 0x00080050, 0x00200010)  # accession number, study id


def identifiers(series: Series, patient: str) -> frozenset[str]:
    """Names and numbers of the patient, also word by word; descriptions, UIDs and paths of a series."""
    header = series.headers[0]
    names = [patient, *(words(header, tag) for tag in NAMES)]
    pieces = [piece for name in names for piece in re.split(r"[\s^,;_=/\\]+", name)]
    texts = [words(header, tag) for tag in TEXTS] + [text(header, tag) for tag in IN_CODE]
    return frozenset({*names, *pieces, *texts}.union(*map(path_words, series.files)) - {""})


def path_words(path: Path) -> frozenset[str]:
    """The folders and the name of a file, with and without its suffix."""
    return frozenset({*path.parts, path.stem})


def scrub(text: str, identifiers: Iterable[str]) -> str:
    """The text without these words, in any case, where they stand as words.

    Numbers of fewer than 5 digits stay, and single letters: they also count slices.
    """
    telling = {word for word in identifiers if len(word) >= 5 or (len(word) > 1 and not word.isdigit())}
    if not telling:
        return text
    longest_first = "|".join(re.escape(word) for word in sorted(telling, key=len, reverse=True))
    return re.sub(rf"(?<![^\W_])(?:{longest_first})(?![^\W_])", "[removed]", text, flags=re.IGNORECASE)
