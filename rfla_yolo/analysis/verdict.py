"""The verdict of an analysis: sentences, each with the numbers behind it, and the settings to start from."""

from __future__ import annotations

from typing import Any

from ..config import RFLAConfig
from .figures import SIZE_WORDS, idle, level_names


def verdict(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the sentences of the verdict.

    Args:
        result: The analysis: ``task``, ``settings``, ``imgsz``, ``assigners``, ``one2one``, ``predictions``, ``levels``
            and ``sweep``.

    Returns:
        Sentences as ``text`` and the ``figures`` it was made from.
    """
    found = []
    for name, arm in result["assigners"].items():
        found.append(_untrainable(name, arm["plain"]["sizes"], result["task"] == "obb"))
        starved = idle(result["levels"]["names"], arm["plain"]["sizes"]["all"]["levels"])
        if name == "rfla" and result["levels"]["bins"]:
            found += _distances(arm["augmented"]["distances"], result["levels"]["bins"])
        known = result["predictions"] or (name == "rfla" and not arm["plain"]["guessed"])
        if starved and known:  # without predictions TAL's levels mean nothing
            places = " and ".join(f"{level} ({100 * share:.1f} %)" for level, share in starved.items())
            what = "a level" if len(starved) == 1 else "levels"
            found.append({"text": f"{name}: {what} with next to no positives: {places}.", "figures": starved})
    if set(result["assigners"]) >= {"rfla", "tal"}:
        found.append(_side_by_side(result["assigners"]))
    for name, arm in result["one2one"].items():
        found.append(_one_to_one(name, arm["plain"]["sizes"], name == "rfla" or bool(result["predictions"])))
    if result["sweep"]:
        found += [_alternative(row, result) for row in result["sweep"] if row["kind"] != "settings"]
        found.append(_settings(result))
    return found


def start_from(sweep: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of the settings to start from: the first, as set, unless another is better and in nothing worse.

    Only rows that change neither model nor image size. Of several the one with the fewest untrainable objects, then the
    fewest idle levels, then the highest IoU that the positives reach.
    """

    def rank(row: dict[str, Any]) -> tuple[float, ...]:
        everything = row["sizes"]["all"]
        return everything["untrainable"], _idle_levels(row), -(everything["reach"] or 0.0)

    better = [row for row in sweep if row["kind"] == "settings" and row["better"] and not row["worse"]]
    return min(better, key=rank, default=sweep[0])


def _untrainable(name: str, sizes: dict[str, Any], oriented: bool) -> dict[str, Any]:
    figures = {size: {k: sizes[size][k] for k in ("objects", "missed", "untrainable")} for size in sizes}
    everything = sizes["all"]
    total, lost, missed = everything["objects"], everything["untrainable"], everything["missed"]
    share = f"{lost} of {count(total, 'object')} ({_percent(lost, total)})"
    text = f"{name}: {share} "
    text += "cannot be drawn at IoU 0.5 and their own angle" if oriented else "can never be found at IoU 0.5"
    text += " with this model"
    if lost:
        gets = "gets" if missed == 1 else "get"
        text += f": {missed} {gets} no positive, the positives of {lost - missed} cannot draw it"
        worst = max(SIZE_WORDS, key=lambda size: sizes[size]["untrainable"])
        most = "it is" if lost == 1 else "they are" if sizes[worst]["untrainable"] == lost else "most are"
        text += f"; {most} {SIZE_WORDS[worst]} ({sizes[worst]['untrainable']} of {sizes[worst]['objects']})"
    return {"text": f"{text}.", "figures": figures}


def _distances(needed: dict[str, float] | None, bins: tuple[float, float]) -> list[dict[str, Any]]:
    """Say which distances the head has to draw, in training, where objects are as large as augmentation makes them."""
    if not needed:
        return []
    text = f"rfla: from its positives the sides of an object are {needed['low']:.1f} to {needed['high']:.1f} cells "
    text += f"away in training, at the extremes {needed['least']:.1f} to {needed['greatest']:.1f}; the head draws "
    text += f"{bins[0]:g} to {bins[1]:g}, too far for {needed['below']:.1%} of the positives and not far enough for "
    text += f"{needed['above']:.1%} (dfl_range)."
    return [{"text": text.replace("%", " %"), "figures": needed}]


def _one_to_one(name: str, sizes: dict[str, Any], chosen: bool) -> dict[str, Any]:
    """Say how many objects the one-to-one branch leaves out; ``chosen``: not by the order of anchors alone."""
    figures = {size: {k: sizes[size][k] for k in ("objects", "missed")} for size in sizes}
    everything, tiny = sizes["all"], sizes["vt"]
    total, missed = everything["objects"], everything["missed"]
    text = f"One-to-one branch, {name}: {missed} of {count(total, 'object')} ({_percent(missed, total)}) "
    text += f"{'gets' if missed == 1 else 'get'} no positive"
    if missed:
        text += f", {SIZE_WORDS['vt']} {tiny['missed']} of {tiny['objects']}"
        text += f" ({_percent(tiny['missed'], tiny['objects'])})"
    if not chosen:
        text += "; without predictions it chooses among equals by their order, so --weights alone says what it does"
    return {"text": f"{text}.", "figures": figures}


def _side_by_side(assigners: dict[str, Any]) -> dict[str, Any]:
    parts, figures = [], {}
    for size, words in SIZE_WORDS.items():
        pair = [assigners[name]["plain"]["sizes"][size]["positives"] for name in ("rfla", "tal")]
        if None not in pair:
            parts.append(f"{pair[0]:.1f} and {pair[1]:.1f} {words}")
            figures[size] = {"rfla": pair[0], "tal": pair[1]}
    return {"text": f"Positives per object, rfla and tal: {', '.join(parts)}.", "figures": figures}


def _alternative(row: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Say what P2 or another image size would change."""
    now = result["sweep"][0]
    helps = {
        (True, False): "would help",
        (True, True): "would help here and cost there",
        (False, True): "would cost",
        (False, False): "would change nothing measurable",
    }[bool(row["better"]), bool(row["worse"])]
    size = f" ({max(result['imgsz']) * row['zoom']:.0f} px)" if row["kind"] == "imgsz" else ""
    text = f"{row['name']}{size}: {helps}; {_outcome(row)}, against {_outcome(now)}."
    return {"text": text, "figures": {"better": row["better"], "worse": row["worse"]}}


def _settings(result: dict[str, Any]) -> dict[str, Any]:
    rows = result["sweep"]
    best = start_from(rows)
    if best is rows[0]:
        default = result["settings"] == RFLAConfig().to_dict()
        text = f"keep {'the default' if default else 'them as set'}; no other setting of the sweep makes something "
        text += "measurably better and nothing worse"
    else:
        text = f"{best['name']}; {_outcome(best)}, against {_outcome(rows[0])}, and nothing measurably worse"
    figures = {"settings": best["settings"], "better": best["better"]}
    return {"text": f"Settings to start from: {text}.", "figures": figures}


def _outcome(row: dict[str, Any]) -> str:
    everything, reach = row["sizes"]["all"], row["sizes"]["vt"]["reach"]
    tiny = "" if reach is None else f", positives below 8 px reach IoU {reach:.2f}"
    share = _percent(everything["untrainable"], everything["objects"])
    levels = "" if row["guessed"] else f", {count(_idle_levels(row), 'idle level')}"
    return f"{share} of the objects untrainable{levels}{tiny}"


def _idle_levels(row: dict[str, Any]) -> int:
    """Return the number of levels without work, 0 where anchors are guessed."""
    if row["guessed"]:
        return 0
    return len(idle(level_names(row["strides"]), row["sizes"]["all"]["levels"]))


def count(number: int, noun: str) -> str:
    """Return a number with its noun.

    Example:
        >>> count(1, "idle level"), count(0, "idle level")
        ('1 idle level', '0 idle levels')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f} %"
