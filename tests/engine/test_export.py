"""Exported files compute what their checkpoint computes, and can be validated."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils import LOGGER, checks

from rfla_yolo import RFLAYOLO
from rfla_yolo.engine import compare_export, export, export_model, formats
from rfla_yolo.engine.predict import TileDetector
from rfla_yolo.engine.validator import RFLAValidator

pytest.importorskip("onnxruntime")
NMS = {"nms": True, "conf": 1e-3}


@pytest.fixture(scope="session")
def image(trained):
    """An image of the validation set."""
    return trained.parent / "set" / "images" / "val" / "0.png"


@pytest.fixture
def weights(trained, tmp_path):
    return Path(shutil.copy(trained / "weights" / "best.pt", tmp_path))


@pytest.fixture
def end_to_end(tmp_path):
    """A checkpoint with a one-to-one branch, untrained, but of features and scores that differ from place to place."""
    torch.manual_seed(0)
    model = RFLAYOLO("yolo26n.yaml")
    head = model.model.model[-1]
    for branch in (*head.one2one_cv3, *head.one2one_cv2, *head.cv2):
        torch.nn.init.normal_(branch[-1].weight, std=0.05)  # boxes of the size of the image
    for module in model.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # one batch sets the statistics: features of size 1, not 0
    with torch.no_grad():
        model.model.train()(torch.rand(4, 3, 64, 64))
    model.save(tmp_path / "26.pt")
    return tmp_path / "26.pt"


@pytest.fixture
def found(monkeypatch):
    """What the comparisons of exports have found."""
    found = []

    def compare(*args):
        found.append(compare_export(*args))
        return found[-1]

    monkeypatch.setattr(export, "compare_export", compare)
    return found


@pytest.fixture(scope="session")
def onnx_file(trained, image):
    return export_model(trained / "weights" / "best.pt", image, format="onnx", imgsz=64)


class TestAgainstTorch:
    @pytest.mark.parametrize("name", ["torchscript", "onnx"])
    @pytest.mark.parametrize("options", [{}, {"dynamic": True, "batch": 2}, NMS], ids=["raw", "dynamic", "nms"])
    def test_equal(self, weights, image, found, name, options):
        export_model(weights, image, format=name, imgsz=64, **options)
        assert found[0].boxes < 1e-3 and found[0].scores < 1e-5 and not found[0].missing
        assert (found[0].selected or 0) >= (5 if "nms" in options else 0)

    @pytest.mark.parametrize("name", ["torchscript", "onnx"])
    def test_one_to_one_branch(self, end_to_end, image, found, name):
        file = export_model(end_to_end, image, format=name, imgsz=64, nms=False)
        assert found[0].boxes < 1e-2 and found[0].scores < 1e-5  # boxes of some hundred px
        assert (found[0].selected, found[0].missing) == (64 + 16 + 4, 0)
        assert AutoBackend(str(file))(torch.zeros(1, 3, 64, 64)).shape == (1, 64 + 16 + 4, 6)

    def test_raw_outputs_of_a_model_with_both_branches_are_of_the_first(self, end_to_end, image, found):
        export_model(end_to_end, image, format="onnx", imgsz=64)
        assert found[0].selected is None and found[0].boxes < 1e-2

    @pytest.mark.parametrize("options", [{}, NMS], ids=["raw", "nms"])
    def test_another_model_is_noticed(self, weights, image, found, options):
        """The comparison can fail: a file from other weights differs."""
        file = export_model(weights, image, format="torchscript", imgsz=64, **options)
        model = RFLAYOLO(weights)
        for parameter in model.model.model[-1].parameters():
            parameter.data *= 1.1
        model.save(weights.with_name("other.pt"))
        assert not found[0].is_large
        assert compare_export(weights.with_name("other.pt"), file, image, options.get("conf")).is_large

    def test_difference_fails_the_export(self, weights, monkeypatch):
        monkeypatch.setattr(export, "compare_export", lambda *args: export.Difference(0.06, 0.0))
        with pytest.raises(ValueError, match=r"differs from .* by more than rounding: boxes .* 6\.0e-02 px"):
            export_model(weights, format="torchscript", imgsz=64)

    def test_reduced_precision_is_not_held_to_the_tolerance(self, weights, monkeypatch):
        monkeypatch.setattr(export, "compare_export", lambda *args: export.Difference(0.06, 0.0))
        assert export_model(weights, format="onnx", imgsz=64, quantize=16).is_file()

    def test_no_boxes_are_no_comparison(self, weights, image, monkeypatch, found):
        said = []
        monkeypatch.setattr(export.LOGGER, "warning", lambda message, *args: said.append(str(message)))
        export_model(weights, image, format="torchscript", imgsz=64, nms=True, conf=0.999)
        assert found[0].selected == 0 and f"{image} gives no boxes: nothing was compared" in said[-1]

    def test_formats_that_are_not_run_here(self, weights, monkeypatch):
        said = []
        monkeypatch.setattr(export.LOGGER, "info", lambda message, *args: said.append(str(message)))
        monkeypatch.setattr(RFLAYOLO, "export", lambda self, **kwargs: "best.engine")
        assert export_model(weights, format="engine") == Path("best.engine")
        assert said[-1] == "Not compared with torch: files of format engine are not run here"


ROWS = np.random.default_rng(0).uniform(0, 100, (30, 6))
ROWS[:, 5] = np.arange(30) % 3
ROWS[:, 4] = np.sort(ROWS[:, 4])[::-1] / 100


class TestSets:
    @settings(max_examples=30, deadline=None)
    @given(st.permutations(range(30)), st.floats(0, 0.01))
    def test_order_does_not_count(self, order, noise):
        """Ties may stand in any order: with one score for all, any permutation is the same set."""
        rows = torch.tensor(ROWS)
        rows[:, 4] = 0.5
        moved = rows[list(order)]
        moved[:, :4] += noise
        difference = export.set_difference(rows, moved, 0.0)
        assert difference.boxes == pytest.approx(noise, abs=1e-9)
        assert (difference.selected, difference.missing, difference.scores) == (30, 0, 0)

    def test_what_differs_is_counted(self):
        rows = torch.tensor(ROWS)
        other = rows.clone()
        other[3, 5] += 1  # another class: one box of each side has no partner
        other[7, 0] += 5  # another place
        assert export.set_difference(rows, other, 0.0).missing == 4
        assert (
            export.set_difference(rows, other[:20], 0.0).missing == 4 + 9
        )  # of the ten left out, the last is at the border
        other = rows.clone()
        other[11, 4] -= 0.002
        difference = export.set_difference(rows, other, 0.0)
        assert difference.scores == pytest.approx(0.002) and difference.is_large

    def test_boxes_at_the_border_may_be_of_one_side(self):
        rows = torch.tensor(ROWS)
        rows[-3:, 4] = rows[-1, 4]
        assert export.set_difference(rows[:-1], rows[[*range(27), 29]], 0.0).missing == 0
        assert export.set_difference(rows, rows[:-1], float(rows[-1, 4]) - 1e-7).missing == 0
        assert export.set_difference(rows, rows[:-1], 0.0).missing == 0

    def test_padding_does_not_count(self):
        rows = torch.tensor(ROWS)
        assert export.set_difference(rows, torch.cat((rows, torch.zeros(9, 6))), 0.0).selected == 30
        assert export.set_difference(rows[:0], torch.zeros(9, 6), 0.1) == export.Difference(0, 0, 0, 0, 0)

    @pytest.mark.parametrize("count", [1, 2, 3, 30])
    @pytest.mark.parametrize("score", [None, 0.5])
    def test_one_side_without_boxes_fails(self, count, score):
        """However few the other side has, and also where all of its scores are one."""
        rows = torch.tensor(ROWS[:count])
        if score:
            rows[:, 4] = score
        for sides in ((rows, torch.zeros(99, 6)), (rows[:0], rows)):
            difference = export.set_difference(*sides, 0.0)
            assert difference.missing == count and difference.is_large and np.isnan(difference.boxes)

    @pytest.mark.parametrize("score", [None, 0.5])
    @pytest.mark.parametrize("place", [0, 150])
    def test_one_box_elsewhere_fails(self, place, score):
        rows = torch.tensor(ROWS).repeat(10, 1)
        rows[:, 0] += torch.arange(300) * 1000
        rows[:, 4] = score or torch.linspace(0.9, 0.3, 300)
        other = rows.clone()
        other[place, :4] += 50
        padded = torch.cat((other, torch.zeros(9, 6)))
        difference = export.set_difference(rows, padded, 0.25, iou=0.7)
        assert difference.missing == 2 and difference.is_large
        assert not export.set_difference(rows, torch.cat((rows, torch.zeros(9, 6))), 0.25, iou=0.7).is_large

    def test_a_class_of_the_same_score_may_stand_in_place_of_another(self):
        """An anchor whose best two classes are equal; two such boxes of thirty are more than chance."""
        rows = torch.tensor(ROWS)
        rows[:, 2:4] = rows[:, :2] + 10
        other = rows.clone()
        other[3, 5] += 1
        assert export.set_difference(rows, other, 0.0, iou=0.7).missing == 0
        other[9, 5] += 1
        assert export.set_difference(rows, other, 0.0, iou=0.7).missing == 4

    def test_a_box_that_the_other_side_suppresses_may_be_of_one_side(self):
        """Its IoU with a better one, 0.7, is the threshold; a threshold that is another is noticed."""
        rows = torch.tensor([[0, 0, 10, 10, 0.9, 0], [0, 0, 7, 10, 0.8, 0], [50, 50, 60, 60, 0.7, 0]])
        padded = torch.cat((rows[[0, 2]], torch.zeros(9, 6)))
        assert export.set_difference(rows, padded, 0.25, iou=0.7).missing == 0
        assert export.set_difference(rows, padded, 0.25, iou=0.75).missing == 1
        assert export.set_difference(rows, padded, 0.25).missing == 1
        many = torch.cat([rows[:2] + torch.tensor([1000 * i, 0, 1000 * i, 0, 0, 0]) for i in range(10)])
        assert export.set_difference(many, torch.cat((many[::2], many * 0)), 0.25, iou=0.5).missing == 10


NAN = float("nan")


class TestNaN:
    """It is never within a tolerance, wherever it stands."""

    @pytest.mark.parametrize("channels", [slice(0, 4), slice(4, 5), slice(5, 37)])
    def test_raw_outputs(self, channels):
        expected = torch.rand(1, 37, 50)
        exported = expected.clone()
        assert not export._raw_difference(expected, exported, 1, 0.0).is_large
        exported[:, channels] = NAN
        assert export._raw_difference(expected, exported, 1, 0.0).is_large
        assert export._raw_difference(expected, expected, 1, NAN).is_large

    @pytest.mark.parametrize("column", [0, 4, 6])
    def test_selected_boxes(self, column):
        rows = torch.cat([torch.tensor(ROWS), torch.rand(30, 32)], 1)
        exported = rows.clone()
        assert not export.set_difference(rows, exported, 0.0).is_large
        exported[:, column] = NAN
        assert export.set_difference(rows, exported, 0.0).is_large
        assert export.set_difference(rows, rows, 0.0, others=NAN).is_large

    def test_of_the_second_size(self, weights, image, monkeypatch):
        file = export_model(weights, image, format="torchscript", imgsz=64, dynamic=True)
        found = iter([export.Difference(0.0, 0.0), export.Difference(NAN, NAN)])
        monkeypatch.setattr(export, "_raw_difference", lambda *args: next(found))
        assert compare_export(weights, file, image).is_large


class TestRoom:
    @pytest.mark.parametrize(("options", "boxes"), [({}, 2100), ({"max_det": 400}, 400)])
    def test_one_to_one_branch(self, end_to_end, options, boxes):
        """The exported file gives as many boxes as validation keeps, or as there are anchors: not Ultralytics' 300."""
        file = RFLAYOLO(end_to_end).export(format="torchscript", imgsz=320, nms=False, **options)
        assert AutoBackend(file)(torch.rand(1, 3, 320, 320)).shape == (1, boxes, 6)

    @pytest.mark.parametrize(("options", "boxes"), [({}, 3000), ({"max_det": 400}, 400)])
    def test_suppression(self, weights, options, boxes):
        file = RFLAYOLO(weights).export(format="onnx", imgsz=320, nms=True, conf=1e-9, iou=0.99, **options)
        torch.manual_seed(0)
        found = AutoBackend(file)(torch.rand(1, 3, 320, 320))
        assert found.shape == (1, boxes, 6) and (found[0, :, 4] > 0).all()

    def test_suppression_of_oriented_boxes(self, tmp_path):
        """Their file lays out all pairs of five times as many."""
        model = RFLAYOLO("yolov8n-obb.yaml")
        torch.save({"model": model.model.half()}, tmp_path / "obb.pt")
        file = RFLAYOLO(tmp_path / "obb.pt").export(format="onnx", imgsz=320, nms=True)
        assert AutoBackend(file)(torch.rand(1, 3, 320, 320)).shape == (1, 1000, 7)


