"""The pixels of one DICOM file, whatever its transfer syntax, or a message that names what would decode it."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
    UncompressedTransferSyntaxes,
)

from medkd.errors import InputError
from medkd.imaging.dicom import tags
from medkd.imaging.dicom.codestream import picture
from medkd.imaging.dicom.header import syntax_of
from medkd.imaging.dicom.values import integer, text

PLAIN = {ImplicitVRLittleEndian, ExplicitVRLittleEndian}
JPEG_2000, HTJ2K = JPEG2000TransferSyntaxes[:2], JPEG2000TransferSyntaxes[-3:]
STILL = [*UncompressedTransferSyntaxes, RLELossless, *JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes,
         *JPEG2000TransferSyntaxes]  # fmt: skip
SIMPLEITK = {RLELossless, *JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG_2000}
WOULD_HELP = {
    **dict.fromkeys(JPEGTransferSyntaxes, "python-gdcm, or pylibjpeg with pylibjpeg-libjpeg"),
    **dict.fromkeys(JPEGLSTransferSyntaxes, "pyjpegls or python-gdcm"),
    **dict.fromkeys(JPEG_2000, "pylibjpeg with pylibjpeg-openjpeg, or python-gdcm"),
    **dict.fromkeys(HTJ2K, "pylibjpeg with pylibjpeg-openjpeg"),
}
LARGEST_RATIO = 1000  # pixels to file in bytes; JPEG 2000 of an empty picture reaches it
SMALL = 64 << 20  # bytes that any file may decode to


class Syntax(NamedTuple):
    """A transfer syntax that holds pixels, and the decoder that is used for it here; None if there is none."""

    name: str
    uid: str
    decoder: str | None


class Format(NamedTuple):
    """The layout of stored pixels, from a header."""

    frames: int
    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    high: int
    signed: bool

    @property
    def bright(self) -> int:
        """What stored values and their inverse add up to: 2**bits - 1, or -1 where they are signed."""
        return -1 if self.signed else (1 << self.stored) - 1

    @property
    def frame_bytes(self) -> int:
        return (self.rows * self.columns * self.samples * self.allocated + 7) // 8


def stored_pixels(
    file: Path, header: Dataset, pixels_at: int | None = None, frames: Sequence[int] | None = None
) -> np.ndarray:
    """The stored values of a file: (frames, rows, columns), with a last axis of samples for colour.

    header: from `find_series`. pixels_at: from the series, for the quick way to plain pixels. frames: which ones, in
    which order; all where None. Nothing is applied: no slope, no palette, no inversion. Raises InputError that names
    the file: a syntax that cannot be decoded here (and the package that would help), truncated, damaged.
    """
    try:
        layout = pixel_format(header)
        size = Path(file).stat().st_size
        wanted = range(layout.frames) if frames is None else frames
        if layout.frame_bytes * layout.frames > max(SMALL, LARGEST_RATIO * size):
            raise InputError(
                f"its header promises {layout.frame_bytes * layout.frames >> 20} MiB of pixels; it is damaged"
            )
        if syntax_of(header) in PLAIN and layout.samples == 1 and layout.allocated in (8, 16, 32) and pixels_at:
            return _plain(file, layout, pixels_at, syntax_of(header) == ImplicitVRLittleEndian, wanted)
        return _decoded(file, layout)[np.asarray(wanted)]
    except InputError as error:
        raise InputError(f"{file.name}: {error}") from None
    except (OSError, MemoryError) as error:
        raise InputError(f"{file.name}: its pixels cannot be read ({error or 'out of memory'})") from None


def pixel_format(header: Dataset) -> Format:
    """Raises InputError without the name of the file where the header does not state it sanely."""
    values = {
        "rows": integer(header, tags.ROWS),
        "columns": integer(header, tags.COLUMNS),
        "bits allocated": integer(header, tags.BITS_ALLOCATED),
    }
    if missing := [name for name, value in values.items() if not value or value < 0]:
        raise InputError(f"its header does not state {', '.join(missing)}")
    allocated = values["bits allocated"] or 0
    stored = integer(header, tags.BITS_STORED) or allocated
    high = integer(header, tags.HIGH_BIT)
    high = stored - 1 if high is None else high
    samples = integer(header, tags.SAMPLES_PER_PIXEL) or 1
    frames = integer(header, tags.NUMBER_OF_FRAMES, "IS") or 1
    if allocated not in (1, 8, 16, 32, 64) or not stored - 1 <= high < allocated or not 0 < stored <= allocated:
        raise InputError(f"its header states {allocated} bits allocated, {stored} stored, high bit {high}: impossible")
    if samples not in (1, 3, 4) or frames < 1:
        raise InputError(f"its header states {samples} samples a pixel and {frames} frames: impossible")
    signed = bool(integer(header, tags.PIXEL_REPRESENTATION))
    return Format(frames, values["rows"] or 0, values["columns"] or 0, samples, allocated, stored, high, signed)


def decodable() -> list[Syntax]:
    """The transfer syntaxes of still images, for `medkd doctor`; films (MPEG, ...) are never decoded."""
    return [Syntax(uid.name, str(uid), _decoder(uid)) for uid in STILL]


def _decoder(uid: UID) -> str | None:
    try:
        decoder = get_decoder(uid)
    except NotImplementedError:
        return None
    if not uid.is_compressed or uid.is_deflated:
        return "pydicom"
    if decoder.is_available:
        return " or ".join(
            "pydicom" if name == "pydicom" else f"pydicom with {name}" for name in decoder.available_plugins
        )
    return "SimpleITK" if uid in SIMPLEITK and importlib.util.find_spec("SimpleITK") else None


def _plain(file: Path, layout: Format, at: int, implicit: bool, frames: Sequence[int]) -> np.ndarray:
    """Uncompressed grey values in little-endian order, straight from the file."""
    with file.open("rb") as source:
        source.seek(at)
        head = source.read(8 if implicit else 12)
        length = int.from_bytes(head[-4:], "little")
        if head[:4] != b"\xe0\x7f\x10\x00":
            raise InputError("holds float pixels, which are not supported, or changed while it was read")
        if length == 0xFFFFFFFF or length < layout.frame_bytes * layout.frames:
            raise InputError(
                f"holds {length} bytes of pixels, not the {layout.frame_bytes * layout.frames} of its size"
            )
        dtype = np.dtype(f"<{'i' if layout.signed else 'u'}{layout.allocated // 8}")
        out = np.empty((len(frames), layout.rows, layout.columns), dtype)
        for place, frame in zip(out, frames, strict=True):
            source.seek(at + len(head) + frame * layout.frame_bytes)
            if source.readinto(place.data.cast("B")) != layout.frame_bytes:
                raise InputError("is truncated: it ends within its pixels")
    return stored_bits(out, layout)


def stored_bits(values: np.ndarray, layout: Format) -> np.ndarray:
    """Only the bits that are stored, sign included: the others may hold overlays or rubbish. Changes its argument."""
    if layout.stored < layout.allocated:
        np.left_shift(values, layout.allocated - 1 - layout.high, out=values)
        np.right_shift(values, layout.allocated - layout.stored, out=values)
    return values


def _decoded(file: Path, layout: Format) -> np.ndarray:
    """All frames by pydicom's decoders, else by SimpleITK."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of unusual but readable encodings
        reasons = []
        try:
            dataset = dcmread(file, force=True)
            syntax = syntax_of(dataset) or ExplicitVRLittleEndian
            if "PixelData" not in dataset:
                raise InputError("has no integer pixels, or ends before them")
            if syntax.is_encapsulated:
                _check_codestreams(dataset, layout)
            if _decoder(syntax) is None:
                helps = f"; install {WOULD_HELP[syntax]}" if syntax in WOULD_HELP else ""
                raise InputError(f"is stored as {syntax.name}, which cannot be decoded here{helps}")
        except (InputError, OSError, MemoryError):
            raise
        except Exception as error:  # pydicom raises whatever a broken file makes it raise
            raise InputError(f"its pixels are damaged ({_short(error)})") from None
        for decode in (_by_pydicom, _by_simpleitk):
            if decode is _by_simpleitk and syntax not in SIMPLEITK:
                break
            try:
                found = decode(dataset, syntax)
                shape = (layout.frames, layout.rows, layout.columns) + ((layout.samples,) if layout.samples > 1 else ())
                if found.size == np.prod(shape):
                    return found.reshape(shape)
                reasons.append(f"{found.shape} pixels instead of {shape}")
            except MemoryError:
                raise
            except Exception as error:  # decoders raise anything
                reasons.append(_short(error))
    helps = f"; {WOULD_HELP[syntax]} may read it" if syntax in WOULD_HELP else ""
    raise InputError(f"its {syntax.name} pixels cannot be decoded ({'; '.join(reasons)}){helps}")


