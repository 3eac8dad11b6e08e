"""The store: atomic, verified, shared."""

import errno
import logging
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.contracts import State
from bench.errors import UserError
from bench.storage import files
from bench.storage.arrays import Rows, read_array, read_state, write_arrays, write_state
from bench.storage.keys import content_key
from bench.storage.store import Store


def _write(text: str):  # type: ignore[no-untyped-def]
    def write(folder: Path) -> None:
        (folder / "a.txt").write_text(text)

    return write


def test_what_is_made_once_is_not_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = store.make("thing", "k", _write("first"))
    assert store.make("thing", "k", _write("second")) == made
    assert (made / "a.txt").read_text() == "first"
    assert store.get("thing", "other") is None


@pytest.mark.parametrize("damage", ["change", "truncate", "remove", "manifest", "no manifest"])
def test_damage_is_noticed_said_and_mended(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = Store(tmp_path).make("thing", "k", _write("good"))
    file, manifest = folder / "a.txt", folder / "manifest.json"
    match damage:
        case "change":
            file.write_text("evil")
        case "truncate":
            file.write_text("")
        case "remove":
            file.unlink()
        case "manifest":
            manifest.write_text("{")
        case "no manifest":
            manifest.unlink()
    store = Store(tmp_path)
    with caplog.at_level(logging.WARNING, "veilbench"):
        assert store.get("thing", "k") is None
    assert "damaged" in caplog.text
    assert (store.make("thing", "k", _write("good")) / "a.txt").read_text() == "good"


def test_a_failed_or_killed_making_leaves_nothing_that_counts(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        store.make("thing", "k", fail)
    assert store.get("thing", "k") is None
    assert [p for p in (tmp_path / "thing").iterdir()] == []
    (tmp_path / "thing" / ".part-killed").mkdir()
    assert store.clean(keep=set()) == (1, 0)


def test_clean_keeps_what_is_needed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.make("thing", "keep", _write("1"))
    store.make("thing", "drop", _write("12345"))
    assert store.clean({"keep"}, dry_run=True)[0] == 1
    assert store.get("thing", "drop") is not None
    count, size = store.clean({"keep"})
    assert count == 1
    assert size > 5
    assert store.get("thing", "keep") is not None
    assert Store(tmp_path).get("thing", "drop") is None


def test_clean_keeps_its_hands_off_a_store_in_use(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.make("thing", "fresh", _write("1"))
    with store.in_use(), pytest.raises(UserError, match="a run is using this store"):
        Store(tmp_path).clean(set())
    assert store.get("thing", "fresh") is not None
    assert Store(tmp_path).clean(set())[0] == 1


def _race(root: str, log: str) -> None:
    def write(folder: Path) -> None:
        with open(log, "a") as file:
            file.write("made\n")
        time.sleep(0.3)
        (folder / "a.txt").write_text("x")

    Store(Path(root)).make("thing", "k", write)


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    racers = [context.Process(target=_race, args=(str(tmp_path / "store"), str(log))) for _ in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    assert log.read_text() == "made\n"


def test_states_and_arrays_come_back(tmp_path: Path) -> None:
    state = State({"w": torch.arange(6.0).reshape(2, 3).t()}, {"curve": [1.0, 0.5]})
    write_state(tmp_path, state)
    back = read_state(tmp_path)
    assert back is not None
    assert torch.equal(back.tensors["w"], state.tensors["w"])
    assert back.info == state.info
    write_arrays(tmp_path, {"x": np.arange(3)})
    assert read_array(tmp_path, "x").tolist() == [0, 1, 2]


def test_nothing_learned_comes_back_as_nothing(tmp_path: Path) -> None:
    write_state(tmp_path, None)
    assert read_state(tmp_path) is None


def test_keys_know_their_parts_and_not_their_order() -> None:
    assert content_key(a=1, b=[2]) == content_key(b=[2], a=1)
    assert content_key(a=1) != content_key(a=2)
    with pytest.raises(TypeError, match="cannot be part of a key"):
        content_key(a=object())


def test_an_unwritable_place_is_one_clear_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match=r"cannot write here .* run\.store"):
        Store(blocked / "store")


def test_rows_are_read_and_written_where_they_lie(tmp_path: Path) -> None:
    rows = Rows.create(tmp_path / "a.npy", np.dtype(np.float16), (5, 2, 3))
    values = np.arange(12, dtype=np.float16).reshape(2, 2, 3)
    rows[np.array([3, 1])] = values
    assert rows.shape == (5, 2, 3) and rows.row_bytes == 12
    assert (rows[np.array([3, 1])] == values).all() and not rows[[0, 2, 4]].any()
    copy = rows[3:4]
    copy[:] = 7
    assert (rows[3] == values[0]).all(), "what was read is a copy"


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock here")])
def test_a_drive_without_locks_is_named_with_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def acquire(self: object, *_: object) -> None:
        raise error

    store = Store(tmp_path)
    monkeypatch.setattr(files.FileLock, "acquire", acquire)
    with pytest.raises(UserError, match=r"locks: files cannot be locked here \(.*set run.store to a folder on a local"):
        store.make("kind", "key", lambda folder: None)
