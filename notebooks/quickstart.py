# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From two labelled patients to a segmentation of a new scan
#
# The quickstart step by step, on generated patients, in a few minutes on a CPU. Every step is also a command:
# `medkd prepare`, `medkd train`, `medkd evaluate`, `medkd predict`.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np
from IPython.display import Image

from medkd.data.phantom import CLASSES, PhantomOptions, write_cohort
from medkd.imaging.nifti import read_nifti
from medkd.runs.evaluate import evaluate
from medkd.runs.phantom import phantom_recipe
from medkd.runs.predict import predict
from medkd.runs.prepare import prepare
from medkd.runs.train import train

folder = Path(tempfile.mkdtemp())
STEPS = int(os.environ.get("MEDKD_NOTEBOOK_STEPS", "300"))

# %% [markdown]
# ## 1. Patients
#
# Each patient is a short-axis stack of the heart: right ventricle, myocardium, left ventricle. The two labelled
# patients come from a narrower range of contrast, size and position than the rest.

# %%
write_cohort(folder / "cohort", PhantomOptions(labelled=2, unlabelled=16, validation=3, test=6))
dataset = prepare(
    folder / "cohort", folder / "dataset", table=folder / "cohort" / "cases.csv", classes=CLASSES, channels=("mr",)
)
for split in ("train", "val", "test"):
    print(split, len(dataset.select(split)), "patients")
print("labelled for training:", [case.id for case in dataset.select("train", labelled=True)])

# %% [markdown]
# ## 2. Two trainings
#
# Both start from the same weights and make the same number of updates. The first sees the labelled patients alone; the
# second pastes labelled and unlabelled images into each other.

# %%
dice = {}
for arm in ("labelled_only", "bcp"):
    recipe = phantom_recipe(arm, folder / "dataset", seed=0, pretrain=STEPS // 3, selftrain=STEPS - STEPS // 3)
    selection = train(recipe, folder / arm)
    evaluation = evaluate(folder / arm, folder / "dataset", "test")
    dice[arm] = evaluation.summary["mean_over_classes"]["metrics"]["dice"]["mean"]
    print(f"{arm}: validation Dice {selection.score:.3f}, test Dice {dice[arm]:.3f}")

# %% [markdown]
# One seed of generated patients: `medkd reproduce bcp --seeds 5` runs all arms on several, and says in words what they
# show. The curves of the second training, and its test scans from the worst to the best:

# %%
Image(folder / "bcp" / "curves.png")

# %%
Image(folder / "bcp" / "evaluation" / "test" / "overlays.png")

# %% [markdown]
# ## 3. A new scan
#
# The mask lies on the scan's own grid, whatever its orientation and spacing.

# %%
scan = dataset.select("test")[0].images[0]
mask = predict(folder / "bcp", scan, folder / "predicted").written[0]
before, after = read_nifti(scan), read_nifti(mask)
assert np.array_equal(before.affine, after.affine)
assert before.shape == after.shape
print({name: int((after.array == k).sum()) for k, name in enumerate(CLASSES)}, "voxels")
