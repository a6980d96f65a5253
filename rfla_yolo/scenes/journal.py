"""The journal of a run: what is finished is on the disk, and a run that was killed goes on after it."""

from __future__ import annotations

import io
import json
import math
import os
import struct
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .detections import Detections

LONGEST = 120  # letters of a value in a message
SYNCED = 1.0  # s; frames that are a tile each are finished faster than a disk syncs
HEAD = struct.Struct("<QI")  # of an entry: its length and its checksum


class Row(NamedTuple):
    """A finished row of tiles.

    Attributes:
        found: Detections on each tile, px of the scene.
        empty: Tiles without a valid pixel.
        damaged: What was said of each tile that could not be read.
    """

    found: Sequence[Detections]
    empty: int
    damaged: Sequence[str]


class Journal:
    """Rows of tiles in a file, one after the other, each written before the next and synced every second.

    Args:
        path: The file. If it is there, its rows are those that are finished; what was being written is cut off.
        made_of: What the rows follow from, plain values by name.
        overwrite: Begin anew where the file's rows follow from something else.

    Raises:
        ValueError: If they do and are not to be overwritten; names what, then and now. If another process has it open.
    """

    def __init__(self, path: Path, made_of: Mapping[str, Any], overwrite: bool = False) -> None:
        self._path = path
        wanted = json.loads(json.dumps(made_of))
        self._file: BinaryIO = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)), "r+b")
        _lock(self._file, path)
        self.rows = self._end = 0
        self._synced = -math.inf
        for number, (entry, end) in enumerate(self._entries()):
            if number == 0 and (changed := _differences(json.loads(entry), wanted)):
                if overwrite:
                    break
                raise ValueError(
                    f"{path.parent} holds a run that is not finished and was begun otherwise: {changed}. "
                    "Go on as it was begun, take another --out, or begin anew by --overwrite"
                )
            self.rows, self._end = number, end
        self._file.truncate(self._end)
        if not self._end:
            self._write(json.dumps(wanted).encode())
            _sync_folder(path.parent)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def remove(self) -> None:
        """Remove the file, still locked where the system lets open files be removed."""
        if os.name != "posix":
            self._file.close()
        self._path.unlink()

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows that were finished when the journal was opened."""
        for entry, _ in islice(self._entries(), 1, self.rows + 1):
            yield _row(entry)

    def append(self, row: Row) -> None:
        """Write a row, so that it outlives the process and, a second later at most, the machine."""
        counts = np.array([len(part) for part in row.found])
        columns = {
            name: np.concatenate([getattr(part, name) for part in (Detections.empty(), *row.found)])
            for name in ("bbox", "score", "label", "cut")
        }
        content = io.BytesIO()
        damaged = np.array(list(row.damaged), dtype=np.str_)
        np.savez(content, counts=counts, empty=row.empty, damaged=damaged, allow_pickle=False, **columns)
        self._write(content.getvalue())

    def _write(self, entry: bytes) -> None:
        self._file.seek(self._end)
        self._file.write(HEAD.pack(len(entry), zlib.crc32(entry)) + entry)
        self._file.flush()
        self._end = self._file.tell()
        if time.monotonic() - self._synced > SYNCED:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _entries(self) -> Iterator[tuple[bytes, int]]:
        """Yield the whole entries from the start, and where each ends."""
        place = 0
        while True:
            self._file.seek(place)
            head = self._file.read(HEAD.size)
            if len(head) < HEAD.size:
                return
            length, checksum = HEAD.unpack(head)
            entry = self._file.read(length)
            if len(entry) < length or zlib.crc32(entry) != checksum:
                return
            place = self._file.tell()
            yield entry, place


def _row(entry: bytes) -> Row:
    with np.load(io.BytesIO(entry), allow_pickle=False) as columns:
        whole = Detections(columns["bbox"], columns["score"], columns["label"], columns["cut"])
        ends = columns["counts"].cumsum()
        found = [whole.take(np.arange(end - n, end)) for end, n in zip(ends, columns["counts"])]
        return Row(found, int(columns["empty"]), columns["damaged"].tolist())


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say in words what two runs do not share, or nothing."""
    changed = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    return "; ".join(f"{name} was {_short(found.get(name))} and is {_short(wanted.get(name))}" for name in changed)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep other processes out as long as this one lives."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # the first byte
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))  # else it has just ended
    except (BlockingIOError, PermissionError):
        alone = False
    if not alone:
        file.close()
        raise ValueError(f"{path.parent.parent}: another process is writing into this folder; take another --out")


def _sync_folder(folder: Path) -> None:
    """Make a new file's name outlive the machine, where folders can be synced."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
