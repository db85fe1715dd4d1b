"""Argument checks shared by all saliency nets, and near names for unknown ones."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TypeAlias

WeightsLike: TypeAlias = str | os.PathLike[str] | Enum | None  # a member of torchvision's weights is an Enum
REASON = 200  # characters kept of another library's message: load_state_dict lists every key


def near(name: str, known: Iterable[str]) -> str:
    """The end of a message: the known names nearest to an unknown one, or the first ones.

    >>> near("resnet8", ["resnet18", "resnet50", "vgg11"])
    "near names are 'resnet18', 'resnet50'"
    >>> near("foo", ["resnet18", "resnet50"])
    "there are 'resnet18', 'resnet50'"
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=5)
    shown = ", ".join(map(repr, close or names[:8]))
    return f"near names are {shown}" if close else f"there are {shown}" + (", ..." if len(names) > 8 else "")


def check_layers(layers: Sequence[str], known: Iterable[str], model: str) -> tuple[str, ...]:
    """Layers as a tuple of names; a single name is accepted.

    Raises:
        TypeError: not a name or a sequence of names.
        ValueError: an empty sequence or an unknown name.
    """
    names = (layers,) if isinstance(layers, str) else layers
    if not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
        got = shortened(repr(layers))
        raise TypeError(f"`layers` must be None or a sequence of module names, got {got}; named_modules() has the names")
    if not names:
        raise ValueError("`layers` must name at least one module, got none; None finds them automatically")
    known = list(known)
    for name in names:
        if name not in known:
            raise ValueError(f"`layers` must be names of modules of {model!r}, got {name!r}; {near(name, known)}")
    return tuple(names)


def check_target(target: int | None, classes: int) -> None:
    """Raises ValueError if the target is not a class."""
    if target is not None and not 0 <= target < classes:
        raise ValueError(f"`target` must be in [0, {classes - 1}] for {classes} classes, got {target}")


def shortened(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= REASON else f"{text[:REASON]}..."
