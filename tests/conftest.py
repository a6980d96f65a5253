"""Fixtures that several folders use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The shared data: ``RFLA_DATA``, or ``../shared/data`` beside the checkout."""
    path = Path(os.environ.get("RFLA_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"needs the shared data; looked for {path}; RFLA_DATA names another folder")
    return path


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def tiny_sets() -> Callable[[Path], Path]:
    """Write eight images of 64 px with bright and dark squares; the last image holds no object."""

    def write(root: Path) -> Path:
        for split in ("train", "val"):
            for kind in ("images", "labels"):
                (root / "set" / kind / split).mkdir(parents=True)
            for i in range(8):
                rng = np.random.default_rng(i)
                image = rng.integers(60, 100, (64, 64, 3), dtype=np.uint8)
                rows = []
                for _ in range(0 if i == 7 else 4):
                    size = int(rng.integers(4, 12))
                    x, y = (int(v) for v in rng.integers(0, 64 - size, 2))
                    label = int(rng.integers(2))
                    image[y : y + size, x : x + size] = (255, 20)[label]
                    cell = [(x + size / 2) / 64, (y + size / 2) / 64, size / 64, size / 64]
                    rows.append(" ".join([str(label), *(f"{v:.6f}" for v in cell)]) + "\n")
                cv2.imwrite(str(root / "set" / "images" / split / f"{i}.png"), image)
                (root / "set" / "labels" / split / f"{i}.txt").write_text("".join(rows))
        yaml = root / "set" / "set.yaml"
        yaml.write_text("train: images/train\nval: images/val\nnames: {0: bright, 1: dark}\n")
        return yaml

    return write


@pytest.fixture
def tiny_set(tmp_path: Path, tiny_sets: Callable[[Path], Path]) -> Path:
    """YAML of a fresh set of eight images."""
    return tiny_sets(tmp_path)
