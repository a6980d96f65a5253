"""The validators: Ultralytics' own of each task and, beside their metrics, AP of the boxes by object size."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.models.yolo.obb import OBBValidator
from ultralytics.models.yolo.pose import PoseValidator
from ultralytics.models.yolo.segment import SegmentationValidator
from ultralytics.utils import LOGGER, nms, ops

from ..config import FITNESS, RFLAConfig
from ..datasets.boxes import min_area_boxes
from ..datasets.dota import write_task1_of
from ..datasets.tile import TILES, to_wholes
from ..datasets.truth import match_categories, match_images
from ..evaluation import TABLE, Evaluation, percent, write_page
from ..evaluation.boxes import Detections, Objects
from ..evaluation.coco import evaluate_inputs
from ..evaluation.inputs import Inputs, load_inputs, read_json, uniquely_named
from .data import build_checked, check_dataset, find_annotations
from .precision import float32_boxes

MAX_DET = 3000  # detections an image; Ultralytics' 300 cuts dense images, RFLA's configs keep 3000
MAX_NMS = 30000  # boxes an image that enter non-maximum suppression, Ultralytics' value
SIZE_METRICS = tuple(f"metrics/{name}" for name in TABLE)  # columns of results.csv


def _heading(stock: Any) -> Callable[[Any], str]:
    """Return ``get_desc`` of a validator: stock's columns in training; outside of it the table comes at the end."""
    return lambda self: stock.get_desc(self) if self.training else f"{'Validating':>22}"


