"""Training in several processes, on one machine or many: what Ultralytics decides by its own launcher alone.

Ultralytics starts the processes of one machine itself (``device=0,1``). Started by ``torchrun``, on any number of
machines, the size of the group comes from the environment, and rank 0 decides what there may be one of: the run's
folder, the caches of labels, the weights that are validated at the end.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import ultralytics.engine.validator as stock_validator
from torch import Tensor, nn
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils import LOCAL_RANK, LOGGER, RANK, WORLD_SIZE
from ultralytics.utils.torch_utils import parse_device

TIMEOUT = timedelta(hours=3)  # Ultralytics' own; a process that has died is noticed at once, by its connections


class DistributedTrainer(BaseTrainer):
    """A trainer that ``torchrun`` may start: mix in before Ultralytics' trainer of a task.

    Raises:
        ValueError: If the devices do not fit the processes, or the batch is smaller than the number of processes.
    """

    def __init__(self, cfg: Any, overrides: dict[str, Any] | None = None, _callbacks: dict | None = None) -> None:
        overrides = dict(overrides or {})
        if RANK != -1:
            overrides["device"] = choose_devices(overrides.get("device"))
        with after_first_rank() as told:
            if RANK > 0:  # by itself it would take, and clean, the folder of an older run of this name
                overrides["save_dir"] = told[0]
            super().__init__(cfg, overrides, _callbacks)
            told[0] = str(self.save_dir)
        if RANK != -1:
            self.world_size, self.ddp = WORLD_SIZE, False
            if self.args.batch < WORLD_SIZE:
                raise ValueError(
                    f"batch must be a number of images, at least one for each of the {WORLD_SIZE} processes, "
                    f"not {self.args.batch}"
                )
            if self.args.rect:
                LOGGER.warning("rect=True does not go with several processes, going on with rect=False")
                self.args.rect = False

    def train(self) -> None:
        """Train; in the process that has started those of several GPUs, wait for them.

        Raises:
            ChildProcessError: If one of those processes has failed; its own error stands above.
        """
        try:
            super().train()
        except subprocess.CalledProcessError as error:
            raise ChildProcessError(
                f"a process of the training on devices {self.args.device} has failed, its error stands above; "
                f"if {self.last} is there, the run can be resumed"
            ) from error
        if dist.is_initialized():
            self._barrier()
            dist.destroy_process_group()

    def build_dataset(self, *args: Any, **kwargs: Any) -> Any:
        """Build a dataset, rank 0 before the others: machines may share the disk with the caches of labels."""
        with after_first_rank():
            return super().build_dataset(*args, **kwargs)

    def _setup_ddp(self) -> None:
        if self.device.type == "cpu":
            dist.init_process_group("gloo", timeout=TIMEOUT, rank=RANK, world_size=self.world_size)
        else:
            super()._setup_ddp()

    def _setup_train(self) -> None:
        with self.on_cpu():
            super()._setup_train()

    @contextmanager
    def on_cpu(self) -> Iterator[None]:
        """Let Ultralytics take processes on CPUs, where it expects GPUs; on GPUs this does nothing.

        Ultralytics has no seam there: it wraps the model for ``[device.index]``, which torch refuses for a CPU, and
        validates on the current CUDA device.
        """
        if RANK == -1 or self.device.type != "cpu":
            yield
            return
        backend = partial(stock_validator.AutoBackend, device=self.device)
        current = SimpleNamespace(current_device=lambda: 0)
        with (
            mock.patch.object(nn.parallel, "DistributedDataParallel", _CPUDistributedDataParallel),
            mock.patch.object(stock_validator, "get_torch_device_backend", lambda _: current),
            mock.patch.object(stock_validator, "AutoBackend", lambda device, **kwargs: backend(**kwargs)),
        ):
            yield

    def share(self, file: Path) -> bool:
        """Give every machine a file of rank 0's; where they share the disk, nothing is written.

        Returns:
            Whether rank 0 has the file.
        """
        if not dist.is_initialized():
            return file.exists()
        shared: list[Any] = [file.read_bytes() if RANK == 0 and file.exists() else None]
        dist.broadcast_object_list(shared, src=0)
        content = shared[0]
        if RANK > 0 and LOCAL_RANK == 0 and content is not None and not holds(file, content):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        self._barrier()
        return content is not None

    def _barrier(self) -> None:
        dist.barrier(device_ids=[self.device.index] if dist.get_backend() == "nccl" else None)


class _CPUDistributedDataParallel(nn.parallel.DistributedDataParallel):
    """Torch's, without the index of a GPU."""

    def __init__(self, module: nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)


def is_first_process() -> bool:
    """Return whether this process is the only one, the parent of others, or rank 0 of a group."""
    return RANK in {-1, 0}


def holds(file: Path, content: bytes) -> bool:
    """Return whether a file is there and has this content."""
    return file.exists() and file.read_bytes() == content


def sum_over_ranks(values: Tensor) -> Tensor:
    """Add up a tensor over the processes, in place; every one of them must call it."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def choose_devices(device: Any) -> str:
    """Return the devices of this machine's processes, one each.

    Args:
        device: What the user gave; nothing means as many GPUs as there are processes, or the CPU if there is none.

    Raises:
        ValueError: If there are not as many GPUs as processes, or the processes were not started by ``torchrun``.
    """
    if LOCAL_RANK == -1 or "LOCAL_WORLD_SIZE" not in os.environ:
        raise ValueError(f"WORLD_SIZE={WORLD_SIZE} is set, but not LOCAL_RANK and LOCAL_WORLD_SIZE: start by torchrun")
    processes = int(os.environ["LOCAL_WORLD_SIZE"])
    if device is None or device == "":
        return ",".join(map(str, range(processes))) if torch.cuda.is_available() else "cpu"
    devices = str(parse_device(device))
    if devices != "cpu" and len(devices.split(",")) != processes:
        raise ValueError(
            f"device must name one GPU for each of the {processes} processes of this machine, not {device!r}; "
            "left out, the first ones are taken"
        )
    return devices


@contextmanager
def after_first_rank() -> Iterator[list[str]]:
    """Let rank 0 go through the block first, and every other process after it; alone, do nothing.

    Needs no process group: it goes by the store that the group is made by.

    Yields:
        A list of one text. Rank 0 may set it in the block; the others find it there.
    """
    told = [""]
    if RANK == -1:
        yield told
        return
    store, key = _store(), f"rfla-yolo/{next(_blocks)}"  # every process goes through the same blocks
    if RANK > 0:
        store.wait([key], TIMEOUT)
        told = [store.get(key).decode()]
    yield told
    if RANK == 0:
        store.set(key, told[0])


_blocks = count()


@cache
def _store() -> Any:
    store, _, _ = next(dist.rendezvous("env://", timeout=TIMEOUT))
    return store