class TestRequests:
    @pytest.mark.parametrize(
        ("name", "nms", "expected"),
        [
            ("ncnn", False, "nms=False: ncnn cannot hold the one-to-one branch"),
            ("NCNN", True, "nms=True: ncnn cannot hold suppression"),
            ("litert", True, "nms=True: litert cannot hold suppression"),
        ],
    )
    def test_less_than_asked_is_refused(self, end_to_end, name, nms, expected):
        with pytest.raises(ValueError, match=expected):
            export_model(end_to_end, format=name, nms=nms)
        assert [file.name for file in end_to_end.parent.iterdir()] == ["26.pt"]

    def test_an_exported_file_is_refused(self, onnx_file, tmp_path):
        with pytest.raises(ValueError, match=r"best\.onnx is an exported file; export takes a checkpoint \(\.pt\)$"):
            export_model(onnx_file, format="torchscript")

    def test_an_image_that_is_none_is_refused(self, weights):
        with pytest.raises(FileNotFoundError, match=r"source: no such image: none\.jpg"):
            export_model(weights, "none.jpg", format="torchscript", imgsz=64)


class TestPackages:
    @pytest.fixture(autouse=True)
    def no_installation(self, monkeypatch):
        def check_output(*args, **kwargs):
            raise AssertionError("installs packages")

        monkeypatch.setattr(checks.subprocess, "check_output", check_output)

    def test_missing_ones_are_named_before_the_export(self, weights, monkeypatch):
        monkeypatch.setitem(formats.NEEDS, "openvino", ("numpy", "no-such-package>=2", ("no-such-other", "neither")))
        expected = r"format openvino needs no-such-package>=2 and no-such-other: pip install 'rfla-yolo\[openvino\]'; "
        with pytest.raises(ModuleNotFoundError, match=expected + "nothing is installed by itself"):
            export_model(weights, format="openvino", imgsz=64)

    def test_of_several_that_serve_one_is_enough(self, monkeypatch):
        monkeypatch.setitem(formats.NEEDS, "onnx", (("no-such-package", "numpy"),))
        assert formats.check_request("onnx", None, False) == "onnx"

    def test_missing_ones_are_named_where_a_file_is_run(self, onnx_file, trained, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(ModuleNotFoundError, match=r"format onnx needs onnxruntime: .*rfla-yolo\[export\]"):
            RFLAYOLO(onnx_file).val(data=str(trained.parent / "set" / "set.yaml"), project=str(tmp_path))

    @pytest.mark.parametrize("run", ["export", "val", "predict"])
    def test_ultralytics_installs_nothing(self, weights, monkeypatch, run):
        monkeypatch.setattr(
            RFLAYOLO.__mro__[1].__mro__[1], run, lambda *args, **kwargs: checks.check_requirements("no-such-package")
        )
        assert getattr(RFLAYOLO(weights), run)() is False
        with formats.safely("paddle"):
            assert not checks.AUTOINSTALL
            assert checks.check_requirements("no-such-package") is False

    def test_extras_are_what_is_checked(self):
        tomllib = pytest.importorskip("tomllib")
        file = Path(__file__).parents[2] / "pyproject.toml"
        extras = tomllib.loads(file.read_text())["project"]["optional-dependencies"]
        for name, needs in formats.NEEDS.items():
            given = extras["export" if name == "onnx" else name] if needs else []
            given = [need for entry in given for need in (extras["export"] if "export]" in entry else [entry])]
            assert given == [need if isinstance(need, str) else need[0] for need in needs]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("a/best.onnx", "onnx"),
        ("a/best_qnn.onnx", "qnn"),
        ("best_openvino_model/", "openvino"),
        ("best_int8_openvino_model", "openvino"),
        ("BEST.TORCHSCRIPT", "torchscript"),
        ("x_ncnn_model", "ncnn"),
        ("best.pt", None),
        ("yolov8n-p2.yaml", None),
        ("folder", None),
    ],
)
def test_format_of(file, expected):
    assert formats.format_of(file) == expected


