"""The ten tasks of the Medical Segmentation Decathlon: published facts, and fingerprints that agree with them.

Channels, classes and numbers of cases: each task's own ``dataset.json``. Spacings, sizes and plans: nnU-Net's default
plans (``ExperimentPlanner``, 8 GB) of the full data sets, as the AutoNNUnet project logged them with its baselines
(github.com/automl/AutoNNUnet, ``output/baseline/*/3d_fullres/fold_0/debug.json``); patches and spacings are those of
Isensee et al., Nature Methods 2021, but for Colon's patch (56 x 192 x 160 there). The prostate's 32 real geometries
say the same. Smallest and largest spacings and sizes are in none of these, so they are not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Triple = tuple[float, float, float]
Sizes = tuple[int, int, int]

# nnU-Net normalizes inside the nonzero mask where cropping to it leaves less than three quarters of the image.
MASKED, WHOLE = 0.5, 1.0


@dataclass(frozen=True)
class DecathlonTask:
    """One task; axes are z, y, x, spacings in mm, sizes in voxels."""

    number: int
    name: str
    channels: tuple[str, ...]
    # Foreground alone, values 1, 2, ...
    classes: tuple[str, ...]
    training: int
    test: int
    # Medians over the training cases as they are, and after resampling to nnU-Net's spacing of 3d_fullres.
    median_spacing_mm: Triple
    median_size: Sizes
    target_spacing_mm: Triple
    resampled_size: Sizes
    relative_size_after_cropping: float
    # nnU-Net's plans at 8 GB: 3d_fullres, 2d, and 3d_lowres where there is one.
    patch: Sizes
    batch: int
    stages: int
    patch_2d: tuple[int, int]
    lowres_patch: Sizes | None

    @property
    def is_ct(self) -> bool:
        return self.channels == ("CT",)

    @property
    def is_masked(self) -> bool:
        """True if so much of the image is air of value 0 that nnU-Net normalizes the rest alone."""
        return self.relative_size_after_cropping < 0.75

    @property
    def folder_name(self) -> str:
        return f"Task{self.number:02d}_{self.name}"

    @property
    def dataset_name(self) -> str:
        return f"Dataset{self.number:03d}_{self.name}"

    def dataset_json(self) -> dict[str, Any]:
        """Return nnU-Net's dataset.json of the whole data set."""
        return {
            "name": self.dataset_name,
            "channel_names": {str(index): name for index, name in enumerate(self.channels)},
            "labels": {"background": 0, **{name: value for value, name in enumerate(self.classes, start=1)}},
            "numTraining": self.training,
            "file_ending": ".nii.gz",
        }

    def geometry(self, number: int, resampled_size: Sizes) -> tuple[Triple, Sizes]:
        """Return spacing and size of a case whose size is ``resampled_size`` at the target spacing.

        Two fifths of the cases have thin slices, two fifths thick ones, the others are between them: so each published
        median, and the target as the tenth percentile, falls on the group that is made for it.
        """
        thin_mm, thick_mm = self.target_spacing_mm[0], self.median_spacing_mm[0]
        spacing_mm = (thin_mm if number % 5 in (0, 2) else thick_mm, *self.target_spacing_mm[1:])
        slices = resampled_size[0] * thin_mm / spacing_mm[0]
        # Where all slices are equally thick, the two medians differ for reasons that are not published.
        if number % 5 == 4 and thin_mm != thick_mm:
            slices = self.median_size[0] * resampled_size[0] / self.resampled_size[0]
        return spacing_mm, (round(slices), *resampled_size[1:])

    def fingerprint(self) -> dict[str, Any]:
        """Return a fingerprint of the full data set, made of published facts without its voxels."""
        cases = [self.geometry(number, self.resampled_size) for number in range(self.training)]
        return {
            "spacings": [list(spacing_mm) for spacing_mm, _ in cases],
            "shapes_after_crop": [list(size) for _, size in cases],
            "foreground_intensity_properties_per_channel": {},
            "median_relative_size_after_cropping": self.relative_size_after_cropping,
        }


DECATHLON = (
    DecathlonTask(
        1, "BrainTumour", ("FLAIR", "T1w", "t1gd", "T2w"), ("edema", "non-enhancing tumor", "enhancing tumour"),
        484, 266,
        (1, 1, 1), (138, 169, 138), (1, 1, 1), (138, 169, 138), MASKED,
        (128, 128, 128), 2, 6, (192, 160), None,
    ),
    DecathlonTask(
        2, "Heart", ("MRI",), ("left atrium",), 20, 10,
        (1.37, 1.25, 1.25), (115, 320, 232), (1.37, 1.25, 1.25), (115, 320, 232), MASKED,
        (80, 192, 160), 2, 6, (320, 256), None,
    ),
    DecathlonTask(
        3, "Liver", ("CT",), ("liver", "cancer"), 131, 70,
        (1, 0.767578125, 0.767578125), (432, 512, 512), (1, 0.767578125, 0.767578125), (482, 512, 512), WHOLE,
        (128, 128, 128), 2, 6, (512, 512), (128, 128, 128),
    ),
    DecathlonTask(
        4, "Hippocampus", ("MRI",), ("Anterior", "Posterior"), 260, 130,
        (1, 1, 1), (36, 50, 35), (1, 1, 1), (36, 50, 35), WHOLE,
        (40, 56, 40), 9, 4, (56, 40), None,
    ),
    DecathlonTask(
        5, "Prostate", ("T2", "ADC"), ("PZ", "TZ"), 32, 16,
        (3.6, 0.625, 0.625), (20, 320, 320), (3.6, 0.625, 0.625), (20, 320, 319), WHOLE,
        (20, 320, 256), 2, 7, (320, 320), None,
    ),
    DecathlonTask(
        6, "Lung", ("CT",), ("cancer",), 63, 32,
        (1.24498, 0.78515625, 0.78515625), (252, 512, 512), (1.24498, 0.78515625, 0.78515625), (252, 512, 512), WHOLE,
        (80, 192, 160), 2, 6, (512, 512), (80, 192, 160),
    ),
    DecathlonTask(
        7, "Pancreas", ("CT",), ("pancreas", "cancer"), 281, 139,
        (2.5, 0.802734, 0.802734), (93, 512, 512), (2.5, 0.802734, 0.802734), (96, 512, 512), WHOLE,
        (40, 224, 224), 2, 6, (512, 512), (64, 192, 192),
    ),
    DecathlonTask(
        8, "HepaticVessel", ("CT",), ("Vessel", "Tumour"), 303, 140,
        (5, 0.798828, 0.798828), (49, 512, 512), (1.5, 0.798828, 0.798828), (150, 512, 512), WHOLE,
        (64, 192, 192), 2, 6, (512, 512), (64, 192, 192),
    ),
    DecathlonTask(
        9, "Spleen", ("CT",), ("spleen",), 41, 20,
        (5, 0.792969, 0.792969), (90, 512, 512), (1.60001, 0.792969, 0.792969), (187, 512, 512), WHOLE,
        (64, 192, 160), 2, 6, (512, 512), (64, 192, 192),
    ),
    DecathlonTask(
        10, "Colon", ("CT",), ("colon cancer primaries",), 126, 64,
        (5, 0.78125, 0.78125), (95, 512, 512), (3, 0.78125, 0.78125), (150, 512, 512), WHOLE,
        (56, 192, 192), 2, 6, (512, 512), (96, 160, 160),
    ),
)  # fmt: skip
