"""A folder of masks: who wrote what is there, what may be replaced, and when."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kept_times import exchange, keeping_times
from refusal import refused
from toys import label_map, ramp, save

from pcl_auto.data.formats.scans import Scan
from pcl_auto.errors import LockedError, StateError
from pcl_auto.inference.mask_record import DICOM_SEG, PREVIEW, RECORD, MadeBy, read_record, recorded_sources
from pcl_auto.inference.masks import MaskFolder
from pcl_auto.workspace.output import sole_writer_in, visible

ONE = MadeBy("/one", {"fold_all/checkpoint_final.pth": [1, 2]}, mirroring=True)
OTHER = replace(ONE, model="/other")
FACTS: dict[str, Any] = {"volumes_ml": {"tumor": 1.5}, "quality": None, "slabs": 1}


@pytest.fixture
def scans(tmp_path: Path) -> list[Scan]:
    return [Scan(case, (save(tmp_path / "scans" / f"{case}.nii.gz", ramp()),)) for case in "ab"]


def writer(value: int) -> Callable[[Path], None]:
    """Write a mask whose voxels are 0 and ``value``."""

    def write(file: Path) -> None:
        save(file, label_map() * value)

    return write


def content_of(content: bytes) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        file.write_bytes(content)

    return write


def make(
    folder: Path, scans: list[Scan], made_by: MadeBy = ONE, value: int = 1, *, overwrite: bool = False
) -> list[str]:
    """Let a model make masks of scans; return what became of each."""
    masks = MaskFolder(folder, made_by, [scan.id for scan in scans], overwrite=overwrite)
    found = []
    with masks.writing():
        for scan in scans:
            if masks.kept(scan, f"{scan.id}.nii.gz") is None:
                masks.add(scan, f"{scan.id}.nii.gz", FACTS, writer(value))
                found.append("done")
            else:
                found.append("kept")
    return found


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in visible(folder) if file.name != RECORD}


def record_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / RECORD).read_text())
    return content


def test_a_second_writer_is_refused_and_loses_nothing(tmp_path: Path, scans: list[Scan]) -> None:
    make(tmp_path / "out", scans[:1])
    masks = MaskFolder(tmp_path / "out", ONE, ["b"], overwrite=False)
    with sole_writer_in(tmp_path / "out"), refused(LockedError, "lock.held") as refusal, masks.writing():
        pass
    assert refusal.problem.where == str(tmp_path / "out")
    assert f"process {os.getpid()} " in refusal.problem.found
    assert make(tmp_path / "out", scans) == ["kept", "done"]


def test_what_another_process_wrote_before_the_lock_was_had_is_kept(tmp_path: Path, scans: list[Scan]) -> None:
    early = MaskFolder(tmp_path / "out", ONE, ["b"], overwrite=False)
    make(tmp_path / "out", scans[:1])
    with early.writing():
        early.add(scans[1], "b.nii.gz", FACTS, writer(1))
    assert sorted(record_of(tmp_path / "out")["scans"]) == ["a", "b"]
    late = MaskFolder(tmp_path / "new", ONE, ["b"], overwrite=False)
    make(tmp_path / "new", scans[:1], OTHER)
    with refused(StateError, "predict.masks-of-another-model"), late.writing():
        pass


def test_masks_are_replaced_one_by_one(tmp_path: Path, scans: list[Scan]) -> None:
    folder = tmp_path / "out"
    make(folder, scans)
    before = bytes_of(folder)
    masks = MaskFolder(folder, OTHER, ["a", "b"], overwrite=True)
    with masks.writing():
        assert bytes_of(folder) == before
        masks.add(scans[0], "a.nii.gz", FACTS, writer(2))
        assert bytes_of(folder)["b.nii.gz"] == before["b.nii.gz"]
    # The scan b failed: its mask is still there, as that of the model that made it.
    record = read_record(folder)
    assert record is not None
    assert {case: entry.made_by for case, entry in record.scans.items()} == {"a": OTHER}
    assert {case: entry.made_by for case, entry in record.old.items()} == {"b": ONE}
    # Masks of two models are not added to, whichever of them comes.
    for model in (ONE, OTHER):
        with refused(StateError, "predict.masks-of-another-model"):
            make(folder, scans, model)
    assert make(folder, scans, OTHER, 2, overwrite=True) == ["done", "done"]
    assert "old" not in record_of(folder)
    assert make(folder, scans, OTHER) == ["kept", "kept"]


def test_a_replacement_cut_off_before_the_renaming_leaves_the_old_mask_known(tmp_path: Path, scans: list[Scan]) -> None:
    folder = tmp_path / "out"
    make(folder, scans)

    class Killed(BaseException):
        pass

    def cut(file: Path) -> None:
        writer(2)(file)
        raise Killed

    masks = MaskFolder(folder, ONE, ["a"], overwrite=True)
    with pytest.raises(Killed), masks.writing():
        masks.add(scans[0], "a.nii.gz", FACTS, cut)
    assert make(folder, scans) == ["kept", "kept"]
    # As a process leaves it that ends between the record and the renaming, and between the renaming and the record.
    content, old = record_of(folder), bytes_of(folder)
    make(folder, scans[:1], value=2, overwrite=True)
    new = record_of(folder)["scans"]["a"]
    made_by = {key: content[key] for key in ("model", "checkpoints", "mirroring")}
    both = {**content, "scans": {**content["scans"], "a": new}, "old": {"a": {**content["scans"]["a"], **made_by}}}
    for mask in (old["a.nii.gz"], bytes_of(folder)["a.nii.gz"]):
        (folder / "a.nii.gz").write_bytes(mask)
        (folder / RECORD).write_text(json.dumps(both))
        assert make(folder, scans) == ["kept", "kept"]
        assert (folder / "a.nii.gz").read_bytes() == mask
        assert "old" not in record_of(folder)


def test_a_mask_in_another_format_goes_when_the_new_one_is_there(tmp_path: Path, scans: list[Scan]) -> None:
    import SimpleITK

    folder = tmp_path / "out"
    masks = MaskFolder(folder, ONE, ["a"], overwrite=False)
    image = SimpleITK.GetImageFromArray(label_map())
    with masks.writing():
        masks.add(scans[0], "a.nrrd", FACTS, lambda file: SimpleITK.WriteImage(image, str(file)))
    masks = MaskFolder(folder, ONE, ["a"], overwrite=False)
    with refused(StateError, "predict.mask-of-other-scan") as refusal, masks.writing():
        masks.kept(scans[0], "a.nii.gz")
    assert "--overwrite" in refusal.problem.fix
    assert make(folder, scans[:1], overwrite=True) == ["done"]
    assert [*bytes_of(folder)] == ["a.nii.gz"]


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mhd", "c.nii.gz"])
def test_files_that_nobody_has_on_record_are_never_replaced(tmp_path: Path, scans: list[Scan], name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(b"a label")
    for overwrite in (False, True):
        with refused(StateError, "predict.masks-of-another-model") as refusal:
            make(tmp_path / "out", scans, overwrite=overwrite)
        assert "--overwrite" not in refusal.problem.fix
    assert bytes_of(tmp_path / "out") == {name: b"a label"}


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
def test_what_was_put_among_our_masks_is_never_replaced(tmp_path: Path, scans: list[Scan], kind: str) -> None:
    folder, own = tmp_path / "out", tmp_path / "own.nii.gz"
    make(folder, scans[1:])
    target, content = folder / "a.nii.gz", save(own, label_map()).read_bytes()
    if kind == "folder":
        target.mkdir()
        (target / "notes.txt").touch()
    elif kind == "file":
        target.write_bytes(content)
    else:
        target.symlink_to(own if kind == "link" else tmp_path / "nothing")
    for overwrite in (False, True):
        with refused(StateError, "predict.mask-of-other-scan") as refusal:
            make(folder, scans, overwrite=overwrite)
        assert "--overwrite" not in refusal.problem.fix
    assert own.read_bytes() == content
    assert target.is_symlink() or target.is_file() or (target / "notes.txt").is_file()


def test_a_link_is_replaced_by_the_mask_and_what_it_led_to_stays(tmp_path: Path, scans: list[Scan]) -> None:
    folder = tmp_path / "out"
    make(folder, scans)
    elsewhere = tmp_path / "elsewhere.nii.gz"
    (folder / "a.nii.gz").rename(elsewhere)
    (folder / "a.nii.gz").symlink_to(elsewhere)
    os.link(folder / "b.nii.gz", tmp_path / "hard.nii.gz")
    before = elsewhere.read_bytes(), (tmp_path / "hard.nii.gz").read_bytes()
    assert make(folder, scans, value=2, overwrite=True) == ["done", "done"]
    assert (elsewhere.read_bytes(), (tmp_path / "hard.nii.gz").read_bytes()) == before


def test_pictures_of_others_are_left_alone(tmp_path: Path, scans: list[Scan]) -> None:
    folder = tmp_path / "out"
    make(folder, scans)
    (folder / "a.png").write_bytes(b"a figure of mine, by Matplotlib")
    (folder / "b.dcm").write_bytes(b"a file of mine")
    make(folder, scans, value=2, overwrite=True)
    masks = MaskFolder(folder, ONE, ["a", "b"], overwrite=False)
    with masks.writing():
        for case, ending in (("a", PREVIEW), ("b", DICOM_SEG)):
            with refused(StateError, "predict.file-in-the-way"):
                masks.beside(case, ending, lambda file: file.touch())
        masks.beside("b", PREVIEW, content_of(b"our picture"))
        masks.beside("a", DICOM_SEG, content_of(b"our segmentation"))
    (folder / "a.dcm").write_bytes(b"edited")
    make(folder, scans, overwrite=True)
    assert sorted(bytes_of(folder)) == ["a.dcm", "a.nii.gz", "a.png", "b.dcm", "b.nii.gz"]


def of_version_0_2(folder: Path) -> None:
    """Make the record of a folder one that knows no digests."""
    content = record_of(folder)
    for entry in content["scans"].values():
        entry.pop("sha256")
        entry.pop("beside", None)
    (folder / RECORD).write_text(json.dumps(content))


def test_masks_of_version_0_2_are_kept_and_replaced(tmp_path: Path, scans: list[Scan]) -> None:
    folder = tmp_path / "out"
    make(folder, scans)
    (folder / "a.png").write_bytes(b"\x89PNG Software Matplotlib version 3")
    (folder / "b.png").write_bytes(b"a photograph")
    of_version_0_2(folder)
    assert make(folder, scans) == ["kept", "kept"]
    of_version_0_2(folder)
    assert make(folder, scans, OTHER, 2, overwrite=True) == ["done", "done"]
    assert sorted(bytes_of(folder)) == ["a.nii.gz", "b.nii.gz", "b.png"]


def test_a_mask_that_was_changed_after_a_record_of_version_0_2_stays(tmp_path: Path, scans: list[Scan]) -> None:
    folder = tmp_path / "out"
    make(folder, scans)
    of_version_0_2(folder)
    os.utime(folder / RECORD, ns=(1, 1))
    edited = bytes_of(folder)
    for _ in range(2):
        assert make(folder, scans) == ["kept", "kept"]
        with refused(StateError, "predict.mask-edited"):
            make(folder, scans, overwrite=True)
    assert bytes_of(folder) == edited


ENTRY: dict[str, Any] = {
    "mask": "a.nii.gz", "sha256": "0" * 64, "volumes_ml": {"tumor": 1.0}, "quality": None, "slabs": 1, "beside": {},
    "files": [[["/scans/a.nii.gz", 1, 2]]],
}  # fmt: skip
FOLD = "fold_all/checkpoint_final.pth"
ODD_OF_ENTRY: dict[str, list[Any]] = {
    "mask": ["../a.nii.gz", "/a.nii.gz", "sub/a.nii.gz", "b.nii.gz", "a.png", "a", "", 7, None],
    "sha256": ["x", 7, [], "A" * 64],
    "files": [None, {}, [7], [[]], [[["a"]]], [[["a", 1]]], [[["a", "1", 2]]], [[[1, 2, 3]]], [[["a\0", 1, 2]]]],
    "volumes_ml": [7, [], {"tumor": "1"}, {"tumor": None}, {"tumor": 1e999}],
    "quality": [7, [], {}, {"review": 1, "reasons": []}, {"review": True, "reasons": [7]}],
    "slabs": [0, -1, 1.5, "1", None, True],
    "beside": [7, [], {"b.png": "0" * 64}, {"../a.png": "0" * 64}, {"a.png": 7}],
}
ODD_OF_RECORD: dict[str, list[Any]] = {
    "model": [7, None, "a\0"],
    "checkpoints": [None, [], {"../x": [1, 2]}, {FOLD: 7}, {FOLD: ["1", "2"]}, {f"/{FOLD}": [1, 2]}],
    "mirroring": ["yes", 1],
    "scans": [[], 7, {"a": None}, {"a": []}, {"a": 7}, {"a": "a"}],
    "old": [7, {"a": ENTRY}],
}
ODD_RECORDS: list[Any] = [None, [], 7, "text", {}]
ODD_RECORDS += [{**ONE.as_dict(), name: odd} for name, values in ODD_OF_RECORD.items() for odd in values]
ODD_RECORDS += [
    {**ONE.as_dict(), "scans": {"a": {**ENTRY, name: odd}}} for name, values in ODD_OF_ENTRY.items() for odd in values
]


@pytest.mark.parametrize("content", ODD_RECORDS)
def test_nothing_in_a_record_is_believed(tmp_path: Path, scans: list[Scan], content: Any) -> None:
    text = json.dumps(content)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / RECORD).write_text(text)
    for overwrite in (False, True):
        with refused(StateError, "predict.record-damaged"):
            make(tmp_path / "out", scans, overwrite=overwrite)
    assert (tmp_path / "out" / RECORD).read_text() == text


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"model": ' + "9" * 5000 + "}", "\ufeff{}", "\0"])
def test_a_record_that_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with refused(StateError, "predict.record-damaged"):
        read_record(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "fifo", "dangling link"])
def test_what_has_the_records_name_and_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / RECORD
    if kind == "folder":
        file.mkdir()
    elif kind == "fifo":
        os.mkfifo(file)
    else:
        file.symlink_to("none")
    with refused(StateError, "predict.record-damaged"):
        read_record(tmp_path)


def test_scans_that_a_record_names_are_opened_while_they_are_what_was_segmented(
    tmp_path: Path, scans: list[Scan]
) -> None:
    make(tmp_path / "out", scans)
    record = read_record(tmp_path / "out")
    assert record is not None
    assert recorded_sources(record.scans["a"]) == list(scans[0].files)
    header, data = tmp_path / "scan.mhd", tmp_path / "scan.raw"
    for file in (header, data):
        file.write_bytes(b"of one volume")
    files = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in (header, data)]
    assert recorded_sources(replace(record.scans["a"], files=[files])) == [header]
    secret = tmp_path / "secret"
    secret.write_text("not to be read")
    for path in (str(secret), "secret", "/dev/zero", str(tmp_path), str(tmp_path / "none")):
        with refused(StateError, "predict.scan-changed"):
            recorded_sources(replace(record.scans["a"], files=[[[path, 1, 2]]]))


def test_f73_masks_are_of_the_model_as_it_is_now(tmp_path: Path, scans: list[Scan]) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    weights = model / "fold_all" / "checkpoint_final.pth"
    weights.parent.mkdir(parents=True)
    for file in (weights, model / "plans.json", model / "dataset.json"):
        file.write_text("first")
    before = MadeBy.of(model, mirroring=True)
    assert make(out, scans, before) == ["done", "done"]
    os.utime(weights, ns=(1, 1))
    assert make(out, scans, MadeBy.of(model, mirroring=True)) == ["kept", "kept"]
    for file in (weights, model / "plans.json", model / "dataset.json"):
        keeping_times(file, lambda file: file.write_text("other"))
        with refused(StateError, "predict.masks-of-older-model"):
            make(out, scans, MadeBy.of(model, mirroring=True))
        file.write_text("first")
    # Of version 0.2: sizes and times alone.
    os.utime(weights, ns=(1, 1))
    old = MadeBy(str(model), {"fold_all/checkpoint_final.pth": [5, 1]}, mirroring=True)
    assert old.is_still(MadeBy.of(model, mirroring=True))
    assert not replace(old, checkpoints={"fold_all/checkpoint_final.pth": [5, 2]}).is_still(before)


def test_f70_scans_that_change_their_names_do_not_change_their_masks(tmp_path: Path) -> None:
    first, second = (save(tmp_path / "scans" / f"{case}.nii", ramp() + (case == "b")) for case in "ab")
    scans = [Scan(file.stem, (file,)) for file in (first, second)]
    for file in (first, second):
        os.utime(file, ns=(1, 1))
    assert first.stat().st_size == second.stat().st_size
    assert make(tmp_path / "out", scans) == ["done", "done"]
    exchange(first, second)
    with refused(StateError, "predict.mask-of-other-scan"):
        make(tmp_path / "out", scans)
    record = read_record(tmp_path / "out")
    assert record is not None
    with refused(StateError, "predict.scan-changed"):
        recorded_sources(record.scans["a"])
    exchange(first, second)
    os.utime(first, ns=(2, 2))
    assert make(tmp_path / "out", scans) == ["kept", "kept"]
    assert recorded_sources(record.scans["a"]) == [first]
