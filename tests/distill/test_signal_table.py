"""Signals by id equal live ones, of the right teacher, for every sample; a file from outside runs nothing."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medkd.distill.embedding_index import EmbeddingIndex
from medkd.distill.losses.embedding_alignment import embedding_alignment_loss
from medkd.distill.losses.margin_mse import margin_mse_loss
from medkd.distill.signal_table import SignalTable, pair_id, read_table
from medkd.engine.randomness import generator, seeded
from medkd.errors import InputError

IMAGES = torch.randn(6, 1, 4, 4, generator=generator("images"))
IDS = [f"case{i}" for i in range(6)]
SPACE = "encoder 3, centre crop"


def encoder(width: int = 8) -> nn.Module:
    with seeded("encoder", width):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, width))


def gradient(student: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(student.parameters())))


def test_stored_embeddings_teach_as_the_live_teacher_and_are_its_index(tmp_path: Path) -> None:
    teacher, student = encoder(8), encoder(8)
    nn.init.normal_(student[1].weight)  # type: ignore[index, arg-type]
    SignalTable(teacher(IMAGES), IDS, SPACE).save(tmp_path / "embeddings.safetensors")
    stored = read_table(tmp_path / "embeddings.safetensors")
    rows = [4, 0, 4]
    batch = stored.of([IDS[i] for i in rows], SPACE)
    assert not batch.requires_grad
    live = gradient(student, embedding_alignment_loss(student(IMAGES[rows]), teacher(IMAGES[rows])))
    for a, b in zip(live, gradient(student, embedding_alignment_loss(student(IMAGES[rows]), batch))):
        torch.testing.assert_close(a, b)
    for form in ({}, {"dims": 3}, {"int8": True}):
        index = EmbeddingIndex(stored.of(IDS, SPACE), IDS, SPACE, **form)
        assert index.search(teacher(IMAGES).detach(), SPACE, 1)[3] == ["case3"]


def test_stored_scores_of_pairs_give_the_same_margins(tmp_path: Path) -> None:
    scores = torch.randn(6, 6, generator=generator("scores"))
    ids = [pair_id(q, c) for q in IDS for c in IDS]
    SignalTable(scores.reshape(-1), ids, SPACE).save(tmp_path / "pairs.safetensors")
    stored = read_table(tmp_path / "pairs.safetensors")
    query, positive, negative = [0, 1], [2, 3], [5, 0]
    of = [[pair_id(IDS[q], IDS[c]) for q, c in zip(query, cases)] for cases in (positive, negative)]
    student = torch.tensor([[1.0, 2.0], [0.5, -1.0]], requires_grad=True)
    ours = margin_mse_loss(student[0], student[1], *(stored.of(names, SPACE) for names in of))
    live = margin_mse_loss(student[0], student[1], scores[query, positive], scores[query, negative])
    assert ours.item() == live.item()
    assert pair_id("a", "b, c") != pair_id("a, b", "c")


def test_what_is_missing_or_of_another_teacher_is_refused(tmp_path: Path) -> None:
    stored = SignalTable(torch.zeros(6, 2), IDS, SPACE)
    with pytest.raises(InputError, match=r"no signal for 2 of 3 samples: other, another"):
        stored.of(["case1", "other", "another"], SPACE)
    with pytest.raises(InputError, match="of the space 'encoder 3, centre crop', not 'encoder 4'"):
        stored.of(["case1"], "encoder 4")
    with pytest.raises(InputError, match="must differ: case0"):
        SignalTable(torch.zeros(2, 2), ["case0", "case0"], SPACE)
    with pytest.raises(ValueError, match=r"needed: \(6, \.\.\.\)"):
        SignalTable(torch.zeros(2, 2), IDS, SPACE)
    assert stored.of([], SPACE).shape == (0, 2)


def test_other_files_are_refused_and_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ran:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "pickled").write_bytes(pickle.dumps(Ran()))
    save_file({"values": torch.zeros(2)}, tmp_path / "plain")
    save_file({"values": torch.zeros(2)}, tmp_path / "short", {"format": "medkd signals 1"})
    save_file({"values": torch.zeros(1)}, tmp_path / "odd", {"format": "medkd signals 1", "space": "", "ids": "[[1]]"})
    for name in ("pickled", "plain", "short", "odd", "absent"):
        with pytest.raises(InputError, match=name):
            read_table(tmp_path / name)
    assert not (tmp_path / "ran").exists()

    def fails(*_: object) -> None:
        raise OSError("disk full")

    target = tmp_path / "signals.safetensors"
    SignalTable(torch.zeros(6, 2), IDS, SPACE).save(target)
    before = target.read_bytes()
    monkeypatch.setattr("medkd.distill.signal_table.save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        SignalTable(torch.ones(6, 2), IDS, SPACE).save(target)
    assert target.read_bytes() == before
