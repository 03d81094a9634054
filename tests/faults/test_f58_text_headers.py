"""F58 to F61: MetaImage and NRRD scans that are damaged, lie nowhere, lead elsewhere, or have changed beside."""

from __future__ import annotations

import gzip
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from headed_files import Changes, metaimage, nrrd
from tiny_model import make_model

from pcl_auto.errors import UsageError
from pcl_auto.inference.estimate import estimate_prediction
from pcl_auto.inference.predict import Outputs, Prediction, predict
from pcl_auto.nnunet.inference.predictor import ModelPredictor

SHAPE = (8, 9, 10)
SIZES: dict[str, Changes] = {
    ".mha": {"DimSize": "8 9 10", "ElementType": "MET_FLOAT"},
    ".nrrd": {"sizes": "8 9 10", "type": "float"},
}
PLAIN = Outputs(quality=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("f58") / "model")


def scan(seed: int = 0) -> bytes:
    return np.random.default_rng(seed).normal(100, 20, SHAPE).astype("<f4").tobytes()


def segment(scans: Path, model: Path, **options: bool) -> dict[str, Prediction]:
    found = predict(
        [scans],
        scans.parent / "out",
        model,
        device="cpu",
        mirroring=False,
        outputs=PLAIN,
        listener=lambda _event, _values: None,
        **options,
    )
    return {each.id: each for each in found}


def codes_of(results: dict[str, Prediction]) -> dict[str, str]:
    return {case: result.problems[0].code if result.problems else result.status for case, result in results.items()}


def damage(file: Path, place: float = 0.66) -> None:
    content = bytearray(file.read_bytes())
    content[int(len(content) * place)] ^= 4
    file.write_bytes(content)