BREAKS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "junk": lambda content: b"nonsense " * 500,
}


def data_of(trained):
    return str(trained.parent / "set" / "set.yaml")


def refused(file, part, how, trained):
    """Break a file, or the part of a folder, and check that val and predict say so in one line."""
    part.write_bytes(BREAKS[how](part.read_bytes()))
    for run in (
        lambda: RFLAYOLO(file).val(data=data_of(trained), project=str(file.parent)),
        lambda: TileDetector(file),
    ):
        with pytest.raises(ValueError, match="is the file whole") as caught:
            run()
        assert str(caught.value).startswith(f"model: {file} cannot be read as ") and "\n" not in str(caught.value)


def as_the_checkpoint(file, weights, data, folder):
    """Whether the file validates as its checkpoint does: AP within 0.1 points."""
    options = {"data": str(data), "imgsz": 64, "plots": False, "project": str(folder), "rect": False, "device": "cpu"}
    ours = RFLAYOLO(file).val(**options, name="file").evaluation.metrics
    expected = RFLAYOLO(weights).val(**options, name="torch").evaluation.metrics
    assert (folder / "file" / "metrics.json").is_file()
    return ours == pytest.approx(expected, abs=1e-3, nan_ok=True)


@pytest.mark.parametrize("name", ["torchscript", "onnx"])
def test_validates_as_the_checkpoint(trained, weights, onnx_file, image, tmp_path, name):
    file = onnx_file if name == "onnx" else export_model(weights, image, format=name, imgsz=64)
    assert as_the_checkpoint(file, weights, trained.parent / "set" / "set.yaml", tmp_path)


