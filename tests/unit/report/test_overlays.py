from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from pcl_auto.data.palette import COLORS, rgb
from pcl_auto.inference.preview import draw
from pcl_auto.report.overlays import (
    LONGEST_SIDE,
    MAX_CHANNELS,
    MAX_SLICES,
    Volume,
    draw_planes,
    shown_slices,
)


def picture(uri: str) -> Image.Image:
    head, content = uri.split(",")
    assert head in ("data:image/webp;base64", "data:image/png;base64")
    return Image.open(io.BytesIO(base64.b64decode(content)))


def ball(shape: tuple[int, int, int], center: tuple[int, int, int], radius: float) -> np.ndarray:
    places = np.indices(shape) - np.array(center)[:, None, None, None]
    inside: np.ndarray = (places**2).sum(0) <= radius**2
    return inside.astype(np.int16)


def test_planes_go_through_the_largest_structure_not_a_speck() -> None:
    labels = 7 * ball((40, 50, 60), (12, 20, 33), 5) + 7 * ball((40, 50, 60), (35, 45, 5), 1)
    shown = draw_planes(Volume(np.zeros((1, 40, 50, 60), np.float32), {"m": labels}, (1, 1, 1)), [7])
    assert [plane.slices[plane.start] for plane in shown] == [12, 20, 33]


def test_masks_are_drawn_where_the_labels_are_in_the_color_of_their_class() -> None:
    labels = np.zeros((4, 40, 40), np.int16)
    labels[1:3, 5:15, 20:40] = 3
    plane = draw_planes(Volume(np.zeros((1, 4, 40, 40), np.float32), {"m": labels}, (1, 1, 1)), [1, 3])[0]
    strip = np.asarray(picture(plane.masks["m"]).convert("RGBA"))
    assert strip.shape[:2] == (len(plane.slices) * plane.height, plane.width)
    cut = strip[plane.start * plane.height :][: plane.height]
    scale = plane.height / 40
    assert tuple(cut[int(10 * scale), int(30 * scale)][:3]) == rgb(1)
    assert cut[int(10 * scale), int(30 * scale)][3] > 0
    assert cut[int(30 * scale), int(30 * scale)][3] == 0
    assert (cut[..., 3] > 0).mean() == pytest.approx(200 / 1600, rel=0.05)


