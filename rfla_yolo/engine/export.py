"""Export, and the check that an exported ONNX file computes what the model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.cfg import get_cfg
from ultralytics.data.augment import LetterBox
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils import ASSETS, LOGGER
from ultralytics.utils.patches import imread

TOLERANCE = 1e-3  # largest difference of boxes (share of the image size) and scores


def export_model(weights: str | Path, image: str | Path | None = None, **kwargs: Any) -> Path:
    """Export a checkpoint by Ultralytics; an ONNX file is then run and compared with the checkpoint.

    Args:
        weights: The checkpoint.
        image: Image for the comparison; Ultralytics' sample image by default.
        **kwargs: Ultralytics' export arguments.

    Returns:
        The exported file.

    Raises:
        ValueError: If the ONNX file, at full precision, differs from the checkpoint by more than 1e-3.
    """
    from .model import RFLAYOLO

    model = RFLAYOLO(weights, kwargs.pop("task", None))
    file = Path(model.export(**kwargs))
    options = get_cfg(overrides=dict(kwargs))
    if file.suffix != ".onnx":
        return file
    one_to_one = options.nms is False and getattr(model.model.model[-1], "one2one_cv2", None) is not None
    if options.nms or one_to_one:
        part = "its one-to-one head" if one_to_one else "non-maximum suppression in it"
        LOGGER.info(f"Not compared with torch: the ONNX file selects the boxes, by {part}, and gives no raw outputs")
        return file
    boxes, scores = compare_onnx(weights, file, image or ASSETS / "bus.jpg")
    LOGGER.info(f"ONNX Runtime against torch: boxes differ by at most {boxes:.2e} of the image, scores by {scores:.2e}")
    if options.quantize not in {None, 32}:
        LOGGER.info(f"Not held to {TOLERANCE:g}: the file computes at reduced precision")
    elif max(boxes, scores) > TOLERANCE:
        raise ValueError(f"export: {file} differs from {weights} by {max(boxes, scores):.2e}, over {TOLERANCE:g}")
    return file


def compare_onnx(weights: str | Path, onnx_file: str | Path, image: str | Path) -> tuple[float, float]:
    """Run an ONNX file and its checkpoint on one image.

    Args:
        weights: The checkpoint.
        onnx_file: The file exported from it, with raw outputs.
        image: An image.

    Returns:
        The largest differences: of box coordinates in units of the longer side of the input, and of scores and of what
        else the task has of every anchor, in units of its largest value.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    spec = session.get_inputs()[0]
    model, _ = load_checkpoint(weights, fuse=True)
    fixed = [size if isinstance(size, int) else None for size in spec.shape]
    height, width = fixed[2] or 640, fixed[3] or 640
    picture = LetterBox((height, width), auto=False)(image=imread(str(image)))
    pixels = np.ascontiguousarray(picture[..., ::-1].transpose(2, 0, 1)[None], dtype=np.float32) / 255
    pixels = np.repeat(pixels, fixed[0] or 1, axis=0)
    exported = session.run(None, {spec.name: pixels.astype(np.float16 if "float16" in spec.type else np.float32)})[0]
    with torch.no_grad():
        outputs = model(torch.from_numpy(pixels))[0]
    expected = (outputs[0] if isinstance(outputs, tuple) else outputs).numpy()  # of segmentation without prototypes
    difference = np.abs(exported.astype(np.float32) - expected).max(axis=(0, 2))  # per channel: x, y, w, h, scores, ...
    rest = slice(4 + model.model[-1].nc, None)  # coefficients of masks, keypoints or the angle, as share of the largest
    difference[rest] /= np.abs(expected[:, rest]).max(initial=1.0)
    return float(difference[:4].max()) / max(height, width), float(difference[4:].max())
