"""One HTML page with its pictures beside it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.wide { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .875rem }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap }
th:first-child, td:first-child, .text { text-align: left }
td.text { white-space: normal; min-width: 14rem }
figure { margin: 1rem 0 } img { max-width: 100%; height: auto; background: #fff } figcaption { font-size: .875rem }
"""


class Page:
    """Collects sections and writes them as ``index.html``.

    Args:
        folder: Folder of the page and its pictures; made if need be.
        title: Title of the page.

    Example:
        >>> import tempfile
        >>> page = Page(Path(tempfile.mkdtemp()), "Figures")
        >>> page.table(["class", "AP"], [["ship", "12.3"]])
        >>> page.write().name
        'index.html'
    """

    def __init__(self, folder: str | Path, title: str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.title = title
        self._parts: list[str] = []

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{escape(text)}</p>")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]], text: Collection[str] = ()) -> None:
        """Add a table; the first column names the row.

        Args:
            head: Titles of the columns.
            rows: Their cells.
            text: Titles of further columns that hold text: left-aligned, in several lines where it is long.
        """
        marks = [" class=text" if title in text else "" for title in head]
        cells = "".join(f"<th scope=col{mark}>{escape(str(cell))}</th>" for mark, cell in zip(marks, head))
        lines = "".join(
            "<tr>" + "".join(f"<td{mark}>{escape(str(cell))}</td>" for mark, cell in zip(marks, row)) + "</tr>"
            for row in rows
        )
        self._parts.append(
            f"<div class=wide><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>"
        )

    def figure(self, name: str, figure: Figure, caption: str) -> None:
        """Save a matplotlib figure as ``name.png`` and show it, with the caption as its description too."""
        figure.savefig(self.folder / f"{name}.png", dpi=120)
        self._show(name, caption)

    def picture(self, name: str, pixels: NDArray[np.uint8], caption: str) -> None:
        """Save a picture, RGB (H, W, 3), as ``name.png`` and show it pixel by pixel."""
        from matplotlib.image import imsave

        imsave(self.folder / f"{name}.png", pixels)
        self._show(name, caption)

    def _show(self, name: str, caption: str) -> None:
        text = escape(caption, quote=True)
        self._parts.append(f'<figure><img src="{name}.png" alt="{text}"><figcaption>{text}</figcaption></figure>')

    def write(self) -> Path:
        """Write ``index.html`` and return its path."""
        path = self.folder / "index.html"
        title = escape(self.title)
        head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
        body = "\n".join(self._parts)
        page = f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n'
        path.write_text(f"{page}<body><h1>{title}</h1>\n{body}\n</body></html>\n", encoding="utf-8")
        return path


def subplots(rows: int, columns: int = 1, height: float = 4.2, **options: Any) -> tuple[Figure, list[Any]]:
    """Return a figure of its own, outside of pyplot's state, and its axes from top to bottom."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    ratios = {"height_ratios": options.pop("height_ratios")} if "height_ratios" in options else {}
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw=ratios, **options).flatten()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, list(axes)
