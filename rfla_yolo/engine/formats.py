"""Ultralytics' export formats: which file is which, what each needs and cannot do, and OpenVINO's precision."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch
from xml.etree import ElementTree

from ultralytics.engine.exporter import export_formats
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.backends import NCNNBackend, OpenVINOBackend
from ultralytics.nn.backends.base import BaseBackend
from ultralytics.utils import DEFAULT_CFG, LOGGER, checks

ONNX = ("onnx>=1.16", ("onnxruntime>=1.18", "onnxruntime-gpu>=1.18"), "onnxslim>=0.1.82")
NEEDS: dict[str, tuple[str | tuple[str, ...], ...]] = {  # formats that are run here, and packages that they need
    "torchscript": (),
    "onnx": ONNX,
    "openvino": ("openvino>=2024.1",),
    "mnn": (*ONNX, "MNN>=2.9.6"),
    "ncnn": ("ncnn", "pnnx==20260526"),  # Ultralytics' own pin: what newer ones write crashes when it is run
}
WITHOUT_TOP_K = ("rknn", "ncnn", "executorch", "paddle", "imx", "edgetpu", "qnn")  # no one-to-one branch in a file
MNN_STATISTICS = "MNN.tools.utils.log"  # installs a package by pip and calls its maker's server, when it is imported
FULL_PRECISION = (None, 32)  # of Ultralytics' ``quantize``


def format_of(file: str | Path) -> str | None:
    """Return Ultralytics' name of an exported file's format, by the ending of the file's name; None for any other."""
    name = Path(file).name.lower()
    endings = dict(zip(export_formats()["Suffix"], export_formats()["Argument"]))
    return endings[max(found, key=len)] if (found := [e for e in endings if e != ".pt" and name.endswith(e)]) else None


def check_request(given: str | None, nms: bool | None, one_to_one: bool) -> str:
    """Check, before any work, that a file of this format can be written as asked.

    Args:
        given: Name of the format.
        nms: Ultralytics' argument: True puts suppression into the file, False the one-to-one branch.
        one_to_one: Whether the model has that branch.

    Returns:
        The name in lower case.

    Raises:
        ValueError: If the file would hold less than asked; Ultralytics writes it with a warning.
        ModuleNotFoundError: If packages are missing.
    """
    name = str(given or DEFAULT_CFG.format).lower()
    arguments = dict(zip(export_formats()["Argument"], export_formats()["Arguments"])).get(name)
    if nms is False and one_to_one and name in WITHOUT_TOP_K:
        raise ValueError(
            f"nms=False: {name} cannot hold the one-to-one branch; its file would hold the one-to-many one"
        )
    if nms and arguments is not None and "nms" not in arguments:
        raise ValueError(f"nms=True: {name} cannot hold suppression; its file would give raw outputs")
    alternatives = [(need,) if isinstance(need, str) else need for need in NEEDS.get(name, ())]
    if missing := [need[0] for need in alternatives if not checks.check_requirements([need], install=False)]:
        raise ModuleNotFoundError(_what_to_install(name, " and ".join(missing)))
    return name


@contextmanager
def safely(name: str | None, check: Callable[[Any], None] = lambda backend: None) -> Iterator[None]:
    """Write or run a file with no package installed by itself, and OpenVINO's in float32.

    Ultralytics installs what is missing, and so does MNN's converter.

    Args:
        name: Format of the file; None for a checkpoint that is run.
        check: Called with the runner of a file, Ultralytics' backend, when it has loaded the file.

    Raises:
        ModuleNotFoundError: If a package is missing: what to install.
        ValueError: If a file that is run cannot be read.
    """
    backends = {**AutoBackend._BACKEND_MAP, "openvino": Float32OpenVINO, "ncnn": CheckedNCNN}
    backends = {key: _reading(stock, key, check) for key, stock in backends.items() if key != "pt"}
    if name == "mnn":
        sys.modules.setdefault(MNN_STATISTICS, None)  # type: ignore[arg-type]  # Python's own way to forbid an import
    with patch.object(checks, "AUTOINSTALL", False), patch.dict(AutoBackend._BACKEND_MAP, backends):
        try:
            yield
        except ModuleNotFoundError as error:
            if name is None:
                raise
            raise ModuleNotFoundError(_what_to_install(name, error.name or str(error))) from error


