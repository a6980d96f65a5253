"""``data check``: what is wrong with a dataset, and what it means for training, before it costs a night."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..report import Page
from ..scenes.images import TRAINED_PIXELS, explain_image, image_size, open_image
from ..scenes.source import open_dataset_image
from .boxes import min_area_boxes
from .checks import are_oriented, parse_labels
from .writer import SIZES, count_sizes, progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = 5  # listed with each finding
NEAR = 4  # bits of 64 in which the perceptual hashes of near duplicates differ at most
ROUNDING = 0.01  # px; normalised text has lost the last digits of a pixel
LOADER_LIMIT = 2.0  # px; Ultralytics' loader drops augmented boxes with a side of this or less
STOCK_MAX_DET, MAX_DET = 300, 3000  # detections an image: Ultralytics' default and this package's
OVERVIEW = 1024  # px of the longer side that large images are shrunk to before they are compared
LEVELS = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing found in a dataset.

    Attributes:
        level: "error" (training stops, leaves something out, or its figures mean nothing; the command exits 1),
            "warning" (costs accuracy) or "note".
        name: What it is.
        count: How often.
        examples: Some of them.
        advice: What to do.
    """

    level: str
    name: str
    count: int
    examples: list[str]
    advice: str


@dataclass(frozen=True)
class Diagnosis:
    """What `check_data` found.

    Attributes:
        findings: The findings, errors first.
        figures: Counts and shares by split, plain values.
        sides: Square root of the area of every object at the training size, px, by split.
        per_image: Objects of every image, by split.
    """

    findings: list[Finding]
    figures: dict[str, Any]
    sides: dict[str, NDArray[np.float64]] = field(repr=False)
    per_image: dict[str, NDArray[np.int64]] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return findings and figures as plain values for JSON."""
        return {"findings": [asdict(finding) for finding in self.findings], "figures": self.figures}

    def text(self) -> str:
        """Return the findings as text."""
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.level.upper()}: {finding.name}: {finding.count}")
            lines += [f"    {example}" for example in finding.examples]
            lines.append(f"    -> {finding.advice}")
        return "\n".join(lines) or "nothing found"

    def write(self, folder: str | Path) -> Path:
        """Write ``check.json`` and a page with tables and plots, and return the path of the page."""
        page = Page(folder, "Dataset check")
        head = ["", "images", "empty", "objects", *(f"to {s:g} px" for s in [*SIZES.values()][:-1]), "larger"]
        rows = [
            [split, f["images"], f["images_without_objects"], f["objects"], *f["sizes"].values()]
            for split, f in self.figures["splits"].items()
        ]
        page.text(f"At the training size, {self.figures['imgsz']} px.")
        page.table(head, rows)
        page.heading("Findings")
        head = ["level", "finding", "count", "example"]
        page.table(head, [_row(finding) for finding in self.findings], text=("finding", "example"))
        for finding in self.findings:
            page.text(f"{finding.name} ({finding.count}): {finding.advice}")
        page.heading("Object sizes at the training size")
        page.figure("sizes", self._size_figure(), "Objects by the square root of their area at the training size")
        page.heading("Classes")
        names = list(self.figures["classes"])
        splits = list(self.figures["splits"])
        page.table(["class", *splits], [[n, *(self.figures["classes"][n].get(s, 0) for s in splits)] for n in names])
        page.heading("Objects per image")
        page.figure("per-image", self._count_figure(), "Images by the number of their objects")
        path = page.write()
        (path.parent / "check.json").write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        return path

    def _size_figure(self) -> Figure:
        figure, axis = _axis()
        edges = np.geomspace(0.5, 512, 61)
        for split, sides in self.sides.items():
            axis.hist(sides, edges, histtype="step", label=split, weights=np.full(len(sides), 100 / max(len(sides), 1)))
        axis.axvline(LOADER_LIMIT, color="0.4", ls="--", lw=1)
        axis.set(xscale="log", xlabel="px (dashed: what the loader drops)", ylabel="objects, %")
        axis.legend()
        return figure

    def _count_figure(self) -> Figure:
        figure, axis = _axis()
        top = max((int(counts.max()) for counts in self.per_image.values() if len(counts)), default=1)
        edges = np.linspace(0, top + 1, min(top + 2, 51))
        for split, counts in self.per_image.items():
            weights = np.full(len(counts), 100 / max(len(counts), 1))
            axis.hist(counts, edges, histtype="step", label=split, weights=weights)
        axis.set(xlabel="objects", ylabel="images, %")
        axis.legend()
        return figure


@dataclass(frozen=True)
class _Scan:
    """One image and its labels, read: class, centre x, centre y, width, height and, if oriented, angle.

    All but the angle are normalised, by the image's width and height; the sides of an oriented box in the same way.
    """

    image: Path
    size: tuple[int, int]
    digest: str
    phash: int | None
    problem: str
    rows: NDArray[np.float64]
    bad_lines: list[str]


_Form = tuple[int, bool, tuple[int, int] | None]  # what `parse_labels` is told of the dataset


def check_data(
    splits: Mapping[str, Sequence[tuple[Path, Path]]],
    names: Sequence[str],
    *,
    imgsz: int = 640,
    scale: float = 0.5,
    keypoints: tuple[int, int] | None = None,
    workers: int | None = None,
) -> Diagnosis:
    """Check a dataset.

    Args:
        splits: Images and their label files by split.
        names: Class names.
        imgsz: Training size: the longer side of an image is resized to it, px.
        scale: Ultralytics' augmentation of that name: sizes vary by a factor of 1 - scale to 1 + scale.
        keypoints: How many follow the box on every line, and the numbers of each; None where there are none.
        workers: Processes; all cores by default.

    Returns:
        The diagnosis.

    Raises:
        ImportError: If ImageHash is not installed.
        ValueError: If a setting is out of its range.
    """
    if not (isinstance(imgsz, int) and imgsz >= 1):
        raise ValueError(f"imgsz must be a whole number of px from 1, not {imgsz!r}")
    if not 0 <= scale <= 1:
        raise ValueError(f"scale must be in 0 to 1, not {scale!r}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers!r}")
    try:
        import imagehash  # noqa: F401  needed by the workers; say so before they start
    except ImportError as error:
        raise ImportError(f"data check needs ImageHash: pip install 'rfla-yolo[data]' ({error})") from None
    oriented = not keypoints and are_oriented(label for pairs in splits.values() for _, label in pairs)
    form = len(names), oriented, keypoints
    scans = {split: _scan_all(split, pairs, form, workers) for split, pairs in splits.items()}
    everything = [scan for found in scans.values() for scan in found]
    sides = {split: _sides(found, imgsz) for split, found in scans.items()}
    findings = [
        *_file_findings(everything, splits),
        *_label_findings(scans, names),
        *_duplicate_findings(scans),
        *_size_findings(scans, imgsz, scale),
    ]
    per_image = {split: np.array([len(s.rows) for s in found], dtype=np.int64) for split, found in scans.items()}
    figures = {
        "imgsz": imgsz,
        "splits": {split: _figures(found, sides[split]) for split, found in scans.items()},
        "classes": {
            name: {split: int(sum((s.rows[:, 0] == i).sum() for s in found)) for split, found in scans.items()}
            for i, name in enumerate(names)
        },
    }
    findings = sorted((f for f in findings if f.count), key=lambda f: LEVELS.index(f.level))
    return Diagnosis(findings, figures, sides, per_image)


def _scan_all(split: str, pairs: Sequence[tuple[Path, Path]], form: _Form, workers: int | None) -> list[_Scan]:
    jobs = [(image, label, form) for image, label in pairs]
    with ProcessPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return list(progress(pool.map(_scan, jobs, chunksize=16), len(jobs), f"reading {split}"))


def _scan(job: tuple[Path, Path, _Form]) -> _Scan:
    image, label, form = job
    rows, bad_lines = parse_labels(label, *form)
    problem = explain_image(image)
    if not problem:
        try:
            digest = hashlib.blake2b(digest_size=16)
            with image.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            size = image_size(image)
            if size[0] * size[1] > TRAINED_PIXELS:  # Pillow would decode them whole, or refuse to
                with open_dataset_image(image) as source:
                    source.prepare(1)
                    phash = _phash(Image.fromarray(source.overview(OVERVIEW)))
            else:
                with open_image(image) as opened:
                    phash = _phash(opened)
            return _Scan(image, size, digest.hexdigest(), phash, "", _upright(rows, size), bad_lines)
        except Exception as error:  # decoders raise whatever they like, and one file must not end the check
            problem = f"{image}: {error}"
    return _Scan(image, (0, 0), "", None, problem, _upright(rows, (1, 1)), bad_lines)


def _phash(image: Image.Image) -> int:
    """Return the perceptual hash of an image, 64 bits."""
    import imagehash

    return int(str(imagehash.phash(image.convert("L"))), 16)


def _upright(rows: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the rows of a scan; an oriented box has its own sides, whatever its angle."""
    if rows.shape[1] == 5:
        return rows
    boxes = min_area_boxes(rows[:, 1:].reshape(-1, 4, 2) * size)
    return np.concatenate([rows[:, :1], boxes[:, :4] / np.tile(size, 2), boxes[:, 4:]], 1)


