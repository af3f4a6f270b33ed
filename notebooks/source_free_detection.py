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
# # A detector at a new laboratory, without the data it was trained on
#
# A laboratory trained a detector of blood cells. Another one stains its smears differently; it gets the model, not the
# images, and nobody has time to draw boxes. Generated smears, a few minutes on a CPU. Every step is also a command:
# `medkd prepare`, `medkd train`, `medkd evaluate`, `medkd predict`.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from IPython.display import Image
from scipy import ndimage

from medkd.claims.hidden_boxes import HiddenBoxes, curve_rows
from medkd.config.load import parse_recipe
from medkd.data.detection_dataset import HIDDEN
from medkd.data.detection_phantom import write_phantom
from medkd.data.image_preprocess import read_pixels
from medkd.data.smear_phantom import SMEAR
from medkd.data.targets import Detections
from medkd.detection.experts import expert_file
from medkd.engine.tracking import read_log
from medkd.report.detections import pseudo_label_curves
from medkd.runs.evaluate import evaluate
from medkd.runs.predict import predict
from medkd.runs.prepare_detection import prepare_detection
from medkd.runs.train import train

folder = Path(tempfile.mkdtemp())
STEPS = int(os.environ.get("MEDKD_NOTEBOOK_STEPS", "300"))

# %% [markdown]
# ## 1. Two laboratories
#
# Red cells are many; neutrophils and lymphocytes are few, look alike, and are what matters. All source images have
# boxes. The training images of the target have none: where they exist, `prepare` puts them into a file of its own,
# which training never opens. It is used below, for diagnosis only.

# %%
for lab, labelled in (("source", "all"), ("target", "none")):
    write_phantom(folder / f"{lab} images", lab, (60, 4, 40), "smears", seed=0)
    boxes = folder / f"{lab} images" / "boxes.csv"
    data = prepare_detection(
        folder / f"{lab} images", folder / lab, boxes=boxes, classes=SMEAR, labelled=labelled, keep_identifiers=True
    )
    print(lab, "labelled for training:", len(data.select("train", labelled=True)), "of", len(data.select("train")))
print("kept apart:", (folder / "target" / HIDDEN).name)

# %% [markdown]
# ## 2. The source detector
#
# It is good at home and worse on the other stain, above all where white cells are told apart.

# %%
SHARED = {
    "task": "detection",
    "runtime": {"device": "cpu"},
    "preprocess": {"size": [96, 128]},
    "detector": {
        "kind": "faster_rcnn",
        "backbone": {"kind": "tiny", "features": [16, 24, 32], "pyramid": 24},
        "anchor_scale": 4,
        "ratios": [1.0],
        "head": 64,
        "proposals": 100,
        "rpn_samples": 64,
        "roi_samples": 64,
    },
}
STREAM = {"size": 4, "augment": {"flip": [0.5, 0.5], "erase": []}}


def scores(run: str, lab: str) -> dict[str, float]:
    done = evaluate(folder / run, folder / lab, "test", device="cpu", out=folder / run / f"on {lab}")
    return {name: round(one["at"]["0.5"]["value"], 3) for name, one in done.summary["classes"].items()}


source = {
    "data": str(folder / "source"),
    "labelled": STREAM,
    "phases": [
        {
            "name": "source",
            "method": {"kind": "supervised_detection"},
            "steps": STEPS,
            "validate_every": STEPS,
            "optimizer": {"kind": "adamw", "lr": 0.002, "clip": 10.0, "schedule": {"kind": "cosine", "warmup": 20}},
        }
    ],
}
train(parse_recipe(SHARED | source), folder / "source model")
at_home, away = scores("source model", "source"), scores("source model", "target")
print("AP50 at the source:", at_home)
print("AP50 at the target:", away)

# %%
Image(folder / "source model" / "on target" / "overlays.png")

# %% [markdown]
# ## 3. An expert
#
# Not a detector: a few lines that this laboratory has, which find dark nuclei by colour and guess the kind of cell from
# their shape. It has seen no label, and it errs. Its boxes are written once, in pixels of the original images. Any
# in-house segmenter or foundation model can take its place.