def test_f58_damaged_scans_are_refused_beside_sound_ones(tmp_path: Path, model: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in [
        "sound.mha",
        "flipped.mha",
        "cut.mha",
        "sound2.nrrd",
        "flipped2.nrrd",
        "cut2.nrrd",
        "apart.mhd",
        "apart2.nhdr",
    ]:
        image = SimpleITK.GetImageFromArray(np.frombuffer(scan(), "<f4").reshape(SHAPE))
        SimpleITK.WriteImage(image, str(scans / name), useCompression=True)
    for name in ("flipped.mha", "flipped2.nrrd", "apart.zraw", "apart2.raw.gz"):
        damage(scans / name)
    for name in ("cut.mha", "cut2.nrrd"):
        (scans / name).write_bytes((scans / name).read_bytes()[:-100])
    assert codes_of(segment(scans, model)) == {
        "sound": "done", "sound2": "done", "cut": "data.truncated", "cut2": "data.truncated",
        **dict.fromkeys(("flipped", "flipped2", "apart", "apart2"), "header.damaged-data"),
    }  # fmt: skip
    dry = estimate_prediction([scans], tmp_path / "dry", model, PLAIN, device="cpu", mirroring=False)
    assert {each.scan.id for each in dry if each.scan.status == "failed"} == {
        "cut", "cut2", "flipped", "flipped2", "apart", "apart2"
    }  # fmt: skip


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_f58_a_damaged_mask_is_made_anew(tmp_path: Path, model: Path, suffix: str) -> None:
    write = metaimage if suffix == ".mha" else nrrd
    (tmp_path / "scans").mkdir()
    write(tmp_path / f"scans/a{suffix}", SIZES[suffix], scan())
    options = {"device": "cpu", "mirroring": False, "listener": lambda _event, _values: None}
    outputs = Outputs(quality=False, keep_format=True)
    for damaged, expected in ((False, "done"), (False, "kept"), (True, "done")):
        mask = tmp_path / f"out/a{suffix}"
        if damaged:
            mask.write_bytes(mask.read_bytes()[:-20])
        (result,) = predict([tmp_path / "scans"], tmp_path / "out", model, outputs=outputs, **options)  # type: ignore[arg-type]
        assert result.status == expected


def test_f59_places_that_are_none_are_refused_beside_sound_scans(tmp_path: Path, model: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    cases: dict[str, tuple[Changes, str]] = {
        "sound.mha": ({}, "done"),
        "nan.mha": ({"ElementSpacing": "nan 1 1"}, "header.spacing"),
        "zero.mha": ({"ElementSpacing": "0 1 1"}, "header.spacing"),
        "backwards.mha": ({"ElementSpacing": "-1 1 1"}, "header.spacing"),
        "parallel.mha": ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "header.orientation"),
        "nowhere.mha": ({"Offset": "nan 0 0"}, "header.origin"),
        "sound2.nrrd": ({}, "done"),
        "nan2.nrrd": ({"space directions": "(nan,nan,nan) (0,1,0) (0,0,1)"}, "header.spacing"),
        "zeros.nrrd": ({"space directions": "(0,0,0) (0,0,0) (0,0,0)"}, "header.spacing"),
        "sheared.nrrd": ({"space directions": "(1,0,0) (0.5,1,0) (0,0,1)"}, "header.orientation"),
        "large.nrrd": ({"sizes": "40000 40000 40000"}, "data.truncated"),
    }
    for name, (changes, _) in cases.items():
        suffix = Path(name).suffix
        write = metaimage if suffix == ".mha" else nrrd
        write(scans / name, {**SIZES[suffix], **changes}, scan())
    assert codes_of(segment(scans, model)) == {Path(name).stem: code for name, (_, code) in cases.items()}


def test_f60_voxels_in_other_places_are_not_read(tmp_path: Path, model: Path) -> None:
    scans, secret = tmp_path / "scans", tmp_path / "elsewhere" / "secret.raw"
    scans.mkdir()
    secret.parent.mkdir()
    secret.write_bytes(scan())
    (scans / "link.raw").symlink_to(secret)
    (scans / "raw.raw").write_bytes(scan())
    metaimage(scans / "absolute.mhd", {**SIZES[".mha"], "ElementDataFile": str(secret)})
    metaimage(scans / "upwards.mha", {**SIZES[".mha"], "ElementDataFile": "../elsewhere/secret.raw"})
    metaimage(scans / "linked.mhd", {**SIZES[".mha"], "ElementDataFile": "link.raw"})
    nrrd(scans / "listed.nhdr", {**SIZES[".nrrd"], "data file": "LIST 3"}, None, str(secret))
    nrrd(scans / "stdin.nhdr", {**SIZES[".nrrd"], "data file": "-"})
    metaimage(scans / "sound.mhd", {**SIZES[".mha"], "ElementDataFile": "raw.raw"})
    secret.chmod(0)  # whoever opens it now fails, unless as root
    outside = dict.fromkeys(("absolute", "upwards", "linked", "listed", "stdin"), "header.data-outside")
    assert codes_of(segment(scans, model)) == {**outside, "sound": "done"}


@pytest.mark.parametrize(
    ("header", "changes", "data"),
    [
        ("a.mhd", {**SIZES[".mha"], "ElementDataFile": "a.raw"}, "a.raw"),
        ("a.nhdr", {**SIZES[".nrrd"], "data file": "a.raw"}, "a.raw"),
        ("a.nhdr", {**SIZES[".nrrd"], "encoding": "gzip", "data file": "a.raw.gz"}, "a.raw.gz"),
    ],
)
def test_f61_a_scan_whose_voxels_were_exchanged_beside_its_header_is_another(
    tmp_path: Path, model: Path, header: str, changes: Changes, data: str
) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    (metaimage if header.endswith(".mhd") else nrrd)(scans / header, changes)

    def put(seed: int) -> None:
        content = scan(seed)
        (scans / data).write_bytes(gzip.compress(content, mtime=0) if data.endswith(".gz") else content)

    put(0)
    assert codes_of(segment(scans, model)) == {"a": "done"}
    assert codes_of(segment(scans, model)) == {"a": "kept"}
    header_time = (scans / header).stat().st_mtime_ns
    time.sleep(0.02)
    put(1)
    assert (scans / header).stat().st_mtime_ns == header_time
    assert codes_of(segment(scans, model)) == {"a": "predict.mask-of-other-scan"}
    assert codes_of(segment(scans, model, overwrite=True)) == {"a": "done"}


def test_f61_masks_may_not_lie_among_the_voxels(tmp_path: Path, model: Path) -> None:
    (tmp_path / "scans/voxels").mkdir(parents=True)
    metaimage(tmp_path / "scans/a.mhd", {**SIZES[".mha"], "ElementDataFile": "voxels/a.raw"})
    (tmp_path / "scans/voxels/a.raw").write_bytes(scan())
    (tmp_path / "out").symlink_to("scans/voxels")
    with pytest.raises(UsageError):
        segment(tmp_path / "scans", model)


def test_f61_a_scan_that_changes_while_it_is_segmented_gets_no_mask(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    metaimage(scans / "a.mhd", {**SIZES[".mha"], "ElementDataFile": "a.raw"})
    metaimage(scans / "b.mha", SIZES[".mha"], scan())
    (scans / "a.raw").write_bytes(scan())
    segment_whole = ModelPredictor.segment

    def exchange(self: ModelPredictor, files: Any, **options: Any) -> Any:
        found = segment_whole(self, files, **options)
        time.sleep(0.02)
        (scans / "a.raw").write_bytes(scan(1))
        return found

    monkeypatch.setattr(ModelPredictor, "segment", exchange)
    assert codes_of(segment(scans, model)) == {"a": "data.changed-meanwhile", "b": "done"}
    assert not (tmp_path / "out/a.nii.gz").exists()
    monkeypatch.undo()
    assert codes_of(segment(scans, model)) == {"a": "done", "b": "kept"}
