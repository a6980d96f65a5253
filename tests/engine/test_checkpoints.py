"""Killed at any moment, or at a full disk: the last good checkpoint loads, and the run goes on from it."""

from __future__ import annotations

import csv
import json
import resource
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from rfla_yolo import RFLAYOLO, cli
from rfla_yolo.engine import checkpoints
from rfla_yolo.engine.checkpoints import AtomicPath, keep_epochs

from .conftest import QUICK

WORKER = Path(__file__).with_name("worker.py")


def epochs_of(run):
    return [int(row["epoch"]) for row in csv.DictReader((run / "results.csv").open())]


def load(path):
    return torch.load(path, map_location="cpu", weights_only=False)


@contextmanager
def full_disk(size):
    """No file may grow above a size; Python ignores the signal that goes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestReplacing:
    def test_file_is_replaced_and_nothing_is_left(self, tmp_path):
        path = AtomicPath(tmp_path) / "last.pt"
        assert type(path) is AtomicPath
        for content in (b"old", b"new, longer"):
            assert path.write_bytes(content) == len(content)
            assert path.read_bytes() == content
        assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_interrupted(self, tmp_path, monkeypatch, step):
        """As a kill does, this stops the write before its end."""

        class KillError(BaseException):
            pass

        def interrupt(*_):
            raise KillError

        path = AtomicPath(tmp_path / "last.pt")
        path.write_bytes(b"old")
        monkeypatch.setattr(checkpoints.os, step, interrupt)
        with pytest.raises(KillError):
            path.write_bytes(b"new")
        assert path.read_bytes() == b"old"

    @pytest.mark.parametrize("exists", [False, True])
    def test_full_disk(self, tmp_path, exists):
        path = AtomicPath(tmp_path / "last.pt")
        if exists:
            path.write_bytes(b"old")
        message = (
            r"File too large: cannot write it" + r", the file that was there is kept" * exists + r": '.*last\.pt'$"
        )
        with full_disk(10_000), pytest.raises(OSError, match=message) as error:
            path.write_bytes(bytes(100_000))
        assert error.value.filename == str(path)
        left = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        assert left == ({"last.pt": b"old"} if exists else {})

    def test_full_disk_while_stripping(self, tmp_path, monkeypatch):
        path = tmp_path / "best.pt"
        torch.save({"model": torch.nn.Linear(1000, 100), "epoch": 3}, path)
        before = path.read_bytes()
        monkeypatch.setattr("time.sleep", lambda _: None)  # Ultralytics tries again after a while
        with full_disk(10_000), pytest.raises(OSError, match=r"disk full\?.* that was there is kept: '.*best\.pt'$"):
            checkpoints._strip(path)
        assert [file.name for file in tmp_path.iterdir()] == ["best.pt"]
        assert path.read_bytes() == before
        checkpoints._strip(path)
        assert load(path)["epoch"] == -1

    @pytest.mark.parametrize(("weights", "reason"), [(None, "No such file or directory"), ("file", "Not a directory")])
    def test_folder_that_is_none(self, tmp_path, weights, reason):
        if weights:
            (tmp_path / "weights").write_text("a file")
        with pytest.raises(OSError, match=rf"{reason}: cannot write it: '.*/weights/last\.pt'$"):
            AtomicPath(tmp_path / "weights" / "last.pt").write_bytes(b"new")


@pytest.mark.parametrize(
    ("rows", "epochs", "kept"),
    [
        ("1,0.5\n2,0.4\n", 2, "1,0.5\n2,0.4\n"),
        ("1,0.5\n2,0.4\n3,0.3\n", 2, "1,0.5\n2,0.4\n"),  # killed between csv and checkpoint
        ("1,0.5\n2,0.4\n3,0.", 2, "1,0.5\n2,0.4\n"),  # and within the row
        ("1,0.5\n2,0.4\n3,0.", 3, "1,0.5\n2,0.4\n"),
        ("1,0.5\n2,0.4\n2,0.3\n", 2, "1,0.5\n2,0.3\n"),  # what an earlier release has left
        ("1,0.5\n2\n", 2, "1,0.5\n"),
    ],
)
def test_results_csv_keeps_each_epoch_once(tmp_path, rows, epochs, kept):
    path = tmp_path / "results.csv"
    path.write_text("epoch,loss\n" + rows)
    keep_epochs(path, epochs)
    assert path.read_text() == "epoch,loss\n" + kept
    keep_epochs(tmp_path / "none.csv", epochs)
    assert [file.name for file in tmp_path.iterdir()] == ["results.csv"]


def test_full_disk_ends_in_one_line_and_the_run_goes_on_later(tiny_set, tmp_path, monkeypatch, capsys):
    options = {**QUICK, "epochs": 3, "project": str(tmp_path), "name": "run", "save_period": 1}
    model = RFLAYOLO("yolov8n.yaml")
    last = tmp_path / "run" / "weights" / "last.pt"

    def fill(trainer):
        if trainer.epoch == 1:
            limit.enter_context(full_disk(500_000))

    model.add_callback("on_train_epoch_start", fill)
    with ExitStack() as limit, pytest.raises(OSError, match=r"File too large: .* kept: '.*/run/weights/last\.pt'$"):
        model.train(data=str(tiny_set), **options)
    before = last.read_bytes()
    assert load(last)["epoch"] == 0
    assert epochs_of(tmp_path / "run") == [1, 2]
    monkeypatch.setattr(sys, "argv", ["rfla-yolo", "--resume", str(last)])
    with full_disk(500_000), pytest.raises(SystemExit) as stop:
        cli.entry("train")
    assert stop.value.code == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and error.endswith(f"is kept: '{last}'")
    assert last.read_bytes() == before
    monkeypatch.setattr(sys, "argv", ["rfla-yolo", "--resume", str(last)])
    cli.entry("train")
    assert epochs_of(tmp_path / "run") == [1, 2, 3]
    assert load(last)["epoch"] == -1
    assert sorted(file.name for file in last.parent.iterdir()) == [
        "best.pt", "epoch0.pt", "epoch1.pt", "epoch2.pt", "last.pt",
    ]  # fmt: skip


def test_full_disk_within_a_row_of_results_csv(tiny_set, tmp_path):
    model = RFLAYOLO("yolov8n.yaml")
    results = tmp_path / "run" / "results.csv"

    def fill(trainer):
        if trainer.epoch == 1:
            limit.enter_context(full_disk(results.stat().st_size + 20))

    model.add_callback("on_val_end", lambda _: fill(model.trainer))
    with ExitStack() as limit, pytest.raises(OSError, match=r"large: cannot write it: '.*/run/results\.csv'$"):
        model.train(data=str(tiny_set), project=str(tmp_path), name="run", **QUICK)
    assert results.read_text().splitlines()[-1].startswith("2,")
    RFLAYOLO(tmp_path / "run" / "weights" / "last.pt").train(resume=True)
    assert epochs_of(tmp_path / "run") == [1, 2]
    assert all(None not in row.values() for row in csv.DictReader(results.open()))


EPOCHS = 5
KILLS = [  # where, and how many epochs the checkpoint then holds
    (("callback", "on_val_batch_end", 1), 1),
    (("open", "results.csv", 1), 1),
    (("open", "last.pt.tmp", 1), 1),  # between csv and checkpoint
    (("half", "last.pt.tmp", 1), 1),
    (("rename", "last.pt.tmp", 1), 1),
    (("half", "best.pt.tmp", 1), 2),
    (("open", "epoch2.pt.tmp", 2), 3),
    (("callback", "on_model_save", 3), 4),
    (("half", "best.pt.tmp", "end"), EPOCHS),  # stripping
    (("rename", "best.pt.tmp", "end"), EPOCHS),
    (("callback", "on_val_start", "end"), EPOCHS),
    (("open", "last.pt.tmp", "end"), EPOCHS),
    (("half", "last.pt.tmp", "end"), EPOCHS),
    (("rename", "last.pt.tmp", "end"), EPOCHS),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo26n.yaml"])
def test_killed_at_every_point(tiny_set, tmp_path, name):
    """One run, killed again and again, and resumed."""
    run, spec = tmp_path / "run", tmp_path / "spec.json"
    last = run / "weights" / "last.pt"
    settings = {"topk": [2, 0], "data": str(tiny_set), "project": str(tmp_path), "name": "run", "save_period": 2}
    settings |= {**QUICK, "epochs": EPOCHS}

    def train(kill, done):
        task = {"model": str(last), "train": {"resume": True}, "only_the_end": done == EPOCHS} if done else {}
        spec.write_text(json.dumps({"model": name, "train": settings, "kill": kill, **task}))
        ended = subprocess.run([sys.executable, WORKER, spec], capture_output=True, text=True)
        assert ended.returncode == (-9 if kill else 0), f"{kill}: {ended.stderr[-2000:]}"
        seen = load(tmp_path / "seen0.pt")
        assert seen["epochs"] == list(range(done, done + len(seen["epochs"]))), kill
        if seen["epochs"]:
            assert seen["topk"] == (2, 0)
            gains = [0.8 - 0.7 * epoch / (EPOCHS - 1) if "26" in name else None for epoch in seen["epochs"]]
            assert seen["gains"] == pytest.approx(gains), kill

    done = 0
    for kill, then in KILLS:
        train(kill, done)
        checkpoint = load(last)
        assert checkpoint["epoch"] + 1 == then, kill
        assert checkpoint["optimizer"] is not None
        done = then
    train(None, done)
    assert epochs_of(run) == [1, 2, 3, 4, 5]
    assert sorted(path.name for path in (run / "weights").iterdir()) == [
        "best.pt", "epoch0.pt", "epoch2.pt", "epoch4.pt", "last.pt",
    ]  # fmt: skip
    for file in ("last.pt", "best.pt"):
        assert load(run / "weights" / file)["epoch"] == -1
    assert load(run / "weights" / "best.pt")["train_results"]["epoch"] == [1, 2, 3, 4, 5]
    assert yaml.safe_load((run / "rfla.yaml").read_text())["topk"] == [2, 0]
    assert json.loads((run / "metrics.json").read_text())["images"] == 8
    with pytest.raises(ValueError, match="has finished, there is nothing to resume"):
        RFLAYOLO(last).train(resume=True)


@pytest.mark.parametrize("patience", [100, 1])
def test_run_killed_after_its_last_epoch(tiny_set, tmp_path, patience):
    """What is left is done: weights stripped and validated; the same after an early stop."""

    class StopError(Exception):
        pass

    def stop(_):
        raise StopError

    model = RFLAYOLO("yolov8n.yaml")
    model.add_callback("on_val_start", lambda v: None if v.training else stop(v))
    options = {**QUICK, "epochs": 2 if patience > 1 else 9, "patience": patience, "project": str(tmp_path)}
    with pytest.raises(StopError):
        model.train(data=str(tiny_set), name="run", **options)
    run = tmp_path / "run"
    assert not (run / "metrics.json").exists()
    before = (run / "results.csv").read_text()
    model = RFLAYOLO(run / "weights" / "last.pt")
    events = []
    for event in ("on_train_epoch_start", "on_fit_epoch_end", "on_train_end"):
        model.add_callback(event, lambda _, event=event: events.append(event))
    metrics = model.train(resume=True)
    assert events == ["on_fit_epoch_end", "on_train_end"]
    assert metrics.evaluation["AP"] == json.loads((run / "metrics.json").read_text())["AP"]
    assert (run / "results.csv").read_text() == before
    assert load(run / "weights" / "last.pt")["epoch"] == -1


class StopError(Exception):
    pass


def test_run_is_that_of_the_checkpoints_folder(tiny_set, tmp_path, monkeypatch, capsys):
    """Copied or moved, it goes on where it is, and the original is left alone."""
    run, copied, moved = (tmp_path / name for name in ("run", "copied", "moved"))
    model = RFLAYOLO("yolov8n.yaml")

    def stop(trainer):
        if trainer.epoch == 0:
            raise StopError

    model.add_callback("on_model_save", stop)
    with pytest.raises(StopError):
        model.train(data=str(tiny_set), project=str(tmp_path), name="run", **QUICK)
    shutil.copytree(run, copied)
    (run / "results.csv").write_text((run / "results.csv").read_text() + "2,0\n")  # as if it had gone on
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    monkeypatch.setattr(sys, "argv", ["rfla-yolo", "--resume", str(copied / "weights" / "last.pt")])
    cli.entry("train")
    files = "weights/best.pt, weights/last.pt, results.csv, args.yaml, rfla.yaml, metrics.json"
    assert capsys.readouterr().out.splitlines()[-1] == f"Wrote to {copied}: {files}"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    run.rename(moved)
    RFLAYOLO(moved / "weights" / "last.pt").train(resume=True)
    assert not run.exists()
    for folder in (copied, moved):
        assert (folder / "weights" / "best.pt").is_file() and (folder / "metrics.json").is_file()
        assert epochs_of(folder) == [1, 2]
        assert load(folder / "weights" / "last.pt")["epoch"] == -1
        assert yaml.safe_load((folder / "args.yaml").read_text())["save_dir"] == str(folder)


def test_checkpoint_outside_of_a_run(tmp_path):
    with pytest.raises(ValueError, match=r"resume: last\.pt lies in no folder of a run; put it into one"):
        checkpoints.folder_of("last.pt")
    assert checkpoints.folder_of(tmp_path / "run" / "weights" / "last.pt") == tmp_path / "run"


@pytest.mark.parametrize("found", [True, False])
def test_files_that_are_there_are_named(tmp_path, monkeypatch, capsys, found):
    (tmp_path / "weights").mkdir()
    for name in ["weights/last.pt", *["metrics.json"] * found]:
        (tmp_path / name).touch()
    trainer = SimpleNamespace(save_dir=tmp_path)
    monkeypatch.setattr(RFLAYOLO, "train", lambda self, **kwargs: setattr(self, "trainer", trainer))
    monkeypatch.setattr(sys, "argv", ["rfla-yolo", "--data", "x.yaml", "--model", "yolov8n.yaml"])
    cli.entry("train")
    expected = "weights/last.pt" + ", metrics.json" * found
    assert capsys.readouterr().out == f"\nWrote to {tmp_path}: {expected}\n"
