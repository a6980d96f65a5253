"""The validator: Ultralytics' ``DetectionValidator`` and, beside its metrics, AP by object size."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import LOGGER, nms, ops

from ..config import FITNESS, RFLAConfig
from ..datasets.truth import match_categories, match_images
from ..evaluation import TABLE, Evaluation, evaluate, percent, write_page
from .data import build_checked, check_dataset, find_annotations

MAX_DET = 3000  # detections an image; Ultralytics' 300 cuts dense images, RFLA's configs keep 3000
MAX_NMS = 30000  # boxes an image that enter non-maximum suppression, Ultralytics' value
SIZE_METRICS = tuple(f"metrics/{name}" for name in TABLE)  # columns of results.csv


class RFLAValidator(DetectionValidator):
    """Validate a detector by Ultralytics' metrics and by the AI-TOD definition.

    After a validation outside of training the run folder holds ``metrics.json`` and ``predictions.json`` (COCO), and
    ``annotations.json`` where the ground truth was made from the labels. Non-maximum suppression has no time limit.

    Attributes:
        evaluation: Figures of the last validation.
    """

    evaluation: Evaluation | None = None

    def __init__(
        self, dataloader: Any = None, save_dir: Path | None = None, args: Any = None, _callbacks: dict | None = None
    ) -> None:
        self.rfla = RFLAConfig()
        if isinstance(args, dict):
            args = {"max_det": MAX_DET, **args}
            self.rfla, _ = RFLAConfig.take_from(args)
            args["data"] = check_dataset(args.get("data"), args.get("split") or "val")
        super().__init__(dataloader, save_dir, args, _callbacks)
        self.args.save_json = False  # the predictions are kept and written here, see get_stats
        self._ground_truth: dict[str, Any] | None = None

    def build_dataset(self, img_path: str, mode: str = "val", batch: int | None = None) -> Any:
        """Build the dataset and check that all of its labels can be used."""
        build = partial(super().build_dataset, img_path, mode, batch)
        return build_checked(build, img_path, self.data, self.args, self.rfla.skip_bad_labels)

    def postprocess(self, preds: Any) -> list[dict[str, torch.Tensor]]:
        """Apply non-maximum suppression without Ultralytics' time limit, which drops detections on a busy machine."""
        outputs = nms.non_max_suppression(
            preds,
            self.args.conf,
            self.args.iou,
            multi_label=True,
            agnostic=self.args.single_cls or self.args.agnostic_nms,
            max_det=self.args.max_det if self.end2end else MAX_NMS,
            max_time_img=math.inf,
            max_nms=MAX_NMS,
            end2end=self.end2end,
        )
        self._cut = [max(len(x) - self.args.max_det, 0) for x in outputs]
        outputs = [x[: self.args.max_det] for x in outputs]  # best first: what max_det would have left
        return [{"bboxes": x[:, :4], "conf": x[:, 4], "cls": x[:, 5], "extra": x[:, 6:]} for x in outputs]

    def update_metrics(self, preds: list[dict[str, torch.Tensor]], batch: dict[str, Any]) -> None:
        """Keep the detections in pixels of the original image, beside what Ultralytics keeps."""
        super().update_metrics(preds, batch)
        for i, pred in enumerate(preds):
            image = self._prepare_batch(i, batch)
            scaled = self.scale_preds(pred, image)
            columns = [ops.xyxy2ltwh(scaled["bboxes"]), scaled["conf"][:, None], scaled["cls"][:, None]]
            detections = torch.cat(columns, 1).double().cpu().numpy()
            self.jdict.append((image["im_file"], tuple(image["ori_shape"]), detections, self._cut[i]))

    def get_stats(self) -> dict[str, Any]:
        """Add AP by size to Ultralytics' metrics, and let the fitness be the figure that the settings name."""
        stats = super().get_stats()
        self._warn_of_cuts()
        if self._ground_truth is None:
            self._ground_truth = self._load_ground_truth()
        predictions = self._predictions(self._ground_truth)
        ids = self._ground_truth["image_ids"].values()
        evaluation = evaluate(self._ground_truth["coco"], predictions, ids, details=not self.training)
        self.evaluation = self.metrics.evaluation = evaluation
        if not self.training:
            _write_json(self.save_dir / "predictions.json", predictions)
            figures = {**self.evaluation.to_dict(), "ultralytics": {k: float(v) for k, v in stats.items()}}
            _write_json(self.save_dir / "metrics.json", figures, indent=2)
            if self.args.plots:
                write_page(evaluation, self.save_dir, {i: file for file, i in self._ground_truth["image_ids"].items()})
            LOGGER.info(f"Wrote {self.save_dir}: metrics.json, predictions.json" + ", index.html" * self.args.plots)
        if figure := FITNESS[self.rfla.fitness]:
            stats["fitness"] = evaluation[figure] or 0.0  # undefined would count as a failed training
        values = (evaluation[name] for name in TABLE)
        return stats | {k: math.nan if v is None else v for k, v in zip(SIZE_METRICS, values)}

    def get_desc(self) -> str:
        """Return Ultralytics' columns in training; outside of it the table comes at the end."""
        return super().get_desc() if self.training else f"{'Validating':>22}"

    def print_results(self) -> None:
        """Print a line in training; outside of it one table by class, AP by size (percent) in its last columns."""
        figures = self.evaluation
        assert figures is not None  # get_stats comes first
        if self.training:
            super().print_results()
            LOGGER.info(f"{'':>22}" + "  ".join(f"{name} {percent(figures[name])}" for name in TABLE))
            return
        header = ("Images", "Instances", "P", "R", "mAP50", "mAP50-95")
        LOGGER.info(f"{'Class':>22}" + "".join(f"{name:>10}" for name in header) + "".join(f"{n:>7}" for n in TABLE))
        metrics = self.metrics
        self._print_row("all", self.seen, metrics.nt_per_class.sum(), metrics.mean_results(), figures.metrics)
        if not self.args.verbose or self.nc < 2:
            return
        for i, c in enumerate(metrics.ap_class_index):
            name = self.names[c]
            counts = metrics.nt_per_image[c], metrics.nt_per_class[c]
            self._print_row(name, *counts, metrics.class_result(i), figures.per_class.get(name, {}))

    @staticmethod
    def _print_row(name: str, images: int, instances: int, results: Any, figures: dict[str, float | None]) -> None:
        cells = "".join(f"{float(value):>10.3g}" for value in results)
        sizes = "".join(f"{percent(figures.get(metric)):>7}" for metric in TABLE)
        LOGGER.info(f"{name:>22}{images:>10}{instances:>10}{cells}{sizes}")

    def _warn_of_cuts(self) -> None:
        """Say where ``max_det`` has cut detections off."""
        cut = {im_file: count for im_file, _, _, count in self.jdict if count}
        if cut:
            worst = max(cut, key=lambda im_file: cut[im_file])
            LOGGER.warning(
                f"max_det={self.args.max_det} cut off {sum(cut.values())} detections in {len(cut)} images, "
                f"most in {worst}: {cut[worst]}"
            )

    def _predictions(self, truth: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the kept detections as COCO; evaluated exactly as they are written."""
        predictions: list[dict[str, Any]] = []
        for im_file, _, detections, _ in self.jdict:
            image_id = truth["image_ids"][im_file]
            boxes, scores = detections[:, :4].round(4).tolist(), detections[:, 4].round(7).tolist()
            for box, score, label in zip(boxes, scores, detections[:, 5].astype(int).tolist()):
                category = truth["categories"].get(label)
                if category is not None:
                    predictions.append({"image_id": image_id, "category_id": category, "bbox": box, "score": score})
        return predictions

    def _load_ground_truth(self) -> dict[str, Any]:
        """Read the COCO file that the data YAML names for the split, or make one from the labels."""
        path = find_annotations(self.data, self.args.split or "val")
        if path and not self.args.single_cls and self.args.classes is None:
            return self._annotations_from_file(path)
        truth = self._annotations_from_labels()
        _write_json(self.save_dir / "annotations.json", truth["coco"])
        return truth

    def _annotations_from_file(self, path: Path) -> dict[str, Any]:
        """Match the images of a COCO file by name, and its categories by name or, failing that, by order."""
        coco = json.loads(path.read_text(encoding="utf-8"))
        images = match_images(coco, [im_file for im_file, *_ in self.jdict], f"annotations {path}")
        image_ids = {im_file: image["id"] for im_file, image in images.items()}
        if len(image_ids) < len(coco["images"]):
            missing = len(coco["images"]) - len(image_ids)
            LOGGER.warning(f"annotations {path}: {missing} of {len(coco['images'])} images are not in the dataset")
        names = {int(i): name for i, name in self.names.items()}
        categories = match_categories(coco, names, f"annotations {path}")
        return {"coco": coco, "image_ids": image_ids, "categories": categories}

    def _annotations_from_labels(self) -> dict[str, Any]:
        """Make COCO ground truth from the labels, in pixels of the original image, ids from 1."""
        shapes = {im_file: shape for im_file, shape, *_ in self.jdict}
        image_ids = {im_file: i for i, im_file in enumerate(sorted(shapes), start=1)}
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for label in self.dataloader.dataset.labels:
            im_file = label["im_file"]
            if im_file not in shapes:
                continue
            height, width = shapes[im_file]
            file = {"id": image_ids[im_file], "file_name": Path(im_file).name, "height": height, "width": width}
            images.append(file)
            boxes = label["bboxes"].astype(np.float64) * (width, height, width, height)
            boxes[:, :2] -= boxes[:, 2:] / 2
            # normalised text has lost the last digits of a pixel: unrounded, an object of 8 x 8 px has 64.00001 px^2
            for box, cls in zip(boxes.round(2).tolist(), label["cls"].flatten().astype(int).tolist()):
                annotation = {"id": len(annotations) + 1, "image_id": image_ids[im_file], "category_id": cls + 1}
                annotations.append({**annotation, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
        names = {0: "item"} if self.args.single_cls else {int(i): str(n) for i, n in self.names.items()}
        coco = {
            "images": sorted(images, key=lambda image: image["id"]),
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": name} for i, name in names.items()],
        }
        return {"coco": coco, "image_ids": image_ids, "categories": {i: i + 1 for i in names}}


def _write_json(path: Path, content: Any, indent: int | None = None) -> None:
    path.write_text(json.dumps(content, indent=indent), encoding="utf-8")
