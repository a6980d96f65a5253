"""The page of an analysis."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from rfla_yolo.analysis import analyze, write_page
from rfla_yolo.analysis.page import example_figure, sweep_table
from rfla_yolo.evaluation import percent


@pytest.fixture
def found(tiny_set):
    return analyze(tiny_set, "yolov8n-p2.yaml", images=8, imgsz=64)


def test_page_and_figures(found, tmp_path):
    page = write_page(found, tmp_path / "new" / "page")
    assert json.loads((page.parent / "analysis.json").read_text()) == json.loads(json.dumps(found.result))
    text = page.read_text()
    for title in ("better", "worse", "share of levels, finest first"):
        assert f"<th scope=col class=text>{title}</th>" in text
    for row in found.result["sweep"]:
        if row["same"]:
            assert f"<p>The same figures as {row['name']}: {', '.join(row['same'])}.</p>" in text
    for source in re.findall('src="(.*?)"', text):
        assert (page.parent / source).is_file()


def test_undefined_is_no_minus(found):
    """The tiny set has no object above 32 px."""
    head, rows = sweep_table(found.result)
    assert {row[head.index("positives > 32 px")] for row in rows} == {percent(None)}


def test_scores_stand_out_on_bright_pixels(found):
    examples = [example for several in found.examples.values() for example in several]
    assert len(examples) > len(found.examples)
    for example in examples:
        example.sample.image[:] = 255
        figure = example_figure(found, [example])
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
        labels = figure.axes[0].texts
        assert len(labels) == int((example.assigned["rfla"].gt == example.number).sum())
        for label in labels:
            box = label.get_window_extent()
            rows = slice(int(pixels.shape[0] - box.y1), int(pixels.shape[0] - box.y0))
            around = pixels[rows, int(box.x0) : int(box.x1)].mean(-1)
            assert around.size and around.min() < 60, "no dark rim around the number"