class TestFilesThatAreRun:
    @pytest.fixture
    def said(self, monkeypatch):
        said = []
        for level in ("info", "warning"):
            monkeypatch.setattr(LOGGER, level, lambda message, *args: said.append(str(message)))
        return said

    @pytest.mark.parametrize("how", BREAKS)
    @pytest.mark.parametrize("name", ["torchscript", "onnx"])
    def test_one_that_cannot_be_read_is_named_in_one_line(self, trained, onnx_file, tmp_path, name, how):
        file = tmp_path / f"best.{name}"
        if name == "torchscript":
            torch.jit.save(torch.jit.trace(torch.nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 8, 8)), file)
        else:
            shutil.copy(onnx_file, file)
        refused(file, file, how, trained)

    @pytest.mark.parametrize("call", ["val", "predict"])
    def test_another_size_of_image_is_refused(self, trained, onnx_file, tmp_path, monkeypatch, call):
        monkeypatch.setattr(RFLAValidator, "build_dataset", lambda *args: pytest.fail("begins its work"))
        arguments = {"source": np.zeros((64, 64, 3), np.uint8)} if call == "predict" else {"data": data_of(trained)}
        with pytest.raises(
            ValueError, match=r"imgsz must be the exported file's 64 x 64 px, not 96 x 96: leave it out"
        ):
            getattr(RFLAYOLO(onnx_file), call)(imgsz=96, project=str(tmp_path), **arguments)

    def test_sizes_are_those_of_the_backbone(self, trained, tmp_path):
        """A head without an output at stride 32 says 16, by which the backbone does not divide."""
        head = RFLAYOLO("yolov8n-p234-reg8.yaml")
        head.save(tmp_path / "p234.pt")
        file = RFLAYOLO(tmp_path / "p234.pt").export(format="torchscript", imgsz=48, dynamic=True)
        options = {"data": data_of(trained), "plots": False, "project": str(tmp_path)}
        RFLAYOLO(file).val(imgsz=80, **options)
        assert AutoBackend(file, verbose=False).stride == 32
        assert head.model.stride.tolist() == [4, 8, 16]

    def test_a_dynamic_file_takes_any_size(self, trained, weights, tmp_path):
        file = RFLAYOLO(weights).export(format="torchscript", imgsz=64, dynamic=True)
        options = {"data": data_of(trained), "plots": False, "project": str(tmp_path)}
        assert RFLAYOLO(file).val(imgsz=96, **options).evaluation.metrics["AP"] >= 0

    @pytest.mark.parametrize(("max_det", "expected"), [(3000, "10 (the exported file's)"), (5, "5")])
    def test_the_branch_and_the_limit_are_those_of_the_file(
        self, trained, end_to_end, tmp_path, said, max_det, expected
    ):
        file = RFLAYOLO(end_to_end).export(format="torchscript", imgsz=64, nms=False, max_det=10)
        options = {"data": data_of(trained), "plots": False, "project": str(tmp_path), "conf": 1e-6}
        RFLAYOLO(file).val(max_det=max_det, **options)
        count = len(list((trained.parent / "set" / "images" / "val").iterdir()))
        assert any(text.startswith(f"max_det={expected} is reached in {count} images") for text in said)
        assert any("validating by the file's one-to-one branch (nms=False)" in text for text in said)

    def test_suppression_in_the_file_is_said(self, trained, weights, tmp_path, said):
        file = RFLAYOLO(weights).export(format="torchscript", imgsz=64, **NMS)
        RFLAYOLO(file).val(data=data_of(trained), plots=False, project=str(tmp_path))
        assert any("validating by the file's suppression" in text for text in said)
        assert not any("without a one-to-one branch" in text for text in said)
        assert not any("is reached" in text for text in said)

    def test_a_branch_that_is_not_in_the_file_is_said(self, trained, onnx_file, tmp_path, said):
        RFLAYOLO(onnx_file).val(data=data_of(trained), plots=False, project=str(tmp_path), nms=False)
        TileDetector(onnx_file, nms=False)
        told = [text for text in said if text.startswith(f"nms=False: {onnx_file} was exported without a one-to-one")]
        assert len(told) == 2