def _check_codestreams(dataset: Dataset, layout: Format) -> None:
    for data in generate_frames(dataset.PixelData, number_of_frames=layout.frames):
        found = picture(data)
        if found and (found.rows, found.columns) != (layout.rows, layout.columns):
            raise InputError(
                f"its pixels are {found.columns} x {found.rows}, its header says {layout.columns} x {layout.rows}"
            )


def _by_pydicom(dataset: Dataset, syntax: UID) -> np.ndarray:
    return get_decoder(syntax).as_array(dataset, raw=True)[0]


def _by_simpleitk(dataset: Dataset, syntax: UID) -> np.ndarray:
    """Through a temporary copy without slope, palette or patient: SimpleITK would apply the first two."""
    import SimpleITK

    copy = Dataset()
    copy.file_meta = dataset.file_meta
    for tag in (tags.SOP_CLASS_UID, tags.SOP_INSTANCE_UID):
        if tag in dataset:
            copy[tag] = dataset[tag]
    copy.update({e.tag: e for e in dataset.group_dataset(0x0028) if e.tag < 0x00280110})
    copy[tags.PIXEL_DATA] = dataset[tags.PIXEL_DATA]
    if text(dataset, tags.SAMPLES_PER_PIXEL) in ("", "1"):
        copy.PhotometricInterpretation = "MONOCHROME2"
    with tempfile.TemporaryDirectory(prefix="medkd-") as folder:
        path = Path(folder) / "pixels.dcm"
        copy.save_as(path, enforce_file_format=True)
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
        return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path), imageIO="GDCMImageIO"))


def _short(error: Exception) -> str:
    """The gist of a library's message, which may be many lines of C++."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]
