from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medkd.runs.quickstart as module
from medkd.cli.app import run
from medkd.data.phantom import PhantomOptions
from medkd.runs.phantom import ARMS, phantom_recipe


@pytest.mark.slow
def test_the_quickstart_leaves_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PhantomOptions", lambda **v: PhantomOptions(unlabelled=4, validation=1, test=2, **v))
    monkeypatch.setattr(module, "phantom_recipe", lambda arm, data, seed: phantom_recipe(arm, data, seed, 10, 10))
    out = tmp_path / "q"
    assert run(["quickstart", "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["dice"]) == {"labelled_only", "bcp"}
    assert all(0 <= v <= 1 for v in summary["dice"].values())
    assert summary["seconds"] > 0
    assert summary["versions"]["torch"]
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 4  # curves, composites, overlays of both arms
    for arm in ("labelled_only", "bcp"):
        assert (out / arm / "evaluation/test/overlays.png").stat().st_size > 10_000
    (mask_path,) = (out / "predicted").iterdir()
    scan = nib.load(out / "dataset/images" / mask_path.name)
    mask = nib.load(mask_path)
    assert np.array_equal(mask.affine, scan.affine)
    assert mask.shape == scan.shape
    # a second one does not overwrite it unasked
    assert run(["quickstart", "--out", str(out)]) == 2
    assert json.loads((out / "summary.json").read_text()) == summary


@pytest.mark.parametrize("arm", ARMS)
def test_arms_are_alike_in_all_but_the_method(arm: str, tmp_path: Path) -> None:
    recipe, reference = phantom_recipe(arm, tmp_path, 3), phantom_recipe("bcp", tmp_path, 3)
    assert sum(p.steps for p in recipe.phases) == sum(p.steps for p in reference.phases)
    assert recipe.labelled.size == reference.labelled.size
    for name in ("network", "preprocess", "seed", "data"):
        assert getattr(recipe, name) == getattr(reference, name)
