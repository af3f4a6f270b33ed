"""What users rely on: a name may be added, but one that goes or changes is a decision, made here."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import typer

from medkd.claims.reproduce import CLAIMS
from medkd.cli.app import app
from medkd.config.classification import ClassificationPhase, ClassificationRecipe
from medkd.config.recipe import PhaseOptions, Recipe
from medkd.config.registry import methods
from medkd.config.segmentation import SegmentationPhase, SegmentationRecipe
from medkd.distill import losses

ROOT = Path(__file__).parents[1]
VERBS = {"quickstart", "prepare", "train", "evaluate", "predict", "reproduce", "methods", "config", "info", "preview",
         "doctor"}  # fmt: skip


def verbs() -> set[str]:
    return set(typer.main.get_command(app).commands)


def test_verbs() -> None:
    assert verbs() == VERBS


def test_methods_and_claims() -> None:
    assert set(methods()) == {
        "supervised", "labelled_copy_paste", "self_training", "mean_teacher", "ua_mt", "cps", "unimatch", "bcp",
        "tgeo_kd", "distil", "ofa", "supervised_detection", "distil_detection", "adabn", "static_labels",
        "detection_mean_teacher", "grounded_teacher", "irg", "pets", "lpld",
    }  # fmt: skip
    assert set(CLAIMS) == {
        "bcp", "pld", "ofa", "bpkd", "tgeo", "margin-mse", "self-distillation", "leaf", "grounded-teacher-toy",
        "sfod-blood-cells", "distilled-segmentation",
        "grounded-teacher-mammogram", "grounded-teacher-nodules",
    }  # fmt: skip


def test_distillation_losses() -> None:
    found = {
        name
        for module in pkgutil.iter_modules(losses.__path__)
        for name in vars(importlib.import_module(f"{losses.__name__}.{module.name}"))
        if name.endswith("Loss")
    }
    assert found == {
        "HintonKDLoss", "BernoulliKDLoss", "DKDLoss", "DISTLoss", "OFALoss", "PLDLoss", "CWDLoss", "BPKDLoss",
        "MGDLoss", "FitNetLoss", "AttentionTransferLoss", "ReviewKDLoss", "SimKDLoss", "SimilarityPreservingLoss",
        "RKDLoss", "CRDLoss", "MarginMSELoss", "EmbeddingAlignmentLoss", "ConcordanceLoss",
    }  # fmt: skip


def test_keys_of_a_recipe() -> None:
    assert set(SegmentationRecipe.model_fields) == {
        "task", "data", "init", "seed", "preprocess", "network", "loss", "labelled", "unlabelled", "phases", "ship",
        "save_every", "runtime", "teacher", "held_out",
    }  # fmt: skip
    assert set(PhaseOptions.model_fields) == {
        "name", "method", "steps", "optimizer", "candidate", "hand_over", "carry_optimizer", "validate_every",
        "accumulate", "becomes", "optimizers",
    }  # fmt: skip
    assert set(ClassificationRecipe.model_fields) == set(Recipe.model_fields) | {
        "preprocess", "network", "loss", "select", "labelled", "unlabelled", "held_out",
    }  # fmt: skip
    assert set(ClassificationPhase.model_fields) == set(PhaseOptions.model_fields) | {"network"}
    assert set(SegmentationPhase.model_fields) == set(PhaseOptions.model_fields) | {"network"}


def test_the_readme_names_what_exists() -> None:
    text = (ROOT / "README.md").read_text()
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    commands = re.findall(r"^(?:pip install \. && )?medkd (\w+)(.*)$", blocks, re.MULTILINE)
    assert {name for name, _ in commands} >= {"quickstart", "prepare", "train", "evaluate", "predict"}
    for name, rest in commands:
        known = {o for p in typer.main.get_command(app).commands[name].params for o in p.opts}
        assert set(re.findall(r"(?<!\S)--?[a-z][\w-]*", rest)) <= known, (name, rest)
    assert set(re.findall(r"`medkd (\w+)`", text)) == VERBS
    for path in re.findall(r"\]\(([\w/.-]+)\)", text) + re.findall(r"`((?:configs|medkd)/[\w/.-]+)`", text):
        assert (ROOT / path).exists(), path
