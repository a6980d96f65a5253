"""``python val.py --help``; the same as ``rfla-yolo val``."""

from rfla_yolo.cli import entry

if __name__ == "__main__":
    entry("val")