@pytest.mark.slow
class TestOtherRuntimes:
    @pytest.fixture(params=["openvino", "MNN", "ncnn"])
    def name(self, request):
        pytest.importorskip(request.param)
        return request.param.lower()

    @pytest.mark.parametrize("options", [{}, NMS, {"dynamic": True}], ids=["raw", "nms", "dynamic"])
    def test_equal(self, trained, weights, image, tmp_path, found, name, options):
        if name == "ncnn" and options:
            pytest.skip("NCNN has neither suppression in the file nor sizes of its own")
        file = export_model(weights, image, format=name, imgsz=64, **options)
        assert found[0].boxes < 1e-2 and found[0].scores < 1e-4 and not found[0].missing
        if "nms" not in options:  # AP of a file with suppression is that of its settings
            assert as_the_checkpoint(file, weights, trained.parent / "set" / "set.yaml", tmp_path)

    def test_one_to_one_branch(self, end_to_end, image, found, name):
        if name == "ncnn":
            pytest.skip("refused")
        export_model(end_to_end, image, format=name, imgsz=64, nms=False)
        assert (found[0].selected, found[0].missing) == (64 + 16 + 4, 0)

    def test_one_that_cannot_be_read_is_named_in_one_line(self, trained, weights, tmp_path, name):
        file = Path(RFLAYOLO(weights).export(format=name, imgsz=64))
        for ending in {"mnn": [""], "ncnn": [".param", ".bin"], "openvino": [".xml", ".bin"]}[name]:
            for how in BREAKS:
                copy = tmp_path / f"{how}{ending.replace('.', '-')}" / file.name
                copy.parent.mkdir()
                (shutil.copytree if file.is_dir() else shutil.copy)(file, copy)
                refused(copy, next(copy.glob(f"*{ending}")) if ending else copy, how, trained)

    def test_openvino_computes_in_float32_whoever_runs_it(self, weights, image):
        """By Ultralytics' own runner, which lets OpenVINO choose the precision."""
        pytest.importorskip("openvino")
        file = export_model(weights, image, format="openvino", imgsz=64)
        difference = compare_export(weights, file, image)
        assert difference.boxes < export.BOXES and difference.scores < 5e-3
