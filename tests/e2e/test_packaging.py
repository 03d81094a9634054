"""The wheel holds all that the tool needs."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from shell import Shell

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_wheel_works_without_the_checkout(shell: Shell, tmp_path: Path) -> None:
    built = shell.process("-m", "pip", "wheel", ROOT, "--no-deps", "--quiet", "-w", tmp_path)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("pclauto-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert {"pcl_auto/plans/default.toml", "pcl_auto/plans/quick.toml", "pcl_auto/py.typed"} <= names
        assert {f"pcl_auto/report/page.{kind}" for kind in ("html", "css", "js")} <= names
        assert not any(name.startswith(("tests/", "plans/")) for name in names)
        archive.extractall(tmp_path / "site")
    script = (
        "import pcl_auto, pcl_auto.recipe.load as load; print(pcl_auto.__file__, load.load_recipe('quick').name);"
        "import pcl_auto.nnunet.training.joint_trainer"
    )
    done = shell.process("-c", script, PYTHONPATH=tmp_path / "site")
    assert done.returncode == 0, done.stderr
    location, name = done.stdout.split()[:2]
    assert Path(location).is_relative_to(tmp_path / "site")
    assert name == "quick"
