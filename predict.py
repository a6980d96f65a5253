"""``python predict.py --help``; the same as ``rfla-yolo predict``."""

from rfla_yolo.cli import entry

if __name__ == "__main__":
    entry("predict")
