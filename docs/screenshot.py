"""Take a picture of a page by headless Chromium: ``python docs/screenshot.py report/index.html page.png``."""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"


def main() -> None:
    """Parse and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1000, help="width of the window, px; 400 is a phone")
    parser.add_argument("--height", type=int, default=2600, help="height of the window, px")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile:
        size = f"--window-size={args.width},{args.height}"
        command = ["chromium", *FLAGS.split(), f"--user-data-dir={profile}", size, "--hide-scrollbars"]
        command += [f"--screenshot={args.picture.resolve()}", args.page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True)
    print(f"Wrote {args.picture}")


if __name__ == "__main__":
    main()
