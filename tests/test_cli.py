"""Command lines: flags from Ultralytics' own defaults, one-line errors, and where files are looked for."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from ultralytics.utils import DEFAULT_CFG_DICT

from rfla_yolo import cli
from rfla_yolo.config import SETTINGS, resource_dir


def parse(*words):
    return cli.make_parser("train", "").parse(words)


def error_of(capsys, command, *words):
    with pytest.raises(SystemExit) as stop, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["x", *words])
        cli.run(command)
    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err.strip()


@pytest.mark.parametrize("command", ["train", "val", "export"])
def test_every_argument_and_setting_is_a_flag(command, capsys):
    with pytest.raises(SystemExit):
        cli.make_parser(command, "").parse(["--help"])
    text = capsys.readouterr().out
    for name in (*DEFAULT_CFG_DICT, *SETTINGS, "rfla_cfg", "weights"):
        assert f"--{name.replace('_', '-')}" in text
    for heading in ("RFLA settings", "Ultralytics: Train", "Ultralytics: Hyperparameters", "Ultralytics: Export"):
        assert heading in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--epochs", "3"], {"epochs": 3}),
        (["--epochs=3", "--lr0=0.1"], {"epochs": 3, "lr0": 0.1}),
        (["--close-mosaic", "0", "--rf_scale", "1"], {"close_mosaic": 0, "rf_scale": 1}),
        (["--exist-ok"], {"exist_ok": True}),
        (["--val", "False", "--time", "None"], {"val": False, "time": None}),
        (["--topk", "3,1"], {"topk": [3, 1]}),
        (["--topk", "3", "1"], {"topk": [3, 1]}),
        (["--rf", "8", "16", "32"], {"rf": [8, 16, 32]}),
        (["--batch", "-1"], {"batch": -1}),
        (["--name", "001"], {"name": "001"}),
        (["--weights", "best.pt"], {"model": "best.pt"}),
        (["--classes", "[0,2]"], {"classes": [0, 2]}),
    ],
)
def test_values(words, expected):
    assert parse(*words) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epohcs", "3"], "error: unknown flag 'epohcs'; did you mean 'epochs'?"),
        (["--rf-skale=1"], "error: unknown flag 'rf-skale'; did you mean 'rf-scale'?"),
        (["epochs=3"], "error: expected --name value, found 'epochs=3'"),
        (["--epochs", "3"], "error: --data is required"),
        (["--data", "demo.yaml", "--topk", "0,1"], "error: topk must be two whole numbers"),
        (["--data", "demo.yaml", "--decay", "2"], "error: decay must be in (0, 1], not 2"),
        (["--data", "demo.yaml", "--rfla-cfg", "no.yaml"], "error: rfla_cfg: no such file: no.yaml"),
        (["--data", "demo.yaml", "--model", "no.pt"], "error: model: no such file: no.pt"),
        (["--data", "demo.yaml", "--model", "yolov8n-seg.yaml"], "error: model: yolov8n-seg.yaml is for 'segment'"),
    ],
)
def test_errors_are_one_line(capsys, words, message):
    assert error_of(capsys, cli.train, *words).startswith(message)


@pytest.mark.parametrize("command", [cli.val, cli.export])
def test_weights_are_required(capsys, command):
    assert error_of(capsys, command).startswith("error: --weights is required")


class TestEvaluation:
    golden = Path(__file__).parent / "evaluation" / "aitod-eval"

    def test_evaluate(self, tmp_path, capsys):
        files = ["--annotations", f"{self.golden}/single_gt.json", "--predictions", f"{self.golden}/single_dt.json"]
        cli.main(["evaluate", *files, "--out", str(tmp_path / "report")])
        written = json.loads((tmp_path / "report" / "metrics.json").read_text())
        expected = json.loads((self.golden / "expected.json").read_text())["single"]
        assert written["AP"] == pytest.approx(expected["AP"])
        assert f"{100 * expected['AP']:.2f}" in capsys.readouterr().out
        page = (tmp_path / "report" / "index.html").read_text()
        for name in re.findall(r'src="([^"]+)"', page):
            assert (tmp_path / "report" / name).stat().st_size > 5000
        assert "http" not in page

    def test_areas(self, capsys):
        files = ["--annotations", f"{self.golden}/single_gt.json", "--predictions", f"{self.golden}/single_dt.json"]
        cli.main(["evaluate", *files, "--areas", "0,10,20"])
        assert "AP10-20" in capsys.readouterr().out

    def test_compare_by_pattern(self, tmp_path, capsys):
        for i in range(2):
            shutil.copy(self.golden / "single_dt.json", tmp_path / f"a{i}.json")
        shutil.copy(self.golden / "single_dt.json", tmp_path / "b.json")
        files = [str(tmp_path / "a*.json"), str(tmp_path / "b.json"), "--annotations", f"{self.golden}/single_gt.json"]
        cli.main(["compare", *files, "--resamples", "20", "--out", str(tmp_path / "out")])
        assert json.loads((tmp_path / "out" / "comparison.json").read_text())["runs"] == [2, 1]
        assert (tmp_path / "out" / "differences.png").is_file()
        assert "runs 2 and 1" in capsys.readouterr().out

    def test_missing_file(self, capsys):
        words = ["evaluate", "--annotations", "no.json", "--predictions", "no.json"]
        assert error_of(capsys, cli.main, *words) == "error: annotations: no such file: no.json"


def test_unknown_command(capsys):
    assert error_of(capsys, cli.main, "trian") == "error: unknown command 'trian'; did you mean 'train'?"


def test_main_lists_the_commands(capsys):
    cli.main([])
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)


def test_shipped_files():
    names = {path.name for path in resource_dir("data").glob("*.yaml")}
    assert {"aitod.yaml", "aitod-trainval.yaml", "aitodv2.yaml", "aitodv2-trainval.yaml", "demo.yaml"} <= names
    assert (resource_dir("cfg") / "rfla.yaml").is_file()


def test_resume_takes_the_latest_run(monkeypatch):
    from ultralytics.utils import files

    monkeypatch.setattr(files, "get_latest_run", lambda: "runs/last.pt")
    assert cli._resumed({"resume": True}) == {"model": "runs/last.pt", "resume": True}
    assert cli._resumed({"resume": "a.pt"}) == {"model": "a.pt", "resume": True}
    assert cli._resumed({"resume": True, "model": "b.pt"}) == {"model": "b.pt", "resume": True}
