"""COCO ground truth beside a dataset: which of its images and categories are those of the dataset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

F = TypeVar("F", str, Path)


def match_images(coco: Mapping[str, Any], files: Iterable[F], where: str) -> dict[F, dict[str, Any]]:
    """Find the COCO image of every file, by its name, and by its folders where several share the name.

    Args:
        coco: COCO ground truth.
        files: Images of the dataset.
        where: What the message names the ground truth by.

    Returns:
        COCO images by file.

    Raises:
        ValueError: If a file has no image or more than one, or two files have the same.
    """
    by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for image in coco["images"]:
        by_name[Path(image["file_name"]).name].append(image)
    found: dict[F, dict[str, Any]] = {}
    file_of: dict[Any, F] = {}
    for file in files:
        path = Path(file)
        same = by_name[path.name]
        if len(same) > 1:
            same = [image for image in same if path.as_posix().endswith("/" + Path(image["file_name"]).as_posix())]
        if len(same) != 1:
            raise ValueError(f"{where}: {len(same)} entries for image {file}, expected 1")
        found[file] = same[0]
        other = file_of.setdefault(same[0]["id"], file)
        if other != file:
            raise ValueError(f"{where}: image {same[0]['file_name']} stands for {other} and {file}, expected 1 file")
    return found


def match_categories(coco: Mapping[str, Any], names: Mapping[int, str], where: str) -> dict[int, int]:
    """Find the COCO category of every class, by its name or, where none of the names agrees, by order.

    Upper and lower case are alike. Names that occur twice can only be matched by order, and only if all agree.

    Args:
        coco: COCO ground truth.
        names: Class names by class.
        where: What the message names the ground truth by.

    Returns:
        Category ids by class.

    Raises:
        ValueError: If some of the names agree and others do not, or neither names nor numbers agree.
    """
    categories = sorted(coco["categories"], key=lambda category: category["id"])
    theirs = [str(category.get("name", category["id"])).casefold() for category in categories]
    ours = [str(names[i]).casefold() for i in sorted(names)]
    unique = len(set(ours)) == len(ours) and len(set(theirs)) == len(theirs)
    if unique and set(ours) <= set(theirs):
        return {i: categories[theirs.index(str(names[i]).casefold())]["id"] for i in names}
    if ours == theirs or (len(ours) == len(theirs) and not set(ours) & set(theirs)):
        return {i: category["id"] for i, category in zip(sorted(names), categories)}
    found = [category.get("name") for category in categories]
    raise ValueError(f"{where}: categories {found} are not the classes {list(names.values())}")
