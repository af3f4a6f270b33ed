"""`torchrun -m medkd train`: two processes train one model, survive a death and a request to stop, and end alike."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from disturbed import log_rows, newest_step, reach
from processes import Process, finished

from medkd.config.load import load_recipe
from medkd.config.models import load_model
from medkd.data.phantom import CLASSES, PhantomOptions, write_cohort
from medkd.runs.phantom import phantom_recipe
from medkd.runs.prepare import prepare
from medkd.runs.train import build

pytestmark = pytest.mark.slow

STEPS = (20, 60)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BCP on generated patients; three validation cases, so that the ranks' shares differ."""
    folder = tmp_path_factory.mktemp("torchrun")
    write_cohort(folder / "cohort", PhantomOptions(labelled=1, unlabelled=3, validation=3, test=1, size=32))
    prepare(folder / "cohort", folder / "data", table=folder / "cohort/cases.csv", classes=CLASSES)
    content = phantom_recipe("bcp", folder / "data", 0, *STEPS).model_dump(mode="json")
    content["preprocess"] |= {"size": [32, 32], "patch": [32, 32]}
    content["network"] |= {"norm": "batch", "dropout": [0.1], "features": [4, 4, 8, 8, 8]}
    content["save_every"] = 5
    for phase in content["phases"]:
        phase["validate_every"] = 20
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


def torchrun(recipe: Path, out: Path, *options: str) -> list[str]:
    """The command; its log folder, which stays empty, is beside the recipe."""
    command = [sys.executable, "-m", "torch.distributed.run", "--log-dir", str(recipe.parent / "torchrun"), *options]
    return [*command, "-m", "medkd", "train", str(recipe), "--out", str(out)]


def start(recipe: Path, out: Path, *more: str) -> Process:
    return Process([*torchrun(recipe, out, "--standalone", "--nproc-per-node", "2"), *more])


def workers(process: Process) -> dict[int, int]:
    """rank -> process number of the children of torchrun."""
    found = {}
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        environment = dict(
            item.split("=", 1) for item in Path(f"/proc/{child}/environ").read_text().split("\0") if "=" in item
        )
        found[int(environment["RANK"])] = int(child)
    return found


def ending(out: Path) -> dict[str, Any]:
    files = ("last.safetensors", "weights/best.safetensors", "weights/last.safetensors", "model/model.safetensors")
    return {name: (out / name).read_bytes() for name in files} | {"log": log_rows(out)}


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    """The run of two processes that nobody disturbs."""
    out = recipe.parent / "whole"
    with start(recipe, out) as process:
        (text,) = finished([process], within=200)
    assert text.count("validation Dice") == 1  # the first process speaks
    return out


def test_the_ranks_score_every_validation_case_once_and_exactly(recipe: Path, whole: Path) -> None:
    """What the run says of its best weights is what one process finds with them, to the last bit."""
    task = build(load_recipe(recipe)).task
    assert len(task.volumes) == 3
    rows = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    best = max(r["student/dice"] for r in rows if r["kind"] == "validation" and r["phase"] == "stage 2")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert task.evaluate(load_model(whole).network)["dice"] == best
    finally:
        torch.set_num_threads(threads)
    assert json.loads((whole / "manifest.json").read_text())["hardware"]["processes"] == 2


def test_a_death_ends_all_within_a_minute_and_a_stop_is_agreed_on_and_both_go_on_exactly(
    recipe: Path, whole: Path
) -> None:
    out = recipe.parent / "disturbed"
    with start(recipe, out) as process:
        reach(process, out, 15)
        os.kill(workers(process)[1], signal.SIGKILL)
        text = process.end(within=60)
    assert process.returncode != 0
    assert "Signal 9 (SIGKILL)" in text  # torchrun names the rank that died
    last = newest_step(out)
    assert 15 <= last < sum(STEPS)

    with start(recipe, out, "--resume") as process:
        reach(process, out, max(35, last + 5))  # a checkpoint of this run, not of the one that died
        process.send_signal(signal.SIGTERM)
        text = process.end(within=60)
    assert process.returncode != 0
    assert text.count("SIGTERM: stopping after this step") == 2
    assert text.count("stopped on request after step") == 2
    stopped = newest_step(out)
    assert f"after step {stopped - STEPS[0]} of phase stage 2" in text

    with start(recipe, out, "--resume") as process:
        finished([process], within=200)
    assert ending(out) == ending(whole)


NODES = {f"medkd-{os.getpid()}{letter}": f"10.98.7.{i}" for i, letter in enumerate("ab", 1)}
"""Name -> address. A namespace is the whole machine's, so its name is of this process; 15 letters at most."""


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def two_nodes() -> Iterator[None]:
    """Two network namespaces joined by a cable, as two machines (docs/engine.md)."""
    if shutil.which("ip") is None:
        pytest.skip("the command ip (iproute2) is not installed")
    one, other = NODES
    with contextlib.ExitStack() as made:
        for node in NODES:
            added = ip("netns", "add", node)
            if added.returncode:
                pytest.skip(f"network namespaces are not permitted here: {added.stderr.strip()}")
            made.callback(ip, "netns", "del", node)
        cable = ip("link", "add", one, "netns", one, "type", "veth", "peer", other, "netns", other)
        if cable.returncode:
            pytest.skip(f"network namespaces cannot be joined here: {cable.stderr.strip()}")
        for node, address in NODES.items():
            for words in (f"addr add {address}/24 dev {node}", f"link set {node} up", "link set lo up"):
                assert ip("-n", node, *words.split()).returncode == 0
        yield


def test_two_nodes_meet_and_end_where_two_processes_of_one_node_end(recipe: Path, whole: Path, two_nodes: None) -> None:
    """Each node has a run folder of its own, as without a shared disk: the first node's is the run."""

    def node(rank: int, name: str) -> Process:
        options = f"--nnodes 2 --node-rank {rank} --nproc-per-node 1 --master-port 29500 --master-addr".split()
        command = torchrun(recipe, recipe.parent / f"node {rank}", *options, next(iter(NODES.values())))
        return Process(["ip", "netns", "exec", name, *command], GLOO_SOCKET_IFNAME=name)

    one, other = NODES
    with node(0, one) as first, node(1, other) as second:
        finished([first, second], within=250)
    assert ending(recipe.parent / "node 0") == ending(whole)
    assert not (recipe.parent / "node 1").exists()  # the first rank alone writes