class RFLAValidator(DetectionValidator):
    """Validate a detector by Ultralytics' metrics and by the AI-TOD definition.

    After a validation outside of training the run folder holds ``metrics.json`` and ``predictions.json`` (COCO), and
    ``annotations.json`` where the ground truth was made from the labels. Non-maximum suppression has no time limit. A
    network in half precision has its boxes decoded in float32.

    Named after the validator of another task as a base, it makes that one's; oriented boxes are evaluated as such.

    Attributes:
        evaluation: Figures of the last validation; after one in training nothing but the figures.
    """

    evaluation: Evaluation | None = None
    _exported = False  # whether an exported file is validated
    # file, height and width, detections (D, 6) as xywh (oriented: and angle, (D, 7)), score, class, and how many were
    # cut off and were no numbers
    jdict: list[tuple[str, tuple[int, int], np.ndarray, int, int]]

    def __init__(
        self, dataloader: Any = None, save_dir: Path | None = None, args: Any = None, _callbacks: dict | None = None
    ) -> None:
        self.rfla = RFLAConfig()
        if isinstance(args, dict):
            args = {"max_det": MAX_DET, **args}
            self.rfla, _ = RFLAConfig.take_from(args)
            args["data"] = check_dataset(args.get("data"), args.get("split") or "val")
        super().__init__(dataloader, save_dir, args, _callbacks)
        self._precision = self.args.quantize  # what is asked for; every validation notes its own in its arguments
        self.args.save_json = False  # the predictions are kept and written here, see get_stats
        self._truth: _Truth | None = None
        self._warned_of_fitness = False

    def __call__(self, trainer: Any = None, model: Any = None, **kwargs: Any) -> Any:
        """Validate; after a training in the precision that is asked for, as any later validation of the checkpoint."""
        self.args.quantize = self._precision
        with ExitStack() as self._decoding:
            return super().__call__(trainer, model, **kwargs)

    def build_dataset(self, img_path: str, mode: str = "val", batch: int | None = None) -> Any:
        """Build the dataset and check that all of its labels can be used."""
        build = partial(super().build_dataset, img_path, mode, batch)
        return build_checked(build, img_path, self.data, self.args, self.rfla.skip_bad_labels)

    @property
    def oriented(self) -> bool:
        """Whether the boxes are oriented: centre x and y, width, height, px, and angle, radians."""
        return bool(self.args.task == "obb")

    def postprocess(self, preds: Any) -> list[dict[str, torch.Tensor]]:
        """Apply non-maximum suppression without Ultralytics' time limit, which drops detections on a busy machine."""
        outputs = nms.non_max_suppression(
            preds,
            self.args.conf,
            self.args.iou,
            nc=0 if self.args.task == "detect" else self.nc,  # the others have more channels than boxes and scores
            multi_label=True,
            agnostic=self.args.single_cls or self.args.agnostic_nms,
            max_det=self.args.max_det if self.end2end else MAX_NMS,
            max_time_img=math.inf,
            max_nms=MAX_NMS,
            end2end=self.end2end,
            rotated=self.oriented,
        )
        # an end-to-end head gives max_det boxes always, a file as many as it was exported with; where the last still
        # counts, more would have
        full = self.args.max_det if self.end2end else math.inf
        if self.end2end and self._exported:
            full = min(full, (preds[0] if isinstance(preds, (list, tuple)) else preds).shape[1])
        self._room = full
        self._cut = [max(len(x) - self.args.max_det, int(0 < len(x) == full)) for x in outputs]
        outputs = [x[: self.args.max_det] for x in outputs]  # best first: what max_det would have left
        return [{"bboxes": x[:, :4], "conf": x[:, 4], "cls": x[:, 5], "extra": x[:, 6:]} for x in outputs]

    def update_metrics(self, preds: list[dict[str, torch.Tensor]], batch: dict[str, Any]) -> None:
        """Keep the detections in pixels of the original image, 24 bytes each, beside what Ultralytics keeps."""
        super().update_metrics(preds, batch)
        for i, pred in enumerate(preds):
            shapes = {"img1_shape": batch["img"].shape[2:], "img0_shape": batch["ori_shape"][i]}
            # the boxes alone: `scale_preds` of segmentation makes every mask as large as the image
            boxes = ops.scale_boxes(
                boxes=pred["bboxes"].clone(), ratio_pad=batch["ratio_pad"][i], xywh=self.oriented, **shapes
            )
            if not self.oriented:
                boxes = ops.xyxy2ltwh(boxes)
            columns = [boxes, pred["conf"][:, None], pred["cls"][:, None]]
            found = torch.cat(columns, 1).float().cpu().numpy()
            finite = np.isfinite(found).all(1)
            kept = found if finite.all() else found[finite]
            cut, lost = self._cut[i], len(found) - len(kept)
            self.jdict.append((batch["im_file"][i], tuple(batch["ori_shape"][i]), kept, cut, lost))

    def get_stats(self) -> dict[str, Any]:
        """Add AP by size to Ultralytics' metrics, and let the fitness be the figure that the settings name."""
        stats = super().get_stats()
        self._warn_of_cuts()
        if self._truth is None:
            self._truth = self._truth_from_labels()
            _write_annotations(self.save_dir / "annotations.json", self._truth)
        inputs = self._inputs(self._truth)  # takes the detections out of jdict
        self.evaluation = self.metrics.evaluation = evaluation = evaluate_inputs(inputs, details=not self.training)
        if not self.training:
            _write_predictions(self.save_dir / "predictions.json", inputs)
            figures = {**evaluation.to_dict(), "ultralytics": {k: float(v) for k, v in stats.items()}}
            (self.save_dir / "metrics.json").write_text(json.dumps(figures, indent=2), encoding="utf-8")
            task1 = self._write_task1(inputs) if self.oriented else ""
            if self.args.plots:
                files = {inputs.images[i]["id"]: file for file, places in self._truth.places.items() for i in places}
                write_page(evaluation, self.save_dir, files)
            more = [*filter(None, [task1]), *["index.html"] * self.args.plots]
            LOGGER.info(f"Wrote {self.save_dir}: {', '.join(['metrics.json', 'predictions.json', *more])}")
        if figure := FITNESS[self.rfla.fitness]:
            value = evaluation[figure]
            if value is not None:
                stats["fitness"] = value
            elif not self._warned_of_fitness:
                self._warned_of_fitness = True
                LOGGER.warning(
                    f"fitness={self.rfla.fitness}: the validation images hold no object that counts for {figure}; "
                    "following Ultralytics' fitness, its mAP50-95, instead"
                )
        values = (evaluation[name] for name in TABLE)
        return stats | {k: math.nan if v is None else v for k, v in zip(SIZE_METRICS, values)}

    get_desc = _heading(DetectionValidator)

    def print_results(self) -> None:
        """Print a line in training; outside of it one table by class, AP by size (percent) in its last columns."""
        figures = self.evaluation
        assert figures is not None  # get_stats comes first
        if self.training:
            super().print_results()
            LOGGER.info(f"{'':>22}" + "  ".join(f"{name} {percent(figures[name])}" for name in TABLE))
            return
        metrics = self.metrics
        names = [_short(key) for key in metrics.keys]
        header = "".join(f"{name:>{_width(name)}}" for name in ("Images", "Instances", *names))
        LOGGER.info(f"{'Class':>22}{header}" + "".join(f"{n:>7}" for n in TABLE))

        def print_row(name: str, images: int, instances: int, results: Any, figures: dict[str, float | None]) -> None:
            cells = "".join(f"{float(value):>{_width(n)}.3g}" for n, value in zip(names, results))
            sizes = "".join(f"{percent(figures.get(metric)):>7}" for metric in TABLE)
            LOGGER.info(f"{name:>22}{images:>10}{instances:>10}{cells}{sizes}")

        print_row("all", self.seen, metrics.nt_per_class.sum(), metrics.mean_results(), figures.metrics)
        if not self.args.verbose or self.nc < 2:
            return
        assert self._truth is not None
        for i, c in enumerate(metrics.ap_class_index):
            counts = metrics.nt_per_image[c], metrics.nt_per_class[c]
            place = self._truth.labels[c]
            found = figures.per_class[self._truth.categories[place]["name"]] if place >= 0 else {}
            print_row(self.names[c], *counts, metrics.class_result(i), found)

    def _write_task1(self, inputs: Inputs) -> str:
        """Write the detections in DOTA's format, those on tiles merged, or say why they cannot be: val is done anyway.

        Returns:
            What was written, in words; empty where nothing was.
        """
        root = Path(self.data.get("path") or "")
        tiled = (root / TILES).is_file()
        try:
            write_task1_of(to_wholes(inputs, root, self.args.split or "val") if tiled else inputs, self.save_dir)
        except ValueError as error:
            LOGGER.warning(f"Task1_*.txt are left out: {error}")
            return ""
        return "Task1_*.txt" + " of the whole images" * tiled

    def _warn_of_cuts(self) -> None:
        """Say where ``max_det`` has cut detections off, and how many were no numbers."""
        cut = Counter({im_file: count for im_file, _, _, count, _ in self.jdict if count})
        if cut and self.end2end:
            whose = " (the exported file's)" if self._room < self.args.max_det else ""
            LOGGER.warning(f"max_det={self._room}{whose} is reached in {len(cut)} images: it may have cut some off")
        elif cut:
            worst, most = cut.most_common(1)[0]
            LOGGER.warning(
                f"max_det={self.args.max_det} cut off {cut.total()} detections in {len(cut)} images, "
                f"most in {worst}: {most}"
            )
        if lost := sum(count for *_, count in self.jdict):
            LOGGER.warning(f"{lost} detections with a box or score of NaN or infinity were left out of AP by size")

    def _inputs(self, truth: _Truth) -> Inputs:
        """Return ground truth and detections, which leave ``jdict``, rounded as they are written."""
        left = {im_file: list(places) for im_file, places in truth.places.items()}
        # of an image that the data names twice but a COCO file once, the first detections are taken
        found = [(left[im_file].pop(0), table) for im_file, _, table, *_ in self.jdict if left[im_file]]
        self.jdict = []
        found.sort(key=lambda entry: entry[0])
        image = np.repeat(np.array([i for i, _ in found], dtype=np.int32), [len(table) for _, table in found])
        table = np.concatenate([np.zeros((0, 6 + self.oriented), np.float32), *(table for _, table in found)])
        del found
        label = truth.labels[table[:, -1].astype(int)]
        if (label < 0).any():  # classes of the model that the COCO file does not know
            table, image, label = table[label >= 0], image[label >= 0], label[label >= 0]
        bbox, score = table[:, :-2].astype(float), table[:, -2].astype(float).round(7)
        # the same boxes in Ultralytics' range of angles: some heads learn the angle without bounds
        bbox[:, 4:] = (bbox[:, 4:] + math.pi / 4) % math.pi - math.pi / 4
        bbox = bbox.round(4)
        bbox[:, 2:4] = bbox[:, 2:4].clip(0)  # a head that learns distances with a sign may turn a box inside out
        return Inputs(truth.images, truth.categories, truth.objects, Detections(image, label, bbox, score))

    def load_annotations(self, data: dict[str, Any]) -> None:
        """Read the COCO ground truth that the data YAML names for the split, if it does, before any work.

        Args:
            data: What Ultralytics has read of the dataset's YAML.

        Raises:
            ValueError: If it is no such file, or does not hold the dataset's images and classes.
        """
        path = find_annotations(data, self.args.split or "val")
        if path and not self.args.single_cls and self.args.classes is None:
            names = {int(i): str(name) for i, name in data["names"].items()}
            box = "rbox" if self.oriented else "bbox"
            self._truth = self._truth_from_file(path, self.dataloader.dataset.im_files, names, box)
            if (self._truth.objects.bbox.shape[1] == 5) != self.oriented:
                needs, holds = ("boxes (bbox)", "oriented boxes (rbox)")[:: -1 if self.oriented else 1]
                raise ValueError(f"annotations {path}: holds {holds}, task {self.args.task!r} needs {needs}")

    def init_metrics(self, model: Any) -> None:
        """Set up Ultralytics' metrics, and read the ground truth unless training has done so."""
        super().init_metrics(model)
        self._exported = not self.training and getattr(model, "format", "pt") != "pt"
        self.args.save_json = False  # Ultralytics switches it on for COCO by name
        if self.args.quantize == 16:
            self._decoding.enter_context(float32_boxes(model))
        if not self.training:
            self.load_annotations(self.data)

    @staticmethod
    def _truth_from_file(path: Path, im_files: list[str], names: dict[int, str], box: str) -> _Truth:
        """Match the images of a COCO file by name, and its categories by name or, failing that, by order."""
        coco = read_json(path, "annotations")
        load_inputs(coco, None)  # says what is wrong with the file, if anything
        images = match_images(coco, im_files, f"annotations {path}")
        image_ids = {im_file: image["id"] for im_file, image in images.items()}
        if len(image_ids) < len(coco["images"]):
            missing = len(coco["images"]) - len(image_ids)
            LOGGER.warning(f"annotations {path}: {missing} of {len(coco['images'])} images are not in the dataset")
        categories = match_categories(coco, names, f"annotations {path}")
        inputs = load_inputs(coco, None, image_ids.values(), box)
        place = {image["id"]: i for i, image in enumerate(inputs.images)}
        place_of_class = {category["id"]: k for k, category in enumerate(inputs.categories)}
        labels = np.full(max(names) + 1, -1, dtype=np.int32)
        labels[list(categories)] = [place_of_class[key] for key in categories.values()]
        places = {im_file: [place[key]] for im_file, key in image_ids.items()}
        return _Truth(inputs.images, inputs.categories, inputs.objects, places, labels)

    def _truth_from_labels(self) -> _Truth:
        """Make ground truth from the labels, in pixels of the original image; an image named twice counts twice."""
        labels = {label["im_file"]: label for label in self.dataloader.dataset.labels}
        images: list[dict[str, Any]] = []
        places: dict[str, list[int]] = defaultdict(list)
        none = np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 4 + self.oriented))
        columns: list[tuple[Any, ...]] = [none]
        for im_file, (height, width) in sorted((im_file, shape) for im_file, shape, *_ in self.jdict):
            places[im_file].append(len(images))
            cls = labels[im_file]["cls"].flatten().astype(np.int32)
            if self.oriented:
                polygons = labels[im_file]["segments"]
                boxes = min_area_boxes(points.astype(np.float64) * (width, height) for points in polygons)
            else:
                boxes = labels[im_file]["bboxes"].astype(np.float64) * (width, height, width, height)
                boxes[:, :2] -= boxes[:, 2:] / 2
            # normalised text has lost the last digits of a pixel: unrounded, an object of 8 x 8 px has 64.00001 px^2
            boxes[:, :4] = boxes[:, :4].round(2)
            columns.append((np.full(len(cls), len(images), dtype=np.int32), cls, boxes))
            file = {"id": len(images) + 1, "file_name": Path(im_file).name, "height": height, "width": width}
            images.append(file)
        image, label, bbox = (np.concatenate(column) for column in zip(*columns))
        names = {0: "item"} if self.args.single_cls else {int(i): str(n) for i, n in self.names.items()}
        categories = uniquely_named([{"id": i + 1, "name": name} for i, name in names.items()])
        objects = Objects(image, label, bbox, bbox[:, 2] * bbox[:, 3], np.zeros(len(image), dtype=bool))
        return _Truth(images, categories, objects, places, np.arange(len(names), dtype=np.int32))


