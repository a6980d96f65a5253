"""``python train.py --help``; the same as ``rfla-yolo train``."""

from rfla_yolo.cli import run, train

if __name__ == "__main__":
    run(train)
