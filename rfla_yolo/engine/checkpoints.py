"""Runs that may be killed at any moment: files replaced whole, and what an interrupted run lacks made good."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.files import get_latest_run
from ultralytics.utils.torch_utils import strip_optimizer

from .distributed import DistributedTrainer, holds

TEMPORARY = ".tmp"  # last.pt.tmp: no name that Ultralytics takes for a checkpoint
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no space, quota, limit on a file's size


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file beside ``path`` to write, and put it in the place of ``path`` once it is whole and on the disk.

    Whenever the process is killed, ``path`` holds its old content or its new one.

    Args:
        path: The file to replace, which need not exist.

    Yields:
        The file to write.

    Raises:
        OSError: If it cannot be written; names ``path``, which is as it was.
    """
    temporary = Path(f"{path}{TEMPORARY}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise _cannot_write(path, error, ", the file that was there is kept" * path.exists()) from error
    _sync_folder(path.parent)


class AtomicPath(type(Path())):  # type: ignore[misc]  # the class for this system, which Path() chooses
    """A path whose ``write_bytes`` replaces the file whole; ``AtomicPath(...) / name`` is one too."""

    def write_bytes(self, data: Any) -> int:
        """Write the file by way of one beside it, see `replacing`."""
        with replacing(Path(self)) as temporary:
            return temporary.write_bytes(data)


class KillSafeTrainer(DistributedTrainer):
    """A trainer whose run can be killed at any moment and resumed: mix in before Ultralytics' trainer of a task.

    ``last.pt``, ``best.pt`` and ``epochN.pt`` are replaced whole, also where they are stripped at the end; resumed, the
    run makes good what the kill left undone, and ``results.csv`` holds each epoch once. A run killed after its last
    epoch, in its last validation, is resumed for that alone.
    """

    wdir: Path
    tloss: dict[str, Any]
    lr: dict[str, Any]

    def __init__(self, cfg: Any, overrides: dict[str, Any] | None = None, _callbacks: dict | None = None) -> None:
        self._only_the_end = False
        super().__init__(cfg, overrides, _callbacks)
        self.wdir = AtomicPath(self.wdir)
        self.last, self.best = self.wdir / "last.pt", self.wdir / "best.pt"

    def check_resume(self, overrides: dict[str, Any]) -> None:
        """Check that there is something to resume, and whether it is nothing but the end of the run.

        The run is that of the checkpoint's folder, which may have been moved or copied since it was written.
        """
        resume = self.args.resume
        checkpoint = load_interrupted(resume if isinstance(resume, (str, Path)) else get_latest_run()) if resume else {}
        super().check_resume(overrides)
        if resume:
            if not overrides.get("save_dir"):  # of the other ranks it is what the first has told them
                self.args.save_dir = str(folder_of(self.args.resume))
            epochs, best = checkpoint["epoch"] + 1, (checkpoint.get("stopper") or {}).get("best_epoch", math.inf)
            self._only_the_end = epochs >= self.args.epochs or epochs - best >= (self.args.patience or math.inf)

    def train(self) -> None:
        """Train; a full disk is an error that names the file, or at least the run."""
        try:
            super().train()
        except OSError as error:
            if error.errno in FULL and error.filename is None:
                raise _cannot_write(self.save_dir, error) from error
            raise

    def _do_train(self) -> None:
        if not self._only_the_end:
            super()._do_train()
            return
        LOGGER.info(f"All epochs of {self.args.resume} are done: stripping and validating what they have made")
        if self.world_size > 1:
            self._setup_ddp()
        self._setup_train()
        self.epoch = self.epochs - 1
        self.tloss, self.lr = {}, {}  # callbacks log them
        self.final_eval()
        if RANK in {-1, 0}:
            if self.args.plots:
                self.plot_metrics()
            self.run_callbacks("on_train_end")

    def resume_training(self, ckpt: Any) -> None:
        """Go on where the run was interrupted, with its files as they were after that epoch."""
        if self._only_the_end:
            self._load_checkpoint_state(ckpt)
            self.start_epoch = self.epochs
        else:
            super().resume_training(ckpt)
        if self.resume and RANK in {-1, 0}:
            keep_epochs(self.csv, self.start_epoch)
            if Path(self.args.resume).resolve() == Path(self.last).resolve():
                self._finish_saving(ckpt)

    def _finish_saving(self, ckpt: Any) -> None:
        """Write the copies of ``last.pt`` that were to be made after it, when the run was killed."""
        for left in self.wdir.glob(f"*.pt{TEMPORARY}"):
            left.unlink()
        period, epoch = self.args.save_period, ckpt["epoch"]
        numbered = self.wdir / f"epoch{epoch}.pt"
        is_best = ckpt["train_metrics"].get("fitness") == ckpt["best_fitness"]
        content = self.last.read_bytes()
        for copy in [self.best] * is_best + [numbered] * (period > 0 and epoch % period == 0):
            if not holds(copy, content):
                copy.write_bytes(content)

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Add a row to ``results.csv``."""
        try:
            super().save_metrics(metrics)
        except OSError as error:
            raise _cannot_write(self.csv, error) from error

    def final_eval(self) -> None:
        """Strip and validate ``best.pt``, and strip ``last.pt`` after that: until then the run can be resumed."""
        if RANK in {-1, 0} and self.best.exists():
            _strip(self.best, {"train_results": self.read_results_csv()})
        if self.share(self.best):
            LOGGER.info(f"\nValidating {self.best}...")
            self.validator.args.plots = self.args.plots
            self.validator.args.compile = False  # Ultralytics' choice: too slow for one validation
            with self.on_cpu():
                self.metrics = self.validator(model=Path(self.best))
            self.metrics.pop("fitness", None)
            self.epoch += 1  # what Ultralytics' callbacks log is a step of its own
            self.run_callbacks("on_fit_epoch_end")
            self.epoch -= 1
        if RANK in {-1, 0} and self.last.exists():
            _strip(self.last)


def load_interrupted(file: str | Path) -> dict[str, Any]:
    """Load the checkpoint of an interrupted training.

    Raises:
        FileNotFoundError: If there is no such file; Ultralytics would resume its latest run instead.
        ValueError: If it is no checkpoint, or the training has come to its end.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"resume: no such file: {file}" if file else "resume: found no run to resume")
    try:
        _, checkpoint = load_checkpoint(file)
    except Exception as error:
        raise ValueError(f"resume: {file} is no Ultralytics checkpoint ({type(error).__name__}: {error})") from error
    if checkpoint.get("epoch", -1) < 0 or checkpoint.get("optimizer") is None:
        raise ValueError(
            f"resume: the run of {file} has finished, there is nothing to resume; "
            f"to go on from its weights, train with model={file} and without resume"
        )
    return dict(checkpoint)


