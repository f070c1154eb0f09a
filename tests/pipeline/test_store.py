"""The store: whole entries or none, whatever is killed, damaged, or done twice at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from optim.errors import UserError
from pipeline.store import ENTRY_FILE, Store, hash_path, replace_folder, write_atomically

KEY = "ab" + "0" * 62


def produce(folder: Path) -> None:
    (folder / "a.bin").write_bytes(b"abc")
    (folder / "sub").mkdir()
    (folder / "sub" / "b.txt").write_text("b")


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.look_up(KEY).problem == "never run with these inputs"
    entry, cached = store.ensure(KEY, produce)
    assert not cached
    assert (entry.path / "sub" / "b.txt").read_text() == "b"
    _again, cached = store.ensure(KEY, lambda _folder: pytest.fail("made twice"))
    assert cached


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failed_step_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail(folder: Path) -> None:
        produce(folder)
        raise error

    store = Store(tmp_path)
    with pytest.raises(error):
        store.ensure(KEY, fail)
    assert store.look_up(KEY).entry is None
    assert list((tmp_path / "work").iterdir()) == []
    assert not store.ensure(KEY, produce)[1]


@pytest.mark.parametrize("harm", ["byte", "truncate", "remove", "seal", "unseal"])
def test_a_damaged_entry_is_found_and_made_again(tmp_path: Path, harm: str) -> None:
    store = Store(tmp_path)
    entry, _ = store.ensure(KEY, produce)
    file, seal = entry.path / "a.bin", entry.path / ENTRY_FILE
    {
        "byte": lambda: file.write_bytes(b"abd"),
        "truncate": lambda: file.write_bytes(b"ab"),
        "remove": file.unlink,
        "seal": lambda: seal.write_text("{"),
        "unseal": seal.unlink,
    }[harm]()
    assert "damaged" in store.look_up(KEY).problem
    entry, cached = store.ensure(KEY, produce)
    assert not cached
    assert (entry.path / "a.bin").read_bytes() == b"abc"
    assert store.look_up(KEY).entry is not None


def test_a_touched_but_equal_file_is_no_damage(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry, _ = store.ensure(KEY, produce)
    os.utime(entry.path / "a.bin", (1, 1))
    assert store.look_up(KEY).entry is not None


def test_a_killed_step_is_swept_and_made_again(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import sys, time
        from pathlib import Path
        from pipeline.store import Store
        def produce(folder):
            (folder / "half").write_text("half")
            print("working", flush=True)
            time.sleep(60)
        Store(Path({str(tmp_path)!r})).ensure({KEY!r}, produce)
        """
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "working\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert list((tmp_path / "work").iterdir()) != []
    store = Store(tmp_path)
    assert store.look_up(KEY).entry is None
    entry, cached = store.ensure(KEY, produce)
    assert not cached
    assert not (entry.path / "half").exists()
    assert list((tmp_path / "work").iterdir()) == []


def _count(root: str, key: str, log: str) -> None:
    def slow(folder: Path) -> None:
        with Path(log).open("a") as file:
            file.write("made\n")
        time.sleep(0.2)
        produce(folder)

    Store(Path(root)).ensure(key, slow)


def test_processes_at_once_make_an_entry_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    workers = [
        context.Process(target=_count, args=(str(tmp_path / "store"), KEY, str(log))) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert log.read_text() == "made\n"


def test_a_store_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="store cannot be written"):
        Store(tmp_path / "file" / "store").ensure(KEY, produce)


def test_hash_path_sees_names_and_contents(tmp_path: Path) -> None:
    def folder(name: str, files: dict[str, str]) -> str:
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)
        return hash_path(tmp_path / name)

    base = folder("a", {"x": "1", "y/z": "2"})
    assert base == folder("b", {"x": "1", "y/z": "2"})
    assert base != folder("c", {"x": "1", "y/w": "2"})
    assert base != folder("d", {"x": "1", "y/z": "3"})


def test_write_atomically_keeps_the_old_file_on_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "f"
    write_atomically(file, "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["f"]


def test_replace_folder_swaps_whole_folders(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a").write_text("new")
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "b").write_text("old")
    replace_folder(tmp_path / "new", tmp_path / "place")
    assert [one.name for one in (tmp_path / "place").iterdir()] == ["a"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["new", "place"]
