"""A synthetic set of tiny objects, the same on every machine: what the commands do without data of one's own."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

CLASSES = ("vehicle", "ship", "person")
SIZE = 192  # px
COUNTS = {"train": 240, "val": 60}
DENSE = 8  # every 8th image holds up to 80 objects


def make_demo(root: str | Path, seed: int = 0) -> Path:
    """Write the demo set in YOLO layout, ``images/{train,val}`` and ``labels/{train,val}``.

    Textured ground; vehicles (rectangles), ships (ellipses) and persons (dots) of 2 to 32 px, half of them below 8 px.

    Args:
        root: Folder to write to; a complete set is left as it is.
        seed: Seed of the generator.

    Returns:
        The folder.
    """
    root = Path(root)
    done = root / "complete.txt"
    if done.is_file():
        return root
    for split, count in COUNTS.items():
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            rng = np.random.default_rng([seed, list(COUNTS).index(split), i])
            image, rows = draw_scene(rng, dense=i % DENSE == 0)
            cv2.imwrite(str(root / "images" / split / f"{i:04d}.png"), image)
            text = "".join(f"{c} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for c, x, y, w, h in rows)
            (root / "labels" / split / f"{i:04d}.txt").write_text(text, encoding="utf-8")
    done.write_text(f"demo set of rfla-yolo, seed {seed}\n", encoding="utf-8")
    return root


def draw_scene(rng: np.random.Generator, dense: bool = False) -> tuple[np.ndarray, list[tuple[float, ...]]]:
    """Draw one image.

    Args:
        rng: Random generator.
        dense: Whether to draw many objects.

    Returns:
        The image, BGR uint8 (192, 192, 3), and per object its class and normalised x, y, width, height.
    """
    image = _ground(rng)
    taken = np.zeros((SIZE, SIZE), dtype=bool)
    rows: list[tuple[float, ...]] = []
    wanted = int(rng.integers(40, 81) if dense else rng.integers(3, 21))
    for _ in range(4 * wanted):  # tries; where an object would touch another it is left out
        if len(rows) == wanted:
            break
        label = int(rng.integers(len(CLASSES)))
        w, h = _object_size(rng, label)
        x, y = int(rng.integers(1, SIZE - w)), int(rng.integers(1, SIZE - h))
        around = np.s_[max(y - 1, 0) : y + h + 1, max(x - 1, 0) : x + w + 1]
        if taken[around].any():
            continue
        taken[around] = True
        _draw(image, rng, label, x, y, w, h)
        rows.append((label, (x + w / 2) / SIZE, (y + h / 2) / SIZE, w / SIZE, h / SIZE))
    return image, rows


def _ground(rng: np.random.Generator) -> np.ndarray:
    """Noise of several scales around a dull colour."""
    image = np.empty((SIZE, SIZE, 3), np.float32)
    image[:] = rng.uniform(60, 120, 3)
    for cells, strength in ((6, 14), (24, 9), (96, 5)):
        noise = rng.normal(0, strength, (cells, cells)).astype(np.float32)
        image += cv2.resize(noise, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)[..., None]
    return image.clip(0, 255).astype(np.uint8)


def _object_size(rng: np.random.Generator, label: int) -> tuple[int, int]:
    """Width and height in whole px; log-uniform, people the smallest."""
    low, high = ((4, 24), (6, 32), (2, 8))[label]
    length = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    sides = [max(2, round(length)), max(2, round(length * rng.uniform(0.45, 0.75)))]
    if label == 2:
        sides[1] = sides[0]
    w, h = sides if rng.random() < 0.5 else sides[::-1]
    return w, h


def _draw(image: np.ndarray, rng: np.random.Generator, label: int, x: int, y: int, w: int, h: int) -> None:
    """Paint one object: bright vehicles with a dark roof, pale ships, dark people."""
    if label == 0:
        image[y : y + h, x : x + w] = rng.integers(190, 256, 3)
        if min(w, h) > 3:
            image[y + h // 3 : y + h - h // 3, x + w // 3 : x + w - w // 3] = 40
    else:
        rows, columns = np.mgrid[:h, :w]
        inside = ((columns + 0.5) / w - 0.5) ** 2 + ((rows + 0.5) / h - 0.5) ** 2 <= (0.25 if label == 1 else 0.5)
        color = rng.integers(150, 220) * np.array([1.0, 0.8, 0.5]) if label == 1 else np.array([20.0, 20, 70])
        image[y : y + h, x : x + w][inside] = color.astype(np.uint8)
