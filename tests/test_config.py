"""Settings: one source of defaults, precedence, and errors that name the thing."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

import numpy as np
import pytest
import yaml

from rfla_yolo import RFLAConfig
from rfla_yolo.config import SETTINGS, resource_dir


def test_yaml_agrees_with_the_dataclass():
    shipped = yaml.safe_load((resource_dir("cfg") / "rfla.yaml").read_text())
    assert shipped == RFLAConfig().to_dict()


def test_yaml_explains_every_setting():
    lines = (resource_dir("cfg") / "rfla.yaml").read_text().splitlines()
    for name in SETTINGS:
        line = next(line for line in lines if line.startswith(f"{name}:"))
        assert len(line.split("#")[1].strip()) > 20


def test_readme_has_the_table_of_settings():
    root = Path(__file__).parents[1]
    table = runpy.run_path(str(root / "docs" / "settings_table.py"))["table"]()
    assert table in (root / "README.md").read_text()


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RFLAConfig().decay = 0.5


def test_flags_win_over_file_and_file_over_defaults(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("decay: 0.8\ntopk: [9, 0]\n")
    overrides = {"rfla_cfg": str(file), "decay": 0.7, "epochs": 3}
    config, given = RFLAConfig.take_from(overrides)
    assert (config.decay, config.topk, config.distance) == (0.7, (9, 0), "kl")
    assert set(given) == {"decay", "topk"}
    assert overrides == {"epochs": 3}


@pytest.mark.parametrize(
    ("settings", "given", "one_to_one", "idle"),
    [
        ({}, [], False, []),
        ({"one2one": "tal"}, ["one2one"], False, ["one2one, because the head of this model has no one-to-one branch"]),
        ({"one2one": "rfla"}, [], False, ["one2one, because the head of this model has no one-to-one branch"]),
        ({"one2one": "tal"}, ["one2one"], True, []),
        ({"rf": (8, 16, 32), "rf_scale": 2}, [], True, ["rf_scale, because rf gives the sizes in px"]),
        (
            {"assigner": "tal", "decay": 0.8, "fitness": "APt", "dfl_range": (-1, 6.5)},
            ["assigner", "one2one"],
            True,
            ["decay, one2one, because assigner=tal takes no setting of RFLA"],
        ),
    ],
)
def test_settings_without_effect(settings, given, one_to_one, idle):
    assert RFLAConfig(**settings).without_effect(given, one_to_one) == [f"without effect: {words}" for words in idle]


def test_files_and_checkpoints_of_0_1_are_read(tmp_path):
    """They name two settings that had one choice; any other value of them was never valid."""
    old = {**RFLAConfig(decay=0.8).to_dict(), "candidates": "window", "select": "topk"}
    assert RFLAConfig.from_dict(old) == RFLAConfig(decay=0.8)
    (tmp_path / "rfla.yaml").write_text(yaml.safe_dump(old))
    assert RFLAConfig.take_from({"rfla_cfg": tmp_path / "rfla.yaml"})[0] == RFLAConfig(decay=0.8)
    with pytest.raises(ValueError, match="unknown setting 'select'"):
        RFLAConfig.from_dict({**old, "select": "inside"})


def test_numbers_of_numpy_become_plain(tmp_path):
    config = RFLAConfig(
        topk=np.array([2, 0]),
        topk_max=np.int64(20),
        decay=np.float64(0.9),
        rf=[np.float32(4), np.int32(8)],
        rf_scale=np.float32(2),
        skip_bad_labels=np.True_,
        fitness=np.str_("APt"),
    )
    expected = RFLAConfig(
        topk=(2, 0), topk_max=20, decay=0.9, rf=(4.0, 8.0), rf_scale=2.0, skip_bad_labels=True, fitness="APt"
    )
    assert config == expected
    config.save(tmp_path / "rfla.yaml")
    assert RFLAConfig.take_from({"rfla_cfg": tmp_path / "rfla.yaml"})[0] == config
    assert RFLAConfig(topk=(np.int64(3), np.int64(1))).to_dict()["topk"] == [3, 1]
    assert RFLAConfig(rf=np.float64(8)).rf == (8.0,)


def test_survives_a_file(tmp_path):
    config = RFLAConfig(topk=(5, 2), rf=(4, 8), conflict="last")
    config.save(tmp_path / "rfla.yaml", "two lines\nof comment")
    assert RFLAConfig.take_from({"rfla_cfg": tmp_path / "rfla.yaml"})[0] == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"topk": (0, 1)}, r"topk must be two whole numbers .* not \(0, 1\)"),
        ({"topk": "3"}, "not '3'"),
        ({"decay": 0.0}, r"decay must be in \(0, 1\], not 0\.0"),
        ({"distance": "iou"}, "distance must be one of 'kl', 'wd', not 'iou'"),
        ({"conflict": "x"}, "conflict must be one of"),
        ({"target": "soft"}, "target must be one of 'hard', 'tal', not 'soft'"),
        ({"assigner": "atss"}, "assigner must be one of 'rfla', 'tal', not 'atss'"),
        ({"rf": "area"}, "rf must be 'trf', 'erf', 'stride' or one size in px"),
        ({"rf": [8, -1]}, "not \\[8, -1\\]"),
        ({"rf_scale": 0}, "rf_scale must be a number above 0, or None, not 0"),
        ({"fitness": "APm"}, "fitness must be one of 'map', 'aitod', 'APt', 'APvt', not 'APm'"),
        ({"distance": ["kl", "wd"]}, r"distance must be one of 'kl', 'wd', not \['kl', 'wd'\]"),
        ({"fitness": {"a": 1}}, "fitness must be one of"),
        ({"tal_from": 0}, "tal_from must be a side in px above 0, or None, not 0"),
        ({"tal_from": "32"}, "not '32'"),
        ({"skip_bad_labels": 1}, "skip_bad_labels must be True or False, not 1"),
    ],
)
def test_bad_values_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        RFLAConfig(**settings)


def test_unknown_setting_in_a_file(tmp_path):
    (tmp_path / "my.yaml").write_text("decai: 0.8\n")
    with pytest.raises(ValueError, match=r"my\.yaml: unknown setting 'decai'; did you mean 'decay'"):
        RFLAConfig.take_from({"rfla_cfg": str(tmp_path / "my.yaml")})


def test_a_number_as_name_in_a_file(tmp_path):
    (tmp_path / "my.yaml").write_text("1: 2\n")
    with pytest.raises(ValueError, match=r"my\.yaml: unknown setting 1; there are assigner"):
        RFLAConfig.take_from({"rfla_cfg": str(tmp_path / "my.yaml")})


def test_missing_file():
    with pytest.raises(FileNotFoundError, match=r"rfla_cfg: no such file: nowhere\.yaml"):
        RFLAConfig.take_from({"rfla_cfg": "nowhere.yaml"})


def test_paper_preset_is_the_literal_form():
    config, given = RFLAConfig.take_from({"preset": "paper"})
    literal = {"topk": (3, 1), "topk_max": 0, "decay": 0.9, "distance": "kl", "target": "hard", "rf": "trf"}
    assert {name: getattr(config, name) for name in literal} == literal
    assert config.tal_from is config.dfl_range is None
    assert config.scale == 0.5
    assert given == ["topk_max", "tal_from", "target", "rf", "rf_scale", "dfl_range"]


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("topk_max: 5\ntarget: hard\n")
    config, _ = RFLAConfig.take_from({"preset": "paper", "rfla_cfg": str(file), "target": "tal"})
    assert (config.topk_max, config.target, config.rf) == (5, "tal", "trf")


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match="preset must be one of paper, not 'papper'"):
        RFLAConfig.take_from({"preset": "papper"})


def test_scale_follows_the_source_of_the_fields():
    assert [RFLAConfig(rf=rf).scale for rf in ("stride", "trf", "erf")] == [2, 0.5, 0.5]
    assert RFLAConfig(rf="trf", rf_scale=1).scale == 1
    assert RFLAConfig(rf=(8, 16), rf_scale=2.0).scale == 1
