"""The checkpoint that a user means: a file, a folder, or an address of a hub, served on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, serving
from pretrained_files import adaptation_plan, architecture, network, write_nnssl
from refusal import refused

from pcl_auto.errors import StateError, UsageError
from pcl_auto.nnunet.pretrained.find import find_checkpoint, find_source
from pcl_auto.nnunet.pretrained.source import read_source
from pcl_auto.workspace.files import file_digest

# The hub's package reads where the hub is when it is imported.
SCRIPT = """
import json, sys
from pcl_auto.errors import PclautoError
from pcl_auto.nnunet.pretrained.find import find_source
try:
    found = find_source(sys.argv[1])
    print(json.dumps({"file": str(found.file), "address": found.address, "digest": found.digest}))
except PclautoError as error:
    (problem,) = error.problems
    print(json.dumps({**problem.as_dict(), "kind": type(error).__name__}))
"""


@dataclass
class Client:
    """A process of a user of the hub, with a cache of its own."""

    hub: Hub
    folder: Path

    def find(self, address: str, **variables: str) -> dict[str, Any]:
        """Return what :func:`find_source` finds, or the problem that it ends with and the kind of error."""
        places = {"HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.folder / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, address],
            env={**os.environ, **places, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """A user of a hub with one model, whose repository holds more than that."""
    folder, empty = tmp_path / "served", tmp_path / "nothing"
    of = architecture()
    write_nnssl(folder, network(of).state_dict(), adaptation_plan(of), inside=False)
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    (folder / "training_log.txt").write_text("long")
    empty.mkdir()
    with serving({"owner/model": folder, "owner/empty": empty}) as hub:
        yield Client(hub, tmp_path)


def test_a_model_of_a_hub_has_the_revision_that_was_fetched(client: Client) -> None:
    found = client.find("hf://owner/model")
    assert found["address"] == f"hf://owner/model@{client.hub.revision}"
    assert found["digest"] == file_digest(client.folder / "served" / "checkpoint_final.pth")
    source = read_source(Path(found["file"]), found["address"])
    assert source.license == "cc-by-4.0"
    assert source.described.architecture == architecture()  # of the file beside the checkpoint
    assert not any(path.endswith("training_log.txt") for path in client.hub.asked)
    # Pinned, the same address names the same files, here already and without the hub.
    assert client.find(found["address"]) == found
    asked = len(client.hub.asked)
    assert client.find(found["address"], HF_HUB_OFFLINE="1") == found
    assert len(client.hub.asked) == asked


@pytest.mark.parametrize("address", ["hf://owner/none", "hf://owner/model@other"])
def test_f108_what_the_hub_does_not_have(client: Client, address: str) -> None:
    found = client.find(address)
    assert found["kind"] == "UsageError"
    assert found["code"] == "pretrained.not-on-hub"
    assert found["where"] == address


def test_a_repository_without_a_checkpoint(client: Client) -> None:
    assert client.find("hf://owner/empty")["code"] == "model.no-start"


def test_f108_a_hub_that_cannot_be_reached(client: Client) -> None:
    for variables in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        found = client.find("hf://owner/model", **variables)
        assert found["kind"] == "ResourceError"
        assert found["code"] == "pretrained.hub-unreachable"
        assert "name their folder" in found["fix"]


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://model",
        "hf://a/b/c",
        "hf://owner/model@",
        "hf://../../etc",
        "hf://../..",
        "hf://-a/b",
        "hf://a--b/c..d",
    ],
)
def test_no_address(address: str) -> None:
    with refused(UsageError, "pretrained.no-address"):
        find_source(address)


def test_without_the_package_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with refused(UsageError, "pretrained.no-hub-client") as refusal:
        find_source("hf://owner/model")
    assert "pclauto[hub]" in refusal.problem.fix


def test_a_file_a_folder_or_that_of_a_fold(tmp_path: Path) -> None:
    fold = tmp_path / "model" / "fold_all"
    fold.mkdir(parents=True)
    file = fold / "checkpoint_final.pth"
    file.write_bytes(b"weights")
    for given in (file, fold, fold.parent):
        found = find_source(str(given))
        assert found.file == file
        assert found.address == str(given)
        assert found.digest == file_digest(file)


def test_nothing_or_too_much_there(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nowhere"), "~nosuchuser/weights", "w" * 300, "w\0"):
        with refused(UsageError, "pretrained.unknown-source") as refusal:
            find_source(name)
        assert "hf://OWNER/NAME" in refusal.problem.expected
    with refused(StateError, "model.no-start"):
        find_checkpoint(tmp_path)
    for fold in ("fold_0", "fold_1"):
        (tmp_path / fold).mkdir()
        (tmp_path / fold / "checkpoint_final.pth").touch()
    with refused(StateError, "model.several-starts") as refusal:
        find_source(str(tmp_path))
    assert refusal.problem.found == "fold_0 | fold_1"
