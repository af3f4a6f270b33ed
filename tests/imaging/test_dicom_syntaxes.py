"""Compressed pixels: which decoders there are, what happens without them, and when one crashes or does not end."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import RLELossless
from synthetic_dicom import write_series

from medkd.errors import InputError
from medkd.imaging.dicom import apart, decode
from medkd.imaging.dicom.codestream import Picture, picture
from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.layout import pixel_layout
from medkd.imaging.dicom.pixels import decodable, stored_pixels
from medkd.imaging.dicom.read import read_volume
from medkd.imaging.dicom.volumes import plan_volumes

FILES = Path(pydicom.data.__file__).parent / "test_files"
PLAIN = {
    "MR_small_RLE.dcm": "MR_small.dcm",
    "MR_small_jp2klossless.dcm": "MR_small.dcm",
    "MR_small_jpeg_ls_lossless.dcm": "MR_small.dcm",
    "MR_small_bigendian.dcm": "MR_small.dcm",
    "MR_small_implicit.dcm": "MR_small.dcm",
    "rtdose_rle.dcm": "rtdose.dcm",
}
"""Files of the pydicom wheel and their uncompressed originals."""


def pixels(name: str) -> np.ndarray:
    (series,) = find_series(FILES / name).series
    return stored_pixels(series.files[0], series.headers[0], series.pixels_at[0])


@pytest.mark.parametrize(("name", "plain"), PLAIN.items())
def test_lossless_is_bit_exact(name: str, plain: str) -> None:
    assert np.array_equal(pixels(name), pixels(plain))


@pytest.mark.parametrize("name", [name for name in PLAIN if "rle" in name.lower() or "j" in name])
def test_simpleitk_alone_is_bit_exact(name: str) -> None:
    """Where pydicom's plug-ins are not installed."""
    warnings.simplefilter("ignore")  # pydicom's, of UIDs with leading zeros
    dataset = dcmread(FILES / name)
    syntax = dataset.file_meta.TransferSyntaxUID
    frames = range(int(dataset.get("NumberOfFrames", 1)))
    found = decode._by_simpleitk(dataset, syntax, list(frames))
    assert np.array_equal(np.squeeze(found), np.squeeze(pixels(PLAIN[name])))


def test_simpleitk_gives_stored_values_not_rescaled_ones() -> None:
    dataset = dcmread(FILES / "MR_small_jpeg_ls_lossless.dcm")
    dataset.RescaleSlope, dataset.RescaleIntercept = 2, 100
    found = decode._by_simpleitk(dataset, dataset.file_meta.TransferSyntaxUID, [0])
    assert np.array_equal(found, pixels("MR_small.dcm"))


def test_a_compressed_series(tmp_path: Path) -> None:
    """RLE, whose decoder is Python, and of several frames."""
    array = np.arange(20 * 30 * 4, dtype=np.int16).reshape(20, 30, 4)

    def edit(dataset: Dataset, z: int) -> None:
        dataset.compress(RLELossless, generate_instance_uid=False)

    write_series(tmp_path, array, np.diag([-1.0, -1, 2, 1]), edit)
    (series,) = find_series(tmp_path).series
    assert series.syntaxes == ("RLE Lossless",)
    assert np.array_equal(read_volume(plan_volumes(series)[0]).array, array)


def test_doctor_lists_every_still_syntax() -> None:
    found = {syntax.uid: syntax for syntax in decodable()}
    assert found["1.2.840.10008.1.2.1"].decoder == "pydicom"
    assert found["1.2.840.10008.1.2.5"].decoder == "pydicom"
    for uid in ("4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91"):
        assert found[f"1.2.840.10008.1.2.{uid}"].decoder, "SimpleITK is always there"
    assert len(found) == 18