@dataclass(frozen=True)
class _Truth:
    """Ground truth of the validation images.

    Attributes:
        images: COCO images, ordered by id.
        categories: COCO categories, ordered by id.
        objects: Their objects.
        places: Indices of the images by file, one for each time that the data names it.
        labels: Index of the category of each class of the model, -1 for none.
    """

    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    objects: Objects
    places: dict[str, list[int]]
    labels: np.ndarray


class RFLASegmentationValidator(SegmentationValidator, RFLAValidator):
    """`RFLAValidator` of segmentation: Ultralytics' metrics of boxes and masks, and AP by size of the boxes.

    Ultralytics keeps a mask of a quarter of the image's height and width for every detection: ``max_det`` costs memory.
    """

    get_desc = _heading(SegmentationValidator)


class RFLAPoseValidator(PoseValidator, RFLAValidator):
    """`RFLAValidator` of keypoints: Ultralytics' metrics of boxes and keypoints, and AP by size of the boxes."""

    get_desc = _heading(PoseValidator)

    def init_metrics(self, model: Any) -> None:
        """Set up the metrics; raise ValueError where the data has other keypoints than the model."""
        super().init_metrics(model)
        drawn, labelled = (list(shape) for shape in (model.kpt_shape, self.kpt_shape))
        if drawn != labelled:
            raise ValueError(f"kpt_shape: the model draws keypoints of shape {drawn}, the data has {labelled}")


