"""What cannot work in a training is refused by name; ``docs/training.md`` lists those that do."""

from __future__ import annotations

from typing import Any

import torch


def check_options(args: Any, device: torch.device) -> None:
    """Raise ValueError at an argument that would end the training later, or change what it trains.

    Args:
        args: Ultralytics' arguments.
        device: Where it trains.
    """
    if args.amp == "bf16" and not (device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)):
        raise ValueError(f"amp=bf16 needs a GPU that computes in bfloat16, not {device}; use amp=True or amp=False")
    if args.compile and device.type == "cpu":
        raise ValueError("compile needs a GPU: on a CPU the compilation takes longer than training; leave it out")
    if args.quantize == 8:
        raise ValueError(
            "quantize=8: training for 8 bits is not supported; train without it, and export with quantize=8"
        )
