"""Broken files, full disks, another number of processes: what is left, and what is said."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_problem import CPU, Task, equal_trees, network, phase

from medkd.engine.checkpoint import load_state, save_state
from medkd.engine.fit import Selection, fit
from medkd.engine.recovery import Checkpoints, TrainingError, readable_disk_errors
from medkd.engine.runtime import Runtime
from medkd.engine.tracking import Tracker
from medkd.errors import InputError


def run(out: Path, resume: bool = False, steps: int = 6, tracker: Tracker | None = None) -> Selection:
    out.mkdir(exist_ok=True)
    return fit([phase(steps=steps)], network, Task(), CPU, 0, out=out, resume=resume, save_every=2, tracker=tracker)


def step(path: Path) -> int:
    return int(load_state(path)["global_step"])


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    run(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.safetensors", "previous.safetensors"]
    assert (step(tmp_path / "last.safetensors"), step(tmp_path / "previous.safetensors")) == (6, 4)


@pytest.mark.parametrize("damage", ["cut", "empty", "zeros", "missing", "foreign"])
def test_a_broken_last_file_falls_back_to_the_one_before_and_says_so(tmp_path: Path, damage: str) -> None:
    whole = run(tmp_path)
    path = tmp_path / "last.safetensors"
    data = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(data[:-7])
        case "empty":
            path.write_bytes(b"")
        case "zeros":
            path.write_bytes(bytes(len(data)))
        case "missing":
            path.unlink()
        case "foreign":
            save_state(path, {"weights": torch.zeros(3)})
    tracker = Tracker()
    resumed = run(tmp_path, resume=True, tracker=tracker)
    assert equal_trees([resumed.best, resumed.last], [whole.best, whole.last])
    (note,) = [row["text"] for row in tracker.rows if row["kind"] == "note"]
    state = "missing" if damage == "missing" else "broken"
    assert (tmp_path / "broken.safetensors").exists() == (damage != "missing")
    assert note == f"last.safetensors is {state}; going on from previous.safetensors, step 4"
    assert (step(path), step(tmp_path / "previous.safetensors")) == (6, 4)


def test_two_broken_files_are_an_input_error_and_never_a_fresh_start(tmp_path: Path) -> None:
    run(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError) as error:
        run(tmp_path, resume=True)
    assert [p.split()[0] for p in error.value.problems] == ["last.safetensors", "previous.safetensors", "no"]


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("broken", [("last",), ("last", "previous")])
def test_resuming_never_runs_what_is_in_a_file(tmp_path: Path, broken: tuple[str, ...]) -> None:
    run(tmp_path)
    harm = tmp_path / "harm"
    for name in broken:
        torch.save({"w": Payload(harm)}, tmp_path / f"{name}.safetensors")
    if len(broken) == 2:
        with pytest.raises(InputError, match="never opened"):
            run(tmp_path, resume=True)
    else:
        run(tmp_path, resume=True)
    assert not harm.exists()


def test_nothing_to_resume_is_a_fresh_start(tmp_path: Path) -> None:
    assert equal_trees(run(tmp_path / "a", resume=True).last, run(tmp_path / "b").last)


@pytest.mark.parametrize("moment", ["write", "first rename", "second rename", "folder"])
def test_a_kill_between_any_two_operations_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The process dies (here: an exception nobody catches) at each point of the save of step 6."""
    whole = run(tmp_path / "whole")

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    out = tmp_path / "killed"
    run(out, steps=4)
    replace, renames = Path.replace, []

    def counted(self: Path, target: Path) -> Path:
        renames.append(target)
        if len(renames) == (1 if moment == "first rename" else 2):
            raise Killed
        return replace(self, target)

    with monkeypatch.context() as patch:
        if moment == "write":
            patch.setattr(os, "fsync", die)
        elif moment == "folder":
            patch.setattr("medkd.engine.recovery.sync_folder", die)
        else:
            patch.setattr(Path, "replace", counted)
        with pytest.raises(Killed):
            run(out, resume=True)
    resumed = run(out, resume=True)
    assert equal_trees([resumed.best, resumed.last], [whole.best, whole.last])
    assert equal_trees(*(load_state(folder / "last.safetensors") for folder in (out, tmp_path / "whole")))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_the_run_readably_and_keeps_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    whole = run(tmp_path / "whole")
    out = tmp_path / "full"
    run(out, steps=4)

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TrainingError, match=r"the disk .*: the checkpoint of step 6 was not written.*--resume"):
            run(out, resume=True)
    assert sorted(p.name for p in out.iterdir()) == ["last.safetensors", "previous.safetensors"]
    assert step(out / "last.safetensors") == 4
    assert equal_trees(run(out, resume=True).last, whole.last)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk, CPU, Tracker())
    for number in (1, 2):
        checkpoints.save({"global_step": number, "weights": torch.full((20_000,), float(number))})
    with pytest.raises(TrainingError, match=r"the disk is full.*the checkpoint of step 3 was not written"):
        checkpoints.save({"global_step": 3, "weights": torch.zeros(20_000 + 20_000)})
    assert sorted(p.name for p in small_disk.iterdir()) == ["last.safetensors", "previous.safetensors"]
    assert step(small_disk / "last.safetensors") == 2


def test_other_file_errors_are_not_dressed_up(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), readable_disk_errors("x"):
        raise PermissionError(errno.EACCES, "no")


def test_another_number_of_processes_is_refused_with_the_reason(tmp_path: Path) -> None:
    run(tmp_path)
    made_by_two = load_state(tmp_path / "last.safetensors") | {"world": 2}
    save_state(tmp_path / "last.safetensors", made_by_two)
    with pytest.raises(InputError, match=r"the run was made by 2 processes, here are 1; .*depend on how a batch is"):
        run(tmp_path, resume=True)


def test_only_the_first_rank_writes(tmp_path: Path) -> None:
    second = Runtime(torch.device("cpu"), rank=1, world=2)
    Checkpoints(tmp_path, second, Tracker()).save({"global_step": 1})
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_nothing_is_kept() -> None:
    assert Checkpoints(None, CPU, Tracker()).newest() is None
