"""A search for settings: what it refuses before the first trial, and, with Ray, that it searches."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import yaml

from rfla_yolo import RFLAConfig, cli
from rfla_yolo.engine.tune import Choices, Range, choose, read_space, tune

from .conftest import QUICK


class TestSpace:
    @pytest.mark.parametrize(
        ("name", "given", "expected"),
        [
            ("rf_scale", "1..4", Range(1, 4)),  # no whole numbers: its default is none
            ("decay", "0.5..1", Range(0.5, 1)),
            ("topk_max", "10..40", Range(10, 40, whole=True)),
            ("lr0", "1e-5..1e-2,log", Range(1e-5, 1e-2, log=True)),
            ("degrees", "-10..10", Range(-10, 10)),
            ("topk_max", "10,20,30", Choices([10, 20, 30])),
            ("topk_max", [10, 20], Choices([10, 20])),
            ("topk", "[3,1],[9,1]", Choices([[3, 1], [9, 1]])),
            ("distance", "kl,wd", Choices(["kl", "wd"])),
            ("lr0", ["1e-3", 0.01], Choices([0.001, 0.01])),  # YAML takes 1e-3 for text
            ("rf_scale", "None,2", Choices([None, 2])),
            ("cos_lr", "True,False", Choices([True, False])),
            ("imgsz", 640, Choices([640])),
        ],
    )
    def test_values(self, name, given, expected):
        assert read_space({name: given}) == {name: expected}

    def test_file(self, tmp_path):
        file = tmp_path / "space.yaml"
        file.write_text("rf_scale: 1..4\nlr0: 1e-4..1e-2,log\nrf: [trf, [8, 16, 32]]\n")
        expected = {"rf_scale": Range(1, 4), "lr0": Range(1e-4, 1e-2, log=True), "rf": Choices(["trf", [8, 16, 32]])}
        assert read_space(file) == expected

    @pytest.mark.parametrize(
        ("space", "message"),
        [
            ({}, "space: there is nothing to search"),
            ({"rf_skale": "1..4"}, "unknown name in space 'rf_skale'; did you mean 'rf_scale'"),
            ({"device": "0,1"}, "space: device is the same for all trials"),
            ({"decay": "1..0.5"}, r"space: decay must be low\.\.high.* not '1\.\.0\.5'"),
            ({"lr0": "0..1,log"}, r"space: lr0 must be .*low\.\.high,log above 0"),
            ({"lr0": "a..b"}, r"space: lr0 must be low\.\.high"),
            ({"lr0": "0..1,lin"}, r"space: lr0 must be low\.\.high"),
            ({"lr0": "0..nan"}, r"space: lr0 must be low\.\.high"),
            ({"topk": "[3,1"}, "space: topk must be choices, such as a,b,c"),
            ({"topk_max": []}, "space: topk_max has no choices"),
        ],
    )
    def test_refused(self, space, message):
        with pytest.raises(ValueError, match=message):
            read_space(space)


OPTIONS = {"model": "yolov8n-p2.yaml", "device": "cpu", "space": {"rf_scale": "1..4"}}


class TestRefusedBeforeTheFirstTrial:
    @pytest.fixture(autouse=True)
    def nothing_is_written(self, tmp_path):
        yield
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"objective": "APvtt"}, "unknown objective 'APvtt'; did you mean 'APvt'"),
            ({"trials": 0}, "trials must be a whole number of 1 or more, not 0"),
            ({"device": "0,1"}, "device must be cpu or left out, not '0,1': a trial takes one GPU"),
            ({"device": [0, 1]}, "device must be cpu or left out"),
            ({"device": 0}, "device must be cpu or left out, not 0"),
            ({"resume": True}, "resume=True is not for a search"),
            ({"split": "test"}, "split=test is not for a search"),
            ({"rf_scale": 2}, "rf_scale is given twice: in space, and as 2 for all trials"),
            ({"space": {"decay": "0.5..2"}}, r"decay must be in \(0, 1\], not 2"),
            ({"space": {"topk": "3,1"}}, "topk must be two whole numbers"),
            ({"space": {"distance": "0..1"}}, "distance must be one of"),
            ({"space": {"mosaic": "0..2"}}, "'mosaic=2.0' is an invalid value"),
            ({"space": {"amp": "bf16,True"}}, "amp=bf16 needs a GPU"),
            ({"decay": 2}, r"decay must be in \(0, 1\], not 2"),
            ({"model": "yolov8n-cls.yaml"}, "is for 'classify'"),
        ],
    )
    def test_values(self, tiny_set, tmp_path, options, message):
        with pytest.raises(ValueError, match=message):
            tune(data=tiny_set, project=str(tmp_path / "runs"), **{**OPTIONS, **options})

    def test_data(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no\.yaml"):
            tune(data="no.yaml", project=str(tmp_path / "runs"), **OPTIONS)

    def test_test_images(self, tiny_set, tmp_path):
        tiny_set.write_text(tiny_set.read_text() + "test: images/none\n")
        with pytest.raises(FileNotFoundError, match=r"images not found, missing path .*images/none"):
            tune(data=tiny_set, project=str(tmp_path / "runs"), **OPTIONS)

    def test_argument(self, tiny_set, tmp_path):
        with pytest.raises(SyntaxError, match="epohcs"):
            tune(data=tiny_set, project=str(tmp_path / "runs"), epohcs=3, **OPTIONS)

    def test_without_ray(self, tiny_set, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(ImportError, match=r"pip install 'rfla-yolo\[tune\]'"):
            tune(data=tiny_set, project=str(tmp_path / "runs"), **OPTIONS)


class TestChoose:
    def test_highest(self):
        trials = [{"run": "a", "AP": 0.1}, {"run": "b", "AP": None, "error": "x"}, {"run": "c", "AP": 0.2}]
        assert choose(trials, "AP", Path())["run"] == "c"

    def test_none(self):
        with pytest.raises(ValueError, match=r"no trial has APm, val holds no object that counts for it; .* runs/tune"):
            choose([{"run": "a", "APm": None}], "APm", Path("runs/tune"))
        with pytest.raises(ValueError, match=r"all trials failed, the first by ValueError: x; .*/ray/a/error\.txt"):
            choose([{"run": "a", "AP": None, "error": "ValueError: x"}], "AP", Path("runs/tune"))


@pytest.mark.slow
@pytest.mark.parametrize("test", [True, False])
def test_search(tiny_set, tmp_path, monkeypatch, capsys, test):
    """Two trials, by the command; one of them fails where there is no split to test on."""
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # Ray's processes get it
    if test:
        tiny_set.write_text(tiny_set.read_text() + "test: images/train\n")
    monkeypatch.chdir(tmp_path)
    quick = {**QUICK, "epochs": 1, "data": tiny_set.relative_to(tmp_path), "model": "yolov8n-p2.yaml", "topk": "2,1"}
    words = [f"{name}={value}" for name, value in quick.items()] + [f"project={tmp_path}", "--objective", "APt"]
    space = ["topk_max=10,30", "lr0=1e-3..1e-2,log"] if test else ["rf=[8,16,32,64],[8,16]"]
    cli.main(["tune", *words, "--trials", "2", "--space", *space])

    folder = tmp_path / "tune"
    found = json.loads((folder / "search.json").read_text())
    trials = found["trials"]
    assert [trial["run"] for trial in trials] == ["trial00000", "trial00001"]
    assert found["best"] == max(trials, key=lambda t: -1 if t["APt"] is None else t["APt"])["run"]
    for trial in trials:
        if "error" in trial:
            assert trial["error"].startswith("ValueError: rf must give one size in px for each of the model's 4 levels")
            continue
        used = yaml.safe_load((folder / trial["run"] / "rfla.yaml").read_text())
        used |= yaml.safe_load((folder / trial["run"] / "args.yaml").read_text())
        assert used["topk"] == [2, 1]
        assert {name: used[name] for name in trial["settings"]} == trial["settings"]
        assert trial["APt"] == json.loads((folder / trial["run"] / "metrics.json").read_text())["APt"]
    assert sum("error" in trial for trial in trials) == (not test)
    best = next(trial for trial in trials if trial["run"] == found["best"])
    assert yaml.safe_load((folder / "best.yaml").read_text()) == best["settings"]
    RFLAConfig.take_from({"rfla_cfg": folder / found["best"] / "rfla.yaml"})
    assert found["split"] == ("test" if test else "val")
    images = json.loads((folder / f"best-{found['split']}" / "annotations.json").read_text())["images"]
    assert len(images) == 8
    assert ("names no test" in capsys.readouterr().out) == (not test)
