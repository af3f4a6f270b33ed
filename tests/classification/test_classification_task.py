"""The loss of classification, its validation scores, and its streams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_images import write_shapes
from torch import nn
from torch.nn import functional as F

from medkd.classification.options import ClassificationLoss
from medkd.classification.task import ClassificationTask
from medkd.data.augment_options import AugmentOptions
from medkd.data.classification_dataset import ClassificationDataset, read_classification_dataset
from medkd.data.classification_streams import ClassificationStream
from medkd.data.image_arrays import image_arrays
from medkd.data.image_options import ImagePreprocess
from medkd.engine.runtime import Runtime
from medkd.errors import InputError

CPU = torch.device("cpu")
PREPROCESS = ImagePreprocess(size=(20, 20))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ClassificationDataset:
    return write_shapes(tmp_path_factory.mktemp("task") / "data")


def stream(dataset: ClassificationDataset, rank: int = 0, world: int = 1, labelled: bool = True, **augment: float):
    cases = dataset.select("train", labelled)
    arrays = image_arrays(dataset.root, cases, PREPROCESS, canonical=True)
    options = AugmentOptions(**augment)
    truth = dataset if labelled else None
    return ClassificationStream(arrays, "labelled", 8, options, 0, CPU, truth, rank, world)


def test_the_loss_by_hand() -> None:
    """Thrice as many of class 0: balanced weights 2/3 and 2, whose mean over the images is 1."""
    logits, labels = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]]), torch.tensor([0, 0, 1])
    each = F.cross_entropy(logits, labels, reduction="none")
    plain = ClassificationLoss().build([30, 10])(logits, labels)
    torch.testing.assert_close(plain, each.mean())
    balanced = ClassificationLoss(balance=1).build([30, 10])(logits, labels)
    torch.testing.assert_close(balanced, (torch.tensor([2 / 3, 2 / 3, 2.0]) * each).mean())
    smooth = ClassificationLoss(label_smoothing=0.2).build([1, 1])(logits, labels)
    torch.testing.assert_close(smooth, F.cross_entropy(logits, labels, label_smoothing=0.2))
    assert ClassificationLoss(balance=1).build([0, 4])(logits[:1], labels[:1]).isfinite()


def test_equal_micro_batches_average_to_the_whole() -> None:
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(8, 3, generator=g), torch.randint(3, (8,), generator=g)
    loss = ClassificationLoss(balance=1).build([5, 2, 9])
    halves = (loss(logits[:4], labels[:4]) + loss(logits[4:], labels[4:])) / 2
    torch.testing.assert_close(loss(logits, labels), halves)


def test_low_precision_logits_give_a_float32_loss() -> None:
    loss = ClassificationLoss().build([1, 1])
    assert loss(torch.zeros(2, 2, dtype=torch.bfloat16), torch.tensor([0, 1])).dtype == torch.float32


class Means(nn.Module):
    """Gives class 1 to images whose mean is above what discs have: right on most."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        brightness = image.flatten(1).mean(1)
        return torch.stack([torch.zeros_like(brightness), 30 * (brightness - 0.28)], 1)


def test_validation_scores_are_those_of_the_images(dataset: ClassificationDataset) -> None:
    loss = ClassificationLoss().build([1, 1])
    task = ClassificationTask(loss, dataset, dataset.select("val"), PREPROCESS, Runtime(CPU), "auc")
    assert task.primary == "auc"
    network = Means().train()
    found = task.evaluate(network)
    assert network.training
    called = [int(Means()(task.arrays.image(n)[None]).argmax()) for n in range(8)]
    truth = [n % 2 for n in range(8)]
    right = [a == b for a, b in zip(called, truth)]
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert found["sensitivity_square"] == pytest.approx(np.mean(right[1::2]))
    assert found["balanced_accuracy"] == pytest.approx((np.mean(right[::2]) + np.mean(right[1::2])) / 2)
    assert 0.5 < found["auc"] <= 1
    assert task.evaluate(network, limit=2).keys() == found.keys()


class OneOfTwo:
    """A rank of two that keeps the rows it would send."""

    device, world = CPU, 2

    def __init__(self, rank: int):
        self.rank, self.rows = rank, torch.zeros(0)

    def share(self, items: range) -> list[int]:
        return list(items[self.rank :: 2])

    def gather(self, rows: torch.Tensor, total: int) -> torch.Tensor:
        self.rows = rows
        return torch.full((total, rows.shape[1]), 0.5)