def test_an_undecodable_syntax_names_itself_and_what_would_help(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes((FILES / "MR_small_jp2klossless.dcm").read_bytes())
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.93"
    dataset.save_as(path)
    (series,) = find_series(path).series
    with pytest.raises(InputError, match=r"a.dcm: it is stored as JPEG 2000 Part 2 .* cannot be decoded here"):
        stored_pixels(path, series.headers[0])
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    dataset.save_as(path)
    with pytest.raises(InputError, match=r"MPEG-4 .* cannot be decoded here"):
        stored_pixels(path, find_series(path).series[0].headers[0])
    helps = decode.WOULD_HELP
    assert "pyjpegls" in helps["1.2.840.10008.1.2.4.80"]
    assert "openjpeg" in helps["1.2.840.10008.1.2.4.201"]


def test_damaged_codestreams_are_one_line(tmp_path: Path) -> None:
    data = (FILES / "MR_small_jpeg_ls_lossless.dcm").read_bytes()
    path = tmp_path / "a.dcm"
    path.write_bytes(data[:-3000] + bytes(3000))
    (series,) = find_series(path).series
    with pytest.raises(InputError, match=r"a\.dcm: ") as caught:
        stored_pixels(path, series.headers[0])
    assert "\n" not in str(caught.value)


def test_a_codestream_of_another_size_never_reaches_a_decoder(tmp_path: Path) -> None:
    data = (FILES / "MR_small_jp2klossless.dcm").read_bytes()
    at = data.index(b"\xff\x4f\xff\x51") + 8
    path = tmp_path / "a.dcm"
    path.write_bytes(data[:at] + b"\x00\x0f\xff\xff" + data[at + 4 :])
    (series,) = find_series(path).series
    with pytest.raises(InputError, match="frame 1 are 1048575 x 64, 1 sample, its header says 64 x 64, 1 sample"):
        stored_pixels(path, series.headers[0])


def test_sizes_in_codestreams() -> None:
    for name, size in (
        ("MR_small_jp2klossless.dcm", Picture(64, 64, 1)),
        ("MR_small_jpeg_ls_lossless.dcm", Picture(64, 64, 1)),
        ("JPEG-lossy.dcm", Picture(1024, 256, 1)),
        ("SC_rgb_jpeg_gdcm.dcm", Picture(100, 100, 3)),
    ):
        data = (FILES / name).read_bytes()
        start = max(data.find(b"\xff\xd8\xff"), data.find(b"\xff\x4f\xff\x51"))
        assert picture(data[start:]) == size, name
        assert picture(data[start : start + 6]) is None
    assert picture(b"\xff\xd8" + b"\xff" * 50) is None
    assert picture(b"") is None


@pytest.mark.timeout(60)
def test_a_decoder_that_crashes_or_hangs_costs_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    path = FILES / "MR_small_jp2klossless.dcm"
    layout = pixel_layout(dcmread(path, stop_before_pixels=True))
    good = apart.decode_apart(path, layout, [0])
    child = apart._decoder.child
    assert child is not None
    os.kill(child.pid, signal.SIGSTOP)  # it does not answer any more
    monkeypatch.setattr(apart, "SECONDS", 0.5)
    with pytest.raises(InputError, match="did not finish"):
        apart.decode_apart(path, layout, [0])
    monkeypatch.undo()
    assert np.array_equal(apart.decode_apart(path, layout, [0]), good)
    child = apart._decoder.child
    assert child is not None
    child.kill()
    child.wait()
    assert np.array_equal(apart.decode_apart(path, layout, [0]), good), "a dead child is replaced"


def test_the_decoder_is_not_shared_with_a_forked_process(monkeypatch: pytest.MonkeyPatch) -> None:
    path = FILES / "MR_small_jp2klossless.dcm"
    layout = pixel_layout(dcmread(path, stop_before_pixels=True))
    apart.decode_apart(path, layout, [0])
    mine = apart._decoder.child
    monkeypatch.setattr(apart.os, "getpid", lambda: -1)
    apart.decode_apart(path, layout, [0])
    assert apart._decoder.child is not mine
