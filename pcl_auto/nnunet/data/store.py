"""Fill the case store (every image preprocessed once, without its label) and the labeled views on it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from batchgenerators.utilities.file_and_folder_operations import write_pickle
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from pcl_auto.data.case import Case
from pcl_auto.data.identity import FileState, Identity, identify
from pcl_auto.errors import Problem, StateError
from pcl_auto.nnunet.data import store_records
from pcl_auto.nnunet.data.bias_field import preprocessor_of
from pcl_auto.nnunet.data.images import read_image, read_label
from pcl_auto.nnunet.data.store_records import case_files, is_sound
from pcl_auto.nnunet.data.thin_scans import spacing_to_keep
from pcl_auto.nnunet.trusted_plans import require_trusted
from pcl_auto.workspace.atomic import publish, staging_folder
from pcl_auto.workspace.files import link_relative

# A worker process imports torch and nnU-Net first; fewer voxels than this are done sooner without one.
VOXELS_WORTH_A_WORKER = 1.5e8
# Drawn from a case for the statistics of intensities. nnU-Net draws 1e8 from all cases together: as many as this of
# each of a hundred, but fifty million of each of two, which take ten seconds and say the same.
MAX_INTENSITIES_PER_CASE = 1_000_000


@dataclass(frozen=True)
class Preprocessing:
    """One way of preprocessing: a configuration of nnU-Net's plans.

    Raises:
        StateError: the plans name what nnU-Net does not, see :mod:`pcl_auto.nnunet.trusted_plans`.
    """

    plans: Mapping[str, Any]
    configuration: str
    dataset_json: Mapping[str, Any]

    def __post_init__(self) -> None:
        require_trusted(self.plans, self.dataset_json, self.plans.get("dataset_name", ""))

    def run(self, images: Sequence[Path], label: Path | None) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Crop, normalize and resample a case as nnU-Net does; bias correction first, where the plans say so.

        Returns:
            the image (C, z, y, x), float32; the label, or without one 0 inside and -1 outside the nonzero region
            (1, z, y, x), int16; and nnU-Net's properties.
        """
        manager = PlansManager(dict(self.plans))
        configuration = manager.get_configuration(self.configuration)
        data, properties = read_image(images)
        properties["spacing"] = spacing_to_keep(data, properties["spacing"], manager, configuration)
        data, seg, properties = preprocessor_of(configuration).run_case_npy(
            data,
            None if label is None else read_label(label),
            properties,
            manager,
            configuration,
            dict(self.dataset_json),
        )
        return data.astype(np.float32, copy=False), seg.astype(np.int16, copy=False), properties

    @property
    def patch_voxels(self) -> tuple[int, ...]:
        """The size of the patches that training reads; stored files are chunked for it."""
        return tuple(self.plans["configurations"][self.configuration]["patch_size"])

    def save(self, folder: Path, case: str, data: np.ndarray, seg: np.ndarray, properties: dict[str, Any]) -> None:
        """Write a case into ``folder`` as nnU-Net stores it."""
        write_case(folder, case, data, seg, properties, self.patch_voxels)


def write_case(
    folder: Path,
    case: str,
    data: np.ndarray,
    seg: np.ndarray,
    properties: dict[str, Any],
    patch_voxels: tuple[int, ...],
) -> None:
    """Write image (C, z, y, x), label map (1, z, y, x) and properties of a case into ``folder`` as nnU-Net reads it."""
    _write_array(case_files(folder, case)[0], data, patch_voxels)
    save_label(folder, case, seg, properties, patch_voxels)


def save_label(
    folder: Path, case: str, seg: np.ndarray, properties: dict[str, Any], patch_voxels: tuple[int, ...]
) -> None:
    """Write a label map (1, z, y, x) and a case's properties into ``folder`` as nnU-Net reads them."""
    _, seg_file, properties_file = case_files(folder, case)
    _write_array(seg_file, seg, patch_voxels)
    write_pickle(properties, str(properties_file))


def _write_array(file: Path, array: np.ndarray, patch_voxels: tuple[int, ...]) -> None:
    """Write ``array`` (C, z, y, x) in nnU-Net's format, chunked for patches of ``patch_voxels``."""
    blocks, chunks = comp_blosc2_params(array.shape, patch_voxels, array.itemsize)
    blosc2.asarray(
        np.ascontiguousarray(array),
        urlpath=str(file),
        chunks=chunks,
        blocks=blocks,
        # Several threads would write their blocks in whatever order they finish: another file every time.
        cparams={"codec": blosc2.Codec.LZ4HC, "clevel": 5, "nthreads": 1},
    )


def publish_case(staged: Path, folder: Path, case: str) -> None:
    """Move a complete case from ``staged`` to ``folder``, on the same file system."""
    folder.mkdir(parents=True, exist_ok=True)
    for source, target in zip(case_files(staged, case), case_files(folder, case), strict=True):
        if source.is_symlink():
            link_relative(target, source)
        else:
            publish(source, target)


