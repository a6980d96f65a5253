"""``python -m rfla_yolo COMMAND ...``, the same as ``rfla-yolo COMMAND ...``."""

from .cli import entry

if __name__ == "__main__":
    entry()
