"""Prediction on whole scenes: a checkpoint or an exported file as the detector of tiles."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision  # noqa: F401  # once imported, Ultralytics' suppression takes its compiled one
import ultralytics
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils import LOGGER, TQDM
from ultralytics.utils import nms as suppression
from ultralytics.utils.plotting import Annotator, colors
from ultralytics.utils.torch_utils import select_device

from .. import __version__
from ..config import check_names
from ..evaluation.inputs import read_json
from ..scenes import Detections, overlap_for
from ..scenes.detections import concatenate
from ..scenes.outputs import Output
from ..scenes.run import UNFINISHED, Tally, Tiling, run_scenes, scene_rows, tiles_of, written
from ..scenes.source import Picture, Source, find_sources
from .formats import format_of, safely
from .model import NO_BRANCH, RFLAYOLO, check_size
from .precision import decode_in_float32
from .validator import MAX_DET, MAX_NMS

PADDING = 114  # the grey around pictures that are smaller than a tile, Ultralytics' value
BATCH = 8  # tiles at once, on a GPU
OVERLAP = 64  # px, where the checkpoint does not say how large objects are
MERGED_FROM = 0.5  # of the least score: what tiles give from there on is merged, see benchmarks/seams.py
FLOOR = 0.01  # below it there are too many boxes to be worth it
ANNOTATED = 4096**2  # px of the largest picture that is drawn on
UPRIGHT = {"detect": "", "segment": "masks", "pose": "keypoints"}  # tasks of axis-aligned boxes, and what is left out
DETECTION = ("task", "device", "half", "conf", "iou", "max_det", "nms", "classes")
TILING = ("tile", "overlap", "batch", "bands", "stretch", "aoi", "skip_bad_tiles")


class TileDetector:
    """A detector of tiles: RGB arrays (H, W, 3) to boxes in px of the tile. Masks and keypoints are left out.

    Its detections begin at ``least``, below the scores that are wanted: scores change from tile to tile, so that
    ``conf`` is applied after merging.

    Args:
        model: A checkpoint (.pt), an exported file, or a YOLO.
        task: The task of an exported file that does not say it; checked against all others.
        device: As Ultralytics takes it; by default the first GPU, or the CPU.
        half: Compute in half precision where the device can.
        conf: Least score of a scene's detections; "best": of each class the score of the lowest LRP, from the
            ``metrics.json`` beside the weights' run; or the path of such a file.
        iou: Two boxes of a class that overlap more are one object.
        max_det: Detections a tile; those that reach ``conf`` come first. A file that selects boxes may give fewer.
        nms: False: by the one-to-one branch of a head that has one.
        classes: Indices of the classes to keep; all by default.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the model finds no axis-aligned boxes in RGB pictures, or an argument is out of its range.

    Attributes:
        names: Class names by index.
        imgsz: Side of the training images, px; of an exported file that of its input.
        conf: Least score that is wanted, (classes,).
        least: Least score that a tile's detections have, (classes,).
        on_cpu: Whether it computes on the CPU.
        objects: What the training has kept of its objects, see `measure_objects`; empty where it has not.
    """

    def __init__(
        self,
        model: str | Path | YOLO,
        *,
        task: str | None = None,
        device: Any = None,
        half: bool = False,
        conf: float | str | Path = 0.25,
        iou: float = 0.7,
        max_det: int = MAX_DET,
        nms: bool | None = None,
        classes: Sequence[int] | None = None,
    ) -> None:
        if isinstance(conf, str) and (number := _number(conf)) is not None:
            conf = number
        if not isinstance(iou, (int, float)) or not 0 <= iou <= 1:
            raise ValueError(f"iou must be in 0 to 1, not {iou!r}")
        if not isinstance(max_det, int) or max_det < 1:
            raise ValueError(f"max_det must be at least 1, not {max_det!r}")
        if isinstance(classes, int):
            classes = [classes]
        if classes is not None and not len(classes):
            raise ValueError("classes holds none: leave it out for all")
        network, called, found = _load(model)
        self._one_to_one = nms is False
        place = select_device(device, verbose=False)
        with safely(format_of(network) if isinstance(network, str) else None):
            self._backend: Any = AutoBackend(network, place, fp16=half, verbose=False, end2end=self._one_to_one)
        self._backend.eval()
        if self._backend.fp16:
            decode_in_float32(self._backend)
        found = found or self._backend.task or task or "detect"
        _check_task(called, found, task)
        if left_out := UPRIGHT[found]:
            LOGGER.warning(f"model: {called} is for {found!r}: its boxes and scores are kept, {left_out} are left out")
        if self._backend.channels != 3:
            raise ValueError(f"model: {called} takes {self._backend.channels} channels; scenes are read as 3")
        if half and not self._backend.fp16:
            LOGGER.warning(f"half: {self._backend.device} computes this model in full precision")
        self.names: dict[int, str] = self._backend.names
        if classes and not set(classes) <= set(self.names):
            raise ValueError(f"classes must be of 0 to {len(self.names) - 1}, not {list(classes)}")
        self._classes, self._iou, self.max_det = classes, iou, max_det
        self._fixed: tuple[int, int] | None = None  # height and width that an exported file takes, and no other
        self.objects: Mapping[str, float] = {}
        if isinstance(network, nn.Module):
            sides: Any = getattr(network, "args", {}).get("imgsz", 640)
            self.objects = getattr(network, "objects", {})
            if self._backend.end2end:
                network.set_head_attr(max_det=max_det)  # type: ignore[operator]  # it leaves so many boxes
        else:
            sides = self._backend.imgsz
            self._fixed = None if self._backend.dynamic else (sides[0], sides[-1])
            if self._one_to_one and not self._backend.end2end:
                LOGGER.warning(NO_BRANCH.format(model=called))
            embedded = self._backend.metadata.get("args", {})
            if isinstance(embedded, dict) and embedded.get("nms"):
                known = [f"{name} {embedded[name]}" for name in ("conf", "iou") if embedded.get(name) is not None]
                LOGGER.warning(
                    f"model: {called} holds its own suppression, of {', '.join(known) or 'values not named'}: "
                    "conf can only be raised, and iou changes nothing; export it without --nms"
                )
        self.imgsz = max(sides) if isinstance(sides, (list, tuple)) else int(sides)
        if self._fixed:
            self.imgsz = min(self._fixed)  # of a file for pictures that are no squares the rest is padding
        if self._backend.end2end and not isinstance(network, nn.Module):
            self.max_det = min(max_det, self._room() or max_det)
        self.conf = _thresholds(conf, model, self.names)
        self.least = merged_from(self.conf)
        self.on_cpu: bool = self._backend.device.type == "cpu"

    @property
    def settings(self) -> dict[str, Any]:
        """What the detections of a tile follow from beside the weights, as plain values."""
        plain = {"merged from": self.least.tolist(), "iou": self._iou, "one-to-one": self._one_to_one}
        kept = {"classes": list(self._classes) if self._classes else None, "half": self._backend.fp16}
        return {**plain, **kept, "device": str(self._backend.device.type), **_versions()}

    def check_tile(self, tile: int) -> None:
        """Raise ValueError where the file takes no tiles of this side, px; it would take smaller ones padded."""
        if self._fixed and tile != self.imgsz:
            check_size("tile", (tile, tile), self._fixed)

    def _room(self) -> int:
        """Return the number of boxes that an exported file which selects them gives for a tile."""
        tile = np.full((self.imgsz, self.imgsz, 3), PADDING, dtype=np.uint8)
        return int(self._scored(self._run([tile])).shape[1])

    def __call__(self, tiles: list[np.ndarray]) -> list[Detections]:
        """Return the detections on each tile."""
        with torch.inference_mode():
            outputs = suppression.non_max_suppression(
                self._scored(self._run(tiles)),
                max(float(self.least.min()) - 1e-6, 0.0),  # it takes what is above, we what is not below
                self._iou,
                self._classes,
                max_det=MAX_NMS,
                nc=len(self.names),
                max_time_img=math.inf,
                max_nms=MAX_NMS,
                end2end=self._backend.end2end,
            )
        return [self._keep(found.float().cpu().numpy()) for found in outputs]

    def _run(self, tiles: list[np.ndarray]) -> Any:
        """Return the outputs of the network for tiles."""
        images = torch.from_numpy(self._stack(tiles)).to(self._backend.device).permute(0, 3, 1, 2)
        number = torch.half if self._backend.fp16 else torch.float
        with torch.inference_mode():
            return self._backend(images.to(number, memory_format=torch.contiguous_format).div_(255))

    def _scored(self, outputs: Any) -> torch.Tensor:
        """Return the boxes with their scores, of what the network gives beside masks or keypoints."""
        while isinstance(outputs, (list, tuple)):
            outputs = outputs[0]
        selected = self._backend.end2end or outputs.shape[-1] == 6  # rows of xyxy, score, class and what the task adds
        return outputs[..., :6] if selected else outputs[:, : 4 + len(self.names)]

    def _stack(self, tiles: list[np.ndarray]) -> np.ndarray:
        """Return tiles as one array, padded to the right and below where the network needs more, (B, H, W, 3)."""
        stride = self._backend.stride
        sides = zip(*(tile.shape[:2] for tile in tiles))
        height, width = self._fixed or (-(-max(side) // stride) * stride for side in sides)
        if all(tile.shape[:2] == (height, width) for tile in tiles):
            return np.stack(tiles)
        stacked = np.full((len(tiles), height, width, 3), PADDING, dtype=np.uint8)
        for place, tile in zip(stacked, tiles):
            place[: tile.shape[0], : tile.shape[1]] = tile
        return stacked

    def _keep(self, found: np.ndarray) -> Detections:
        """Return what reaches the least score of its class, best first; of too many first what is wanted."""
        label, score = found[:, 5].astype(np.int64), found[:, 4].astype(np.float64).round(7)
        kept = (score >= self.least[label]) & (found[:, 2:4] > found[:, :2]).all(1) & np.isfinite(found).all(1)
        rows = np.flatnonzero(kept)
        if len(rows) > self.max_det:
            below = score[rows] < self.conf[label[rows]]
            rows = np.sort(rows[np.argsort(below, kind="stable")[: self.max_det]])
        return Detections.of(found[rows, :4], score[rows], label[rows])


def merged_from(conf: Any) -> Any:
    """Return the score from which detections on tiles are merged where ``conf`` is wanted; numbers or arrays."""
    return np.minimum(conf, np.maximum(MERGED_FROM * conf, FLOOR))


def predict_scene(model: str | Path | YOLO, source: str | Path | np.ndarray, **options: Any) -> Detections:
    """Detect the objects of a scene of any size, as if there were no tiles.

    Args:
        model: A checkpoint (.pt), an exported file, or a YOLO.
        source: A raster or picture, or an array, RGB (H, W, 3).
        **options: Those of the command without its files: ``tile``, ``overlap``, ``batch``, ``bands`` [1, 2, 3],
            ``stretch`` [0, 3000] or ["2%", "98%"], ``aoi``, ``skip_bad_tiles``, and those of `TileDetector`.

    Returns:
        The detections, px of the scene.

    Raises:
        FileNotFoundError: If a file does not exist.
        ImportError: If the scene needs a package that is not installed.
        ValueError: If the scene cannot be read as asked, or an option is out of its range.
    """
    return concatenate(list(predict_scene_rows(model, source, **options)))


def predict_scene_rows(
    model: str | Path | YOLO, source: str | Path | np.ndarray, **options: Any
) -> Iterator[Detections]:
    """Detect the objects of a scene, a row of tiles at a time.

    Args:
        model: As in `predict_scene`.
        source: As in `predict_scene`.
        **options: As in `predict_scene`.

    Returns:
        After each row of tiles, the detections of the scene that no later row can change.
    """
    detector, tiling = _prepare(model, options)
    scene: Source
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise ValueError(f"source must be RGB, (H, W, 3) of uint8, not {source.shape} of {source.dtype}")
        if tiling.bands or tiling.stretch:
            raise ValueError(
                "bands and stretch are for files, not for an array: choose its bands, and stretch it before"
            )
        scene = Picture(Path("array"), source)
    else:
        if not Path(source).is_file():
            raise FileNotFoundError(f"source: no such file: {source}")
        scene = tiling.open(Path(source))
    return _rows(scene, detector, tiling)


def _rows(scene: Source, detector: TileDetector, tiling: Tiling) -> Iterator[Detections]:
    with scene:
        if tiling.aoi and not tiles_of(scene, tiling)[0]:
            raise ValueError(f"aoi: {tiling.aoi} does not touch the scene")
        yield from scene_rows(scene, detector, tiling)


def predict_files(
    weights: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    save: bool = False,
    save_txt: bool = False,
    save_conf: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> Tally:
    """Detect the objects of scenes and write map layers, COCO JSON and a page into a folder.

    Args:
        weights: A checkpoint (.pt) or an exported file.
        source: A raster or picture, a folder, a list of files (.txt), or a pattern.
        out: The folder. A run that was killed there goes on.
        save: Also draw on the pictures that are not too large.
        save_txt: Also write YOLO labels.
        save_conf: With scores.
        overwrite: Begin anew where the folder holds a finished run or one of other settings.
        **options: As in `predict_scene`.

    Returns:
        The counts.

    Raises:
        FileNotFoundError: If a file does not exist.
        ImportError: If a scene needs a package that is not installed.
        ValueError: If a scene cannot be read as asked, an option is out of its range, or the folder holds another run.
    """
    own = {file.resolve() for file in written(out)}
    paths = [path for path in find_sources(source) if path.resolve() not in own]
    if not paths:
        raise ValueError(f"source: {source} names nothing but what an earlier run wrote into {out}")
    detector, tiling = _prepare(weights, options)
    made_of = {"weights": _digest(Path(weights)), **detector.settings}
    drawn = [Annotated(Path(out) / UNFINISHED / "annotated", detector.names)] if save else []
    bar: Any = None

    def report(tally: Tally) -> None:
        nonlocal bar
        bar = bar or TQDM(total=tally.total, desc="tiles", unit="tile")
        bar.set_postfix(objects=tally.objects.total())
        bar.update(tally.done - bar.n)

    saved = {"save_txt": save_txt, "save_conf": save_conf, "overwrite": overwrite}
    try:
        return run_scenes(paths, detector, out, tiling, detector.names, made_of, outputs=drawn, report=report, **saved)
    finally:
        if bar:
            bar.close()


class Annotated(Output):
    """Draws the boxes on the pictures that are not too large, by Ultralytics' annotator.

    Args:
        folder: Folder of the drawn pictures.
        names: Class names by index.
    """

    a_file_each = True

    def __init__(self, folder: Path, names: Mapping[int, str]) -> None:
        self._folder, self._names = folder, names
        self._found: list[Detections] = []

    def add(self, source: Source, found: Detections) -> None:
        """Take more detections of a scene."""
        self._found.append(found)

    def end(self, source: Source) -> None:
        """Draw."""
        found, self._found = concatenate(self._found), []
        if source.width * source.height > ANNOTATED:
            LOGGER.warning(f"save: {source.path} is above {ANNOTATED:,} px and not drawn on; see the page")
            return
        pixels = source.overview(max(source.width, source.height))
        drawing = Annotator(np.ascontiguousarray(pixels[..., ::-1]), line_width=1, font_size=9)
        for box, label, score in zip(found.bbox.tolist(), found.label.tolist(), found.score.tolist()):
            drawing.box_label(box, f"{self._names[label]} {score:.2f}", color=colors(label, bgr=True))
        path = self._folder / f"{source.stem}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing.save(str(path))


def _prepare(model: str | Path | YOLO, options: Mapping[str, Any]) -> tuple[TileDetector, Tiling]:
    """Load the detector, and choose tile and overlap where they are not given."""
    check_names("option", options, (*DETECTION, *TILING))
    given = {name: value for name, value in options.items() if value is not None}
    detector = TileDetector(model, **{name: value for name, value in given.items() if name in DETECTION})
    for name in ("tile", "overlap", "batch"):
        if name in given and (isinstance(given[name], bool) or not isinstance(given[name], (int, np.integer))):
            raise ValueError(f"{name} must be a whole number{' of px' * (name != 'batch')}, not {given[name]!r}")
    tile = given.get("tile", detector.imgsz)
    if tile < 1:
        raise ValueError(f"tile must be at least 1 px, not {tile!r}")
    detector.check_tile(tile)
    if tile != detector.imgsz:
        LOGGER.warning(f"tile: {tile} px, but the model was trained on {detector.imgsz} px: it sees other surroundings")
    scale = detector.objects.get("scale", 1.0)
    if not 0.9 < scale < 1.1:
        LOGGER.warning(
            f"tile: training saw its images at {scale:.2f} times their size, tiles are seen as they are: "
            f"objects of 10 px were {10 * scale:.3g} px to the network and are 10 px now"
        )
    largest = detector.objects.get("side_p999")
    overlap = given.get("overlap", OVERLAP if largest is None else overlap_for(largest))
    if "overlap" not in given and largest is None:
        LOGGER.warning(
            f"overlap: {overlap} px; the model does not say how large its objects are: give --overlap for more"
        )
    if "overlap" not in given and overlap > tile // 2:
        LOGGER.warning(f"overlap: {tile // 2} px, half of the tile, though the largest objects need {overlap} px")
        overlap = tile // 2
    reading: dict[str, Any] = {
        "batch": 1 if detector.on_cpu else BATCH
    }  # several at once bring a CPU nothing but a larger peak
    reading |= {name: given[name] for name in TILING if name in given and name not in ("tile", "overlap")}
    return detector, Tiling(tile, overlap, conf=detector.conf.tolist(), max_det=detector.max_det, **reading)


def _load(model: str | Path | YOLO) -> tuple[nn.Module | str, str, str | None]:
    """Return the network of a model, or the path of an exported file; its name; and its task where it is a network."""
    if isinstance(model, YOLO) or Path(model).suffix in (".pt", ".yaml", ".yml"):
        yolo: Any = model if isinstance(model, YOLO) else RFLAYOLO(model)
        if not isinstance(yolo.model, nn.Module):
            return str(yolo.model), str(yolo.model), None
        network = deepcopy(yolo.model) if isinstance(model, YOLO) else yolo.model
        return network, str(yolo.ckpt_path or yolo.model_name), yolo.task
    if not Path(model).exists():
        raise FileNotFoundError(f"model: no such file: {model}")
    if format_of(model) is None:
        raise ValueError(f"model: {model} is no checkpoint (.pt) or exported file")
    return str(model), str(model), None


def _check_task(model: Any, found: str, task: str | None) -> None:
    if found not in UPRIGHT:
        raise ValueError(
            f"model: {model} is for {found!r}; scenes are merged by axis-aligned boxes, of the tasks "
            f"{', '.join(UPRIGHT)}. Of others use RFLAYOLO(weights).predict(...) or 'yolo predict', on pictures"
        )
    if task not in {None, found}:
        raise ValueError(f"task must be {found!r} for model {model}, not {task!r}")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _thresholds(conf: float | str | Path, model: Any, names: Mapping[int, str]) -> np.ndarray:
    """Return the least score of each class, (classes,)."""
    if isinstance(conf, (int, float)):
        if not 0 <= conf <= 1:
            raise ValueError(f"conf must be in 0 to 1, 'best', or the path of a metrics.json, not {conf!r}")
        return np.full(len(names), float(conf))
    file = Path(conf)
    if conf == "best":
        if not isinstance(model, (str, Path)):
            model = getattr(model, "ckpt_path", None) or ""
        places = [folder / "metrics.json" for folder in Path(model).resolve().parents[:2]]
        file = next((place for place in places if place.is_file()), places[-1])
    if not file.is_file():
        raise FileNotFoundError(
            f"conf: {conf} needs the metrics.json that 'rfla-yolo val' writes; there is none at {file}: "
            "give its path, --conf runs/detect/val/metrics.json"
        )
    content = read_json(file, "conf")
    by_class = content.get("per_class") if isinstance(content, dict) else None
    of_class = [by_class.get(names[label]) if isinstance(by_class, dict) else None for label in range(len(names))]
    found = [entry.get("threshold") if isinstance(entry, dict) else None for entry in of_class]
    for name, score in zip(names.values(), found):
        if score is not None and (not isinstance(score, (int, float)) or not 0 <= score <= 1):
            raise ValueError(f"conf: {file}: the threshold of {name} must be in 0 to 1, not {score!r}")
    known = [score for score in found if score is not None]
    if not known:
        raise ValueError(f"conf: {file} holds no threshold of any of the classes {', '.join(names.values())}")
    missing = [names[label] for label, score in enumerate(found) if score is None]
    if missing:
        LOGGER.warning(f"conf: {file} has no threshold for {', '.join(missing)}: the mean of the others is taken")
    return np.array([np.mean(known) if score is None else score for score in found], dtype=float)


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as content:
                while block := content.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    return {"rfla-yolo": __version__, "ultralytics": ultralytics.__version__, "torch": torch.__version__}
