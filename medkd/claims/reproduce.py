"""Every claim that `medkd reproduce` can test, and how. Experiments are imported when they are asked for.

To add a claim: write medkd/claims/NAME.py with a `CLAIM` (medkd/claims/small.py), a function here that imports it, and
a line in `CLAIMS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from medkd.claims.runner import Line, Planned
    from medkd.claims.small import SmallClaim


def _bcp(data: Path | None, seeds: int) -> Planned:
    from medkd.claims.bcp import experiment_on

    return experiment_on(data, seeds)


def _distilled(data: Path | None, seeds: int) -> Planned:
    from medkd.claims.distilled_segmentation import distilled_segmentation

    return distilled_segmentation(data, seeds)


def _blood_cells(data: Path | None, seeds: int) -> Planned:
    from medkd.claims.blood_cells import blood_cells

    return blood_cells(data, seeds)


def _pld() -> SmallClaim:
    from medkd.claims.pld import CLAIM

    return CLAIM


def _margin_mse() -> SmallClaim:
    from medkd.claims.margin_mse import CLAIM

    return CLAIM


def _leaf() -> SmallClaim:
    from medkd.claims.leaf import CLAIM

    return CLAIM


def _self_distillation() -> SmallClaim:
    from medkd.claims.self_distillation import CLAIM

    return CLAIM


def _ofa() -> SmallClaim:
    from medkd.claims.ofa import CLAIM

    return CLAIM


def _tgeo() -> SmallClaim:
    from medkd.claims.tgeo import CLAIM

    return CLAIM


def _bpkd() -> SmallClaim:
    from medkd.claims.bpkd import CLAIM

    return CLAIM


def _grounded_teacher_toy() -> SmallClaim:
    from medkd.claims.grounded_teacher_toy import CLAIM

    return CLAIM


def _grounded_teacher_mammogram() -> SmallClaim:
    from medkd.claims.grounded_teacher_mammogram import CLAIM

    return CLAIM


def _grounded_teacher_nodules() -> SmallClaim:
    from medkd.claims.grounded_teacher_nodules import CLAIM

    return CLAIM


@dataclass(frozen=True)
class Claim:
    """words: as the authors would put it. One of two: small, an experiment of minutes; large, one of trainings that
    take hours, for the folder of its data (if given) and a number of seeds."""

    words: str
    small: Callable[[], SmallClaim] | None = None
    large: Callable[[Path | None, int], Planned] | None = None


CLAIMS = {
    "bcp": Claim(
        "with very few labelled patients, pasting labelled and unlabelled images into each other both ways beats "
        "self-training without copy-paste, which beats labelled-only training (Bai et al., CVPR 2023)",
        large=_bcp,
    ),
    "distilled-segmentation": Claim(
        "a student with a tenth of its teacher's parameters that is taught by it segments almost as well, and better "
        "than the same student taught by the labels alone (Hinton et al. 2015, and the losses compared here)",
        large=_distilled,
    ),
    "sfod-blood-cells": Claim(
        "a detector moves to another laboratory without its source images: class confusions and an expert's boxes keep "
        "the rare class alive that mean-teacher self-training loses (Ashraf et al. 2025)",
        large=_blood_cells,
    ),
    "pld": Claim(
        "ranking the classes as the teacher does, the label first, teaches more than cross-entropy and than "
        "cross-entropy with Hinton's distillation, without a weight to tune (Bassam et al., NeurIPS 2025)",
        _pld,
    ),
    "ofa": Claim(
        "between families of networks, comparing every stage of the student with the teacher's logits teaches more "
        "than Hinton's distillation, and comparing features does harm (Hao et al., NeurIPS 2023)",
        _ofa,
    ),
    "bpkd": Claim(
        "comparing the borders of classes pixel by pixel, apart from what they enclose, makes a small segmentation "
        "network better at borders than channel-wise distillation (Liu et al., WACV 2024)",
        _bpkd,
    ),
    "tgeo": Claim(
        "a controller trained on held-out data learns for each sample whether to trust the teacher or the label, which "
        "beats one fixed mix of the two (Hu et al., ICLR 2024)",
        _tgeo,
    ),
    "margin-mse": Claim(
        "a fast retrieval model of another architecture learns more from a teacher's margins than from its scores "
        "(Hofstaetter et al. 2020)",
        _margin_mse,
    ),
    "self-distillation": Claim(
        "retraining a model on a mix of the labels and its own predictions improves it, and some weight on the labels "
        "keeps it from collapsing (Borup and Andersen, NeurIPS 2021)",
        _self_distillation,
    ),
    "leaf": Claim(
        "a small encoder that regresses a large one's embeddings can query the index that the large one built, also "
        "truncated or in 8 bits (Vujanic and Rueckstiess 2025)",
        _leaf,
    ),
    "grounded-teacher-toy": Claim(
        "weighting the loss by which class is mistaken for which keeps rare classes alive in imbalanced training and "
        "in source-free self-training, which otherwise collapses to the common ones (Ashraf et al. 2025)",
        _grounded_teacher_toy,
    ),
    "grounded-teacher-mammogram": Claim(
        "without source data, the boxes of a frozen expert beside those of the teacher raise what a detector of one "
        "class finds at a new site (Ashraf et al. 2025)",
        _grounded_teacher_mammogram,
    ),
    "grounded-teacher-nodules": Claim(
        "the same in 3-D: self-training with the semantic-aware loss raises what a detector of two classes finds at a "
        "new site, the rarer class above all (after Ashraf et al. 2025, who have no volumes)",
        _grounded_teacher_nodules,
    ),
}


def reproduce(
    experiment: Planned, out: Path, *, page_only: bool = False, console: Console | None = None, more: str = ""
) -> list[Line]:
    """Make the missing runs in OUT/NAME/ and write OUT/NAME.md; return the lines of the finished runs.

    After every finished run the page says what is known so far. page_only: make no run. more: added to the page.
    """
    from medkd.claims.runner import finished, run_missing

    def after(lines: list[Line]) -> None:
        experiment.report(lines, out, more)

    folder = out / experiment.name
    after(list(finished(experiment, folder).values()))
    if page_only:
        return list(finished(experiment, folder).values())
    lines = run_missing(experiment, folder, after, console)
    if len(lines) == len(experiment.plan) and experiment.complete(folder):
        after(lines)
    return lines
