"""``python export.py --help``; the same as ``rfla-yolo export``."""

from rfla_yolo.cli import export, run

if __name__ == "__main__":
    run(export)