def test_each_rank_looks_at_its_share(dataset: ClassificationDataset) -> None:
    loss, cases = ClassificationLoss().build([1, 1]), dataset.select("val")
    parts = [OneOfTwo(0), OneOfTwo(1)]
    for part in parts:
        ClassificationTask(loss, dataset, cases, PREPROCESS, part, "auc").evaluate(Means(), limit=7)
    assert [len(part.rows) for part in parts] == [4, 3]
    arrays = image_arrays(dataset.root, cases, PREPROCESS, canonical=True)
    images = torch.stack([arrays.image(n) for n in range(7)])
    for part in parts:
        torch.testing.assert_close(part.rows, Means()(images).softmax(1)[part.rank :: 2])


def test_a_batch_is_the_images_with_their_classes(dataset: ClassificationDataset) -> None:
    batch = stream(dataset).batch(3)
    assert batch.image.shape == (8, 1, 20, 20)
    assert batch.labels.dtype == torch.int64
    assert batch.labels.tolist() == [int(name.removeprefix("train")) % 2 for name in batch.case_ids]
    cases = {case.id: n for n, case in enumerate(dataset.select("train", True))}
    arrays = stream(dataset).arrays
    for image, name in zip(batch.image, batch.case_ids):
        assert torch.equal(image, arrays.image(cases[name]))
    moved = stream(dataset, flip=1.0).batch(3)
    assert torch.equal(moved.image, batch.image.flip(2, 3))
    assert torch.equal(moved.labels, batch.labels)


def test_ranks_make_slices_of_one_batch(dataset: ClassificationDataset) -> None:
    augment = {"flip": 0.5, "rotate": 0.5, "noise": 0.5}
    whole = stream(dataset, **augment).batch(5)
    halves = [stream(dataset, rank, 2, **augment).batch(5) for rank in (0, 1)]
    torch.testing.assert_close(torch.cat([half.image for half in halves]), whole.image, rtol=0, atol=0)
    assert torch.equal(torch.cat([half.labels for half in halves]), whole.labels)


def test_an_unlabelled_stream_has_no_way_to_a_class(dataset: ClassificationDataset) -> None:
    batch = stream(dataset, labelled=False).batch(0)
    assert batch.label is None
    assert set(batch.case_ids) <= {"train20", "train21", "train22", "train23"}
    with pytest.raises(InputError, match=r"train20 .* is not labelled"):
        dataset.truth(dataset.select("train", False)[0])


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    from medkd.data.image_files import png_bytes

    data = write_shapes(tmp_path / "data")
    for case in data.cases:
        case.image.write_bytes(png_bytes(np.linspace(0, 65535, 400).reshape(20, 20).astype(np.uint16)))
    image = stream(data).batch(0).image
    assert image.min() == 0
    assert image.max() == 1
    torch.testing.assert_close(image[0, 0].flatten(), torch.linspace(0, 1, 400), rtol=0, atol=1e-4)


def test_the_folder_is_read_as_it_was_written_and_mistakes_are_listed(dataset: ClassificationDataset) -> None:
    root = dataset.root
    assert read_classification_dataset(root) == dataset
    text = (root / "cases.csv").read_text()
    broken = text.replace("train0,trainp0,train,yes,images/train0.png,unknown,20x20,round", "{}")
    assert "{}" in broken
    try:
        for row, message in {
            "train0,trainp0,train,yes,images/train0.png,unknown,20x20,oval": "label is 'oval'; allowed: round, square",
            "train0,trainp0,train,yes,images/train0.png,unknown,20x20,": "label is ''",
            "train0,trainp0,train,no,images/train0.png,unknown,20x20,round": "is unlabelled and has the label 'round'",
            "train0,valp0,train,yes,images/train0.png,unknown,20x20,round": "patient valp0 is in train and val",
        }.items():
            (root / "cases.csv").write_text(broken.format(row))
            with pytest.raises(InputError, match=message):
                read_classification_dataset(root)
    finally:
        (root / "cases.csv").write_text(text)
    assert replace(read_classification_dataset(root)) == dataset
