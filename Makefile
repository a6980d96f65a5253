PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all test-matrix lint clean

demo: .venv/export ## train on the demo set, validate, export to ONNX and run the file
	$(BIN)/python train.py --project $(CURDIR)/runs --name demo --exist-ok
	$(BIN)/python val.py --weights runs/demo/weights/best.pt --data demo.yaml --imgsz 192 --project $(CURDIR)/runs --name demo-val --exist-ok
	$(BIN)/python export.py --weights runs/demo/weights/best.pt --format onnx --imgsz 192
	$(BIN)/python val.py --weights runs/demo/weights/best.onnx --data demo.yaml --imgsz 192 --project $(CURDIR)/runs --name demo-onnx --exist-ok

# A process for each core, since threads of small tensors wait for each other; a file's tests share what they train.
PARALLEL := -n auto --maxprocesses 8 --dist loadfile
test test-all: export OMP_NUM_THREADS = 1

test: .venv/dev lint ## run lint, types, tests and doctests
	$(BIN)/python -m pytest $(PARALLEL)

test-all: .venv/dev .venv/all-formats lint ## the same, and the tests that take minutes, among them those of all runtimes
	$(BIN)/python -m pytest $(PARALLEL) -m "slow or not slow"

test-matrix: .venv/dev ## the tests with the oldest Ultralytics on the Python of .venv, and with the newest on every Python that is on PATH
	$(BIN)/tox run -- $(PARALLEL)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

clean:
	rm -rf .venv .tox runs build *.egg-info
