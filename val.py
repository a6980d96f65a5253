"""``python val.py --help``; the same as ``rfla-yolo val``."""

from rfla_yolo.cli import run, val

if __name__ == "__main__":
    run(val)
