"""The verdict of an analysis: sentences, each with the numbers behind it, and the settings to start from."""

from __future__ import annotations

from typing import Any

IDLE = 0.01  # share of the positives below which a level has no work
WORTH = 0.01  # share of the objects below which a change is not worth mentioning
SIZE_WORDS = {"vt": "below 8 px", "t": "8 to 16 px", "s": "16 to 32 px", "m": "above 32 px"}


def verdict(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the sentences of the verdict.

    Args:
        result: The analysis: ``assigners``, ``levels`` and ``sweep``.

    Returns:
        Sentences as ``text`` and the ``figures`` it was made from.
    """
    found = []
    for name, arm in result["assigners"].items():
        found.append(_untrainable(name, arm["plain"]["sizes"]))
        idle = _idle(result["levels"]["names"], arm["plain"]["sizes"]["all"]["levels"])
        if idle and (name == "rfla" or result["predictions"]):  # without predictions TAL's levels mean nothing
            places = " and ".join(f"{level} ({100 * share:.1f} %)" for level, share in idle.items())
            found.append({"text": f"{name}: levels with next to no positives: {places}.", "figures": idle})
    if set(result["assigners"]) >= {"rfla", "tal"}:
        found.append(_side_by_side(result["assigners"]))
    if result["sweep"]:
        found += _alternatives(result["sweep"])
        best = start_from(result["sweep"])
        if best["name"] == "as set":
            text = "Settings to start from: as set; no other setting of the sweep assigns these objects better."
        else:
            text = f"Settings to start from: {best['name']}; {_outcome(best)}, against {_outcome(result['sweep'][0])}."
        found.append({"text": text, "figures": {"settings": best["settings"]}})
    return found


def start_from(sweep: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the settings to start from: of those that change no model and no image size.

    The fewest untrainable objects first (a difference of `WORTH` counts), then the fewest levels without work, then the
    best IoU that the positives of objects below 8 px can reach. Where nothing differs the earlier row stays.
    """

    def rank(row: dict[str, Any]) -> tuple[float, ...]:
        figures = row["sizes"]["all"]
        idle = sum(share < IDLE for share in figures["levels"] or [])
        tiny = row["sizes"]["vt"]["reach"]
        return (
            round(_share(figures, "untrainable") / WORTH),
            idle,
            -round(figures["reach"] if tiny is None and figures["reach"] else tiny or 0.0, 2),
        )

    return min((row for row in sweep if row["kind"] == "settings"), key=rank)


def _untrainable(name: str, sizes: dict[str, Any]) -> dict[str, Any]:
    figures = {size: {k: sizes[size][k] for k in ("objects", "missed", "untrainable")} for size in sizes}
    everything = sizes["all"]
    total, lost = everything["objects"], everything["untrainable"]
    text = (
        f"{name}: {lost} of {total} objects ({_percent(lost, total)}) can never be found at IoU 0.5 with this "
        f"model: {everything['missed']} get no positive, the positives of {lost - everything['missed']} cannot draw it"
    )
    worst = max(SIZE_WORDS, key=lambda size: sizes[size]["untrainable"])
    if lost:
        count = sizes[worst]["untrainable"]
        text += f"; most are {SIZE_WORDS[worst]} ({count} of {sizes[worst]['objects']})"
    return {"text": f"{text}.", "figures": figures}


def _side_by_side(assigners: dict[str, Any]) -> dict[str, Any]:
    parts, figures = [], {}
    for size, words in SIZE_WORDS.items():
        pair = [assigners[name]["plain"]["sizes"][size]["positives"] for name in ("rfla", "tal")]
        if None not in pair:
            parts.append(f"{pair[0]:.1f} and {pair[1]:.1f} {words}")
            figures[size] = {"rfla": pair[0], "tal": pair[1]}
    return {"text": f"Positives per object, rfla and tal: {', '.join(parts)}.", "figures": figures}


def _alternatives(sweep: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say what P2 and another image size would change."""
    now, found = sweep[0], []
    for row in sweep:
        if row["kind"] == "settings":
            continue
        change = _untrainable_share(row) - _untrainable_share(now)
        helps = "would help" if change < -WORTH else "would cost" if change > WORTH else "would change little"
        text = f"{row['name']}: {helps}; {_outcome(row)}, against {_outcome(now)}."
        found.append({"text": text, "figures": {"untrainable": [_untrainable_share(now), _untrainable_share(row)]}})
    return found


def _outcome(row: dict[str, Any]) -> str:
    sizes = row["sizes"]
    reach = sizes["vt"]["reach"]
    tiny = "" if reach is None else f", positives below 8 px reach IoU {reach:.2f}"
    idle = sum(share < IDLE for share in sizes["all"]["levels"] or [])
    return f"{100 * _untrainable_share(row):.1f} % of the objects untrainable, {idle} idle levels{tiny}"


def _untrainable_share(row: dict[str, Any]) -> float:
    return _share(row["sizes"]["all"], "untrainable")


def _share(figures: dict[str, Any], name: str) -> float:
    return figures[name] / max(figures["objects"], 1)


def _idle(names: list[str], shares: list[float] | None) -> dict[str, float]:
    return {name: share for name, share in zip(names, shares or []) if share < IDLE}


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f} %"