def _reading(stock: type[BaseBackend], name: str, check: Callable[[Any], None]) -> type[BaseBackend]:
    """Return the backend with one clear error for a file that it cannot read, whatever its runtime raises."""

    class Reading(stock):
        def load_model(self, weight: str | Path) -> None:
            try:
                super().load_model(weight)
            except ImportError:
                raise
            except Exception as error:
                cause = " ".join([f"{type(error).__name__}:", *str(error).split()])[:160].rstrip(": ")
                raise ValueError(f"model: {weight} cannot be read as {name}; is the file whole? ({cause})") from error
            check(self)

    return Reading


class CheckedNCNN(NCNNBackend):
    """Ultralytics' runner of NCNN files, which runs what could not be read, and crashes."""

    def load_model(self, weight: str | Path) -> None:
        """Load the file, and read it once more for what NCNN says of it.

        Raises:
            ValueError: If it cannot be read.
        """
        super().load_model(weight)
        network = self.pyncnn.Net()
        param = next(Path(weight).glob("*.param")) if Path(weight).is_dir() else Path(weight)
        if network.load_param(str(param)) or network.load_model(str(param.with_suffix(".bin"))):
            raise ValueError(f"{param.name} or {param.with_suffix('.bin').name} is no network of NCNN")


class Float32OpenVINO(OpenVINOBackend):
    """Ultralytics' runner of OpenVINO files, in float32 on every CPU: see `keep_float32`."""

    def load_model(self, weight: str | Path) -> None:
        """Load the file and, where it runs on a CPU, compile it again for float32."""
        super().load_model(weight)
        self.ov_compiled_model: Any
        if "CPU" in self.ov_compiled_model.get_property("EXECUTION_DEVICES"):
            self.compile_model.keywords["config"]["INFERENCE_PRECISION_HINT"] = self.ov.Type.f32
            self.ov_compiled_model = self.compile_model(self.ov.Core().read_model(xml_of(weight)))


def _what_to_install(name: str, missing: str) -> str:
    extra = "export" if name == "onnx" else name
    command = f"pip install 'rfla-yolo[{extra}]'" if NEEDS.get(name) else "Ultralytics names the packages above"
    return f"format {name} needs {missing}: {command}; nothing is installed by itself"


def keep_float32(folder: str | Path) -> None:
    """Make an OpenVINO model compute in float32 wherever it runs, as far as a file can.

    On CPUs with bfloat16 OpenVINO computes in it unless the program asks for float32, and boxes are then off by up
    to a pixel. Its own mark on operations that must keep their precision (``precise``) does nearly the same from within
    the file. Max-pooling and resizing, which round features alone, lose the mark when OpenVINO rewrites them
    for its CPU; softmax, which makes the boxes, would too but for its first version.
    """
    file = xml_of(folder)
    tree = ElementTree.parse(file)
    for layer in tree.iter("layer"):
        if layer.get("type") == "SoftMax":
            layer.set("version", "opset1")
            (data,) = layer.iter("data")  # the first version takes no negative axis
            data.set("axis", str(int(data.get("axis", "1")) % len(layer.findall("output/port/dim"))))
        info = layer.find("rt_info")
        info = ElementTree.SubElement(layer, "rt_info") if info is None else info
        ElementTree.SubElement(info, "attribute", name="precise", version="0")
    tree.write(file, encoding="utf-8", xml_declaration=True)
    LOGGER.info("OpenVINO: every operation is marked to be computed in float32, also on CPUs with bfloat16")


def xml_of(model: str | Path) -> Path:
    """Return the file of an OpenVINO model that is given by its folder or itself."""
    return next(Path(model).glob("*.xml")) if Path(model).is_dir() else Path(model)