def test_f90_hundreds_of_classes_are_drawn(tmp_path: Path) -> None:
    """More than a picture has colors; neighbors of one color have an outline between them all the same."""
    labels = np.zeros((4, 40, 40), np.int16)
    labels[:, :20], labels[:, 20:] = 300, 300 + len(COLORS)
    volume = Volume(np.zeros((1, 4, 40, 40), np.float32), {"p": labels, "l": labels}, (1, 1, 1))
    plane = draw_planes(volume, range(1, 501), outlined=["l"])[0]
    area, outline = (np.asarray(picture(plane.masks[name]).convert("RGBA")) for name in ("p", "l"))
    assert {tuple(pixel[:3]) for pixel in area.reshape(-1, 4)} == {rgb(299)}
    assert outline[plane.start * plane.height + plane.height // 2, plane.width // 2, 3] > 0
    assert outline[plane.start * plane.height + plane.height // 4, plane.width // 2, 3] == 0
    classes = {f"c{value}": (value,) for value in range(1, 501)}
    draw(volume.image[0], labels, (1, 1, 1), volume.direction, classes, "a", tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").width > 100


@pytest.mark.parametrize("downwards", [1, -1])
def test_a_preview_says_which_slices_how_much_and_how_sure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, downwards: int
) -> None:
    titles: list[str] = []
    monkeypatch.setattr(Axes, "set_title", lambda _self, text, **_more: titles.append(text))
    monkeypatch.setattr(Figure, "suptitle", lambda _self, text, **_more: titles.append(text))
    monkeypatch.setattr(Figure, "legend", lambda _self, _lines, names, **_more: titles.extend(names))
    labels = ball((40, 50, 60), (12, 20, 33), 5)
    quality = {"confidence": 0.713, "review": True, "reasons": ["a", "b", "c"]}
    direction = (1, 0, 0, 0, 1, 0, 0, 0, downwards)
    draw(labels, labels, (1, 1, 2), direction, {"core": (1,)}, "scan", tmp_path / "a.png", quality)
    assert titles == [
        "axial, slice 13 of 40", "coronal, slice 21 of 50", "sagittal, slice 34 of 60",
        "scan\nconfidence 0.71 · review: a; b and 1 more", f"core {2 * labels.sum() / 1000:.3g} ml",
    ]  # fmt: skip


def test_single_voxels_have_an_outline(tmp_path: Path) -> None:
    labels = np.zeros((9, 9, 9), np.int16)
    labels[4, 4, 4] = 1
    draw(labels * 0, labels, (1, 1, 1), (1, 0, 0, 0, 1, 0, 0, 0, 1), {"speck": (1,)}, "a", tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    pictures = pixels[60 : pixels.shape[0] - 60]  # without title and legend
    assert (np.abs(pictures - np.array(rgb(0))).max(2) < 40).sum() > 50


def test_an_outline_leaves_the_inside_free() -> None:
    labels = np.zeros((4, 40, 40), np.int16)
    labels[:, 10:30, 10:30] = 1
    volume = Volume(np.zeros((1, 4, 40, 40), np.float32), {"p": labels, "l": labels}, (1, 1, 1))
    plane = draw_planes(volume, [1], outlined=["l"])[0]
    area, outline = (np.asarray(picture(plane.masks[name]).convert("RGBA"))[..., 3] for name in ("p", "l"))
    middle = plane.start * plane.height + plane.height // 2, plane.width // 2
    assert area[middle] > 0
    assert outline[middle] == 0
    assert outline.any()


def test_an_outline_has_a_casing_on_both_sides() -> None:
    labels = np.zeros((4, 40, 40), np.int16)
    labels[:, 10:30, 10:30] = 1
    plane = draw_planes(Volume(np.zeros((1, 4, 40, 40), np.float32), {"l": labels}, (1, 1, 1)), [1], outlined=["l"])[0]
    strip = np.asarray(picture(plane.masks["l"]).convert("RGBA"))
    across = strip[plane.start * plane.height + plane.height // 2, : plane.width // 2]
    drawn = [tuple(pixel[:3]) for pixel in across if pixel[3]]
    assert drawn[0] == drawn[-1] == (255, 255, 255)
    assert set(drawn[1:-1]) == {rgb(0)}


def luminance(red: int, green: int, blue: int) -> float:
    linear = [
        (c / 255 / 12.92) if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("index", range(len(COLORS)))
def test_colors_are_seen_on_a_white_page_and_on_a_dark_one(index: int) -> None:
    own = luminance(*rgb(index))
    assert 1.05 / (own + 0.05) > 3
    assert (own + 0.05) / (luminance(20, 24, 29) + 0.05) > 3


def test_a_picture_has_the_shape_of_the_body_and_shows_its_intensities() -> None:
    image = np.zeros((1, 10, 40, 20), np.float32)
    image[:, :, :20] = 100
    plane = draw_planes(Volume(image, {"m": np.zeros((10, 40, 20), np.int16)}, (5, 1, 2)), [1])[0]
    assert (plane.width, plane.height) == (LONGEST_SIDE, LONGEST_SIDE)
    cut = np.asarray(picture(plane.channels[0]).convert("L"))[: plane.height]
    assert cut[: plane.height // 2 - 16].mean() > 240
    assert cut[plane.height // 2 + 16 :].mean() < 15


def test_the_head_is_up() -> None:
    image = np.zeros((1, 10, 10, 10), np.float32)
    image[:, 5:] = 1
    plane = draw_planes(Volume(image, {"m": np.zeros((10, 10, 10), np.int16)}, (1, 1, 1)), [1])[1]
    cut = np.asarray(picture(plane.channels[0]).convert("L"))[: plane.height]
    assert cut[: plane.height // 3].mean() > cut[-plane.height // 3 :].mean()


def test_the_patients_right_is_on_the_left_whatever_the_file_says() -> None:
    # x to the right, y to the front, z to the feet; what is bright lies right, front and near the feet.
    image = np.zeros((1, 20, 20, 20), np.float32)
    image[:, 10:, 10:, 10:] = 1
    volume = Volume(image, {"m": image[0]}, (1, 1, 1), (-1, 0, 0, 0, -1, 0, 0, 0, -1))
    axial, coronal, sagittal = draw_planes(volume, [1])
    assert [(plane.name, plane.left, plane.top) for plane in (axial, coronal, sagittal)] == [
        ("axial", "R", "A"), ("coronal", "R", "H"), ("sagittal", "A", "H"),
    ]  # fmt: skip
    for plane, (top, left) in ((axial, (0, 0)), (coronal, (1, 0)), (sagittal, (1, 0))):
        cut = np.asarray(picture(plane.channels[0]).convert("L"))[plane.start * plane.height :][: plane.height]
        half = plane.height // 2
        quarters = [[cut[:half, :half], cut[:half, half:]], [cut[half:, :half], cut[half:, half:]]]
        means = np.array([[quarter.mean() for quarter in row] for row in quarters])
        assert [int(place) for place in np.unravel_index(means.argmax(), (2, 2))] == [top, left]
        assert image[0].take(plane.slices[plane.start], axis=["axial", "coronal", "sagittal"].index(plane.name)).any()


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        (np.full((1, 5, 6, 7), np.nan), np.zeros((5, 6, 7))),
        (np.full((1, 5, 6, 7), 3.0), np.ones((5, 6, 7))),
        (np.where(np.indices((1, 5, 6, 7))[1] > 2, np.inf, 0), np.zeros((5, 6, 7))),
    ],
)
def test_scans_without_contrast_are_shown(image: np.ndarray, labels: np.ndarray) -> None:
    for plane in draw_planes(Volume(image, {"m": labels}, (1, 1, 1)), [1]):
        assert picture(plane.channels[0]).size == (plane.width, plane.height * len(plane.slices))


def test_a_2d_scan_has_one_plane() -> None:
    shown = draw_planes(Volume(np.zeros((1, 1, 30, 20)), {"m": np.zeros((1, 30, 20))}, (5, 1, 1)), [1])
    assert [plane.name for plane in shown] == ["axial"]


def test_slices_are_few_and_the_one_to_begin_with_is_among_them() -> None:
    for size, extent, center in ((500, (100, 400), 233), (5, (0, 4), 2), (1, (0, 0), 0), (100, (97, 99), 99)):
        slices = shown_slices(center, extent, size)
        assert center in slices
        assert len(slices) <= MAX_SLICES
        assert slices == sorted(set(slices))
        assert slices[0] >= 0
        assert slices[-1] < size


def test_a_large_scan_of_many_channels_stays_small() -> None:
    noise = np.random.default_rng(0).normal(size=(6, 60, 120, 120)).astype(np.float32)
    shown = draw_planes(Volume(noise, {"m": ball((60, 120, 120), (30, 60, 60), 28)}, (3, 1, 1)), [1])
    assert {len(plane.channels) for plane in shown} == {MAX_CHANNELS}


def test_fewer_slices_may_be_asked_for() -> None:
    labels = ball((40, 50, 60), (12, 20, 33), 9)
    shown = draw_planes(Volume(np.zeros((1, 40, 50, 60)), {"m": labels}, (1, 1, 1)), [1], max_slices=3)
    assert all(len(plane.slices) <= 3 for plane in shown)
    assert [plane.slices[plane.start] for plane in shown] == [12, 20, 33]
