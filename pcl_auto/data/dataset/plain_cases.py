"""Find the cases of plain folders by the names of their files, without opening one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pcl_auto.data.case import Case
from pcl_auto.data.dataset.name_matching import group_channels, pair
from pcl_auto.data.dataset.plain_listing import list_folder
from pcl_auto.data.dataset.safe_paths import DatasetRoot, refuse_case_id
from pcl_auto.errors import Problem


@dataclass(frozen=True)
class Sources:
    """The folders of a data set to be: images, masks of some of them, and images that are kept for tests."""

    images: Path
    masks: Path
    test_images: Path | None = None

    @property
    def folders(self) -> dict[str, Path]:
        """Every folder by what it holds."""
        tests = {} if self.test_images is None else {"test images": self.test_images}
        return {"images": self.images, "masks": self.masks, **tests}


@dataclass(frozen=True)
class Found:
    """Cases, those for tests with ``imagesTs`` as their source, and how many masks were matched in which way."""

    cases: tuple[Case, ...]
    matched: Mapping[str, int]
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def find_cases(sources: Sources) -> Found:
    """Match the files of folders by their names, and judge the names."""
    folders = sources.folders
    listings = {
        kind: list_folder(folder, kind.removesuffix("s"), [*folders.values()]) for kind, folder in folders.items()
    }
    pairing = pair(listings["images"].files, listings["masks"].files)
    tests = listings["test images"].files if "test images" in listings else {}
    testing = group_channels(tests, channels_named=pairing.channels_named)
    training = [
        Case(case, first, pairing.masks.get(case), "imagesTr", tuple(further))
        for case, (first, *further) in pairing.cases.items()
    ]
    test = [Case(case, first, None, "imagesTs", tuple(further)) for case, (first, *further) in testing.cases.items()]
    problems = [problem for listing in listings.values() for problem in listing.problems]
    problems += [*pairing.problems, *testing.problems]
    problems += [*_names((*training, *test)), *_twice(training, test, sources.images)]
    warnings = [warning for listing in listings.values() for warning in listing.warnings()]
    return Found((*training, *test), pairing.how, tuple(problems), tuple(warnings))


def _names(cases: Sequence[Case]) -> Iterator[Problem]:
    for case in cases:
        if problem := refuse_case_id(case.id, str(case.image)):
            yield replace(problem, fix="rename the image, and its mask likewise")


def _twice(training: Sequence[Case], test: Sequence[Case], images: Path) -> list[Problem]:
    """Return the problems of names and files that are there twice, through whatever links."""
    seen = DatasetRoot(images)
    here, in_test = (
        [case for case in cases if all(file.is_file() for file in (*case.files, case.label or case.image))]
        for cases in (training, test)
    )
    for cases, kind in ((here, "the images"), (in_test, "the test images")):
        seen.refuse_repeated_ids(cases, kind)
        seen.refuse_repeated_images(cases, kind)
    seen.refuse_shared_labels(here)
    seen.refuse_test_images(here, in_test)
    index = str(seen.root / "dataset.json")
    return [replace(problem, where=problem.where.replace(index, str(images))) for problem in seen.problems]
