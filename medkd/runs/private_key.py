"""The private key of a dataset: which patient and which file a name in it stands for. It lies outside the dataset.

A CSV file with a secret salt, and a row for every patient, case and refused series:

    kind, id, source, path, reason
    salt, 5f3a..., , ,
    patient, p3f09c12a, what the DICOM header or the file name says, ,
    case, p3f09c12a_9be1a0, the series or the file name, where it lies,
    refused, p77d21e04_11ab03, the series, where it lies, why

Names are keyed hashes (BLAKE2b with the salt): without this file nobody can go back, nor confirm a guess; with it the
same patient gets the same name again, in a run that continues and in another dataset.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import secrets
from pathlib import Path

from medkd.data.dataset import read_table
from medkd.errors import InputError

COLUMNS = ("kind", "id", "source", "path", "reason")
PATIENT_DIGITS, CASE_DIGITS = 8, 6


class PrivateKey:
    """Names for patients and cases, remembered. `save` writes what was named since."""

    def __init__(self, path: Path, must_exist: bool = False):
        """Read the key, or start a new one (written by `save` only). Raises InputError if it is not a key, or must
        exist and does not."""
        self.path = path
        self._rows: dict[tuple[str, str], dict[str, str]] = {}  # by kind and source
        self._taken: set[str] = set()
        self._salt = secrets.token_hex(16)
        if path.exists():
            self._read()
        elif must_exist:
            raise InputError(
                f"the unfinished dataset was begun with a private key, and there is none at {path}; give it as --key, "
                "or delete the unfinished dataset and begin anew"
            )

    def patient(self, source: str) -> str:
        """p and 8 hexadecimal digits, more where two patients would share them."""
        return self._name("patient", source, "p", PATIENT_DIGITS)

    def case(self, patient: str, source: str, path: str) -> str:
        """The name of the patient and 6 digits. patient: as stored in the source."""
        return self._name("case", source, f"{self.patient(patient)}_", CASE_DIGITS, path)

    def refused(self, patient: str, source: str, path: str, reason: str) -> str:
        """As `case`; of a file of no known patient (""): file and 8 digits."""
        start = f"{self.patient(patient)}_" if patient else "file"
        return self._name("refused", source, start, CASE_DIGITS if patient else PATIENT_DIGITS, path, reason)

    def digest(self, text: str) -> str:
        """Keyed hash of a text."""
        return hashlib.blake2b(text.encode(), key=bytes.fromhex(self._salt)).hexdigest()

    def save(self) -> None:
        """Write the key whole or not at all, readable by its owner alone."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerow({"kind": "salt", "id": self._salt})
        writer.writerows(self._rows.values())
        temporary = self.path.with_name(f".{self.path.name}.partial")
        temporary.unlink(missing_ok=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text.getvalue())
        temporary.replace(self.path)

    def _name(self, kind: str, source: str, start: str, digits: int, path: str = "", reason: str = "") -> str:
        source = source.strip().encode("utf-8", "backslashreplace").decode()  # as it will be read again
        if known := self._rows.get((kind, source)):
            known |= {"path": path or known["path"], "reason": reason or known["reason"]}
            return known["id"]
        digest = self.digest(f"{kind}\0{source}")
        while (name := start + digest[:digits]) in self._taken:
            digits += 1
        self._taken.add(name)
        row = {"kind": kind, "id": name, "source": source, "path": path, "reason": reason}
        self._rows[kind, source] = row
        return name

    def _read(self) -> None:
        rows = read_table(self.path, COLUMNS)
        salts = [row["id"] for row in rows if row["kind"] == "salt"]
        try:
            (self._salt,) = salts
            usable = 16 <= len(bytes.fromhex(self._salt)) <= 64
        except ValueError:
            usable = False
        if not usable:
            raise InputError(f"{self.path} is not a private key that medkd prepare wrote: it holds no salt")
        self._rows = {(row["kind"], row["source"]): row for row in rows if row["kind"] != "salt"}
        self._taken = {row["id"] for row in self._rows.values()}