# %%
def nuclei(pixels: np.ndarray) -> Detections:
    dark = pixels[..., 1] < 90
    parts, count = ndimage.label(ndimage.gaussian_filter(dark.astype(float), 2) > 0.3)
    boxes, kinds = [], []
    for y, x in ndimage.center_of_mass(parts > 0, parts, range(1, count + 1)):
        near = np.hypot(*(np.indices(dark.shape) + 0.5 - np.array([y, x])[:, None, None])) < 6
        boxes.append([x - 10, y - 10, x + 10, y + 10])
        kinds.append(SMEAR.index("lymphocyte" if dark[near].mean() > 0.8 else "neutrophil"))
    return Detections(torch.tensor(boxes).reshape(-1, 4), torch.tensor(kinds).long(), torch.full((count,), 0.9))


unlabelled = data.select("train", labelled=False)
images = ((case.id, read_pixels(case.image)) for case in unlabelled)
expert = expert_file(nuclei, images, SMEAR, folder / "expert.json")
print("the expert looked at", len(unlabelled), "images")

# %% [markdown]
# ## 4. Adaptation without source images and without labels
#
# All arms start from the source's model and see unlabelled target images alone. The mean teacher trains on its own
# confident boxes. Grounded Teacher also keeps a matrix of which class is mistaken for which, weighs the loss by it and
# mixes crops of confused classes into each other; in the last arm it has the expert's boxes as well. The last teacher
# is what counts: choosing a better moment would need labels of the target.

# %%
SELF_TRAINING = {"threshold": 0.7, "decay": 0.98, "static": {"weight": 1.0, "threshold": 0.7}}
GROUNDED = {"kind": "grounded_teacher", **SELF_TRAINING, "mixing": 0.5, "crop_side": 24}
METHODS = {
    "mean teacher": {"kind": "detection_mean_teacher", **SELF_TRAINING},
    "grounded teacher": GROUNDED,
    # one set with the teacher's: the expert knows nothing of red cells, and alone would teach them as background
    "grounded teacher, expert": GROUNDED
    | {"expert": {"file": str(expert), "classes": SMEAR, "fusion": "weighted", "threshold": 0.5}},
}
UPDATES = max(STEPS // 2, 20)
found = {"source only": away}
for arm, method in METHODS.items():
    adaptation = {
        "data": str(folder / "target"),
        "init": str(folder / "source model" / "model"),
        "ship": "last",
        "unlabelled": STREAM,
        "phases": [
            {
                "name": "adapt",
                "method": method,
                "steps": UPDATES,
                "candidate": "teacher",
                "hand_over": "last",
                "validate_every": max(UPDATES // 6, 1),
                "optimizer": {"kind": "adamw", "lr": 0.0005, "clip": 10.0},
            }
        ],
    }
    train(parse_recipe(SHARED | adaptation), folder / arm, watch=HiddenBoxes)
    found[arm] = scores(arm, "target")
for arm, values in found.items():
    print(f"{arm}: AP50 at the target {values}")

# %% [markdown]
# One seed, small images: this shows how it is done, not which arm is better. Look at the rare cells: self-training
# alone teaches what the teacher is not sure of as background, and may lose them altogether. `medkd reproduce --list`
# names the experiments with several seeds, and says in words what they show.
#
# ## 5. What happened
#
# The relational context over the updates: a row is the class that a region is labelled with, a column the class that
# the student calls it.

# %%
relation = folder / "grounded teacher, expert" / "relation.png"
Image(relation) if relation.exists() else print("too few updates for a matrix")

# %% [markdown]
# What the teacher's confident boxes are worth as labels, by the boxes that training never saw: first without the
# expert, then with it.


# %%
def quality(arm: str) -> Image:
    rows = curve_rows(read_log(folder / arm / "log.jsonl"), "teacher", SMEAR)
    picture = folder / arm / "pseudo_labels.png"
    picture.write_bytes(pseudo_label_curves(rows, SMEAR))
    return Image(picture)


quality("grounded teacher")

# %%
quality("grounded teacher, expert")

# %%
Image(folder / "grounded teacher, expert" / "on target" / "overlays.png")

# %% [markdown]
# ## 6. New images

# %%
new = folder / "new"
new.mkdir()
name = "phantom070.png"
(new / name).write_bytes((folder / "target" / "images" / name).read_bytes())
done = predict(folder / "grounded teacher, expert", new, folder / "predicted", device="cpu")
print("written:", sorted(path.name for path in done.written))
Image(folder / "predicted" / "pictures" / name)
