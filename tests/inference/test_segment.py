"""A mask lies where the scan is, whatever its orientation, obliqueness and spacing."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medkd.data.options import Intensity, Preprocess
from medkd.imaging.geometry import differences
from medkd.imaging.nifti import Scan, read_nifti, write_mask
from medkd.inference.model_folder import Model, SegmentationModel
from medkd.inference.segment import segment
from medkd.inference.windows import predict_logits
from medkd.networks.options import BasicUNetOptions

DATA = os.environ.get("MEDKD_DATA")
# axes run posterior, superior and right, all oblique; 0.9 x 1.1 x 7.4 mm
OBLIQUE = np.array([[0.05, 0.12, 7.3, -40], [-0.89, 0.1, -0.9, 12.5], [-0.1, 1.08, 0.7, 3.25], [0, 0, 0, 1]])


class Threshold(nn.Module):
    """A network that knows the answer: class 1 where the intensity is above a half."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([0.5 - image, image - 0.5], 1)


def model(preprocess: Preprocess) -> Model:
    description = SegmentationModel(
        network=BasicUNetOptions(), channels=("mr",), classes=("background", "bright"), preprocess=preprocess
    )
    return Model(description, Threshold(), Path())


def blob(shape: tuple[int, ...]) -> np.ndarray:
    grids = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    centre = (0.2, -0.3, 0.1)
    return (sum((g - c) ** 2 for g, c in zip(grids, centre)) < 0.2).astype(np.int16) * 800


@pytest.mark.parametrize("dims", [2, 3])
def test_without_resampling_the_mask_is_exact(dims: int) -> None:
    array = blob((21, 30, 9))
    options = Preprocess(dims=dims, patch=(16,) * dims, intensity=Intensity(kind="minmax"))  # windows needed
    mask = segment(model(options), [Scan(array, OBLIQUE, None)], torch.device("cpu"))
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, (array > 0).astype(np.uint8))


@pytest.mark.parametrize(
    "options",
    [
        Preprocess(dims=2, size=(40, 40), patch=(40, 40), intensity=Intensity(kind="minmax")),
        Preprocess(dims=2, spacing=(1.5, 1.5), patch=(16, 16), intensity=Intensity(kind="minmax")),
        Preprocess(dims=3, spacing=(2.0, 2.0, 4.0), patch=(16, 16, 16), intensity=Intensity(kind="minmax")),
    ],
    ids=["size", "spacing", "spacing 3-D"],
)
def test_resampled_the_mask_lies_on_the_blob(options: Preprocess) -> None:
    array = blob((42, 60, 9))
    mask = segment(model(options), [Scan(array, OBLIQUE, None)], torch.device("cpu"))
    assert mask.shape == array.shape
    truth = array > 0
    dice = 2 * (truth & (mask == 1)).sum() / (truth.sum() + (mask == 1).sum())
    assert dice > 0.88
    offset = np.argwhere(mask == 1).mean(0) - np.argwhere(truth).mean(0)
    assert np.abs(offset).max() < 0.6  # voxels


def test_windows_equal_one_piece_where_the_network_is_local() -> None:
    image = torch.rand(3, 1, 50, 37)
    whole = Threshold()(image)
    windows = predict_logits(Threshold(), image, (16, 16), torch.device("cpu"))
    torch.testing.assert_close(windows, whole, atol=1e-5, rtol=0)
    padded = predict_logits(Threshold(), image, (64, 64), torch.device("cpu"))
    torch.testing.assert_close(padded, whole, atol=1e-5, rtol=0)


def test_the_mode_of_the_network_is_restored() -> None:
    for training in (True, False):
        network = Threshold().train(training)
        predict_logits(network, torch.rand(1, 1, 16, 16), (16, 16), torch.device("cpu"))
        assert network.training is training


@pytest.mark.skipif(not DATA, reason="MEDKD_DATA is not set: no real scans here")
@pytest.mark.parametrize("name", ["t2/t2.nii.gz", "t2s/t2s_uncropped.nii.gz", "mt/mt1.nii.gz", "t1/t1w.nii.gz"])
def test_real_oblique_anisotropic_scans(name: str, tmp_path: Path) -> None:
    path = Path(str(DATA), "nifti_geometry", "sct_testing", name)
    scan = read_nifti(path)
    options = Preprocess(dims=2, patch=(64, 64), intensity=Intensity(kind="minmax"))
    mask = segment(model(options), [scan], torch.device("cpu"))
    values = scan.array.astype(np.float32)
    expected = (values - values.min()) / (values.max() - values.min()) > 0.5
    assert np.array_equal(mask == 1, expected)
    write_mask(tmp_path / "mask.nii.gz", mask, scan)
    written = nib.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(written.affine, scan.affine)
    assert written.get_data_dtype() == np.uint8
    assert differences(scan, read_nifti(tmp_path / "mask.nii.gz")) == []
