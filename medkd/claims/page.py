"""The page of an experiment, generated from the lines of its finished runs: OUT/NAME.md and the figures in OUT/NAME/.

It can be written at any time: what is not finished is named, and no number comes from anywhere but the lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from medkd.claims.experiment import Experiment
from medkd.claims.runner import Line, Run
from medkd.claims.scan_cost import read_cost
from medkd.claims.scan_scores import over_patients
from medkd.claims.verdict import RULE, summarise
from medkd.data.dataset import write_whole
from medkd.report.curves import arms_figure, compare_curves

NONE = "–"
FIGURES = {
    "arms.png": "Test Dice of every arm and seed",
    "by_scan.png": "Dice of every test scan, mean over classes and seeds, the hardest first (by_scan.csv beside it)",
    "curves.png": "Validation Dice over training, seed 0",
    "pseudo_labels.png": "Dice of the teacher's pseudo-labels (as the teacher predicts in evaluation mode) on "
    "unlabelled training scans, seed 0: their hidden labels are read for this picture only",
    "features.png": "Features of labelled and of unlabelled pixels before the head, by true class, along their first "
    "principal axis, in standard deviations: before (labelled patients only) and after (BCP), seed 0",
}
SCANS = {
    "composites.png": "What BCP shows its student",
    "overlays.png": "Test scans from the worst to the best: image, truth, prediction, disagreement (bcp, seed 0)",
}
"""Pictures that show scans: of some datasets they may not stand in a repository."""


def write_page(experiment: Experiment, lines: Sequence[Line], out: Path, more: str = "") -> None:
    """Write OUT/NAME.md with its figures; `more` is added at the end."""
    folder = out / experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    if lines:
        dice = {arm: [line["dice_best"] for line in _of(lines, arm)] for arm in experiment.arms}
        (folder / "arms.png").write_bytes(arms_figure({arm: values for arm, values in dice.items() if values}))
        first = [line for line in lines if line["seed"] == 0 and "validation" in line]
        curves = {line["arm"]: line["validation"] for line in first}
        if curves:
            shipped = {line["arm"]: line["candidate"] for line in first}
            (folder / "curves.png").write_bytes(compare_curves(curves, shipped=shipped))
        watched = {arm: rows for arm, rows in curves.items() if experiment.watched(Run(arm, 0))}
        hidden = {arm: rows for arm, rows in watched.items() if any("teacher/hidden_dice" in row for row in rows)}
        if hidden:
            teachers = dict.fromkeys(hidden, "teacher")
            drawn = compare_curves(hidden, "hidden_dice", teachers, "Dice of pseudo-labels")
            (folder / "pseudo_labels.png").write_bytes(drawn)
    write_whole(out / f"{experiment.name}.md", page(experiment, lines, folder) + more)


def page(experiment: Experiment, lines: Sequence[Line], folder: Path) -> str:
    """The page as markdown."""
    result = summarise(experiment, lines)
    total = len(experiment.plan)
    cost = read_cost(experiment, folder)
    record = f"[runs.jsonl]({experiment.name}/runs.jsonl)" if lines else "runs.jsonl"
    parts = [
        f"# {experiment.title}",
        f"`{experiment.command}` makes the runs (a line each in {record}; a re-run "
        "skips those, and a run that was killed goes on) and writes this page from the lines.",
        f"**{len(lines)} of {total} runs are finished.**",
    ]
    if result["missing"]:
        parts.append(f"Still missing: {', '.join(result['missing'])}.")
    if not lines:
        return "\n\n".join(parts) + "\n"
    parts += [_setting(experiment, lines), "## Test patients", _table(experiment, lines, cost)]
    parts.append(
        "Dice on each scan's own grid, mean over scans, then over classes; mean ± sd over seeds. *best*: the "
        "checkpoint with the best validation Dice, *last*: the last one of the same run. missed: structures of which "
        "nothing was predicted, over all seeds; they count 0 in Dice and are left out of HD95. Images: passed "
        "over in training. CPU min: processor time with validation, without hidden labels; min: wall time of the same, "
        "the median of the seeds, because a machine that others use can stall for an hour."
        + (_cost(experiment, cost) if cost else "")
    )
    parts.append(f"**Verdict.** {result['verdict']}.")
    parts += [_aims(experiment, lines), _differences(result, folder), *_figures(experiment, folder)]
    parts += ["## Every run", _runs(lines)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _setting(experiment: Experiment, lines: Sequence[Line]) -> str:
    """What the runs share, as they recorded it."""
    base = next(
        (line for line in lines if "counts" in line and line["counts"]["labelled"] == experiment.labelled), None
    )
    text = f"Budget: {experiment.budget} updates ({experiment.stages})."
    if experiment.setting:
        text = f"{experiment.setting}\n\n{text}"
    if base is None:
        return text
    counts = base["counts"]
    text += (
        f" Patients: {counts['labelled']} labelled, {counts['unlabelled']} unlabelled, {counts['validation']} for "
        f"validation, {counts['test']} for the test. Split hash {base['split']}, hash of the labelled list "
        f"{base['labelled']}."
    )
    if counts["validation"] > counts["labelled"]:
        text += (
            f" The {counts['validation']} labelled validation patients, which choose the checkpoint, are more than the "
            f"{counts['labelled']} that are trained on; the last checkpoint needs none of them."
        )
    several = len({line["parameters"] for line in lines if "parameters" in line}) > 1
    starts = {(line["seed"], several and line.get("parameters"), line.get("start_weights")) for line in lines}
    networks = {start[:2] for start in starts}
    alike = "the same parameters" if len(starts) == len(networks) else "DIFFERENT parameters"
    text += (
        f" Arms of one seed{' and size' * several} start from {alike}; those with one list of labelled patients, one "
        "batch size and one way to draw from it read the same labelled samples."
    )
    return text + _teachers(experiment, lines)


def _teachers(experiment: Experiment, lines: Sequence[Line]) -> str:
    """Whether the arms that were taught had the teacher whose line stands beside theirs."""
    shipped = {Run(line["arm"], line["seed"]): line.get("weights") for line in lines}
    taught = [
        line["teacher_weights"] == shipped.get(source)
        for line in lines
        if (source := experiment.taught_by(Run(line["arm"], line["seed"]))) and line.get("teacher_weights")
    ]
    if not taught:
        return ""
    return f" They were taught by {'one teacher a seed' if all(taught) else 'DIFFERENT teachers of one seed'}."


def _table(experiment: Experiment, lines: Sequence[Line], cost: Mapping[str, Any]) -> str:
    scored: dict[str, dict[str, float]] = next((line["scores_best"] for line in lines if "scores_best" in line), {})
    classes = [name for name in scored if name != "mean"]
    distance = next((m for m in scored.get("mean", {}) if m.startswith("hd95")), None)
    heads = ["arm", "seeds", "Dice (best)", *classes, "Dice (last)"]
    heads += [_unit(distance)] if distance else []
    sizes = {arm: line["parameters"] for arm in experiment.arms for line in _of(lines, arm) if "parameters" in line}
    heads += ["parameters"] if len(set(sizes.values())) > 1 else []
    heads += ["CPU s a scan"] if cost else []
    heads += ["missed", "student images", "teacher images", "CPU min", "min"]
    rows = []
    for arm in experiment.arms:
        runs = _of(lines, arm)
        if not runs:
            rows.append([_name(experiment, arm), "0", *[NONE] * (len(heads) - 2)])
            continue
        row = [_name(experiment, arm), str(len(runs)), f"**{spread(runs, lambda r: r['dice_best'])}**"]
        row += [spread(runs, partial(_class_dice, c)) for c in classes]
        row.append(spread(runs, lambda r: r["dice_last"]))
        if distance:
            row.append(spread(runs, lambda r: r["scores_best"]["mean"][distance], 1))
        if "parameters" in heads:
            row.append(f"{sizes[arm]:,}" if arm in sizes else NONE)
        if cost:
            row.append(f"{cost['seconds'][arm]:.2f}" if arm in cost["seconds"] else NONE)
        row.append(str(sum(r["missed_best"] for r in runs)))
        for images in ("student_images", "teacher_images"):
            row.append(" or ".join(sorted({f"{r[images]:,}" for r in runs if images in r})) or NONE)
        row.append(spread(runs, lambda r: r["cpu_seconds"] / 60 if r.get("cpu_seconds") else None, 1))
        row.append(f"{median(r['seconds'] for r in runs) / 60:.1f}")
        rows.append(row)
    return markdown(heads, rows)


def _cost(experiment: Experiment, cost: Mapping[str, Any]) -> str:
    return (
        f" CPU s a scan: from the scan in memory to its mask, float32, median of {cost['scans']} test scans that all "
        f"arms take in turn, {cost['threads']} thread of {cost['processor']}, load {cost['load']}, torch "
        f"{cost['torch']} ([scan_cost.json]({experiment.name}/scan_cost.json))."
    )


def _aims(experiment: Experiment, lines: Sequence[Line]) -> str:
    """What was wanted, and whether the finished seeds reach it."""
    if not experiment.aims:
        return ""
    dice = {arm: {line["seed"]: line["dice_best"] for line in _of(lines, arm)} for arm in experiment.arms}
    words = []
    for aim in experiment.aims:
        mine, other = dice.get(aim.arm, {}), dice.get(aim.over, {}) if aim.over else None
        found = [
            value - (other[seed] if other else 0.0) for seed, value in mine.items() if other is None or seed in other
        ]
        if not found:
            words.append(f"- {aim}: not measured yet")
            continue
        mean = fmean(found)
        reached = "reached" if mean >= aim.least else "missed"
        words.append(f"- {aim}: **{reached}**, {mean:.3f} ({len(found)} seeds{f'; {aim.note}' if aim.note else ''})")
    return "**What was aimed at before the measurement**\n\n" + "\n".join(words)


def _differences(result: dict[str, Any], folder: Path) -> str:
    differences = result["differences"]
    if not differences:
        return ""
    heads = ["arm", "over", "mean", "by seed", "judged over seeds", "last checkpoint"]
    rows = [
        [
            d["better"],
            d["worse"],
            f"{fmean(d['by_seed']):+.3f}",
            ", ".join(f"{v:+.3f}" for v in d["by_seed"]),
            d["words"],
            f"{fmean(d['last']):+.3f}, {d['last_words']}",
        ]
        for d in differences
    ]
    words = f"{RULE} The rule is weak: for three seeds a two-sided p of 0.18."
    patients = [over_patients(folder, d["better"], d["worse"]) for d in differences]
    if any(patients):
        heads.append("95 % over patients")
        rows = [[*row, f"{p.low:+.3f} to {p.high:+.3f}" if p else NONE] for row, p in zip(rows, patients, strict=True)]
        words += (
            " Over patients: a bootstrap of the test patients, seeds averaged; where it includes 0, other patients may "
            "say otherwise."
        )
    return f"{markdown(heads, rows)}\n\n{words}"


def _figures(experiment: Experiment, folder: Path) -> list[str]:
    shown = FIGURES | (SCANS if experiment.shared else {})
    credit = dict.fromkeys(SCANS, f" Scans: {experiment.credit}." if experiment.credit else "")
    parts = [
        f"{words}.{credit.get(name, '')}\n\n![{words}]({folder.name}/{name})"
        for name, words in shown.items()
        if (folder / name).exists()
    ]
    if not experiment.shared:
        parts.append(
            f"The command also draws {' and '.join(f'`{folder.name}/{name}`' for name in SCANS)}; they show scans "
            f"({experiment.credit}), whose licence keeps them out of this repository."
        )
    return parts


def _runs(lines: Sequence[Line]) -> str:
    heads = ["run", "best", "last", "chosen at", "wall s", "CPU s", "sessions", "load", "threads", "torch"]
    rows = []
    for line in lines:
        load = " to ".join(f"{v:.1f}" for v in line.get("load", ())) or NONE
        chosen = " ".join(map(str, line.get("selected_at", ()))) or NONE
        cpu = line.get("cpu_seconds")
        rows.append(
            [f"{line['arm']} seed {line['seed']}", f"{line['dice_best']:.3f}", f"{line['dice_last']:.3f}", chosen,
             f"{line['seconds']:.0f}", NONE if cpu is None else f"{cpu:.0f}", str(line.get("sessions", NONE)), load,
             str(line.get("threads", NONE)), str(line.get("torch", NONE))]
        )  # fmt: skip
    machines = sorted({f"{line['processor']}, {line['cores']} cores" for line in lines if "processor" in line})
    return markdown(heads, rows) + (
        f"\n\n{'; '.join(machines)}. load: of the machine at start and end." if machines else ""
    )


def _class_dice(name: str, line: Line) -> float:
    dice: float = line["scores_best"][name]["dice"]
    return dice


def _of(lines: Sequence[Line], arm: str) -> list[Line]:
    return [line for line in lines if line["arm"] == arm]


def _name(experiment: Experiment, arm: str) -> str:
    words = experiment.words.get(arm)
    return f"`{arm}`: {words}" if words else f"`{arm}`"


def _unit(metric: str) -> str:
    return f"HD95 ({metric.rsplit('_', 1)[-1]})"


def spread(runs: Sequence[Line], value: Callable[[Line], float | None], digits: int = 3) -> str:
    """Mean ± sd over the runs in which the value is defined."""
    found = [v for run in runs if (v := _safe(value, run)) is not None]
    if not found:
        return NONE
    text = f"{fmean(found):.{digits}f}"
    return f"{text} ± {stdev(found):.{digits}f}" if len(found) > 1 else text


def _safe(value: Callable[[Line], float | None], run: Line) -> float | None:
    try:
        return value(run)
    except KeyError:  # a line of an older version holds less
        return None


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
