"""Layouts of data sets: suffixes of images, the folder of normal ones, and the folders beside it with defects and masks."""

from __future__ import annotations

import os
from pathlib import Path

# The folder of normal images, and folders with other images (some with normal ones, too).
_LAYOUTS = (
    ("train/good", ("test", "test_public", "ground_truth")),  # MVTec AD
    ("train/ok", ("test", "ground_truth")),  # BTAD
    ("train", ("ground_truth",)),
    ("test/good", ("ground_truth",)),
    ("MT_Free/Imgs/*.jpg", ("MT_Free", "MT_Blowhole", "MT_Break", "MT_Crack", "MT_Fray", "MT_Uneven")),  # its masks are *.png
    ("Data/Images/Normal", ("Data",)),  # VisA
    ("Images/Normal", ("Masks",)),
    ("Normal", ("Anomaly",)),
    ("good", ("bad", "defect", "defects", "defective", "abnormal", "anomaly", "ground_truth", "mask", "masks")),
    ("normal", ("abnormal", "anomaly", "mask", "masks", "swap")),  # also the layout of `export`
)
_NORMAL = ("good", "ok", "Normal", "normal")
FOREIGN = ("__MACOSX", "@eaDir")  # made by archive programs and network storage
# Those of torchvision's `ImageFolder`, copied: help prints them, and importing torchvision takes seconds.
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def suffixes() -> str:
    return ", ".join(f"*{suffix}" for suffix in SUFFIXES)


def normal_below(folder: str) -> str | None:
    """The folder of normal images, if `folder` has other images as well."""
    for normal, others in _LAYOUTS:
        if any(os.path.isdir(os.path.join(folder, name)) for name in others) and any(Path(folder).glob(normal)):
            return os.path.join(folder, *normal.split("/"))
    return None


def normal_beside(folder: str) -> str | None:
    """The folder of normal images, if `folder` is a part of a data set with other images."""
    real = Path(os.path.realpath(folder))
    for above in list(real.parents)[:2]:
        first = real.relative_to(above).parts[0]
        for normal, others in _LAYOUTS:
            if first in others and real.name not in _NORMAL and any(above.glob(normal)):
                return str(above.joinpath(*normal.split("/")))
    return None
