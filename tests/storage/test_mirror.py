"""Artefacts at a URL: made once for machines that share no file system, and never trusted blindly."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.core import url_to_fs
from support import CONFIG, Cli, figures

from bench.errors import UserError
from bench.storage.store import Store


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of an empty place: in this process, or on an S3 server on loopback."""
    if request.param == "memory":
        yield "memory://bucket/veilbench"
        fsspec.filesystem("memory").rm("/bucket", recursive=True)
        return
    moto = pytest.importorskip("moto.server", reason="needs moto: make test-s3")
    s3fs = pytest.importorskip("s3fs", reason="needs s3fs: make test-s3")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{uuid.uuid4().hex}"  # the server's memory is the process's, and outlives it
    s3fs.S3FileSystem().mkdir(bucket)
    yield f"s3://{bucket}/veilbench"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def _write(text: str, calls: list[str]):  # type: ignore[no-untyped-def]
    def write(folder: Path) -> None:
        calls.append(text)
        (folder / "part").mkdir()
        (folder / "part/a.txt").write_text(text)

    return write


def test_what_one_store_made_another_takes(tmp_path: Path, url: str) -> None:
    calls: list[str] = []
    Store(tmp_path / "one", url).make("kind", "key", _write("here", calls))
    other = Store(tmp_path / "other", url)
    found = other.get("kind", "key")
    assert found is not None and (found / "part/a.txt").read_text() == "here"
    other.make("kind", "key", _write("again", calls))
    assert calls == ["here"]
    assert Store(tmp_path / "third").get("kind", "key") is None


@pytest.mark.parametrize("harm", ["changed", "of another key", "unfinished"])
def test_what_comes_damaged_is_made_again(tmp_path: Path, url: str, harm: str) -> None:
    calls: list[str] = []
    Store(tmp_path / "one", url).make("kind", "key", _write("here", calls))
    files, root = url_to_fs(url)
    if harm == "changed":
        files.pipe(f"{root}/kind/key/part/a.txt", b"there")
    elif harm == "unfinished":
        files.rm(f"{root}/kind/key/manifest.json")
    else:
        files.cp(f"{root}/kind/key", f"{root}/kind/other", recursive=True)
    key = "other" if harm == "of another key" else "key"
    store = Store(tmp_path / "two", url)
    assert store.get("kind", key) is None
    made = store.make("kind", key, _write("anew", calls))
    assert (made / "part/a.txt").read_text() == "anew" and calls == ["here", "anew"]
    fresh = Store(tmp_path / "three", url).get("kind", key)
    assert fresh is not None and (fresh / "part/a.txt").read_text() == "anew", "the mirror was mended too"


def test_urls_that_lead_nowhere_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.mirror = 'nowhere://x'"):
        Store(tmp_path, "nowhere://x")


def test_a_run_elsewhere_goes_on_from_the_mirror(tmp_path: Path, cli: Cli) -> None:
    shared = (tmp_path / "shared").as_uri()
    outcomes = []
    for machine in ("one", "two"):
        place = tmp_path / machine
        place.mkdir()
        (place / "bench.toml").write_text(CONFIG.replace('store = "store"', f'store = "store"\nmirror = "{shared}"'))
        cli("run", "--quiet", "--set", 'run.defenses=["unprotected", "laplace"]', cwd=place)
        outcomes.append(figures(place / "out/main"))
    assert outcomes[0] == outcomes[1]
    paths = [path for machine in ("one", "two") for path in (tmp_path / machine).rglob("attack_state/*/info.json")]
    spent = [info["train_s"] for path in paths if (info := json.loads(path.read_text())) and "train_s" in info]
    assert spent and len(spent) == 2 * len(set(spent)), "the second trained nothing: it has the first one's account"
