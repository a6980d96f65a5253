"""The layers: the assignment needs torch alone, the evaluation neither torch nor Ultralytics."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import rfla_yolo


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("rfla_assign", ["ultralytics", "cv2", "matplotlib", "faster_coco_eval"]),
        ("evaluate", ["torch", "ultralytics", "matplotlib"]),
        ("RFLAConfig", ["ultralytics", "cv2", "matplotlib"]),
    ],
)
def test_imports_no_more_than_it_needs(name, absent):
    code = f"import sys; from rfla_yolo import {name}; print([m for m in {absent} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names():
    for name in rfla_yolo.__all__:
        assert getattr(rfla_yolo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rfla_yolo.nothing  # noqa: B018


ROOT = Path(rfla_yolo.__file__).parent
LAYERS = (
    "rotated",
    "pairs",
    "report",
    "assign",
    "config",
    "scenes",
    "evaluation",
    "datasets",
    "engine",
    "analysis",
    "cli",
    "__main__",
)  # from below


@cache
def imports() -> dict[str, set[str]]:
    """The files of the package that each file imports, also inside of functions and under TYPE_CHECKING."""
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        found[name] = set()
        here = name.split(".")[:-1]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = [*here[: len(here) - node.level + 1], *filter(None, [node.module])]
                for alias in node.names:
                    steps = (base, [*base, alias.name], [*base, "__init__"], [*base, alias.name, "__init__"])
                    found[name] |= {".".join(step) for step in steps} & files.keys() - {name, "__init__"}
            else:  # absolute imports would be seen by nobody
                assert "rfla_yolo" not in ast.unparse(node) or not isinstance(node, ast.Import | ast.ImportFrom), name
    return found


def test_the_imports_are_found():
    assert {"cli.parser", "cli.train"} <= imports()["cli.__init__"]
    assert {"config", "engine.__init__"} <= imports()["engine.trainer"] | imports()["cli.train"]


def test_imports_run_downwards():
    layers = {layer: place for place, layer in enumerate(LAYERS)}
    upwards = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in others
        if name != "__init__" and layers[other.split(".")[0]] > layers[name.split(".")[0]]
    ]
    assert not upwards
    assert {name.split(".")[0] for name in imports()} - {"__init__"} == set(LAYERS)
    below_assign = {other for name in imports() if name.startswith("assign.") for other in imports()[name]}
    assert {other.split(".")[0] for other in below_assign} == {"assign"}


def test_no_two_files_import_each_other():
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(imports()[name]):
                walk(other, (*path, name))
            done.add(name)

    for name in sorted(imports()):
        walk(name, ())
