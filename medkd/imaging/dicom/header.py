"""One DICOM header from a file, without its pixels: parsed, or refused in one line."""

from __future__ import annotations

import os
import stat
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pydicom import Dataset, dcmread
from pydicom.config import IGNORE
from pydicom.uid import UID

from medkd.errors import InputError
from medkd.imaging.dicom import tags
from medkd.imaging.dicom.quiet import quiet
from medkd.imaging.dicom.values import text

PREAMBLE = 128
DEFERRED = 1 << 16  # bytes: larger values stay in the file until they are asked for
LARGEST_INFLATED = 1 << 30  # bytes of a deflated data set
DEFLATED = "1.2.840.10008.1.2.1.99"
BARE = ((b"\x08\x00", b"\x02\x00"), (b"\x00\x08", b"\x00\x02"))  # first groups of data sets that lack a preamble


class Header(NamedTuple):
    """dataset: what comes before the pixels, without private elements (they stay in mosaics, which need them).

    pixels_at: the byte at which the pixel element starts, or None if the file ends before one; of deflated files the
    end of the file, which is of no use.
    """

    dataset: Dataset
    pixels_at: int | None


def read_header(path: Path) -> Header | None:
    """The header of a DICOM file; None if the file is not DICOM.

    Files without preamble are read if they start as a data set does and name their SOP class. Raises InputError, one
    line without the name of the file, if it starts as DICOM and cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as file:
            start = file.read(1024)
            marked = start[PREAMBLE : PREAMBLE + 4] == b"DICM"
            if not marked and not start.startswith(BARE[0] + BARE[1]):
                return None
            if DEFLATED.encode() in start:
                _check_inflated_size(file, start)
            file.seek(0)
            header = _parse(file)
    except OSError as error:
        raise InputError(f"it cannot be read ({error.strerror or error})") from None
    if not marked and not text(header.dataset, tags.SOP_CLASS_UID):
        return None
    return header


def _parse(file: BinaryIO) -> Header:
    size = os.fstat(file.fileno()).st_size
    with quiet:  # what matters in a header is checked where it is used
        try:
            dataset = dcmread(file, stop_before_pixels=True, force=True, defer_size=DEFERRED)
        except OSError:
            raise
        except Exception as error:  # pydicom raises whatever a broken file makes it raise
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise InputError(f"its header is damaged ({reason})") from None
    if "MOSAIC" not in text(dataset, tags.IMAGE_TYPE):  # whose layout is private: the others only cost memory
        for tag in [tag for tag in dataset.keys() if tag.is_private]:  # noqa: SIM118 a data set iterates over values
            del dataset[tag]
    here = file.tell()
    ended = here >= size and syntax_of(dataset) != DEFLATED  # which pydicom reads to the end at once
    return Header(dataset, None if ended else here)


def syntax_of(dataset: Dataset) -> UID:
    """The transfer syntax; empty if the file does not state it."""
    stated = text(getattr(dataset, "file_meta", Dataset()), tags.TRANSFER_SYNTAX_UID)
    return UID(stated, validation_mode=IGNORE)


def _check_inflated_size(file: BinaryIO, start: bytes) -> None:
    """A few kB can inflate to GB: pydicom inflates all at once, so the size is checked before."""
    meta = PREAMBLE + 4  # where group 2 begins: with its length, which says where the deflated data set begins
    if start[meta : meta + 8] != b"\x02\x00\x00\x00UL\x04\x00":
        raise InputError("its header is damaged (no group length before a deflated data set)")
    file.seek(meta + 12 + int.from_bytes(start[meta + 8 : meta + 12], "little"))
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    try:
        while block := file.read(1 << 16):
            while block and not inflate.eof:
                size += len(inflate.decompress(block, 1 << 24))
                if size > LARGEST_INFLATED:
                    raise InputError(f"it inflates to more than {LARGEST_INFLATED >> 20} MiB")
                block = inflate.unconsumed_tail
    except zlib.error as error:
        raise InputError(f"its deflated data set is damaged ({error})") from None
