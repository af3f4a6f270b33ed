"""A checkpoint of detectron2 becomes a model folder that answers as detectron2 does; others are refused unread."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from medkd.config.models import load_model
from medkd.errors import InputError

SCRIPT = Path(__file__).parents[2] / "data_prep" / "detectron2_model.py"
spec = importlib.util.spec_from_file_location("detectron2_model", SCRIPT)
assert spec is not None
assert spec.loader is not None
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)

NETWORK = {
    "MODEL": {
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
        "RESNETS": {"NORM": "BN", "STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 8, "WIDTH_PER_GROUP": 4,
                    "OUT_FEATURES": ["res2", "res3", "res4", "res5"]},
        "FPN": {"OUT_CHANNELS": 8, "IN_FEATURES": ["res2", "res3", "res4", "res5"]},
        "ANCHOR_GENERATOR": {"SIZES": [[32], [64], [128], [256], [512]]},
        "RPN": {"IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"]},
        "ROI_HEADS": {"NAME": "StandardROIHeads", "IN_FEATURES": ["p2", "p3", "p4", "p5"], "NUM_CLASSES": 2},
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 1, "FC_DIM": 16, "POOLER_RESOLUTION": 7},
        "MASK_ON": True,
    }
}  # fmt: skip


def test_names_and_prefixes(tmp_path: Path) -> None:
    file, part = tmp_path / "model_final.pth", {"backbone.a": torch.zeros(1), "roi_heads.mask_head.b": torch.zeros(1)}
    torch.save({"model": part | {"pixel_mean": torch.zeros(3)}, "iteration": 7}, file)
    assert list(script.read_checkpoint(file, "")) == ["backbone.a"]
    both = {f"model{who}.{name}": v for who in ("Student", "Teacher") for name, v in part.items()}
    torch.save(both, file)
    with pytest.raises(InputError, match=r"begin with modelStudent, modelTeacher; say which: --prefix modelStudent\."):
        script.read_checkpoint(file, "")
    assert list(script.read_checkpoint(file, "modelTeacher.")) == ["backbone.a"]
    for content in ([1, 2], {"model": 3}, {"model": {"backbone.a": 3}}):
        torch.save(content, file)
        with pytest.raises(InputError, match="no state dict"):
            script.read_checkpoint(file, "")


def test_nothing_of_a_checkpoint_runs(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model": {"backbone.a": torch.zeros(1)}, "extra": Runs()}, tmp_path / "m.pth")
    with pytest.raises(InputError, match="cannot be opened as tensors alone"):
        script.read_checkpoint(tmp_path / "m.pth", "")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "m.pth").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="cannot be opened"):
        script.read_checkpoint(tmp_path / "m.pth", "")


def test_a_detector_of_detectron2_answers_the_same_in_a_model_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed; it is built from source: docs/detection.md")
    from detectron2.config import CfgNode, get_cfg
    from detectron2.modeling import build_model

    cfg = get_cfg()
    cfg.merge_from_other_cfg(CfgNode(NETWORK))
    cfg.MODEL.DEVICE, cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = "cpu", "/somebody/out", "/somebody/r50.pkl"
    torch.manual_seed(0)
    theirs = build_model(cfg)
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        for _ in range(30):  # running statistics of such images
            theirs.backbone(theirs.preprocess_image([{"image": 255 * i[[2, 1, 0]]} for i in images]).tensor)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    torch.save({"model": theirs.state_dict(), "iteration": 5}, tmp_path / "model_final.pth")
    call = ["detectron2_model.py", str(tmp_path / "config.yaml"), str(tmp_path / "model_final.pth")]
    call += ["--size", "64", "96", "--out", str(tmp_path / "model"), "--classes"]
    monkeypatch.setattr(sys, "argv", [*call, "a,b,c"])
    assert script.main() == 2
    assert "NUM_CLASSES is 2; the data have 3 classes" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    monkeypatch.setattr(sys, "argv", [*call, "a,b"])
    assert script.main() == 0
    text = (tmp_path / "model" / "model.yaml").read_text()
    assert "somebody" not in text
    assert yaml.safe_load(text)["detector"]["settings"]["MODEL"]["MASK_ON"] is False
    model = load_model(tmp_path / "model")
    with torch.no_grad():
        rows = [{"image": 255 * i[[2, 1, 0]], "height": 64, "width": 96} for i in images]
        expected = [e["instances"] for e in theirs.eval()(rows)]
    for mine, other in zip(model.network.predict(images), expected):  # type: ignore[operator]
        assert len(mine) > 0
        torch.testing.assert_close(mine.boxes, other.pred_boxes.tensor)
        torch.testing.assert_close(mine.scores, other.scores)
    other = {k: v for k, v in theirs.state_dict().items() if "fpn_output2" not in k}
    torch.save(other, tmp_path / "other.pth")
    described = {"classes": ("a", "b"), "channels": ("r", "g", "b"), "preprocess": model.description.preprocess}
    with pytest.raises(InputError, match=r"another network.*fpn_output2"):
        script.convert(tmp_path / "config.yaml", tmp_path / "other.pth", described, tmp_path / "second")
    assert not (tmp_path / "second").exists()
