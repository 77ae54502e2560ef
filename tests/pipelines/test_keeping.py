"""A folder of what was compiled: whole entries or none, for several processes, and never in anybody's way."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from flashbulb_server.pipelines import keeping
from flashbulb_server.pipelines.keeping import MOST_ENTRIES, RECENT_SECONDS, UNUSED_SECONDS, Cache, fingerprint, key_of


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


def writer(text: str = "graph"):
    def write(folder: Path) -> None:
        (folder / "one").write_text(text)
        (folder / "two").write_text(text * 2)

    return write


@pytest.fixture
def kept(tmp_path):
    return Cache(tmp_path / "cache")


def test_what_was_kept_is_found(kept, tmp_path):
    assert kept.find("k") is None
    kept.keep("k", writer())
    entry = kept.find("k")
    assert (entry / "two").read_text() == "graphgraph"
    assert kept.find("other") is None
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["k"], "nothing is left beside"


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["one", "files.json"])
@pytest.mark.parametrize("harm", [cut, flip, Path.unlink, lambda path: path.write_text("[]")])
def test_an_entry_that_is_not_whole_is_thrown_away_and_made_again(kept, harm, file):
    kept.keep("k", writer())
    harm(kept.find("k") / file)
    assert kept.find("k") is None
    kept.keep("k", writer("again"))
    assert (kept.find("k") / "one").read_text() == "again"


def test_a_large_file_is_known_by_many_of_its_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "READ_WHOLE", 1000)
    monkeypatch.setattr(keeping, "BLOCKS", 5)
    monkeypatch.setattr(keeping, "BLOCK_BYTES", 10)
    path = tmp_path / "large"
    path.write_bytes(bytes(2000))
    before = fingerprint(path)
    assert fingerprint(path) == before
    for place in (0, 997, 1999):
        content = bytearray(2000)
        content[place] = 1
        path.write_bytes(content)
        assert fingerprint(path) != before
    path.write_bytes(bytes(2001))
    assert fingerprint(path) != before


def test_an_entry_that_is_half_written_is_not_seen(kept):
    seen = []

    def write(folder):
        writer()(folder)
        seen.append(kept.find("k"))

    kept.keep("k", write)
    assert seen == [None] and kept.find("k") is not None


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "no space left"), RuntimeError("a library's own")])
def test_what_cannot_be_written_is_not_kept(kept, tmp_path, caplog, problem):
    def write(folder):
        writer()(folder)
        raise problem

    kept.keep("k", write)
    assert kept.find("k") is None
    assert not list((tmp_path / "cache").iterdir())
    assert "cannot be kept" in caplog.text


def test_a_folder_that_is_none_keeps_nothing(tmp_path, caplog):
    (tmp_path / "file").touch()
    for kept in (Cache(tmp_path / "file"), Cache(tmp_path / "file" / "below"), Cache(None)):
        kept.keep("k", writer())
        assert kept.find("k") is None


def test_another_folder_takes_what_the_first_cannot(tmp_path):
    (tmp_path / "file").touch()
    kept = Cache(tmp_path / "file").or_in(tmp_path / "beside")
    kept.keep("k", writer())
    assert kept.find("k") == tmp_path / "beside" / "k"
    good = Cache(tmp_path / "good").or_in(tmp_path / "unused")
    good.keep("k", writer())
    assert good.find("k") == tmp_path / "good" / "k"
    assert not (tmp_path / "unused").exists()


def test_many_at_once_keep_one(kept, tmp_path):
    barrier = threading.Barrier(8)

    def work(index):
        barrier.wait()
        kept.keep("k", writer(str(index)))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entry = kept.find("k")
    assert (entry / "two").read_text() == (entry / "one").read_text() * 2
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["k"]


def test_what_nobody_uses_goes(tmp_path):
    clock = Clock()
    kept = Cache(tmp_path, clock=clock)
    for index in range(MOST_ENTRIES + 2):
        kept.keep(f"k{index}", writer())
        kept.find(f"k{index}")
        clock.now += 1
    assert len(list(tmp_path.iterdir())) == MOST_ENTRIES + 2, "they were all used a moment ago"
    clock.now += RECENT_SECONDS
    kept.find("k0")
    kept.keep("new", writer())
    kept.find("new")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"new", "k0", *(f"k{index}" for index in range(4, MOST_ENTRIES + 2))}
    (tmp_path / ".half").mkdir()
    os.utime(tmp_path / ".half", (clock.now,) * 2)
    clock.now += UNUSED_SECONDS + 1
    kept.find("k0")
    kept.keep("newer", writer())
    assert {path.name for path in tmp_path.iterdir()} == {"newer", "k0"}


def test_keys():
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1}) != key_of({"a": 1, "b": [3]})
