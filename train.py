"""``python train.py --help``; the same as ``rfla-yolo train``."""

from rfla_yolo.cli import entry

if __name__ == "__main__":
    entry("train")
