"""From a DICOM archive to a dataset: what is taken, what is refused, and that a voxel stays where it was."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
from archives import (
    AFFINE,
    CLASSES,
    SHAPE,
    add_seg,
    add_series,
    add_structures,
    box,
    cohort,
    picture,
    volume_of,
    zipped,
)
from pydicom import Dataset as Header

import medkd.runs.prepare_write as writing
from medkd.data.dataset import Dataset, read_dataset
from medkd.errors import InputError
from medkd.imaging.nifti import read_nifti
from medkd.runs.archive_cases import Choice
from medkd.runs.prepare import prepare

SPLIT = (0.5, 0.25, 0.25)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return cohort(tmp_path / "pacs")


def run(source: Path, out: Path, **options: Any) -> Dataset:
    return prepare(source, out, **({"classes": CLASSES, "split": SPLIT, "labelled": 1} | options))


def refused(source: Path, out: Path, **options: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        run(source, out, **options)
    assert not out.exists()
    assert not out.with_name(f"{out.name}.private.csv").exists()
    return caught.value.problems


def key_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def cases_by_patient(tmp_path: Path, dataset: Dataset) -> dict[str, Any]:
    names = {row["id"]: row["source"] for row in key_rows(tmp_path / "out.private.csv")}
    return {names[case.patient]: case for case in dataset.cases}


def test_voxels_labels_and_places_are_exact(archive: Path, tmp_path: Path) -> None:
    done = run(archive, tmp_path / "out")
    assert done == read_dataset(tmp_path / "out")
    found = cases_by_patient(tmp_path, done)
    assert set(found) == {f"ID-patient{n}" for n in range(4)}
    for number in range(4):
        case = found[f"ID-patient{number}"]
        scan, label = read_nifti(case.images[0]), read_nifti(case.label)
        assert np.array_equal(scan.array, picture(number))
        assert np.allclose(scan.affine, AFFINE, atol=1e-6)
        assert np.array_equal(label.array, box())
        assert np.array_equal(label.affine, scan.affine)
    assert [len(done.select(name)) for name in ("train", "val", "test")] == [2, 1, 1]
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["decisions"]["patients"] == "from the DICOM headers"
    page = (tmp_path / "out/report.html").read_text()
    assert all(case.id in page for case in done.cases)
    assert "data:image/png" in page


def test_a_zip_and_a_nested_folder_give_the_same_dataset(archive: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.csv"
    first = run(archive, tmp_path / "a", key=key)
    second = run(zipped(archive), tmp_path / "b", key=key)
    assert [(c.id, c.split) for c in first.cases] == [(c.id, c.split) for c in second.cases]
    for one, two in zip(first.cases, second.cases):
        assert one.images[0].read_bytes() == two.images[0].read_bytes()


def test_dicom_below_a_folder_named_images_is_an_archive(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    archive.rename(tmp_path / "export/images")
    assert len(run(tmp_path / "export", tmp_path / "out").cases) == 4


def test_several_candidates_are_an_error_that_lists_them(archive: Path, tmp_path: Path) -> None:
    add_series(archive / "export2/A/S2", "patient2", "arterial", picture(9))
    (problem,) = refused(archive, tmp_path / "out")
    assert problem.startswith("2 series of the study in")
    assert all(words in problem for words in ("'abdomen portal'", "'abdomen arterial'", "--pick", "UID", "accepted"))
    done = run(archive, tmp_path / "out", choice=Choice(series="PORTAL"))
    assert len(done.cases) == 4
    remark = "image series that were not chosen: 1 of 5; studies without a chosen series: 0 of 4"
    assert remark in json.loads((tmp_path / "out/report.json").read_text())["remarks"]


def test_an_explicit_list_decides(archive: Path, tmp_path: Path) -> None:
    add_series(archive / "export2/A/S2", "patient2", "arterial", picture(9))
    series = [volume_of(archive / f"export{n}/A/{s}").series for n, s in ((0, "S1"), (1, "S1"), (2, "S2"))]
    rows = zip((s.uid for s in series), ("train", "train", "train"), ("yes", "no", "no"))
    pick = tmp_path / "pick.csv"
    pick.write_text("series,split,labelled\n" + "".join(",".join(row) + "\n" for row in rows))
    done = run(archive, tmp_path / "out", choice=Choice(pick=pick), split=None, labelled=None)
    found = cases_by_patient(tmp_path, done)
    assert {p: (c.split, c.labelled) for p, c in found.items()} == {
        "ID-patient0": ("train", True), "ID-patient1": ("train", False), "ID-patient2": ("train", False),
    }  # fmt: skip
    assert np.array_equal(read_nifti(found["ID-patient2"].images[0]).array, picture(9))
    assert found["ID-patient2"].label is None  # its segmentation was drawn on the other series
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert [one["reason"] for one in report["refused"]] == [
        "this label was drawn on a series that was not chosen, or was refused"
    ] * 2
    pick.write_text("series\n1.2.3\n")
    assert "no image series with the UID '1.2.3'" in refused(archive, tmp_path / "x", choice=Choice(pick=pick))[0]


def test_a_4d_series_needs_a_choice_of_its_volumes(tmp_path: Path) -> None:
    archive = cohort(tmp_path / "pacs", 3)

    def at(time: int) -> Any:
        def edit(dataset: Header, z: int) -> None:
            dataset.SeriesInstanceUID = "1.2.3.4"
            dataset.TemporalPositionIdentifier = time
            dataset.InstanceNumber = time * 100 + z

        return edit

    for time in (1, 2):
        add_series(archive / f"export3/A/T{time}", "patient3", f"time {time}", picture(20 + time), at(time))
    (problem,) = refused(archive, tmp_path / "out")
    assert problem.startswith("2 volumes of the series in")
    assert "volume 'time 1'" in problem
    pick = tmp_path / "pick.csv"
    uids = [volume_of(archive / f"export{n}/A/S1").series.uid for n in range(3)]
    pick.write_text("series,volume\n" + "".join(f"{uid},\n" for uid in uids) + "1.2.3.4,time 2\n")
    done = run(archive, tmp_path / "out", choice=Choice(pick=pick))
    case = cases_by_patient(tmp_path, done)["ID-patient3"]
    assert np.array_equal(read_nifti(case.images[0]).array, picture(22))
    pick.write_text("series,volume\n1.2.3.4,time 7\n")
    assert (
        "no volume 'time 7'; there are 'time 1', 'time 2'"
        in refused(archive, tmp_path / "x", choice=Choice(pick=pick))[0]
    )


def test_one_broken_series_costs_one_line(archive: Path, tmp_path: Path) -> None:
    """Of a header that is damaged, of pixels that end early, of a slice that is missing: the rest is written."""
    tilted = add_series(archive / "export4/A/S1", "patient4", "portal", picture(4))
    tilted[3].unlink()
    short = add_series(archive / "export5/A/S1", "patient5", "portal", picture(5))
    short[2].write_bytes(short[2].read_bytes()[:-100])
    broken = archive / "export6/I00000"
    broken.parent.mkdir()
    broken.write_bytes(short[0].read_bytes()[:140] + b"\xff" * 400)
    (archive / "export6/notes.txt").write_text("thesis")
    lines: list[str] = []
    done = run(archive, tmp_path / "out", say=lines.append)
    assert len(done.cases) == 4
    report = json.loads((tmp_path / "out/report.json").read_text())
    reasons = {one["id"]: one["reason"] for one in report["refused"]}
    assert len(reasons) == len(lines) == 3
    assert sum("1 slice is missing" in reason for reason in reasons.values()) == 1
    assert sum("pixels" in reason for reason in reasons.values()) == 1
    assert sum("no series UID" in reason for reason in reasons.values()) == 1
    rows = {row["id"]: row for row in key_rows(tmp_path / "out.private.csv") if row["kind"] == "refused"}
    assert rows.keys() == reasons.keys()
    assert {Path(row["path"]).relative_to(archive).parts[0] for row in rows.values()} == {
        "export4", "export5", "export6",
    }  # fmt: skip
    assert "files of the source that are not DICOM: 1" in report["remarks"]
    page = (tmp_path / "out/report.html").read_text()
    assert all(name in page for name in reasons)


def test_a_last_slice_that_was_cut_short_is_missed(archive: Path, tmp_path: Path) -> None:
    """What is left of such a file names its series, but looks like no image: without it the series seems complete."""
    files = add_series(archive / "export4/A/S1", "patient4", "portal", picture(4))
    files[-1].write_bytes(files[-1].read_bytes()[:900])
    run(archive, tmp_path / "out")
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert [one["reason"] for one in report["refused"]] == [
        "1 files of its series hold no pixels: were they cut short?"
    ]


def test_resampling_is_asked_for_and_recorded(archive: Path, tmp_path: Path) -> None:
    files = add_series(archive / "export4/A/S1", "patient4", "portal", picture(4))
    files[3].unlink()
    done = run(archive, tmp_path / "out", choice=Choice(allow_resample=True), split=(0.6, 0.2, 0.2))
    case = cases_by_patient(tmp_path, done)["ID-patient4"]
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["resampled"] == [case.id]
    assert "interpolated linearly" in report["notes"][case.id][0]
    assert f"resampled:\n- {case.id}" in (tmp_path / "out/dataset.yaml").read_text()
    scan = read_nifti(case.images[0])
    expected = picture(4).astype(float)
    expected[:, :, 3] = (expected[:, :, 2] + expected[:, :, 4]) / 2
    assert np.allclose(scan.array, expected)


def test_text_in_the_pixels_is_refused_unless_allowed(archive: Path, tmp_path: Path) -> None:
    def burned(dataset: Header, z: int) -> None:
        dataset.BurnedInAnnotation = "YES"

    add_series(archive / "export4/A/S1", "patient4", "portal", picture(4), burned)
    assert len(run(archive, tmp_path / "a").cases) == 4
    reason = json.loads((tmp_path / "a/report.json").read_text())["refused"][0]["reason"]
    assert "may name the patient" in reason
    assert "--allow-burned-in" in reason
    assert len(run(archive, tmp_path / "b", choice=Choice(allow_burned_in=True), split=(0.6, 0.2, 0.2)).cases) == 5


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    for number in range(3):
        add_series(tmp_path / f"pacs/patient{number}", f"patient{number}", "portal", picture(number))
    return tmp_path / "pacs"


THIRDS = (0.34, 0.33, 0.33)


def test_structure_sets_become_labels(unlabelled: Path, tmp_path: Path) -> None:
    liver, other = (slice(6, 14), slice(5, 12), slice(2, 6)), (slice(8, 10), slice(6, 8), slice(2, 4))
    for number in range(3):
        series = unlabelled / f"patient{number}"
        add_structures(tmp_path / f"rt/{number}.dcm", series, {"LIVER": liver, "Body of Jane": other})
    done = run(unlabelled, tmp_path / "out", labels=tmp_path / "rt", split=THIRDS)
    for case in done.cases:
        assert np.array_equal(read_nifti(case.label).array, box())
    notes = json.loads((tmp_path / "out/report.json").read_text())["notes"]
    assert set(notes) == {case.id for case in done.cases}
    assert all(lines == ["label: 1 structures that are no class were left out"] for lines in notes.values())


def test_labels_of_series_that_are_no_cases_and_broken_ones_are_left_out(unlabelled: Path, tmp_path: Path) -> None:
    """Who takes a part of an archive need not sort its labels first."""
    for number in range(3):
        add_seg(tmp_path / f"segs/{number}", unlabelled / f"patient{number}", box())
    add_series(unlabelled / "gap", "patient3", "portal", picture(3))
    add_seg(tmp_path / "segs/3", unlabelled / "gap", box())
    nib.save(nib.Nifti1Image(box().astype(np.uint8), AFFINE), tmp_path / "segs/gap.nii.gz")
    (unlabelled / "gap/I00003").unlink()
    content = (tmp_path / "segs/3").read_bytes()
    (tmp_path / "segs/broken").write_bytes(content[:140] + b"\xff" * 400)
    done = run(unlabelled, tmp_path / "out", labels=tmp_path / "segs", split=THIRDS)
    assert all(case.label for case in done.cases)
    reasons = sorted(one["reason"][:30] for one in json.loads((tmp_path / "out/report.json").read_text())["refused"])
    assert reasons == ["1 slice is missing (slices lie", "has no series UID", *["this label was drawn on a seri"] * 2]


def test_overlapping_structures_need_an_order(unlabelled: Path, tmp_path: Path) -> None:
    liver, tumour = (slice(6, 14), slice(5, 12), slice(2, 6)), (slice(8, 10), slice(6, 8), slice(2, 4))
    for number in range(3):
        add_structures(
            tmp_path / f"rt/{number}.dcm", unlabelled / f"patient{number}", {"tumour": tumour, "liver": liver}
        )
    options: dict[str, Any] = {
        "labels": tmp_path / "rt", "split": THIRDS, "classes": ("background", "liver", "tumour"),
    }  # fmt: skip
    problems = refused(unlabelled, tmp_path / "out", **options)
    assert len(problems) == 3
    assert all("'liver' and 'tumour' share 8 voxels (with --in-order" in problem for problem in problems)
    done = run(unlabelled, tmp_path / "out", choice=Choice(in_order=True), **options)
    expected = box().astype(np.uint8)
    expected[tumour] = 2
    assert all(np.array_equal(read_nifti(case.label).array, expected) for case in done.cases)


def test_files_named_like_their_series_are_labels_in_any_axis_order(unlabelled: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    flipped = np.ascontiguousarray(box().astype(np.uint8)[::-1, ::-1])
    affine = AFFINE @ np.array([[-1, 0, 0, SHAPE[0] - 1], [0, -1, 0, SHAPE[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1]])
    for number, name in enumerate(("patient0", "ID-patient1")):  # by the folder of the series, and by the patient
        image = nib.Nifti1Image(flipped.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]])
        image.header.set_xyzt_units("mm")
        nib.save(image, labels / f"{name}.nii.gz")
        assert number < 2
    header = {
        "space": "right-anterior-superior", "space directions": AFFINE[:3, :3].T, "space origin": AFFINE[:3, 3],
        "kinds": ["domain"] * 3,
    }  # fmt: skip
    nrrd.write(str(labels / "patient2.nrrd"), box().astype(np.uint8), header)
    done = run(unlabelled, tmp_path / "out", labels=labels, split=THIRDS)
    assert len(done.cases) == 3
    for case in done.cases:
        assert np.array_equal(read_nifti(case.label).array, box())
    notes = json.loads((tmp_path / "out/report.json").read_text())["notes"]
    assert sum("turned without interpolation" in " ".join(lines) for lines in notes.values()) == 2


def test_an_interrupted_run_continues_with_its_key(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, key = writing.write_nifti, tmp_path / "out.private.csv"
    calls = iter(range(100))

    def stop_at_five(*values: Any) -> None:
        if next(calls) >= 5:
            raise KeyboardInterrupt
        original(*values)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_nifti", stop_at_five)
        with pytest.raises(KeyboardInterrupt):
            run(archive, tmp_path / "out")
    assert not (tmp_path / "out/dataset.yaml").exists()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("p*.nii.gz")}
    moved = key.rename(tmp_path / "elsewhere.csv")
    with pytest.raises(InputError, match="begun with a private key, and there is none at"):
        run(archive, tmp_path / "out")
    done = run(archive, tmp_path / "out", key=moved)
    assert len(done.cases) == 4
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert len(before) == 5


def test_the_same_key_gives_the_same_names_again(archive: Path, tmp_path: Path) -> None:
    first = cases_by_patient(tmp_path, run(archive, tmp_path / "out"))
    key = tmp_path / "out.private.csv"
    assert key.stat().st_mode & 0o777 == 0o600
    add_series(archive / "export4/A/S1", "patient4", "portal", picture(4))
    more = run(archive, tmp_path / "more", key=key, split=(0.6, 0.2, 0.2))
    assert {case.id for case in first.values()} < {case.id for case in more.cases}
    other = run(archive, tmp_path / "other", split=(0.6, 0.2, 0.2))
    assert not {case.id for case in other.cases} & {case.id for case in more.cases}
    assert [c.split for c in sorted(more.cases, key=lambda c: read_nifti(c.images[0]).array.sum())] == [
        c.split for c in sorted(other.cases, key=lambda c: read_nifti(c.images[0]).array.sum())
    ]  # the split is a function of the patients and the seed, not of the salt


def test_identifiers_are_kept_on_request(archive: Path, tmp_path: Path) -> None:
    done = run(archive, tmp_path / "out", keep_identifiers=True)
    assert {case.patient for case in done.cases} == {f"ID-patient{n}" for n in range(4)}
    assert all(case.id.startswith(f"{case.patient}_") for case in done.cases)
    assert not (tmp_path / "out.private.csv").exists()


def test_a_dry_run_writes_nothing(archive: Path, tmp_path: Path) -> None:
    add_series(archive / "export4/A/S1", "patient4", "portal", picture(4))[3].unlink()
    lines: list[str] = []
    assert len(run(archive, tmp_path / "out", dry_run=True, say=lines.append).cases) == 4
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.private.csv").exists()
    assert len(lines) == 1
    assert "export4" in lines[0]


def test_patients_without_a_number_are_told(tmp_path: Path) -> None:
    def nameless(dataset: Header, z: int) -> None:
        dataset.PatientID = dataset.PatientName = ""

    for number in range(4):
        add_series(tmp_path / f"pacs/{number}", f"p{number}", "portal", picture(number), nameless)
        add_seg(tmp_path / f"pacs/{number}s/seg", tmp_path / f"pacs/{number}", box())
    done = run(tmp_path / "pacs", tmp_path / "out")
    assert len({case.patient for case in done.cases}) == 4
    warnings = json.loads((tmp_path / "out/report.json").read_text())["warnings"]
    assert warnings[0].startswith("studies that state no patient: 4")
