"""Train in a process of its own, alone or as one of several: ``python worker.py SPEC.json``.

What the process has seen goes to ``seen{rank}.pt`` beside the file, and it may kill itself at a chosen point.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from ultralytics.utils import LOCAL_RANK, RANK, SETTINGS

from rfla_yolo import RFLAYOLO, RFLATrainer
from rfla_yolo.engine.checkpoints import AtomicPath
from rfla_yolo.engine.loss import one_to_many
from rfla_yolo.engine.receptive_field import detection_model

seen: dict[str, Any] = {"epochs": [], "gains": [], "batches": [], "assigned": []}
now: Any = None  # epoch from 0, or "end"


def save() -> None:
    torch.save(seen, folder / f"seen{max(RANK, 0)}.pt")


def kill() -> None:
    save()
    os.kill(os.getpid(), signal.SIGKILL)


def arm(kind: str, name: str, epoch: Any, rank: int = -1) -> None:
    """Kill this process in an epoch: at a callback, before a file is opened or renamed, or when half is written."""
    if rank != RANK:
        return
    events = {"open": "open", "rename": "os.rename"}

    def hook(event: str, args: tuple[Any, ...]) -> None:
        reads = event == "open" and args[1] == "r"
        if event == events[kind] and not reads and now == epoch and Path(str(args[0])).name == name:
            kill()

    def halve(descriptor: int) -> None:
        if now == epoch and Path(os.readlink(f"/proc/self/fd/{descriptor}")).name == name:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            kill()
        sync(descriptor)

    if kind == "callback":
        model.add_callback(name, lambda _: kill() if now == epoch else None)
    elif kind == "half":
        sync, os.fsync = os.fsync, halve
    else:
        sys.addaudithook(hook)


def start_epoch(trainer: Any) -> None:
    global now
    now = trainer.epoch
    seen["epochs"].append(now)
    criterion = detection_model(trainer.model).criterion
    seen["gains"].append(getattr(criterion, "o2m", None))
    seen["topk"] = trainer.rfla.topk


def end_epoch(trainer: Any) -> None:
    global now
    if trainer.epoch + 1 == trainer.epochs:
        now = "end"


def watch(trainer: Any) -> None:
    """Record what the assigner is given and gives, and the state that training starts from."""
    network = detection_model(trainer.model)
    seen["state"] = {k: v.clone() for k, v in network.state_dict().items()}
    seen["save_dir"] = str(trainer.save_dir)
    if spec.get("other_disk") and RANK >= 2:  # as on a second machine: the weights of the first are not there
        trainer.wdir = AtomicPath(folder / "other")
        trainer.last, trainer.best = trainer.wdir / "last.pt", trainer.wdir / "best.pt"

    def record(_: Any, args: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        seen["assigned"].append((args[5].cpu(), [value.cpu() for value in output]))

    one_to_many(network.criterion).assigner.register_forward_hook(record)


class Trainer(RFLATrainer):
    """Records the batches and the gradients of the first step."""

    def preprocess_batch(self, batch):
        batch = super().preprocess_batch(batch)
        seen["batches"].append({k: batch[k].clone() for k in ("img", "cls", "bboxes", "batch_idx")})
        return batch

    def optimizer_step(self):
        parameters = detection_model(self.model).named_parameters()
        seen.setdefault("gradients", {k: p.grad.clone() for k, p in parameters if p.grad is not None})
        super().optimizer_step()


if __name__ == "__main__":
    spec = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(sys.argv[1]).parent
    for logger in ("wandb", "comet", "clearml", "mlflow", "neptune", "raytune", "tensorboard", "dvc"):
        dict.__setitem__(SETTINGS, logger, False)
    model = RFLAYOLO(spec["model"])
    for event, callback in (
        ("on_train_start", watch),
        ("on_train_epoch_start", start_epoch),
        ("on_fit_epoch_end", end_epoch),
    ):
        model.add_callback(event, callback)
    if spec.get("kill"):
        arm(*spec["kill"])
    if "resume" in spec["train"]:
        now = "end" if spec.get("only_the_end") else None
    model.train(trainer=Trainer, **spec["train"])
    seen["local_rank"], seen["validator"] = LOCAL_RANK, type(model.trainer.validator).__name__
    save()
