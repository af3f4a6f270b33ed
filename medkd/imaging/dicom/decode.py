"""Encoded pixels of a file, by pydicom's decoders or, where these cannot, by SimpleITK.

Most of these are C and C++: a broken file can make them crash or loop, so `apart` calls them in a process of their own.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
    UncompressedTransferSyntaxes,
)

from medkd.errors import InputError
from medkd.imaging.dicom import tags
from medkd.imaging.dicom.codestream import Picture, picture
from medkd.imaging.dicom.header import syntax_of
from medkd.imaging.dicom.layout import Layout
from medkd.imaging.dicom.quiet import quiet
from medkd.imaging.dicom.values import integer

JPEG_2000, HTJ2K = JPEG2000TransferSyntaxes[:2], JPEG2000TransferSyntaxes[-3:]
UNSAFE = [*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes]
"""What C and C++ decode; pydicom decodes the others in Python."""
STILL = [*UncompressedTransferSyntaxes, RLELossless, *UNSAFE]
SIMPLEITK = {*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG_2000}
WOULD_HELP = {
    **dict.fromkeys(JPEGTransferSyntaxes, "python-gdcm, or pylibjpeg with pylibjpeg-libjpeg"),
    **dict.fromkeys(JPEGLSTransferSyntaxes, "pyjpegls or python-gdcm"),
    **dict.fromkeys(JPEG_2000, "pylibjpeg with pylibjpeg-openjpeg, or python-gdcm"),
    **dict.fromkeys(HTJ2K, "pylibjpeg with pylibjpeg-openjpeg"),
}


def decoder_of(uid: UID) -> str | None:
    """The name of what decodes a transfer syntax here; None if nothing does."""
    try:
        decoder = get_decoder(uid)
    except NotImplementedError:
        return None
    if uid not in UNSAFE:
        return "pydicom"
    if decoder.is_available:
        return " or ".join(f"pydicom with {name}" for name in decoder.available_plugins)
    return "SimpleITK" if uid in SIMPLEITK and importlib.util.find_spec("SimpleITK") else None


def decode(file: Path, layout: Layout, frames: Sequence[int]) -> np.ndarray:
    """Stored values of some frames (n, rows, columns); colour has a last axis of samples, in the space of the decoder.

    Raises InputError without the name of the file.
    """
    with quiet:  # of unusual but readable encodings
        dataset, syntax = _encoded(file, layout)
        reasons = []
        for by in (_by_pydicom, _by_simpleitk) if syntax in SIMPLEITK else (_by_pydicom,):
            try:
                found = by(dataset, syntax, frames)
            except MemoryError:
                raise
            except Exception as error:  # decoders raise anything
                reasons.append(_short(error))
                continue
            shape = (len(frames), layout.rows, layout.columns) + ((layout.samples,) if layout.samples > 1 else ())
            if found.size == np.prod(shape) and found.dtype.kind in "iu":
                return found.reshape(shape).astype(layout.dtype, copy=False)
            reasons.append(f"{found.shape} {found.dtype} pixels instead of {shape}")
    helps = f"; {WOULD_HELP[syntax]} may read it" if syntax in WOULD_HELP else ""
    raise InputError(f"its {syntax.name} pixels cannot be decoded ({'; '.join(reasons)}){helps}")


def _encoded(file: Path, layout: Layout) -> tuple[Dataset, UID]:
    """The whole file and its syntax, if that can be decoded and its codestreams have the size of the header."""
    try:
        dataset = dcmread(file, force=True)
        syntax = syntax_of(dataset) or ExplicitVRLittleEndian
        if "PixelData" not in dataset:
            raise InputError("it has no integer pixels, or ends before them")
        if decoder_of(syntax) is None:
            helps = f"; install {WOULD_HELP[syntax]}" if syntax in WOULD_HELP else ""
            raise InputError(f"it is stored as {syntax.name}, which cannot be decoded here{helps}")
        if syntax in UNSAFE:
            dataset.PixelData = encapsulate(_checked(dataset, layout))
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # pydicom raises whatever a broken file makes it raise
        raise InputError(f"its pixels are damaged ({_short(error)})") from None
    return dataset, syntax


def _checked(dataset: Dataset, layout: Layout) -> list[bytes]:
    """The codestream of each frame, if it has the size that the header says: decoders allocate by it."""
    streams = list(generate_frames(dataset.PixelData, number_of_frames=layout.frames))
    wanted = Picture(layout.rows, layout.columns, layout.samples)
    for number, stream in enumerate(streams, 1):
        found = picture(stream)
        if found is None:
            raise InputError(f"the pixels of its frame {number} are damaged: they do not begin as a codestream does")
        if found != wanted:
            raise InputError(f"the pixels of its frame {number} are {found}, its header says {wanted}")
    if len(streams) != layout.frames:
        raise InputError(f"it holds {len(streams)} frames, its header says {layout.frames}")
    return streams


def _by_pydicom(dataset: Dataset, syntax: UID, frames: Sequence[int]) -> np.ndarray:
    decoder = get_decoder(syntax)
    plugin = "pydicom" if syntax == RLELossless else ""
    found = [decoder.as_array(dataset, index=frame, raw=True, decoding_plugin=plugin)[0] for frame in frames]
    return np.stack(found)


def _by_simpleitk(dataset: Dataset, syntax: UID, frames: Sequence[int]) -> np.ndarray:
    """Through a temporary copy without slope, palette or patient: SimpleITK would apply the first two."""
    import SimpleITK

    copy = Dataset()
    copy.file_meta = dataset.file_meta
    for tag in (tags.SOP_CLASS_UID, tags.SOP_INSTANCE_UID):
        if tag in dataset:
            copy[tag] = dataset[tag]
    copy.update({e.tag: e for e in dataset.group_dataset(0x0028) if e.tag < 0x00280110})
    copy[tags.PIXEL_DATA] = dataset[tags.PIXEL_DATA]
    samples = integer(dataset, tags.SAMPLES_PER_PIXEL) or 1
    if samples == 1:
        copy.PhotometricInterpretation = "MONOCHROME2"
    with tempfile.TemporaryDirectory(prefix="medkd-") as folder:
        path = Path(folder) / "pixels.dcm"
        copy.save_as(path, enforce_file_format=True)
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
        array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path), imageIO="GDCMImageIO"))
    frame = array.shape[-2:] if samples == 1 else array.shape[-3:]
    return array.reshape(-1, *frame)[list(frames)]


def _short(error: Exception) -> str:
    """The gist of a library's message, which may be many lines of C++."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]