def _file_findings(scans: Sequence[_Scan], splits: Mapping[str, Sequence[tuple[Path, Path]]]) -> Iterable[Finding]:
    broken = [scan.problem for scan in scans if scan.problem]
    advice = "fetch damaged ones again, stretch deeper ones to 8 bits, or remove them with their labels"
    yield _finding("error", "images that training cannot use", broken, advice)
    empty = [split for split in ("train", "val") if not splits.get(split)]
    yield _finding("error", "splits without images", empty, "are the paths in the YAML right?")
    labels = {label for pairs in splits.values() for _, label in pairs}
    folders = sorted({label.parent for label in labels})
    orphans = [str(file) for folder in folders for file in sorted(folder.glob("*.txt")) if file not in labels]
    advice = "training does not read them; are images missing, or is the split a part of the folder?"
    yield _finding("note", "label files without an image in the splits", orphans, advice)
    absent = [str(label) for pairs in splits.values() for _, label in pairs if not label.is_file()]
    advice = "they count as images without objects; make sure that is meant"
    yield _finding("note", "images without a label file", absent, advice)


def _label_findings(scans: Mapping[str, Sequence[_Scan]], names: Sequence[str]) -> Iterable[Finding]:
    everything = [scan for found in scans.values() for scan in found]
    bad = [line for scan in everything for line in scan.bad_lines]
    advice = "mend the lines: Ultralytics leaves out the whole image, this package stops (--skip-bad-labels goes on)"
    yield _finding("error", "bad label lines", bad, advice)
    flat = [_at(s, r) for s in everything for r in s.rows if min(r[3:5]) <= 0]
    yield _finding("error", "boxes without area", flat, "remove them: no anchor can be trained on them")
    twice = [_at(s, np.array(r)) for s in everything for r, n in Counter(map(tuple, s.rows)).items() if n > 1]
    yield _finding(
        "warning", "duplicate boxes", twice, "remove them: Ultralytics drops the copies, other tools count them"
    )
    bare = [split for split in ("train", "val") if split in scans and not any(len(s.rows) for s in scans[split])]
    advice = "nothing can be learned or measured; are the labels beside the images, in labels for images?"
    yield _finding("error", "splits without objects", bare, advice)
    counts = {split: {int(c) for s in found for c in s.rows[:, 0]} for split, found in scans.items()}
    unused = [name for i, name in enumerate(names) if not any(i in present for present in counts.values())]
    yield _finding("warning", "classes that never occur", unused, "remove them from the YAML, or find their labels")
    for split, present in counts.items():
        if split != "train" and "train" in counts:
            missing = [names[i] for i in sorted(present - counts["train"])]
            yield _finding("error", f"classes in {split} that train does not have", missing, "split the data anew")


