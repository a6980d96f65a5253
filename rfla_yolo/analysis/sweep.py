"""What other settings would do to the same images: RFLA with one thing changed at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from torch import nn

from ..config import RFLAConfig
from ..engine import RFLAAssigner, rf_sizes
from ..engine.analysis import Sample
from ..engine.receptive_field import field_at_stride
from .assignments import Levels, Tally, assign_rfla
from .figures import summarise
from .paired import differences

ZOOMS = (0.5, 1.5, 2.0)  # factors on the image size that are tried


@dataclass(frozen=True)
class Variant:
    """One row of the sweep.

    Attributes:
        name: What is changed.
        config: The settings.
        levels: The levels.
        zoom: Factor on the image size.
        kind: "settings", "levels" or "imgsz": what a user has to change for it.
    """

    name: str
    config: RFLAConfig
    levels: Levels
    zoom: float = 1.0
    kind: str = "settings"


def variants(model: nn.Module, config: RFLAConfig, levels: Levels, imgsz: int, erf: bool) -> Iterator[Variant]:
    """Yield the settings as they are, and each with one thing changed.

    Args:
        model: The model.
        config: The settings.
        levels: Its levels, with the receptive fields of the settings.
        imgsz: Image size, px.
        erf: Whether measured fields are tried as well.
    """
    yield Variant("as set", config, levels)
    changes: dict[str, dict[str, Any]] = {
        **{f"topk {k}": {"topk": k, "topk_max": 0} for k in ((1, 1), (3, 1), (6, 1), (9, 1), (13, 1))},
        **{f"topk (3, 1) growing to {k}": {"topk": (3, 1), "topk_max": k} for k in (10, 30, 60)},
        **{f"decay {d:g}": {"decay": d} for d in (0.7, 0.9)},
        "rf trf, rf_scale 1/3": {"rf": "trf", "rf_scale": 1 / 3},
        "rf trf, rf_scale 1/2": {"rf": "trf", "rf_scale": 0.5},
        "rf trf, rf_scale 1": {"rf": "trf", "rf_scale": 1.0},
        "rf stride, rf_scale 1": {"rf": "stride", "rf_scale": 1.0},
        "rf stride, rf_scale 2": {"rf": "stride", "rf_scale": 2.0},
        "rf stride, rf_scale 3": {"rf": "stride", "rf_scale": 3.0},
        **({"rf erf, rf_scale 1/2": {"rf": "erf", "rf_scale": 0.5}} if erf else {}),
    }
    for name, change in changes.items():
        changed = replace(config, **change)
        sizes = _fields(model, changed) if "rf" in change else levels.rf_sizes
        if sizes and (sizes != levels.rf_sizes or replace(changed, rf=config.rf, rf_scale=config.rf_scale) != config):
            yield Variant(name, changed, replace(levels, rf_sizes=sizes))
    yield from _other_levels(model, config, levels)
    step = max(levels.strides[-1], 32)  # as training rounds the image size
    for zoom in (ceil(imgsz * factor / step) * step / imgsz for factor in ZOOMS):
        if zoom != 1:
            yield Variant(f"imgsz x {zoom:.3g}", config, levels, zoom, "imgsz")


def try_variants(cases: Iterable[Variant], samples: Sequence[Sample], num_classes: int) -> list[dict[str, Any]]:
    """Return the figures of variants on images, and what is better and worse than in the first of them.

    A variant with the very figures of an earlier one of its kind gets no row: its name joins the other's ``same``.

    Args:
        cases: The variants; the first is the setting as it is.
        samples: The images.
        num_classes: Number of classes.

    Returns:
        One row for each variant that differs from those before it.
    """
    rows: list[dict[str, Any]] = []
    first: Tally | None = None
    for variant in cases:
        tally = _tally(variant, samples, num_classes)
        first = first or tally
        found = summarise(tally)
        sizes = found["sizes"]
        twin = next((row for row in rows if row["kind"] == variant.kind and row["sizes"] == sizes), None)
        if twin:
            twin["same"] += [variant.name] * (variant.name not in (twin["name"], *twin["same"]))
            continue
        rows.append(
            {
                "name": variant.name,
                "same": [],
                "kind": variant.kind,
                "zoom": variant.zoom,
                "settings": variant.config.to_dict(),
                "strides": list(variant.levels.strides),
                "rf_sizes": list(variant.levels.rf_sizes),
                "bins": variant.levels.bins,
                "sizes": sizes,
                "guessed": found["guessed"],
                **differences(first, tally),
            }
        )
    return rows


def _tally(variant: Variant, samples: Sequence[Sample], num_classes: int) -> Tally:
    levels = variant.levels
    assigner = RFLAAssigner(num_classes, levels.strides, levels.rf_sizes, variant.config)
    tally = Tally(levels, variant.zoom)
    for sample in samples:
        zoomed = _zoom(sample, variant.zoom)
        tally.add(zoomed, assign_rfla(zoomed, levels, assigner, conflicts=False))
    return tally


def _zoom(sample: Sample, zoom: float) -> Sample:
    """Enlarge the boxes and the frame; the picture itself does not matter for the assignment."""
    if zoom == 1:
        return sample
    height, width = (round(side * zoom) for side in sample.image.shape[1:])
    boxes = sample.boxes.clone()
    boxes[:, :4] *= zoom  # not the angle of oriented ones
    return replace(sample, boxes=boxes, image=sample.image[:, :1, :1].expand(-1, height, width))


def _other_levels(model: nn.Module, config: RFLAConfig, levels: Levels) -> Iterator[Variant]:
    """Yield the model without its P2, or with one."""
    if levels.strides[0] == 4 and len(levels.strides) > 1:
        yield Variant("without P2", config, _cut(levels, 1), kind="levels")
    elif levels.strides[0] == 8:
        field = 4.0 if config.rf == "stride" else field_at_stride(model, 4) if config.rf == "trf" else None
        if field:
            finer = replace(levels, strides=(4.0, *levels.strides), rf_sizes=(field * config.scale, *levels.rf_sizes))
            yield Variant("with P2", config, finer, kind="levels")


def _cut(levels: Levels, first: int) -> Levels:
    return replace(levels, strides=levels.strides[first:], rf_sizes=levels.rf_sizes[first:])


def _fields(model: nn.Module, config: RFLAConfig) -> tuple[float, ...] | None:
    """Return the fields, None where the model has none of that source (a level without a backbone feature)."""
    try:
        return tuple(rf_sizes(model, config))
    except ValueError:
        return None
