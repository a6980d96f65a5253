"""``rfla-yolo predict``: what the command line says is what the scene is predicted with."""

from __future__ import annotations

import json
import warnings

import pytest

from rfla_yolo.cli import predict
from rfla_yolo.engine import predict as engine
from rfla_yolo.scenes.run import Tally


def given(monkeypatch: pytest.MonkeyPatch, *words: str) -> dict:
    taken = {}

    def predict_files(weights, source, out, **options):
        taken.update(options, files=(weights, source, out))
        return Tally(done=3)

    monkeypatch.setattr(engine, "predict_files", predict_files)
    predict.run(["--weights", "a.pt", "--source", "b.tif", "--out", "runs/c", *words])
    return taken


def test_flags_are_read(monkeypatch, capsys):
    words = "--bands 4,3,2 --stretch 2%,98% --conf best --no-nms --classes 0 2 --half --skip-bad-tiles tile=512"
    taken = given(monkeypatch, *words.split())
    assert taken["files"] == ("a.pt", "b.tif", "runs/c")
    assert taken["bands"] == [4, 3, 2]
    assert taken["stretch"] == ["2%", "98%"]
    assert (taken["conf"], taken["nms"], taken["classes"], taken["tile"]) == ("best", False, [0, 2], 512)
    assert taken["half"] and taken["skip_bad_tiles"] and not taken["save"]
    assert "0 objects on 3 tiles\nWrote runs/c" in capsys.readouterr().out


@pytest.mark.filterwarnings("default")
def test_files_and_warnings_are_told_in_a_line_each(monkeypatch, capsys, tmp_path):
    def predict_files(weights, source, out, **options):
        for _ in range(2):
            with warnings.catch_warnings():  # as opening a raster does: Python shows the next ones again
                warnings.simplefilter("ignore")
            warnings.warn("scene.tif: is odd", stacklevel=1)
        files = ["index.html", "densest.png", "predictions.json", "labels/a.txt", "labels/sub/b.txt", "labels/c.txt"]
        (tmp_path / "run.json").write_text(json.dumps({"files": files}))
        return Tally(done=3)

    monkeypatch.setattr(engine, "predict_files", predict_files)
    shown = warnings.showwarning
    predict.run(["--weights", "a.pt", "--source", "b.tif", "--out", str(tmp_path)])
    said = capsys.readouterr()
    assert said.err == "WARNING: scene.tif: is odd\n"
    assert said.out.endswith(f"Wrote {tmp_path}: index.html, labels/, predictions.json, run.json\n")
    assert warnings.showwarning is shown


def test_every_option_of_a_prediction_is_a_flag(monkeypatch):
    taken = given(monkeypatch)
    assert {*engine.DETECTION, *engine.TILING, "save", "save_txt", "save_conf", "overwrite", "files"} == set(taken)
    assert taken["conf"] == 0.25


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bands", "a"], "expected numbers like 4,3,2, not 'a'"),
        (["--overlaps", "3"], "unknown flag 'overlaps'; did you mean 'overlap'"),
        (["--tile", "x"], "argument --tile: invalid int value: 'x'"),
    ],
)
def test_errors_are_one_line(words, message, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        given(monkeypatch, *words)
    assert message in capsys.readouterr().err


def test_an_interrupted_run_says_how_it_goes_on(monkeypatch, capsys):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "predict_files", interrupted)
    with pytest.raises(SystemExit) as ended:
        predict.run(["--weights", "a.pt", "--source", "b.tif", "--out", "runs/c"])
    assert ended.value.code not in (0, None)
    assert "interrupted; the same command goes on in runs/c" in capsys.readouterr().err