def _duplicate_findings(scans: Mapping[str, Sequence[_Scan]]) -> Iterable[Finding]:
    readable = {split: [s for s in found if s.digest] for split, found in scans.items()}
    for split, found in readable.items():
        groups: dict[str, list[_Scan]] = defaultdict(list)
        for scan in found:
            groups[scan.digest].append(scan)
        same = [" = ".join(str(s.image) for s in group) for group in groups.values() if len(group) > 1]
        yield _finding("warning", f"identical images within {split}", same, "keep one of each")
    train = readable.get("train", [])
    for split, found in readable.items():
        if split == "train" or not train or not found:
            continue
        first = {scan.digest: scan for scan in train}
        exact = [f"{s.image} = {first[s.digest].image}" for s in found if s.digest in first]
        advice = f"remove them from one side: {split} figures of images seen in training mean nothing"
        yield _finding("error", f"images of {split} that are also in train", exact, advice)
        near = _near(found, train)
        advice = f"look at them: if they show the same scene, {split} figures are too good; split by scene or flight"
        yield _finding("warning", f"images of {split} much like one in train (perceptual hash)", near, advice)


def _near(found: Sequence[_Scan], train: Sequence[_Scan]) -> list[str]:
    """Return the images whose hash differs in `NEAR` bits at most from one in train, identical files aside."""
    known = {scan.digest for scan in train}
    others = _bits(train)
    pairs = []
    for start in range(0, len(found), 512):  # the matrix of all distances would not fit for large sets
        block = found[start : start + 512]
        distance = (64 - _bits(block) @ others.T) / 2
        for scan, row in zip(block, distance):
            best = int(row.argmin())
            if row[best] <= NEAR and scan.digest not in known:
                pairs.append(f"{scan.image} ~ {train[best].image} ({int(row[best])} bits)")
    return pairs