class RFLAOBBValidator(OBBValidator, RFLAValidator):
    """`RFLAValidator` of oriented boxes: Ultralytics' metrics, by ProbIoU, and AP by size, by the rotated IoU.

    Outside of training it writes the detections also in DOTA's format, ``Task1_{class}.txt``, unless the names of the
    images do not allow it. On a set of tiles they are those of the whole images, merged as `merge_tiles` does.
    """


def _short(key: str) -> str:
    """Return the heading of one of Ultralytics' figures: of the boxes without more, of masks (M), of keypoints (P)."""
    name = key.removeprefix("metrics/").removesuffix("(B)")
    return name.replace("precision", "P").replace("recall", "R")


def _width(name: str) -> int:
    return max(10, len(name) + 1)


def _write_predictions(path: Path, inputs: Inputs) -> None:
    found = inputs.detections
    with path.open("w", encoding="utf-8") as file:
        _write_list(file, len(found), lambda rows: _entries(inputs, found, rows, score=found.score[rows].tolist()))


def _write_annotations(path: Path, truth: _Truth) -> None:
    objects = truth.objects

    def entries(rows: slice) -> list[dict[str, Any]]:
        ids, area = range(rows.start + 1, rows.stop + 1), objects.area[rows].tolist()
        return _entries(truth, objects, rows, id=ids, area=area, iscrowd=objects.crowd[rows].astype(int).tolist())

    with path.open("w", encoding="utf-8") as file:
        lists = f'{{"images": {json.dumps(truth.images)}, "categories": {json.dumps(truth.categories)}'
        file.write(f'{lists}, "annotations": ')
        _write_list(file, len(objects), entries)
        file.write("}")


def _entries(owner: Any, boxes: Objects | Detections, rows: slice, **columns: Iterable[Any]) -> list[dict[str, Any]]:
    """Return some rows as COCO entries."""
    images, categories = ([thing["id"] for thing in things] for things in (owner.images, owner.categories))
    places = zip(boxes.image[rows].tolist(), boxes.label[rows].tolist(), boxes.bbox[rows].tolist(), *columns.values())
    key = "rbox" if boxes.bbox.shape[1] == 5 else "bbox"
    return [
        {"image_id": images[i], "category_id": categories[k], key: box, **dict(zip(columns, rest))}
        for i, k, box, *rest in places
    ]


def _write_list(file: TextIO, count: int, entries: Callable[[slice], list[dict[str, Any]]], step: int = 10_000) -> None:
    """Write a JSON list, some entries at a time."""
    file.write("[")
    for start in range(0, count, step):
        file.write(", " * (start > 0) + json.dumps(entries(slice(start, min(start + step, count))))[1:-1])
    file.write("]")