def folder_of(checkpoint: str | Path) -> Path:
    """Return the folder of the run that a checkpoint lies in.

    Raises:
        ValueError: If it lies in no folder ``weights``: the run that it names may be another by now.
    """
    folder = Path(checkpoint).resolve().parent
    if folder.name != "weights":
        raise ValueError(
            f"resume: {checkpoint} lies in no folder of a run; put it into one, as RUN/weights/last.pt, to go on in RUN"
        )
    return folder.parent


def keep_epochs(results: Path, epochs: int) -> None:
    """Leave the first epochs in a ``results.csv``, each once; the rows after them, and half a row, go.

    Args:
        results: The file; where there is none, nothing is done.
        epochs: Number of epochs to keep.
    """
    if not results.is_file():
        return
    header, *rows = results.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = {}
    for row in rows:
        if row.endswith("\n") and row.count(",") == header.count(","):
            whole[int(row.split(",")[0])] = row  # of two of an epoch the later one
    kept = "".join([header, *(row for epoch, row in sorted(whole.items()) if epoch <= epochs)])
    if kept != header + "".join(rows):
        AtomicPath(results).write_bytes(kept.encode())


def _strip(path: Path, updates: dict[str, Any] | None = None) -> None:
    """Leave the weights in a checkpoint, at half precision, and nothing that a training goes on from."""
    with replacing(Path(path)) as temporary:
        try:
            strip_optimizer(path, s=str(temporary), updates=updates)
        except RuntimeError as error:  # torch.save, whose words at a full disk change from one to the next
            raise OSError(errno.EIO, f"Is the disk full? torch says {error}") from error


def _cannot_write(path: Path, error: OSError, remark: str = "") -> OSError:
    """Return the error of a file that cannot be written, with its name."""
    return OSError(error.errno or errno.EIO, f"{error.strerror or error}: cannot write it{remark}", str(path))


def _sync_folder(folder: Path) -> None:
    """Put the new name on the disk too, where the system can."""
    with suppress(OSError):  # Windows and some network disks cannot, and the file is in its place
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
