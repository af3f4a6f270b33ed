"""Detection as a task: AP50 in the coordinates of the original images; supervised training of a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cell_images import write_cells
from torch import Tensor, nn

from medkd.data.box_geometry import map_boxes
from medkd.data.detection_dataset import DetectionDataset
from medkd.data.detection_options import DetectionAugment
from medkd.data.detection_streams import DetectionStream
from medkd.data.image_arrays import image_arrays
from medkd.data.image_options import ImagePreprocess
from medkd.data.targets import Detections
from medkd.detection.detectors.options import FasterRCNNOptions, TinyOptions
from medkd.detection.detectors.pyramid import load_backbone
from medkd.detection.options import SupervisedDetectionOptions
from medkd.detection.supervised import SupervisedDetection
from medkd.detection.task import DetectionTask
from medkd.engine.method import StepContext
from medkd.engine.runtime import ONE_PROCESS
from medkd.errors import InputError

PREPROCESS = ImagePreprocess(size=(64, 64))
SMALL = FasterRCNNOptions(backbone=TinyOptions(features=(8, 12), pyramid=8), anchor_scale=4, head=16, proposals=50)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return write_cells(tmp_path_factory.mktemp("cells"), train=4, val=5)


class Oracle(nn.Module):
    """Says what is true, in the coordinates of the preprocessed image; `wrong` moves every box."""

    classes = 2

    def __init__(self, dataset: DetectionDataset, wrong: float = 0.0):
        super().__init__()
        arrays = image_arrays(dataset.root, dataset.select("val"), PREPROCESS)
        self.known = [(arrays.image(i), self.seen(dataset, arrays, i, wrong)) for i in range(len(arrays.cases))]

    @staticmethod
    def seen(dataset: DetectionDataset, arrays: Any, number: int, wrong: float) -> Detections:
        truth = dataset.truth(arrays.cases[number])
        boxes = map_boxes(torch.from_numpy(truth.boxes), arrays.matrix(number)) + wrong
        return Detections(boxes, torch.from_numpy(truth.labels), torch.full((len(truth),), 0.9))

    def predict(self, images: Tensor, score_threshold: float = 0.05) -> list[Detections]:
        assert not self.training
        return [next(d for image, d in self.known if torch.equal(image, one)) for one in images]


def test_an_oracle_scores_one_and_a_shifted_one_zero(dataset: DetectionDataset) -> None:
    """Images of 80 x 100 are seen at 64 x 64: boxes that came back in the wrong frame would score zero."""
    task = DetectionTask(dataset, dataset.select("val"), PREPROCESS, ONE_PROCESS)
    oracle = Oracle(dataset).train()
    assert task.primary == "ap50"
    assert task.evaluate(oracle) == {"ap50": 1.0, "ap50_round": 1.0, "ap50_square": 1.0}
    assert oracle.training
    assert task.evaluate(oracle, limit=1)["ap50"] == 1.0
    assert task.evaluate(Oracle(dataset, wrong=8.0))["ap50"] == 0.0


def test_the_loss_is_the_detectors_own(dataset: DetectionDataset) -> None:
    task = DetectionTask(dataset, dataset.select("val"), PREPROCESS, ONE_PROCESS)
    with pytest.raises(NotImplementedError, match="own losses"):
        task.supervised_loss(torch.zeros(1), torch.zeros(1))


@pytest.mark.parametrize("strong", [False, True])
def test_supervised_training_reads_the_weak_views_and_the_strong_ones_if_asked(
    dataset: DetectionDataset, strong: bool
) -> None:
    task = DetectionTask(dataset, dataset.select("val"), PREPROCESS, ONE_PROCESS)
    arrays = image_arrays(dataset.root, dataset.select("train"), PREPROCESS)
    stream = DetectionStream(arrays, "labelled", 2, DetectionAugment(), 0, torch.device("cpu"), dataset)
    torch.manual_seed(0)
    method = SupervisedDetection(SMALL.build(2, 3, 2), SupervisedDetectionOptions(strong=strong, average=0.5))
    sizes: list[int] = []
    method.student.backbone.register_forward_hook(lambda _m, given, _o: sizes.append(len(given[0])))
    ctx = StepContext(0, 10, 0, 0, task)
    output = method.step("student", {"labelled": stream.batch(0)}, ctx)
    assert sizes == [4 if strong else 2]
    assert set(output.logs) == {"loss_classification", "loss_box", "loss_objectness", "loss_rpn_box"}
    assert float(output.loss.detach()) == pytest.approx(sum(float(v) for v in output.logs.values()), rel=1e-5)
    output.loss.backward()
    assert all(p.grad is not None for p in method.student.parameters())
    method.after_step(ctx)
    assert set(method.candidates()) == {"student", "average"}


def test_backbone_weights_load_under_their_own_names(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(1)
    other, net = (SMALL.build(2, 3, 2) for _ in range(2))
    body = other.backbone.body.state_dict()
    save_file(body | {"classifier.weight": torch.zeros(3)}, tmp_path / "body.safetensors")
    load_backbone(net, tmp_path / "body.safetensors")
    assert all(torch.equal(net.backbone.body.state_dict()[name], value) for name, value in body.items())
    name = next(iter(body))
    save_file({k: v for k, v in body.items() if k != name}, tmp_path / "less.safetensors")
    with pytest.raises(InputError, match=f"another backbone: {name} is missing"):
        load_backbone(net, tmp_path / "less.safetensors")
    (tmp_path / "pickle.pth").write_bytes(b"\x80\x04N.")
    with pytest.raises(InputError, match="safetensors only"):
        load_backbone(net, tmp_path / "pickle.pth")
    with pytest.raises(InputError, match="has no backbone"):
        load_backbone(nn.Linear(1, 1), tmp_path / "body.safetensors")


def test_normalisation_is_the_backbones() -> None:
    net = SMALL.model_copy(update={"backbone": TinyOptions(features=(8, 12), mean=(0.25,), std=(2.0,))}).build(2, 3, 2)
    seen: list[Tensor] = []
    net.backbone.body.register_forward_hook(lambda _m, given, _o: seen.append(given[0]))
    net.feature_map(torch.full((1, 3, 32, 32), 0.75))
    assert np.allclose(seen[0].numpy(), 0.25)
    assert not {name for name in net.state_dict() if name.endswith(("mean", "std")) and "running" not in name}
