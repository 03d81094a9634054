"""Test what ``pclauto download`` lists, prints and writes; the download itself is tested with the library."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from archives import INDEX, TASK, pack

from pcl_auto.cli import main
from pcl_auto.data import download as archives
from pcl_auto.data.download import Archive


def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; return its exit code, stdout and stderr."""
    monkeypatch.setattr("sys.argv", ["pclauto", "download", *arguments])
    with pytest.raises(SystemExit) as end:
        main.run()
    out, err = capfd.readouterr()
    return int(end.value.code or 0), out, err


@pytest.mark.parametrize("arguments", [(), ("--list",), ("5", "--list")])
def test_the_ten_tasks(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    code, out, _ = run(monkeypatch, capfd, *arguments)
    assert code == 0
    assert "Task05_Prostate" in out
    assert "MR (T2, ADC)" in out
    assert out.count("CC BY-SA 4.0") == 10
    _, out, _ = run(monkeypatch, capfd, *arguments, "--json")
    assert [entry["name"][:6] for entry in json.loads(out)] == [f"Task{number:02d}" for number in range(1, 11)]
    assert all(entry["license"] == entry["licence"] for entry in json.loads(out))  # the key of version 0.1


def test_download_then_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    content = pack([INDEX])
    (tmp_path / f"{TASK}.tar").write_bytes(content)
    monkeypatch.setattr(archives, "ARCHIVES", (Archive(TASK, hashlib.md5(content).hexdigest(), 0.1, "MR", 2, 1),))
    monkeypatch.setenv("PCLAUTO_DATA", str(tmp_path / "data"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *details: Any) -> None:
            super().__init__(*details, directory=str(tmp_path))

        def log_message(self, *_details: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/"
        code, out, err = run(monkeypatch, capfd, "toy", "--base-url", url)
        server.shutdown()
        thread.join()
    assert (code, out) == (0, "")
    assert "next: pclauto plan" in err
    assert (tmp_path / "data" / TASK / "dataset.json").is_file()
    code, _, err = run(monkeypatch, capfd, "9", "--base-url", url)
    assert code == 0
    assert "already there" in err
    code, out, _ = run(monkeypatch, capfd, "9", "--json")
    assert json.loads(out)["downloaded"] is False


def test_a_name_that_is_none(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(monkeypatch, capfd, "prostrate")
    assert (code, out) == (2, "")
    assert "similar: Task05_Prostate" in err
