"""``python export.py --help``; the same as ``rfla-yolo export``."""

from rfla_yolo.cli import entry

if __name__ == "__main__":
    entry("export")
