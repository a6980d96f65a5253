"""Rows that were finished are there again, whatever happened to the file's end."""

from __future__ import annotations

import errno
import os
import sys
import types

import pytest

from rfla_yolo.scenes import Detections
from rfla_yolo.scenes import journal as journal_file
from rfla_yolo.scenes.journal import Journal, Row

from .test_outputs import boxes

MADE_OF = {"weights": "abc", "tile": 640}


def rows():
    return [
        Row([boxes(3), Detections.empty()], 1, []),
        Row([Detections.empty(), Detections.empty()], 0, ["the window ... cannot be read"]),
        Row([Detections.empty(), boxes(7)], 0, []),
    ]


def same(first, second):
    assert (first.empty, list(first.damaged)) == (second.empty, list(second.damaged))
    for one, other in zip(first.found, second.found, strict=True):
        for name in ("bbox", "score", "label", "cut"):
            assert (getattr(one, name) == getattr(other, name)).all()


def test_rows_come_back_and_what_was_being_written_is_cut_off(tmp_path):
    path = tmp_path / "journal"
    sizes = []
    with Journal(path, MADE_OF) as journal:
        assert list(journal) == []
        for row in rows():
            journal.append(row)
            sizes.append(path.stat().st_size)
    content = path.read_bytes()
    for end in (sizes[0], sizes[0] + 1, sizes[0] + 50, sizes[1] - 1, sizes[1], sizes[2] - 1):
        path.write_bytes(content[:end])
        with Journal(path, MADE_OF) as journal:
            finished = list(journal)
            assert len(finished) == (2 if end >= sizes[1] else 1)
            for row in rows()[len(finished) :]:
                journal.append(row)
        assert path.read_bytes() == content
    for found, expected in zip(finished, rows()):
        same(found, expected)


def test_a_damaged_row_ends_the_journal(tmp_path):
    path = tmp_path / "journal"
    with Journal(path, MADE_OF) as journal:
        for row in rows():
            journal.append(row)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with Journal(path, MADE_OF) as journal:
        assert journal.rows == 2


def test_other_settings_are_refused_by_name_or_begin_anew(tmp_path):
    path = tmp_path / "journal"
    with Journal(path, MADE_OF) as journal:
        journal.append(rows()[0])
    with pytest.raises(ValueError, match=r"begun otherwise: tile was 640 and is 512\. Go on as it was begun"):
        Journal(path, {**MADE_OF, "tile": 512})
    with Journal(path, MADE_OF) as journal:
        assert journal.rows == 1
    with Journal(path, {**MADE_OF, "tile": 512}, overwrite=True) as journal:
        assert journal.rows == 0


def test_windows_locks_by_its_own_means(tmp_path, monkeypatch):
    """A stand-in for its module: a second handle to a locked file is refused as Windows does it."""
    locked = []

    def locking(handle, mode, size):
        place = os.fstat(handle)
        if any(os.path.samestat(place, other) for other in locked):
            raise PermissionError(errno.EACCES, "Permission denied")
        assert (mode, size) == (2, 1) and os.lseek(handle, 0, os.SEEK_CUR) == 0
        locked.append(place)

    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2))
    monkeypatch.setattr(journal_file, "sys", types.SimpleNamespace(platform="win32"))
    with Journal(tmp_path / "journal", MADE_OF) as journal:
        journal.append(rows()[0])
        with pytest.raises(ValueError, match="another process is writing into this folder"):
            Journal(tmp_path / "journal", MADE_OF)
    assert len(locked) == 1


def test_rows_of_a_second_are_synced_at_once(tmp_path, monkeypatch):
    synced, now = [], [0.0]
    monkeypatch.setattr(journal_file.os, "fsync", lambda handle: synced.append(now[0]))
    monkeypatch.setattr(journal_file.time, "monotonic", lambda: now[0])
    with Journal(tmp_path / "journal", MADE_OF) as journal:
        synced.clear()
        for now[0] in (0.1, 0.9, 1.5, 1.6, 2.7):
            journal.append(rows()[0])
    assert synced == [1.5, 2.7]