def _store_image(how: Preprocessing, case: Case, folder: Path, image: str) -> None:
    before = _identity_of(case)
    if before.digest != image:
        raise _image_changed(case, "other bytes")
    preprocessed = how.run(case.files, None)
    if FileState.of(case.files) != before.state:
        raise _image_changed(case, "changed while it was read")
    with staging_folder(folder) as staged:
        how.save(staged, case.id, *preprocessed)
        files = store_records.checksums(case_files(staged, case.id))
        # No record while the files are of two makes: a case without one is made anew.
        store_records.record_file(folder, case.id).unlink(missing_ok=True)
        publish_case(staged, folder, case.id)
    store_records.write_record(folder, case.id, image, files)


def _identity_of(case: Case) -> Identity:
    try:
        return identify(case.files)
    except OSError as error:
        raise _image_changed(case, "the file is gone") from error


def _image_changed(case: Case, found: str) -> StateError:
    fix = "restore the file, or run `pclauto plan` again"
    return StateError(
        Problem("plan.image-changed", "image changed since it was planned", str(case.image), fix, found=found)
    )


def fill_store(
    how: Preprocessing,
    cases: Sequence[Case],
    images: Mapping[str, str],
    folder: Path,
    *,
    voxels: float,
    processes: int,
    progress: Callable[[int, int], None],
) -> None:
    """Preprocess the images of ``cases`` into ``folder``; leave cases alone that are there already and sound.

    Args:
        how: the preprocessing.
        cases: whose images; labels are not opened.
        images: the digest of the image of each case, as it was planned.
        folder: the case store.
        voxels: voxels of all images together, to judge whether worker processes pay.
        processes: how many worker processes at most.
        progress: told after each case how many are done, and of how many that were not there.

    Raises:
        StateError: an image is not the one that was planned.
    """
    with ThreadPoolExecutor(max(1, processes)) as pool:
        sound = list(pool.map(lambda case: is_sound(folder, case.id, images[case.id]), cases))
    missing = [case for case, is_there in zip(cases, sound, strict=True) if not is_there]
    if processes < 2 or voxels < VOXELS_WORTH_A_WORKER or len(missing) < 2:
        for done, case in enumerate(missing, start=1):
            _store_image(how, case, folder, images[case.id])
            progress(done, len(missing))
        return
    # Spawned, not forked: torch's threads do not survive a fork.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_store_image, how, case, folder, images[case.id]) for case in missing]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            progress(done, len(missing))


def fill_labeled_view(how: Preprocessing, cases: Sequence[Case], store: Path, view: Path) -> dict[str, Any]:
    """Make ``view`` a folder that holds exactly these labeled cases: links to the stored images, labels beside them.

    The view appears as a whole; one that is there is replaced.

    Returns:
        size and checksum of the files beside the links, for :func:`pcl_auto.nnunet.data.store_records.is_whole_view`.
    """
    with staging_folder(view) as staged:
        whole = staged / view.name
        whole.mkdir()
        for case in cases:
            _, seg, properties = how.run(case.files, _label_of(case))
            image_target, stored = (case_files(folder, case.id)[0] for folder in (whole, store))
            # Relative to where the view will be, not to where it is made.
            image_target.symlink_to(os.path.relpath(stored.resolve(), view.parent.resolve() / view.name))
            save_label(whole, case.id, seg, properties, how.patch_voxels)
        files = store_records.checksums(file for case in cases for file in case_files(whole, case.id)[1:])
        publish(whole, view)
    return files


def foreground_intensities(
    cases: Sequence[Case], channels: int, ignored: int | None = None
) -> dict[str, dict[str, float]]:
    """Return intensity statistics of the foreground per channel, as nnU-Net's fingerprint has them.

    Args:
        cases: labeled cases, which alone are read.
        channels: how many channels their images have.
        ignored: the value of voxels that are no foreground.
    """
    per_case = min(MAX_INTENSITIES_PER_CASE, int(10e7 // len(cases)))
    samples: list[list[np.ndarray]] = [[] for _ in range(channels)]
    for case in cases:
        image, _ = read_image(case.files)
        image, label, _ = crop_to_nonzero(image, read_label(_label_of(case)))
        if ignored is not None:
            label[label == ignored] = 0
        values, _ = DatasetFingerprintExtractor.collect_foreground_intensities(label, image, num_samples=per_case)
        for channel, drawn in enumerate(values):
            samples[channel].append(np.asarray(drawn, dtype=np.float32))
    return {str(channel): intensity_statistics(np.concatenate(drawn)) for channel, drawn in enumerate(samples)}


def _label_of(case: Case) -> Path:
    if case.label is None:
        raise ValueError(f"case {case.id} has no label")
    return case.label


def intensity_statistics(values: np.ndarray) -> dict[str, float]:
    """Return what nnU-Net's fingerprint says of the intensities of a channel."""
    if values.size == 0:
        values = np.zeros(1, dtype=np.float32)
    low, median, high = np.percentile(values, (0.5, 50.0, 99.5))
    return {
        "mean": float(values.mean()),
        "median": float(median),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
        "percentile_99_5": float(high),
        "percentile_00_5": float(low),
    }
