"""What class names mean to a robot, so that a mask means the same whatever the classes are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

#: Group → names of classes in the data sets that people train on, in lower case.
USUAL_GROUPS: Mapping[str, frozenset[str]] = {
    # where wheels may go
    "drivable": frozenset(
        ("road", "floor", "path", "rug", "dirt track", "runway", "service lane", "parking", "bike lane", "manhole",
         "catch basin", "crosswalk - plain", "lane marking - general", "lane marking - crosswalk")
    ),
    # where people walk
    "walkable": frozenset(
        ("sidewalk", "pavement", "pedestrian area", "curb cut", "floor", "path", "rug", "stairs", "stairway", "step",
         "escalator", "crosswalk - plain", "lane marking - crosswalk")
    ),
    "person": frozenset(("person", "pedestrian", "rider", "bicyclist", "motorcyclist", "other rider")),
    "vehicle": frozenset(
        ("car", "truck", "bus", "train", "motorcycle", "bicycle", "van", "minibike", "caravan", "trailer", "on rails",
         "wheeled slow", "other vehicle", "boat", "ship", "airplane")
    ),
    # what grows, grass too
    "vegetation": frozenset(("vegetation", "terrain", "tree", "palm", "plant", "flower", "grass")),
    "sky": frozenset(("sky",)),
}  # fmt: skip


def usual_groups(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The groups of classes by their names; groups that would be empty are left out."""
    names = tuple(names)
    found = {group: tuple(name for name in names if name.strip().lower() in members) for group, members in USUAL_GROUPS.items()}
    return {group: members for group, members in found.items() if members}
