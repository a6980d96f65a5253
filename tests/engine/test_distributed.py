"""Several processes by gloo on the CPU: what each of them does is what one alone would do with its share."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel

from rfla_yolo import RFLAYOLO, RFLAConfig, RFLATrainer, cli
from rfla_yolo.engine.bins import use_bins
from rfla_yolo.engine.distributed import choose_devices
from rfla_yolo.engine.loss import build_criterion, one_to_many
from rfla_yolo.engine.trainer import TRAINERS

from .conftest import QUICK
from .test_tasks import convert

WORKER = Path(__file__).with_name("worker.py")
OPTIONS = {**QUICK, "topk": [2, 1], "nbs": 4, "name": "run"}


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def launch(program, nodes=1, processes=2):
    """Start a program by torchrun, once for each node, as on so many machines."""
    where = ["--nnodes", str(nodes), "--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    command = [sys.executable, "-m", "torch.distributed.run", *where, "--nproc-per-node", str(processes)]
    return [
        subprocess.Popen(
            [*command, "--node-rank", str(node), *map(str, program)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        for node in range(nodes)
    ]


def wait(started, expected=0):
    errors = [process.communicate()[1].decode() for process in started]
    for process, error in zip(started, errors):
        assert (process.returncode == 0) == (expected == 0), error[-4000:]
    return "\n".join(errors)


def load(path):
    return torch.load(path, map_location="cpu", weights_only=False)


def rows_of(run):
    return list(csv.DictReader((run / "results.csv").open()))


def train(root, tiny_sets, nodes, processes, model, **spec):
    """Train in a folder where an older run has the name; returns what every process has seen."""
    older = root / "run" / "results.csv"
    older.parent.mkdir()
    older.write_text("an older run's")
    options = {**OPTIONS, "data": str(tiny_sets(root)), "project": str(root)}
    (root / "spec.json").write_text(json.dumps({"model": model, "train": options, **spec}))
    wait(launch([WORKER, root / "spec.json"], nodes, processes))
    return root, [load(root / f"seen{rank}.pt") for rank in range(nodes * processes)], model


@pytest.fixture(scope="module")
def two(tmp_path_factory, tiny_sets):
    """Two processes on one machine."""
    return train(tmp_path_factory.mktemp("two"), tiny_sets, 1, 2, "yolov8n-p2.yaml")


@pytest.fixture(scope="module")
def four(tmp_path_factory, tiny_sets):
    """Two machines that share no disk for the weights, two processes on each, a head of two branches."""
    return train(tmp_path_factory.mktemp("four"), tiny_sets, 2, 2, "yolo26n.yaml", other_disk=True)


@pytest.fixture(params=["two", pytest.param("four", marks=pytest.mark.slow)])
def trained(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes: sums of several threads differ in their last digits
    yield
    torch.set_num_threads(threads)


class TestTraining:
    def test_one_folder_and_the_older_run_stays(self, trained):
        root, seen, _ = trained
        assert (root / "run" / "results.csv").read_text() == "an older run's"
        run = root / "run-2"
        assert {process["save_dir"] for process in seen} == {str(run)}
        assert sorted(path.name for path in root.glob("run*")) == ["run", "run-2"]
        for file in ("args.yaml", "rfla.yaml", "metrics.json", "weights/best.pt", "weights/last.pt"):
            assert (run / file).is_file()
        assert [row["epoch"] for row in rows_of(run)] == ["1", "2"]

    def test_settings_and_callbacks_on_every_rank(self, trained):
        _, seen, _ = trained
        assert all(process["topk"] == (2, 1) and process["epochs"] == [0, 1] for process in seen)
        assert {process["validator"] for process in seen} == {"RFLAValidator"}

    def test_every_rank_assigns_and_learns_as_alone(self, trained, one_thread):
        """The gradient is the sum of those of the ranks: of two to the last digit, of four up to the order."""
        _, seen, name = trained
        model = DetectionModel(name, nc=2, verbose=False)
        model.args = get_cfg(overrides={"epochs": QUICK["epochs"]})
        total = {}
        for process in seen:
            model.load_state_dict(seen[0]["state"])
            model.criterion = build_criterion(model.train(), RFLAConfig(topk=(2, 1)))
            use_bins(model, model.criterion, None)  # those of the run, which are in its state
            assigned = []
            assigner = one_to_many(model.criterion).assigner
            assigner.register_forward_hook(lambda _, args, output, assigned=assigned: assigned.append(output))
            loss, _ = model.loss(process["batches"][0])
            model.zero_grad()
            loss.sum().backward()
            for alone, there in zip(assigned[0], process["assigned"][0][1], strict=True):
                assert torch.equal(alone, there)
            for key, parameter in model.named_parameters():
                if parameter.grad is not None:
                    total[key] = total[key] + parameter.grad if key in total else parameter.grad.clone()
        assert total and all(process["gradients"].keys() == total.keys() for process in seen)
        for process in seen:
            for key, gradient in process["gradients"].items():
                assert torch.equal(gradient, seen[0]["gradients"][key])
                if len(seen) == 2:
                    assert torch.equal(gradient, total[key]), key
                else:
                    assert (gradient - total[key]).abs().max() <= 1e-5 * total[key].abs().max(), key

    def test_each_rank_has_images_of_its_own(self, trained):
        _, seen, _ = trained
        batches = [batch["img"] for process in seen for batch in process["batches"][:1]]
        assert all(not torch.equal(a, b) for i, a in enumerate(batches) for b in batches[:i])

    def test_positives_of_all_ranks_are_counted(self, trained):
        root, seen, _ = trained
        objects = positives = missed = 0
        for process in seen:
            for mask_gt, (_, _, _, fg_mask, target_gt_idx) in process["assigned"][: len(process["assigned"]) // 2]:
                for image in range(len(mask_gt)):
                    for i in range(int(mask_gt[image].sum())):
                        own = int((fg_mask[image] & (target_gt_idx[image] == i)).sum())
                        objects, positives, missed = objects + 1, positives + own, missed + (own == 0)
        first = rows_of(root / "run-2")[0]
        assert float(first["assign/positives"]) == pytest.approx(positives / objects, rel=1e-5)
        assert float(first["assign/missed"]) == pytest.approx(missed / objects, rel=1e-5)

    def test_every_validation_image_is_counted_once(self, trained, tmp_path):
        root, _, _ = trained
        run = root / "run-2"
        figures = json.loads((run / "metrics.json").read_text())
        truth = json.loads((run / "annotations.json").read_text())
        assert figures["images"] == 8
        assert sorted(image["file_name"] for image in truth["images"]) == [f"{i}.png" for i in range(8)]
        options = {"imgsz": 64, "device": "cpu", "workers": 0, "plots": False, "nms": None, "project": str(tmp_path)}
        RFLAYOLO(run / "weights" / "best.pt").val(data=str(root / "set" / "set.yaml"), name="alone", **options)
        alone = json.loads((tmp_path / "alone" / "metrics.json").read_text())
        assert alone["detections"] == figures["detections"] > 0
        predictions = [json.loads((folder / "predictions.json").read_text()) for folder in (run, tmp_path / "alone")]
        for there, here in zip(*predictions, strict=True):
            assert there["image_id"] == here["image_id"]
            assert there["bbox"] == pytest.approx(here["bbox"], abs=0.01)
            assert there["score"] == pytest.approx(here["score"], abs=1e-4)

    @pytest.mark.slow
    def test_machines_without_a_common_disk_get_the_weights(self, four):
        root, _, _ = four
        assert (root / "other" / "best.pt").read_bytes() == (root / "run-2" / "weights" / "best.pt").read_bytes()


@pytest.mark.slow
class TestStarting:
    def test_one_process_on_each_of_two_machines(self, tmp_path, tiny_sets):
        root, seen, _ = train(tmp_path, tiny_sets, 2, 1, "yolov8n.yaml")
        assert [process["local_rank"] for process in seen] == [0, 0]
        assert json.loads((root / "run-2" / "metrics.json").read_text())["images"] == 8

    @pytest.mark.parametrize("module", [True, False])
    def test_command(self, tiny_set, tmp_path, module):
        command = ["-m", "rfla_yolo"] if module else [Path(sys.executable).with_name("rfla-yolo")]
        if not module and not command[0].is_file():
            pytest.skip("the package is not installed")
        options = {"model": "yolov8n.yaml", "data": tiny_set, "project": tmp_path, **OPTIONS, "topk": "2,1"}
        started = launch([*command, "train", *(f"{key}={value}" for key, value in options.items())])
        wait(started)
        assert len(rows_of(tmp_path / "run")) == 2
        assert "topk:\n- 2\n- 1" in (tmp_path / "run" / "rfla.yaml").read_text()

    @pytest.mark.parametrize("task", ["seg", "pose", "obb"])
    def test_other_tasks(self, tiny_set, tmp_path, task):
        convert(tiny_set, task)
        options = {**OPTIONS, "model": f"yolo26n-{task}.yaml", "data": tiny_set, "project": tmp_path, "topk": "2,1"}
        wait(launch(["-m", "rfla_yolo", "train", *(f"{key}={value}" for key, value in options.items())]))
        figures = json.loads((tmp_path / "run" / "metrics.json").read_text())
        assert (figures["images"], figures["objects"]) == (8, 28)
        assert float(rows_of(tmp_path / "run")[0]["assign/positives"]) >= 1

    @pytest.fixture
    def parent(self, monkeypatch):
        """As ``device=0,1`` does, on the CPU: the trainer starts two processes."""

        class Parent(RFLATrainer):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                if "LOCAL_RANK" not in os.environ:
                    self.ddp, self.world_size = True, 2

        monkeypatch.setitem(TRAINERS, "detect", Parent)

    def test_ultralytics_own_launcher(self, parent, tiny_set, tmp_path):
        model = RFLAYOLO("yolov8n.yaml")
        model.add_callback("on_train_end", lambda t: (t.save_dir / "process").write_text(str(os.getpid())))
        metrics = model.train(data=str(tiny_set), project=str(tmp_path), **OPTIONS)
        assert int((tmp_path / "run" / "process").read_text()) != os.getpid()  # the callback has come along
        assert model.trainer.validator is None
        assert metrics["metrics/AP"] >= 0
        assert len(rows_of(tmp_path / "run")) == 2
        assert json.loads((tmp_path / "run" / "metrics.json").read_text())["images"] == 8
        assert yaml.safe_load((tmp_path / "run" / "rfla.yaml").read_text())["topk"] == [2, 1]

    def test_check_of_the_demo(self, parent, tmp_path, monkeypatch, capsys):
        """One epoch is too few, and the parent, which has no validator, says so."""
        monkeypatch.setitem(cli.train.DEMO, "epochs", 1)
        with pytest.raises(SystemExit) as stop:
            cli.train.run(["--device", "cpu", "--project", str(tmp_path)])
        assert stop.value.code == 1
        assert "error: the demo reached AP50 0." in capsys.readouterr().err

    def test_launcher_whose_process_fails(self, tiny_set, tmp_path):
        overrides = {"model": "yolov8n.yaml", "data": str(tiny_set), "project": str(tmp_path), **OPTIONS}
        trainer = RFLATrainer(overrides={**overrides, "batch": 2})
        trainer.ddp, trainer.world_size = True, 4
        with pytest.raises(ChildProcessError, match="a process of the training on devices cpu has failed"):
            trainer.train()


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "processes"), [(1, 2), (2, 1)])
def test_killed_rank_ends_the_run_and_it_resumes(tiny_set, tmp_path, nodes, processes):
    run, spec = tmp_path / "run", tmp_path / "spec.json"
    options = {**OPTIONS, "epochs": 4, "data": str(tiny_set), "project": str(tmp_path)}
    kill = ["callback", "on_train_batch_start", 2, 1]
    spec.write_text(json.dumps({"model": "yolov8n.yaml", "train": options, "kill": kill}))
    started = launch([WORKER, spec], nodes, processes)
    while started[0].poll() is None and not (tmp_path / "seen1.pt").is_file():  # written right before the kill
        time.sleep(0.2)
    killed = time.monotonic()
    error = wait(started, expected=1)
    assert time.monotonic() - killed < 60
    assert "Signal 9 (SIGKILL)" in error
    run = run.rename(tmp_path / "moved")
    last = run / "weights" / "last.pt"
    assert load(last)["epoch"] == 1
    spec.write_text(json.dumps({"model": str(last), "train": {"resume": True}}))
    wait(launch([WORKER, spec], nodes, processes))
    assert [row["epoch"] for row in rows_of(run)] == ["1", "2", "3", "4"]
    seen = [load(tmp_path / f"seen{rank}.pt") for rank in range(2)]
    assert [process["epochs"] for process in seen] == [[2, 3], [2, 3]]
    assert [process["save_dir"] for process in seen] == [str(run)] * 2
    assert not (tmp_path / "run").exists()
    assert load(last)["epoch"] == -1


class TestDevices:
    """What `choose_devices` makes of the arguments; in a process that ``torchrun`` has started."""

    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch):
        monkeypatch.setattr("rfla_yolo.engine.distributed.LOCAL_RANK", 0)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")

    @pytest.mark.parametrize(
        ("device", "gpus", "expected"),
        [(None, True, "0,1"), ("", True, "0,1"), (None, False, "cpu"), ("cpu", True, "cpu"), ([2, 3], True, "2,3")],
    )
    def test_one_for_each_process(self, monkeypatch, device, gpus, expected):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
        assert choose_devices(device) == expected

    def test_others_are_refused(self):
        with pytest.raises(ValueError, match=r"one GPU for each of the 2 processes .*, not '0,1,2'"):
            choose_devices("0,1,2")

    def test_processes_of_another_launcher(self, monkeypatch):
        monkeypatch.delenv("LOCAL_WORLD_SIZE")
        with pytest.raises(ValueError, match="start by torchrun"):
            choose_devices("0,1")
