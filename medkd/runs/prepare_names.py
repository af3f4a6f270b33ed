"""What cases and patients are called in a dataset: as in the source, or by private names that tell nobody anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medkd.errors import InputError
from medkd.runs.identifiers import scrub
from medkd.runs.prepare_source import Found, Refused, Source
from medkd.runs.private_key import PrivateKey


@dataclass(frozen=True)
class Names:
    """key: None where names are kept."""

    key: PrivateKey | None

    def case(self, found: Found) -> str:
        return self.key.case(found.patient, found.identity or found.id, found.where) if self.key else found.id

    def patient(self, found: Found) -> str:
        return self.key.patient(found.patient) if self.key else found.patient

    def refused(self, refused: Refused) -> str:
        if self.key is None:
            return refused.where
        return self.key.refused(refused.patient, refused.identity, refused.where, refused.reason)

    def public(self, text: str, one: Found | Refused) -> str:
        """A message about a case without what tells its patient. Of a file of no known patient, only how it begins:
        the rest may quote the file."""
        if self.key is None:
            return text
        if isinstance(one, Refused) and not one.patient:
            return text.split(" (")[0].split(":")[0]
        return scrub(text, one.identifiers)


def open_names(source: Source, out: Path, key: Path | None, keep_identifiers: bool, continues: bool) -> Names:
    """Names are kept if the user says so, or states them in a table; else they are private."""
    if keep_identifiers or source.named:
        if key:
            why = "--keep-identifiers" if keep_identifiers else "a table that names the cases"
            raise InputError(f"--key has no effect with {why}: names are kept, and there is nothing to look up")
        return Names(None)
    path = key or default_key(out)
    if path.resolve().is_relative_to(out.resolve()):
        raise InputError(f"the private key {path} would lie in the dataset, and travel with it; give another --key")
    if path.is_dir():
        raise InputError(f"the private key {path} is a folder; give a file as --key")
    return Names(PrivateKey(path, must_exist=continues))


def default_key(out: Path) -> Path:
    """Beside the dataset, not in it."""
    return out.resolve().parent / f"{out.resolve().name}.private.csv"
