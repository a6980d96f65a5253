"""Command lines: flags from Ultralytics' own defaults, one-line errors, and where files are looked for."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from ultralytics.utils import DEFAULT_CFG_DICT

from rfla_yolo import cli, engine
from rfla_yolo.cli.parser import Parser, boolean, make_parser
from rfla_yolo.cli.train import resumed
from rfla_yolo.config import SETTINGS, resource_dir


def parse(*words):
    return make_parser("train", "").parse(words)


def error_of(capsys, command: tuple[str, ...], *words):
    with pytest.raises(SystemExit) as stop, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["x", *words])
        cli.entry(*command)
    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err.strip()


@pytest.mark.parametrize("command", ["train", "val", "export"])
def test_every_argument_and_setting_is_a_flag(command, capsys):
    with pytest.raises(SystemExit):
        make_parser(command, "").parse(["--help"])
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
        (["--dfl-range=-1,6.5"], {"dfl_range": [-1, 6.5]}),
        (["--dfl-range", "-1", "6.5"], {"dfl_range": [-1, 6.5]}),
        (["--dfl-range", "-1,6.5", "--val"], {"dfl_range": [-1, 6.5], "val": True}),
        (["--dfl-range", "-1.", "6.5"], {"dfl_range": [-1, 6.5]}),
        (["dfl_range=-.5,6.5", "imgsz=64"], {"dfl_range": [-0.5, 6.5], "imgsz": 64}),
        (["--dfl-range", "auto"], {"dfl_range": "auto"}),
        (["--batch", "-1"], {"batch": -1}),
        (["--name", "001"], {"name": "001"}),
        (["--weights", "best.pt"], {"model": "best.pt"}),
        (["--classes", "[0,2]"], {"classes": [0, 2]}),
        (["epochs=3", "data=my.yaml", "imgsz=800"], {"epochs": 3, "data": "my.yaml", "imgsz": 800}),
        (["--exist-ok", "epochs=3", "--lr0", "0.1"], {"exist_ok": True, "epochs": 3, "lr0": 0.1}),
        (["--imgsz", "160", "320", "batch=-1"], {"imgsz": [160, 320], "batch": -1}),
        (["topk=3,1", "rf=8,16,32"], {"topk": [3, 1], "rf": [8, 16, 32]}),
        (["name=epochs=3", "exist-ok=True"], {"name": "epochs=3", "exist_ok": True}),
        (["--name", "epochs=3"], {"name": "epochs=3"}),
        (["--no-amp", "--no_val", "plots=False"], {"amp": False, "val": False, "plots": False}),
        (["--data", "my set.yaml"], {"data": "my set.yaml"}),
        (["--half"], {"half": True}),
        (["classes=0", "rect"], {"classes": 0, "rect": True}),
        (["imgsz=64", "half", "rect", "epochs=2"], {"imgsz": 64, "half": True, "rect": True, "epochs": 2}),
        (["resume", "model=last.pt"], {"resume": True, "model": "last.pt"}),
        (["--classes", "0", "1", "single_cls"], {"classes": [0, 1], "single_cls": True}),
        (["--exist-ok", "rect"], {"exist_ok": True, "rect": True}),
        (["--name", "val"], {"name": "val"}),
        (["data", "=", "my.yaml", "imgsz=", "64", "epochs", "=3"], {"data": "my.yaml", "imgsz": 64, "epochs": 3}),
    ],
)
def test_values(words, expected):
    assert parse(*words) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epohcs", "3"], "error: unknown flag 'epohcs'; did you mean 'epochs'?"),
        (["--rf-skale=1"], "error: unknown flag 'rf-skale'; did you mean 'rf-scale'?"),
        (["epohcs=3"], "error: unknown flag 'epohcs'; did you mean 'epochs'?"),
        (["--imgsz", "800", "epohcs=3"], "error: unknown flag 'epohcs'; did you mean 'epochs'?"),
        (["demo.yaml"], "error: expected --name value or name=value, found 'demo.yaml'"),
        (["--data", "my", "set.yaml"], "error: --data takes one value, found 'my set.yaml'; put quotes around"),
        (["--data", "['a.yaml','b.yaml']", "--model", "yolov8n-p2.yaml"], "error: data must be one dataset YAML, not"),
        (["--name", "my", "run"], "error: --name takes one value, found 'my run'; put quotes around"),
        (["--data"], "error: --data needs a value"),
        (["imgsz=", "epochs=3"], "error: --imgsz needs a value"),
        (["name=c", "d"], "error: expected --name value or name=value, found 'd'"),
        (["topk=3", "1"], "error: expected --name value or name=value, found '1'"),
        (["--data", "my", "val"], "error: --data takes one value, found 'my val'; put quotes around"),
        (["--name"], "error: --name needs a value"),
        (["--epochs", "--data", "demo.yaml"], "error: --epochs needs a value"),
        (["--resume", "--model", "yolov8n-p2.yaml"], "error: resume: yolov8n-p2.yaml is no checkpoint; give"),
        (["--resume", "data.yaml"], "error: resume: data.yaml is no checkpoint; give"),
        (
            ["--data", "demo.yaml", "--project", __file__],
            f"error: --project must be a folder, but {__file__} is a file",
        ),
        (["--data", "demo.yaml", "--project", f"{__file__}/runs"], "error: --project must be a folder, but"),
        (["--data", "demo.yaml", "--rfla-cfg", __file__], "error: rfla_cfg: "),
        (["--epochs", "3"], "error: --data is required"),
        (["--data", "demo.yaml", "--topk", "0,1"], "error: topk must be two whole numbers"),
        (["--data", "demo.yaml", "--decay", "2"], "error: decay must be in (0, 1], not 2"),
        (["--data", "demo.yaml", "--rfla-cfg", "no.yaml"], "error: rfla_cfg: no such file: no.yaml"),
        (["--data", "demo.yaml", "--model", "no.pt"], "error: model: no such file: no.pt"),
        (["--data", "demo.yaml", "--model", "yolov8n-cls.yaml"], "error: model: yolov8n-cls.yaml is for 'classify'"),
        (
            ["--data", "demo.yaml", "--task", "classify"],
            "error: task must be one of 'detect', 'segment'",
        ),
        (
            ["--data", "demo.yaml", "--task", "segment", "--model", "yolov8n-p2.yaml"],
            "error: task must be 'detect' for model yolov8n-p2.yaml, not 'segment'",
        ),
    ],
)
def test_errors_are_one_line(capsys, words, message):
    assert error_of(capsys, ("train",), *words).startswith(message)


@pytest.mark.parametrize("command", ["val", "export"])
def test_weights_are_required(capsys, command):
    assert error_of(capsys, (command,)).startswith("error: --weights is required")


@pytest.mark.parametrize("command", ["val", "export"])
@pytest.mark.parametrize("weights", ["yolov8n-p2.yaml", "data.yaml"])
def test_a_yaml_is_no_checkpoint(capsys, command, weights):
    expected = f"error: --weights must be a checkpoint (.pt) or an exported model, not the YAML {weights}"
    assert error_of(capsys, (command,), "--weights", weights, "--data", "demo.yaml") == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["evaluate", "--predictions", "a.json"],
            "error: the following arguments are required: --annotations; see rfla-",
        ),
        (["evaluate", "--prediction", "a.json"], "error: unknown flag 'prediction'; did you mean 'predictions'?"),
        (["compare", "a.json"], "error: the following arguments are required: second, --annotations; see rfla-yolo"),
        (["compare", "a.json", "b.json", "--resamples", "0"], "error: unknown flag 'resamples'"),
        (["data", "tile", "size=x"], "error: argument --size: invalid int value: 'x'; see rfla-yolo"),
        (["data", "tile", "--sise", "9"], "error: unknown flag 'sise'; did you mean 'size'?"),
        (["data", "tile", "data=a.yaml", f"out={__file__}"], "error: --out must be a folder, but"),
        (["data", "merge", "predictions=a", "tiles=b", f"out={__file__}/a.json"], "error: --out must be a folder, but"),
        (
            ["analyze", "--erf", "perhaps"],
            "error: argument --erf: expected True or False, not 'perhaps'; see rfla-yolo",
        ),
    ],
)
def test_errors_of_the_other_commands_are_one_line(capsys, words, message):
    assert error_of(capsys, (), *words).startswith(message)


@pytest.mark.parametrize("words", [["--no-difficult"], ["difficult=False"], ["--difficult", "False"]])
def test_a_switch_takes_a_value_too(words):
    parser = Parser("x", "")
    parser.add_argument("--difficult", type=boolean, nargs="?", const=True, default=True)
    assert parser.parse(words) == {"difficult": False}


class TestEvaluation:
    golden = Path(__file__).parents[1] / "evaluation" / "aitod-eval"

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
        cli.main(["compare", *files, "--out", str(tmp_path / "out")])
        assert json.loads((tmp_path / "out" / "comparison.json").read_text())["runs"] == [2, 1]
        assert (tmp_path / "out" / "differences.png").is_file()
        assert "independent units, 2 and 1 runs" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([f"out={__file__}"], "error: --out must be a folder, but"),
            (["images=nowhere", "out=page"], "error: --images: no such folder: nowhere"),
            (["images=."], "error: --images is for the page: give --out as well"),
            (
                ["areas=0,8,nan"],
                "error: areas must be two or more ascending borders in px, 0 or more, not [0.0, 8.0, nan]",
            ),
        ],
    )
    def test_is_refused_before_any_work(self, words, message, capsys):
        files = [f"annotations={self.golden}/single_gt.json", "predictions=no.json"]
        assert error_of(capsys, ("evaluate",), *files, *words).startswith(message)

    def test_images_that_are_not_in_the_folder(self, tmp_path, capsys):
        files = ["--annotations", f"{self.golden}/single_gt.json", "--predictions", f"{self.golden}/single_dt.json"]
        cli.main(["evaluate", *files, "--out", str(tmp_path / "report"), "--images", str(tmp_path)])
        assert "holds none of the 20 images" in capsys.readouterr().err

    def test_a_file_goes_before_a_pattern(self, tmp_path, capsys):
        (tmp_path / "r[1]").mkdir()
        for name, found in (("r[1]/p.json", "single_dt.json"), ("r1.json", "sparse_dt.json")):
            shutil.copy(self.golden / found, tmp_path / name)
        pair = [str(tmp_path / "r[1]" / "p.json"), str(self.golden / "single_dt.json")]
        cli.main(["compare", *pair, "--annotations", f"{self.golden}/single_gt.json"])
        assert re.search(r"AP +(\d+\.\d+) +\1 +0\.00", capsys.readouterr().out)

    def test_missing_file(self, capsys):
        words = ["evaluate", "--annotations", "no.json", "--predictions", "no.json"]
        assert error_of(capsys, (), *words) == "error: annotations: no such file: no.json"


def test_unknown_command(capsys):
    assert error_of(capsys, (), "trian") == "error: unknown command 'trian'; did you mean 'train'?"


def test_main_lists_the_commands(capsys):
    cli.main([])
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)


def test_shipped_files():
    names = {path.name for path in resource_dir("data").glob("*.yaml")}
    assert {"aitod.yaml", "aitod-trainval.yaml", "aitodv2.yaml", "aitodv2-trainval.yaml", "demo.yaml"} <= names
    assert (resource_dir("cfg") / "rfla.yaml").is_file()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "data=demo.yaml", "epochs=2"], ("yolov8s-p2.yaml", None)),
        (["train", "data=demo.yaml", "--task", "detect"], ("yolov8s-p2.yaml", "detect")),
        (["train", "data=demo.yaml", "--task", "segment"], ("yolov8s-seg.yaml", "segment")),
        (["train", "data=demo.yaml", "task=pose"], ("yolov8s-pose.yaml", "pose")),
        (["train", "data=demo.yaml", "--task", "obb"], ("yolov8s-obb.yaml", "obb")),
        (["train", "data=demo.yaml", "--task", "obb", "--model", "yolo26n-obb.yaml"], ("yolo26n-obb.yaml", "obb")),
        (["val", "--weights", "best.onnx", "--task", "pose"], ("best.onnx", "pose")),
    ],
)
def test_task(words, expected, monkeypatch):
    class Model:
        def __init__(self, model, task):
            self.given = model, task

        def train(self, **args):
            assert "task" not in args
            raise InterruptedError(self.given)

        val = train

    monkeypatch.setattr(engine, "RFLAYOLO", Model)
    with pytest.raises(InterruptedError) as found:
        cli.main(words)
    assert found.value.args[0] == expected


def test_export_compares_on_the_image_that_source_names(monkeypatch, capsys):
    monkeypatch.setattr(engine, "export_model", lambda *args, **options: (args, options))
    cli.main(["export", "--weights", "best.pt", "--source", "a.png", "--format", "onnx"])
    assert capsys.readouterr().out == "Wrote (('best.pt', 'a.png'), {'format': 'onnx'})\n"


class TestTune:
    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (
                ["data=my.yaml", "--space", "rf-scale=1..4", "topk=[3,1],[9,1]"],
                {"rf_scale": "1..4", "topk": "[3,1],[9,1]"},
            ),
            (
                ["--space", "lr0=1e-4..1e-2,log", "epochs=1,2", "--data", "my.yaml"],
                {"lr0": "1e-4..1e-2,log", "epochs": "1,2"},
            ),
            (
                ["--space", "decay=0.5..1", "--data=my.yaml", "--space", "topk_max=10,20"],
                {"decay": "0.5..1", "topk_max": "10,20"},
            ),
            (["--space", "space.yaml", "--data", "my.yaml"], "space.yaml"),
            (["space=space.yaml", "data=my.yaml"], "space.yaml"),
        ],
    )
    def test_space(self, words, expected, monkeypatch):
        def stop(model, data, space, **arguments):
            assert (model, data) == ("yolov8s-p2.yaml", "my.yaml")
            assert arguments == {"objective": "APt", "trials": 3}
            raise InterruptedError(space)

        monkeypatch.setattr("rfla_yolo.engine.tune.tune", stop)
        with pytest.raises(InterruptedError) as found:
            cli.main(["tune", "objective=APt", "trials=3", *words])
        assert found.value.args[0] == expected

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--space", "decay=0.5..1"], "error: --data is required"),
            (["data=demo.yaml"], "error: space: there is nothing to search"),
            (
                ["data=demo.yaml", "--space", "decay=", "topk=1"],
                "error: --space: expected name=values or one YAML file",
            ),
            (["data=demo.yaml", "--space", "decay", "topk=1"], "error: --space: expected name=values or one YAML file"),
            (["data=demo.yaml", "--space", "decay=1", "decay=0.5"], "error: --space: decay is given twice"),
            (["--space", "decay=0.5..1", "data=demo.yaml"], "error: space: data is the same for all trials; name it"),
            (["data=demo.yaml", "--space", "no.yaml"], "error: space: no such file: no.yaml"),
            (
                ["data=demo.yaml", "--space", "decai=0.5..1"],
                "error: unknown name in space 'decai'; did you mean 'decay'",
            ),
            (["data=demo.yaml", "objectiv=AP"], "error: unknown flag 'objectiv'; did you mean 'objective'?"),
        ],
    )
    def test_errors_are_one_line(self, capsys, words, message):
        assert error_of(capsys, ("tune",), *words).startswith(message)


class TestCfg:
    """A file of Ultralytics' arguments, such as the args.yaml of a run."""

    def test_holds_the_data(self, tmp_path, monkeypatch):
        file = tmp_path / "my.yaml"
        file.write_text("data: demo.yaml\nmodel: yolov8n-p2.yaml\ntopk: [9, 1]\nepochs: 7\nsave_dir: old\ntime:\n")
        seen = {}

        class Model:
            def __init__(self, model, task):
                seen["model"] = model

            def train(self, **args):
                raise ValueError(seen.update(args))

        monkeypatch.setattr(engine, "RFLAYOLO", Model)
        with pytest.raises(ValueError):
            cli.main(["train", "--cfg", str(file), "epochs=3"])
        assert seen == {"model": "yolov8n-p2.yaml", "data": "demo.yaml", "topk": [9, 1], "epochs": 3}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("epochs: 3\n", "error: --data is required"),
            ("- 3\n", "error: cfg: my.yaml: expected 'name: value' lines, found list"),
            ("a: [\n", "error: cfg: my.yaml is no YAML file: while parsing"),
            (None, "error: cfg: no such file: my.yaml"),
        ],
    )
    def test_errors_are_one_line(self, text, message, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        if text:
            Path("my.yaml").write_text(text)
        assert error_of(capsys, ("train",), "cfg=my.yaml").startswith(message)


def test_a_finished_run_is_not_resumed(tmp_path, capsys):
    weights = tmp_path / "last.pt"
    engine.RFLAYOLO("yolov8n-p2.yaml").save(weights)
    expected = f"error: resume: the run of {weights} has finished, there is nothing to resume; "
    assert error_of(capsys, ("train",), "--resume", str(weights)).startswith(expected)


@pytest.mark.parametrize("row", ["2 0.5 0.5 0.1 0.1", "0 0.5 1.7 0.1 0.1", "0 nan 0.5 0.1 0.1"])
def test_bad_labels_everywhere_are_one_error(tiny_set, tmp_path, capsys, row):
    """As where some are bad, in train as in val."""
    weights = tmp_path / "best.pt"
    engine.RFLAYOLO("yolov8n-p2.yaml").save(weights)
    options = [f"model={weights}", f"data={tiny_set}", "imgsz=64", "device=cpu", f"project={tmp_path}", "epochs=1"]
    for command, split in (("train", "train"), ("val", "val")):
        for file in sorted((tiny_set.parent / "labels" / split).glob("*.txt")):
            file.write_text(row + "\n")
        message = error_of(capsys, (command,), *options)
        assert "error: 8 images cannot be used because of bad labels or files:" in message
        assert f"labels/{split}/0.txt:1: " in message


def test_resume_takes_the_latest_run(monkeypatch):
    from ultralytics.utils import files

    monkeypatch.setattr(files, "get_latest_run", lambda: "runs/last.pt")
    assert resumed({"resume": True}) == {"model": "runs/last.pt", "resume": True}
    assert resumed({"resume": "a.pt"}) == {"model": "a.pt", "resume": True}
    assert resumed({"resume": True, "model": "b.pt"}) == {"model": "b.pt", "resume": True}
