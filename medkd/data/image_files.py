"""Pictures on the disk: PNG of 8 or 16 bits and JPEG, read as stored, copied without what they say of people."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from medkd.errors import InputError
from medkd.imaging import nifti

PNG, JPEG = (".png",), (".jpg", ".jpeg")
SUFFIXES = (*PNG, *JPEG)
ORIENTATION = 0x0112  # EXIF
GREY_16 = ("I;16", "I;16B", "I;16L")


def read_image(path: Path) -> np.ndarray:
    """(H, W) of grey or (H, W, 3) of red, green, blue values; uint8 or uint16. Raises InputError.

    Refused: pictures that viewers turn by an EXIF tag (a box was drawn on what the viewer showed), transparency that
    hides something, and modes that have no single meaning (palettes, CMYK).
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as file:
            image: Image.Image = file
            if image.getexif().get(ORIENTATION, 1) != 1:
                raise InputError(
                    f"{path.name} is stored turned (EXIF orientation); turn its pixels and draw boxes anew"
                )
            if image.mode in ("RGBA", "LA"):
                if image.getchannel("A").getextrema() != (255, 255):
                    raise InputError(f"{path.name} is partly transparent; store it without an alpha channel")
                image = image.convert(image.mode[:-1])
            if image.mode in ("L", "RGB"):
                return np.array(image)
            if image.mode in GREY_16:
                return np.array(image).astype(np.uint16)
            raise InputError(f"{path.name} is of mode {image.mode}; grey (8 or 16 bits) or RGB (8 bits) is needed")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path.name} cannot be read as PNG or JPEG: {error}") from None


def find_images(source: Path, dims: int) -> list[Path]:
    """The image files of a folder, or the one file. Raises InputError if there is none, or two of one name."""
    suffixes = SUFFIXES if dims == 2 else nifti.SUFFIXES
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"no file or folder at {source}")
    files = sorted(p for p in source.iterdir() if p.name.lower().endswith(suffixes) and p.is_file())
    if not files:
        raise InputError(f"no image ({', '.join(suffixes)}) in {source}")
    stems = [file.stem for file in files]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise InputError(f"{twice} exist in two formats in {source}; keep one of each")
    return files


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) by the header. Raises InputError."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            return image.height, image.width
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path.name} cannot be read as PNG or JPEG: {error}") from None


def clean_copy(path: Path) -> bytes:
    """The bytes of the picture without EXIF, comments and other text: the same pixels, to the last bit."""
    if path.suffix.lower() in JPEG:
        return strip_jpeg(path.read_bytes())
    return png_bytes(read_image(path))


def png_bytes(pixels: np.ndarray) -> bytes:
    """(H, W) uint8 or uint16, or (H, W, 3) uint8, as PNG."""
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "PNG", compress_level=3)
        return file.getvalue()


def strip_jpeg(content: bytes) -> bytes:
    """A JPEG file without its APP and COM segments, but APP0 (JFIF) and APP14 (Adobe), which decoders need for colour,
    and without anything after its end. Raises InputError for a file that is cut short."""
    out, at = bytearray(content[:2]), 2
    if out != b"\xff\xd8":
        raise InputError("it is no JPEG file")
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if not (0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE)):
            out += content[at:end]
        at = end
        if marker == 0xDA:  # the scan's entropy-coded data, up to the next real marker
            start = at
            while at + 1 < len(content) and not (content[at] == 0xFF and not _in_scan(content[at + 1])):
                at += 1
            out += content[start:at]
        if content[at : at + 2] == b"\xff\xd9":
            return bytes(out) + b"\xff\xd9"
    raise InputError("the JPEG file is cut short")


def _in_scan(byte: int) -> bool:
    """Whether FF and this byte belong to the data: a stuffed FF, or a restart marker."""
    return byte == 0 or 0xD0 <= byte <= 0xD7