def _bits(scans: Sequence[_Scan]) -> NDArray[np.float32]:
    """Return the hashes as rows of -1 and 1, so that a product counts the bits in common."""
    hashes = np.array([scan.phash for scan in scans], dtype=np.uint64)
    return np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1).astype(np.float32) * 2 - 1


def _size_findings(scans: Mapping[str, Sequence[_Scan]], imgsz: int, scale: float) -> Iterable[Finding]:
    everything = [scan for found in scans.values() for scan in found if scan.digest]
    huge = [f"{s.image}: {s.size[0]} x {s.size[1]}" for s in everything if np.prod(s.size) > TRAINED_PIXELS]
    advice = "training leaves them out: cut them by 'rfla-yolo data tile'"
    yield _finding("error", f"images above {TRAINED_PIXELS:,} px", huge, advice)
    large = [f"{s.image}: {s.size[0]} x {s.size[1]}" for s in everything if max(s.size) > imgsz]
    advice = f"their objects shrink: raise imgsz, or cut them by 'rfla-yolo data tile' (training size {imgsz} px)"
    yield _finding("note", "images larger than the training size", large, advice)
    tiny = [
        f"{_at(s, r)}: {v:.2f} px"
        for s in everything
        for r, v in zip(s.rows, _short(s, imgsz))
        if v < LOADER_LIMIT - ROUNDING
    ]
    advice = "too small to learn: raise imgsz or tile, or leave such objects out"
    yield _finding("warning", f"objects with a side under 2 px at {imgsz} px", tiny, advice)
    short = np.concatenate([_short(s, imgsz) for s in scans.get("train", []) if s.digest] or [np.zeros(0)])
    if scale and len(short):
        # the factor is uniform in 1 - scale to 1 + scale: the share of it that makes the side too short
        lost = ((LOADER_LIMIT / short.clip(min=1e-9) - (1 - scale)) / (2 * scale)).clip(0, 1)
        share = (
            f"{100 * lost.mean():.1f} % of the objects of an epoch, {100 * lost[short < 4].mean():.0f} % below 4 px"
            if (short < 4).any()
            else f"{100 * lost.mean():.1f} % of the objects of an epoch"
        )
        advice = f"{share}: lower scale (now {scale:g}), raise imgsz, or tile"
        yield Finding("warning", "objects that scaling pushes under the loader's 2 px", round(lost.sum()), [], advice)
    for limit, level in ((MAX_DET, "error"), (STOCK_MAX_DET, "note")):
        dense = [f"{s.image}: {len(s.rows)}" for s in everything if len(s.rows) > limit]
        advice = (
            f"raise --max-det above {limit}" if limit == MAX_DET else "train.py and val.py keep 3000; stock keeps 300"
        )
        yield _finding(level, f"images with more than {limit} objects", dense, advice)


def _figures(found: Sequence[_Scan], sides: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "images": len(found),
        "images_without_objects": sum(not len(s.rows) for s in found),
        "objects": int(sum(len(s.rows) for s in found)),
        "most_objects_in_an_image": max((len(s.rows) for s in found), default=0),
        "mean_side": float(sides.mean()) if len(sides) else None,
        "sizes": count_sizes(sides),
    }


def _pixels(scan: _Scan, imgsz: int) -> NDArray[np.float64]:
    """Return widths and heights at the training size, px, (N, 2)."""
    return scan.rows[:, 3:5] * np.array(scan.size) * (imgsz / max(*scan.size, 1))


def _short(scan: _Scan, imgsz: int) -> NDArray[np.float64]:
    return _pixels(scan, imgsz).min(1)


def _sides(found: Sequence[_Scan], imgsz: int) -> NDArray[np.float64]:
    parts = [np.sqrt(_pixels(s, imgsz).prod(1)) for s in found if s.digest]
    return np.concatenate(parts) if parts else np.zeros(0)


def _finding(level: str, name: str, found: Sequence[str], advice: str) -> Finding:
    return Finding(level, name, len(found), list(found[:EXAMPLES]), advice)


def _at(scan: _Scan, row: NDArray[np.float64]) -> str:
    return f"{scan.image}: class {row[0]:.0f} at {row[1]:.4f} {row[2]:.4f}"


def _row(finding: Finding) -> list[object]:
    return [finding.level, finding.name, finding.count, finding.examples[0] if finding.examples else ""]


def _axis() -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="tight")
    return figure, figure.subplots()
