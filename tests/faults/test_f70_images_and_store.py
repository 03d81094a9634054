"""F70, F71: an image is the one that was planned, a stored case is whole and of that image, or neither is used."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from kept_times import exchange, flip_bit, keeping_times
from refusal import refused
from refusals import image, label, rewrite, small_task
from toys import patch

from pcl_auto.errors import StateError
from pcl_auto.nnunet.data import store, store_records
from pcl_auto.planning.inputs import require_planned_images
from pcl_auto.planning.make_plan import plan_task
from pcl_auto.planning.plan import PlanSettings, read_plan
from pcl_auto.planning.split_plans import prepare_split
from pcl_auto.training.request import TrainRequest, resolve_run
from pcl_auto.workspace.events import silent
from pcl_auto.workspace.files import file_digest, read_json, write_json
from pcl_auto.workspace.folders import DatasetFolder, Workspace

SETTINGS = PlanSettings(memory_gb=1.0)
CASE, OTHER = "phantom_001", "phantom_002"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planned and prepared task of two labeled and two unlabeled cases."""
    folder = tmp_path_factory.mktemp("made")
    task = small_task(folder, labeled=2, unlabeled=2)
    for file in task.rglob("*.nii.gz"):
        rewrite(file, lambda voxels: voxels[::4, ::4])
    plan(folder)
    prepare(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it, planned again where it is now."""
    shutil.copytree(made, tmp_path / "own", symlinks=True)
    plan(tmp_path / "own")
    return tmp_path / "own"


def task_of(folder: Path) -> Path:
    (found,) = folder.glob("Task*")
    return found


def workspace(folder: Path) -> Workspace:
    return Workspace.at(folder / "work", "test")


def data_of(folder: Path) -> DatasetFolder:
    return workspace(folder).dataset(None)


def plan(folder: Path) -> None:
    plan_task(task_of(folder), workspace(folder), SETTINGS)


def prepare(folder: Path) -> str:
    run = resolve_run(TrainRequest(labeled_cases=(CASE,), recipe="quick"), workspace(folder))
    return prepare_split(
        run.plan, run.split, run.recipe, run.data, configuration=run.configuration, listener=silent
    ).store


def store_of(folder: Path) -> Path:
    (found,) = (data_of(folder).pclauto_dir / "store").iterdir()
    return found


def digests(place: Path) -> dict[str, str]:
    return {str(file.relative_to(place)): file_digest(file) for file in sorted(place.rglob("*")) if file.is_file()}


def test_f70_an_image_of_the_same_size_and_time(folder: Path) -> None:
    changed = image(task_of(folder), 1)
    keeping_times(changed, lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\x01"))
    with refused(StateError, "plan.image-changed") as refusal:
        prepare(folder)
    assert (refusal.problem.where, refusal.problem.found) == (str(changed), "other bytes")


def test_f70_images_that_changed_their_places(folder: Path) -> None:
    exchange(image(task_of(folder), 1), image(task_of(folder), 2))
    with refused(StateError, "plan.image-changed", "plan.image-changed"):
        prepare(folder)


def test_f70_an_image_that_was_touched_alone_is_the_same(folder: Path) -> None:
    os.utime(image(task_of(folder), 1), ns=(1, 1))
    before = digests(store_of(folder))
    prepare(folder)
    assert digests(store_of(folder)) == before


def test_f70_an_old_plan_knows_size_and_time_alone(folder: Path) -> None:
    data = data_of(folder)
    content = read_json(data.plan_file)
    for entry in content["cases"].values():
        del entry["digest"]
    write_json(data.plan_file, content)
    data.checks_file.unlink()
    prepare(folder)
    plan(folder)  # which is not made anew, and learns the digests
    again = read_json(data.plan_file)
    assert again["nnunet_plans"] == content["nnunet_plans"]
    assert all(entry["digest"] for entry in again["cases"].values())
    os.utime(image(task_of(folder), 1), ns=(1, 1))
    write_json(data.plan_file, content)
    with refused(StateError, "plan.image-changed"):
        prepare(folder)


def test_f80_a_plan_whose_lists_lack_an_axis(folder: Path) -> None:
    data = data_of(folder)
    content = read_json(data.plan_file)
    for name in ("shapes_after_crop", "spacings"):
        damaged = json.loads(json.dumps(content))
        del damaged["fingerprint"][name][1][0]
        write_json(data.plan_file, damaged)
        with refused(StateError, "run.file-unreadable") as refusal:
            plan(folder)
        assert refusal.problem.where == str(data.plan_file)
        assert f"fingerprint.{name}[1]: expected a list of 3" in refusal.problem.found


@pytest.mark.parametrize("damage", [lambda affine: affine.pop(), lambda affine: affine[1].append(1.0)])
def test_f80_checks_on_file_that_make_no_sense_are_made_anew(
    folder: Path, damage: Callable[[list[list[float]]], object]
) -> None:
    file = data_of(folder).checks_file
    content = read_json(file)
    damaged = json.loads(json.dumps(content))
    damage(damaged["images"][CASE]["volume"]["affine"])
    write_json(file, damaged)
    plan(folder)
    assert read_json(file) == content


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


@pytest.mark.parametrize("damage", [flip_bit, cut, Path.unlink], ids=["bit", "cut", "gone"])
@pytest.mark.parametrize("which", [0, 1, 2], ids=["image", "region", "properties"])
@pytest.mark.parametrize("again", [plan, prepare])
def test_f71_a_damaged_stored_case_is_made_anew(
    folder: Path, damage: Callable[[Path], None], which: int, again: Callable[[Path], object]
) -> None:
    place = store_of(folder)
    before = digests(place)
    file = store_records.case_files(place, CASE)[which]
    if damage is Path.unlink:
        damage(file)
    else:
        keeping_times(file, damage)
    again(folder)
    assert digests(place) == before


def test_f71_a_damaged_store_is_not_looked_at(folder: Path) -> None:
    place = store_of(folder)
    store_records.refuse_damaged_store(place, [CASE, OTHER])
    flip_bit(store_records.case_files(place, OTHER)[0])
    with refused(StateError, "plan.stored-case-damaged") as refusal:
        store_records.refuse_damaged_store(place, [CASE, OTHER])
    assert refusal.problem.found == OTHER


def test_f70_another_image_is_shown_to_nobody(folder: Path) -> None:
    planned = read_plan(data_of(folder))
    require_planned_images(planned, [CASE, OTHER], data_of(folder))
    keeping_times(image(task_of(folder), 2), lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\x01"))
    require_planned_images(planned, [CASE], data_of(folder))
    with refused(StateError, "plan.image-changed"):
        require_planned_images(planned, [CASE, OTHER], data_of(folder))


def test_f71_stored_cases_that_changed_their_places(folder: Path) -> None:
    place = store_of(folder)
    before = digests(place)
    for mine, other in zip(store_records.case_files(place, CASE), store_records.case_files(place, OTHER), strict=True):
        exchange(mine, other)
    prepare(folder)
    assert digests(place) == before


def test_f71_a_store_without_records_is_made_anew(folder: Path) -> None:
    place = store_of(folder)
    before = digests(place)
    shutil.rmtree(data_of(folder).pclauto_dir / "store_records")
    flip_bit(store_records.case_files(place, CASE)[0])
    plan(folder)
    assert digests(place) == before


def test_f71_a_plan_that_is_killed_while_another_scan_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan, place = image(task_of(folder), 1), store_of(folder)
    before, kept = digests(place), scan.with_name("kept")
    times = scan.stat()
    shutil.copy2(scan, kept)
    rewrite(scan, lambda voxels: voxels[..., ::-1])
    os.utime(scan, ns=(times.st_atime_ns, times.st_mtime_ns))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pcl_auto.planning.make_plan.write_plan", killed)
        with pytest.raises(KeyboardInterrupt):
            plan(folder)
    assert digests(place) != before
    shutil.copy2(kept, scan)
    kept.unlink()
    prepare(folder)  # by the plan of before
    assert digests(place) == before


@pytest.mark.parametrize("point", ["sync:1", "rename:1", "rename:2", "rename:3", "rename:4", "renamed:3", "renamed:4"])
def test_f71_a_kill_while_a_case_is_stored_anew(folder: Path, point: str) -> None:
    """Kill a process that puts one image in the place of another, and put the first image back."""
    scan, place = image(task_of(folder), 1), store_of(folder)
    before, planned = digests(place), read_plan(data_of(folder))
    scan.rename(scan.with_name("kept"))
    shutil.copy2(image(task_of(folder), 2), scan)
    child = os.fork()
    if child == 0:
        os.environ["PCLAUTO_FAULT"] = point
        how = store.Preprocessing(planned.nnunet, planned.configuration, planned.dataset_json)
        case = planned.cases[CASE]
        digest = file_digest(scan)
        store.fill_store(how, [case], {CASE: digest}, place, voxels=1, processes=1, progress=lambda _done, _total: None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    scan.with_name("kept").rename(scan)
    prepare(folder)
    assert digests(place) == before


@pytest.mark.parametrize("which", [1, 2], ids=["label", "properties"])
def test_f71_a_damaged_label_beside_the_store_is_made_anew(folder: Path, which: int) -> None:
    prepare(folder)
    view = data_of(folder).path / "splits"
    before = digests(view)
    (file,) = view.rglob(store_records.case_files(view, CASE)[which].name)
    keeping_times(file, flip_bit)
    prepare(folder)
    assert digests(view) == before


def test_f71_a_link_to_another_stored_image_is_made_anew(folder: Path) -> None:
    (link,) = (data_of(folder).path / "splits").rglob(f"{CASE}.b2nd")
    link.unlink()
    link.symlink_to(store_records.case_files(store_of(folder), OTHER)[0])
    prepare(folder)
    assert link.resolve() == store_records.case_files(store_of(folder), CASE)[0].resolve()


def test_f71_copies_to_validate_with_are_of_the_label_that_is_there(folder: Path) -> None:
    from pcl_auto.planning.ground_truth import copy_of, require_ground_truth

    data, drawn = data_of(folder), label(task_of(folder), 1)
    prepare(folder)
    copy, first = copy_of(data, CASE), file_digest(drawn)
    before = file_digest(copy)
    require_ground_truth(data, {CASE: first})
    keeping_times(drawn, lambda file: rewrite(file, lambda voxels: voxels * 0 + 1))
    os.utime(copy, ns=(2**62, 2**62))
    prepare(folder)
    assert file_digest(copy) != before
    require_ground_truth(data, {CASE: file_digest(drawn)})
    with refused(StateError, "run.label-changed") as refusal:
        require_ground_truth(data, {CASE: first})
    assert refusal.problem.where == str(copy)
    flip_bit(copy)
    with refused(StateError, "run.label-changed"):
        require_ground_truth(data, {CASE: file_digest(drawn)})


def test_f71_an_image_that_changes_while_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan, run = image(task_of(folder), 1), store.Preprocessing.run

    def slow(*given: object) -> object:
        found = run(*given)  # type: ignore[arg-type]
        patch(scan, 4, "<h", 1)
        return found

    monkeypatch.setattr(store.Preprocessing, "run", slow)
    shutil.rmtree(store_of(folder))
    with refused(StateError, "plan.image-changed") as refusal:
        plan(folder)
    assert refusal.problem.found == "changed while it was read"


def test_f71_a_label_that_changes_while_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, run = label(task_of(folder), 1), store.Preprocessing.run

    def slow(how: store.Preprocessing, images: object, given: Path | None) -> object:
        found = run(how, images, given)  # type: ignore[arg-type]
        if given is not None:
            patch(drawn, 4, "<h", 1)
        return found

    monkeypatch.setattr(store.Preprocessing, "run", slow)
    shutil.rmtree(data_of(folder).path / "splits")
    with refused(StateError, "plan.changed-meanwhile") as refusal:
        prepare(folder)
    assert refusal.problem.where == str(drawn)
