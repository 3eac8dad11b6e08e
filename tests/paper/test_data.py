"""`veilbench data`: what is here; downloads that break, lie, resume or have no network, from a server on loopback."""

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support import Cli

from bench.datasets.downloads import SOURCES, Remote, Source, fetch
from bench.errors import DataError

WEIGHTS = "20180402-114759-vggface2.pt"
CONTENT = bytes(range(256)) * 4000  # a megabyte: several chunks


@dataclass
class Server:
    """What the server gives, how much of it before it hangs up, and what was asked of it."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    breaks_after: int | None = None
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    shared = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            shared.asked.append((self.path, wanted))
            whole = shared.files.get(self.path)
            if whole is None:
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and shared.ranges else 0
            if start > len(whole):
                self.send_error(416)
                return
            rest = whole[start:]
            self.send_response(206 if wanted and shared.ranges else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: shared.breaks_after])

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    shared.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield shared
    http.shutdown()
    http.server_close()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_download_is_checked_and_not_made_twice(server: Server, tmp_path: Path, cli: Cli) -> None:
    server.files[f"/{WEIGHTS}"] = CONTENT
    command = ("data", "fetch", "facenet", "--into", str(tmp_path), "--mirror", server.url, "-q")
    done = cli(*command, "--sha256", _sha256(CONTENT))
    target = tmp_path / "weights" / WEIGHTS
    assert done.stdout.strip() == str(target) and target.read_bytes() == CONTENT
    cli(*command, "--sha256", _sha256(CONTENT))
    assert len(server.asked) == 1
    assert [path.name for path in target.parent.iterdir()] == [WEIGHTS]


def test_another_file_is_not_kept(server: Server, tmp_path: Path, cli: Cli) -> None:
    server.files[f"/{WEIGHTS}"] = CONTENT
    done = cli("data", "fetch", "facenet", "--into", str(tmp_path), "--mirror", server.url, "-q", status=2)
    assert "does not have the sha256 281cebca8662" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not list((tmp_path / "weights").iterdir())


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, tmp_path: Path, cli: Cli, ranges: bool) -> None:
    server.files[f"/{WEIGHTS}"] = CONTENT
    server.breaks_after, server.ranges = 600_000, ranges
    command = ("data", "fetch", "facenet", "--into", str(tmp_path), "--mirror", server.url, "-q")
    done = cli(*command, "--sha256", _sha256(CONTENT), status=2)
    assert "stopped after" in done.stderr and "same command to resume" in done.stderr
    target = tmp_path / "weights" / WEIGHTS
    part = target.with_name(f"{WEIGHTS}.part")
    had = part.stat().st_size
    assert not target.exists() and 0 < had <= 600_000 and part.read_bytes() == CONTENT[:had]
    server.breaks_after = None
    cli(*command, "--sha256", _sha256(CONTENT))
    assert target.read_bytes() == CONTENT and not part.exists()
    assert server.asked[-1] == (f"/{WEIGHTS}", f"bytes={had}-")


def test_no_network_no_file_and_no_room_for_a_guess(server: Server, tmp_path: Path, cli: Cli) -> None:
    into = ("--into", str(tmp_path), "-q")
    gone = cli("data", "fetch", "lpips", *into, "--mirror", "http://127.0.0.1:9", status=2)
    assert "cannot be reached; without a network, download it elsewhere" in gone.stderr
    refused = cli("data", "fetch", "lpips", *into, "--mirror", server.url, status=2)
    assert "404" in refused.stderr
    unknown = cli("data", "fetch", "facnet", *into, status=2)
    assert "Did you mean 'facenet'?" in unknown.stderr
    owned = cli("data", "fetch", "celeba", *into, status=2)
    assert "may not be downloaded by this program" in owned.stderr
    (tmp_path / "weights" / WEIGHTS).write_bytes(b"mine")
    taken = cli("data", "fetch", "facenet", *into, "--mirror", server.url, status=2)
    assert "move it away" in taken.stderr and (tmp_path / "weights" / WEIGHTS).read_bytes() == b"mine"
    for told in (gone, refused, unknown, owned, taken):
        assert len(told.stderr.strip().splitlines()) == 1, told.stderr


def test_a_part_of_something_else_is_thrown_away(server: Server, tmp_path: Path) -> None:
    source = Source("s", "", ("s.bin",), "", "", (Remote(f"{server.url}/s.bin", "s.bin", _sha256(CONTENT)),))
    server.files["/s.bin"] = CONTENT
    (tmp_path / "s.bin.part").write_bytes(b"x" * (len(CONTENT) + 5))
    with pytest.raises(DataError):
        fetch(source, tmp_path)
    assert fetch(source, tmp_path) == [tmp_path / "s.bin"]
    assert (tmp_path / "s.bin").read_bytes() == CONTENT


def _archive(names: list[str]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 3
            tar.addfile(entry, io.BytesIO(b"jpg"))
    return data.getvalue()


def test_an_archive_is_unpacked_whole_or_not_at_all(server: Server, tmp_path: Path) -> None:
    def source(data: bytes) -> Source:
        server.files["/lfw.tgz"] = data
        remote = Remote(f"{server.url}/lfw.tgz", "lfw/images", _sha256(data), unpack=True)
        return Source("lfw", "", ("lfw/images",), "", "", (remote,))

    for bad in (_archive(["../outside.jpg"]), _archive(["a/1.jpg", "b/1.jpg"]), b"no archive"):
        with pytest.raises(DataError, match=r"lfw\.tgz: "):
            fetch(source(bad), tmp_path)
        assert not (tmp_path / "lfw/images").exists() and not (tmp_path / "outside.jpg").exists()
        assert [path.suffix for path in (tmp_path / "lfw").iterdir()] == [".tgz"]
    fetch(source(_archive(["lfw/Ann/Ann_0001.jpg"])), tmp_path)
    assert [p.name for p in (tmp_path / "lfw").rglob("*") if p.is_file()] == ["Ann_0001.jpg"]


def test_status_says_what_is_here(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "celeba").mkdir()
    (tmp_path / "celeba" / "000001.jpg").write_bytes(b"picture")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / WEIGHTS).write_bytes(CONTENT)
    told = json.loads(cli("data", "status", "--json", VEILBENCH_DATA=str(tmp_path)).stdout)
    by_name = {entry["name"]: entry for entry in told}
    assert set(by_name) == set(SOURCES)
    assert [name for name, entry in by_name.items() if entry["found"]] == ["celeba", "facenet"]
    assert by_name["facenet"]["places"][0]["sha256"] == _sha256(CONTENT)
    assert by_name["facenet"]["places"][0]["as_published"] is False
    assert by_name["celeba"]["places"][0]["files"] == 1
    for entry in told:
        assert entry["licence"] and entry["how"] and all(p["path"].startswith(str(tmp_path)) for p in entry["places"])
    text = cli("data", "status", "--into", str(tmp_path)).stdout
    assert "casia_webface: missing" in text and "apply to CASIA" in text
    assert "set the environment variable VEILBENCH_DATA" in cli("data", "status", status=2, VEILBENCH_DATA="").stderr


def test_only_what_may_be_fetched_can_be() -> None:
    assert [name for name, source in SOURCES.items() if source.remotes] == ["lfw", "facenet", "lpips"]
    assert all(len(remote.sha256) == 64 for source in SOURCES.values() for remote in source.remotes)
