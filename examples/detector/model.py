"""The detector: features, densities, fusion and calibration in one object and one file.

    detector = Detector.load("runs/pill")
    scores, heat = detector(images)          # [N], [N, H, W]
    defective = detector.p_values(scores) <= 0.01

The file is in the safetensors format: arrays and a JSON header, no code.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
import torch.nn.functional as F
from data import DataError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized
from torch import Tensor, nn
from torchvision.transforms import v2

from . import calibration
from .densities import KINDS, Density
from .folders import fresh
from .fusion import CELL, on_one_grid
from .networks import Features

FILE = "detector.safetensors"
FORMAT, VERSION = "cutswap-detector", "1"
HALF = 4096  # larger arrays are stored in half precision
PART = 32  # images that are processed at once


class Detector(nn.Module):
    """Fitted by `fitting.fit`, or read by `Detector.load`.

    Attributes:
        features: the net.
        densities: fitted densities, in the order of `kinds` x levels; "pooled" has only the coarsest level.
        centre, spread: of each density's map on unseen normal images, [K].
        weights: of the maps in the heat map, [K], sum 1; an image's score is its highest heat.
        normal_scores: scores of the held-out normal images, [n].
        about: how it was fitted, as in `settings.json`.
    """

    def __init__(self, features: Features, densities: Sequence[Density], kinds: Sequence[str], about: dict[str, Any]) -> None:
        super().__init__()
        self.features, self.densities, self.kinds = features, nn.ModuleList(densities), tuple(kinds)
        self.about = about
        for name in ("centre", "spread", "weights", "normal_scores"):
            self.register_buffer(name, torch.zeros(0))

    @property
    def size(self) -> int:
        """The side of the squares that images are resized to."""
        return self.features.size

    @property
    def named_maps(self) -> list[tuple[str, int]]:
        """(kind, level) of each density."""
        return pairs_of(self.kinds, len(self.features.layers))

    @property
    def levels(self) -> list[int]:
        """The level of each density's features."""
        return levels_of(self.kinds, len(self.features.layers))

    @torch.inference_mode()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly scores and heat maps.

        Args:
            images: uint8, or float in [0, 1], [N, 3, H, W]; other sizes than `size` are resized with antialiasing.

        Returns:
            scores float32 [N], heat maps float32 [N, H, W] at the images' own size. Higher means more anomalous;
            1 is one standard deviation of normal images above their mean.

        Raises:
            TypeError: not a tensor.
            ValueError: other shapes, dtypes or values.
        """
        check_images(images)
        parts = [self._part(part) for part in images.split(PART)]
        shape = images.shape[-2:]
        if not parts:
            return torch.zeros(0), torch.zeros(0, *shape)
        heat = torch.cat([part[1] for part in parts])[:, None]
        return torch.cat([part[0] for part in parts]), F.interpolate(heat, shape, mode="bilinear")[:, 0]

    def _part(self, images: Tensor) -> tuple[Tensor, Tensor]:
        heat = torch.einsum("nkhw,k->nhw", self.maps(images), self.weights)
        return self.reduced(heat), heat

    def maps(self, images: Tensor) -> Tensor:
        """The densities' maps, normalized on normal images: float32 [N, K, S / 4, S / 4]."""
        if images.shape[-2:] != (self.size, self.size):
            images = v2.functional.resize(images, [self.size, self.size], antialias=True)
        images = images.to(self.features.mean.device)
        found = self.features(images.float() / 255 if images.dtype == torch.uint8 else images.float())
        maps = on_one_grid([d(found[level]) for d, level in zip(self.densities, self.levels, strict=True)], self.size // CELL)
        if not len(self.centre):
            return maps
        return (maps - self.centre[:, None, None]) / self.spread[:, None, None]

    def reduced(self, maps: Tensor) -> Tensor:
        """Scores [N] of maps [N, h, w]: the highest value, or the mean for `pooled`, whose distance is split into cells."""
        return maps.mean((1, 2)) if self.kinds == ("pooled",) else maps.amax((1, 2))

    # ---- verdicts ----------------------------------------------------------------------------------------------------

    def p_values(self, scores: Tensor) -> Tensor:
        """The share of normal images that score at least as high, float64 [N]; see `calibration`."""
        return calibration.p_values(scores, self.normal_scores)

    def rate(self, false_alarms: float) -> float:
        """The rate of false alarms that can be promised: the given one, or the smallest possible."""
        return calibration.promised_rate(false_alarms, len(self.normal_scores))

    def verdicts(self, scores: Tensor, false_alarms: float = 0.01) -> Tensor:
        """bool [N]: True for defects."""
        return self.p_values(scores) <= self.rate(false_alarms) + 1e-9

    def threshold(self, false_alarms: float = 0.01) -> float:
        """The score above which an image counts as defective; in the heat map, the contour of the defect."""
        return calibration.threshold(self.normal_scores, false_alarms)

    # ---- the file ----------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write everything to one file, first under another name, then moved in place; all but half a kilobyte is arrays."""
        arrays = {f"features.{name}": x for name, x in self.features.state_dict().items()}
        for i, density in enumerate(self.densities):
            arrays |= {f"densities.{i}.{name}": x for name, x in density.arrays().items()}  # type: ignore[operator]
        arrays |= dict(self.named_buffers(recurse=False))
        arrays = {name: _stored(x) for name, x in arrays.items()}
        header = {"spec": self.features.spec, "size": self.size, "kinds": self.kinds, "about": self.about}
        about = {"format": FORMAT, "version": VERSION, "detector": json.dumps(header), "digest": digest_of(arrays)}
        draft = fresh(path.with_suffix(".part"))
        draft.write_bytes(serialized(arrays, about))  # `save_file` would make the file unreadable for other users
        os.replace(draft, path)

    @classmethod
    def load(cls, run: str | os.PathLike[str], features: str | None = None) -> Detector:
        """Load the detector from the folder of a run, or from a file.

        Args:
            features: must be given, as for fitting, if the net is a `module:factory`: the file alone never decides which
                code is run.

        Raises:
            DataError: not a run, a damaged file, or a file of another version.
        """
        if not isinstance(run, (str, os.PathLike)):
            raise TypeError(f"`run` must be a path, got {type(run).__name__}")
        path = Path(run)
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            raise DataError(f"`run` must be a folder that `detect.py fit` has finished, got {str(run)!r} without {FILE}")
        header, arrays = _read(path)
        spec = header["spec"]
        if features not in (None, spec):
            raise DataError(f"`features` must be those of the run, {spec!r}, or left out, got {features!r}")
        if ":" in spec and features is None:
            raise DataError(f"`features` must be given as for fitting, {spec!r}, since it names code to run, got {features!r}")
        try:
            detector = cls._of(header, arrays)
            detector(torch.zeros(1, 3, detector.size, detector.size, dtype=torch.uint8))  # checks that all arrays fit together
            return detector
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            if isinstance(error, DataError):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(
                f"`run` must hold a whole detector, got {str(path)!r}, which does not fit its net: {reason}"
            ) from error

    @classmethod
    def _of(cls, header: dict[str, Any], arrays: dict[str, Tensor]) -> Detector:
        def below(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}

        features = Features(header["spec"], header["size"], weights=False)
        features.load_state_dict(below("features."))
        kinds = header["kinds"]
        densities = [KINDS[kind]() for kind, _ in pairs_of(kinds, len(features.layers))]
        for i, density in enumerate(densities):
            density.restore(below(f"densities.{i}."))
        detector = cls(features, densities, kinds, header["about"])
        for name, _ in list(detector.named_buffers(recurse=False)):
            detector.register_buffer(name, arrays[name])
        return detector.eval()


def check_images(images: Any) -> None:
    if not isinstance(images, Tensor):
        way = "; use v2.functional.pil_to_tensor(image.convert('RGB'))[None]" if isinstance(images, PIL.Image.Image) else ""
        raise TypeError(f"`images` must be a tensor [N, 3, H, W], got {type(images).__name__}{way}")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        way = "; for one image pass image[None]" if images.ndim == 3 and images.shape[0] == 3 else ""
        raise ValueError(f"`images` must be [N, 3, H, W], got {list(images.shape)}{way}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"`images` must be uint8, or floats in [0, 1], got {images.dtype}")
    if images.is_floating_point() and images.numel():
        low, high = (float(x) for x in torch.aminmax(images))
        if not -0.25 <= low <= high <= 1.25:  # resizing may overshoot so much, as in the package
            raise ValueError(f"`images` must lie in [0, 1] where they are floats, got values from {low:g} to {high:g}")


def pairs_of(kinds: Sequence[str], levels: int) -> list[tuple[str, int]]:
    """(kind, level) of each density."""
    return [(kind, level) for kind in kinds for level in (range(levels) if kind != "pooled" else (levels - 1,))]


def levels_of(kinds: Sequence[str], levels: int) -> list[int]:
    return [level for _, level in pairs_of(kinds, levels)]


def digest_of(arrays: dict[str, Tensor]) -> str:
    """SHA-256 of all arrays: the format has no checksum of its own, and a damaged array would silently change the scores."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {list(arrays[name].shape)}".encode())
        digest.update(arrays[name].numpy().tobytes())
    return digest.hexdigest()


def rounded(detector: Detector) -> Detector:
    """The detector as it will be read from its file, so that calibration uses the same numbers."""
    copied = copy.deepcopy(detector)
    with torch.no_grad():
        for x in (*copied.parameters(), *copied.buffers()):
            x.copy_(_restored(_stored(x)))
    return copied.eval()


def _stored(x: Tensor) -> Tensor:
    x = x.detach().cpu().contiguous()
    half = x.to(torch.float16) if x.dtype == torch.float32 and x.numel() > HALF else x
    return half if bool(torch.isfinite(half).all()) else x


def _restored(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.float16 else x


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and arrays; every kind of wrong file gets its own message."""
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise DataError(f"`run` must hold a detector of `detect.py fit`, got {str(path)!r} of something else")
            if about.get("version") != VERSION:
                raise DataError(
                    f"`run` must hold a detector of version {VERSION}, got version {about.get('version')} in {str(path)!r}; "
                    "fit it again"
                )
            header = json.loads(about["detector"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if digest_of(arrays) != about["digest"]:
            raise ValueError("its arrays are not those that were written")
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"`run` must hold a whole detector, got {str(path)!r}, which cannot be read: {error}") from error
    if not _is_header(header):
        raise DataError(f"`run` must hold a whole detector, got {str(path)!r} with another header")
    return header, {name: _restored(x) for name, x in arrays.items()}


def _is_header(header: Any) -> bool:
    types = {"spec": str, "size": int, "kinds": list, "about": dict}
    if not isinstance(header, dict) or any(type(header.get(name)) is not kind for name, kind in types.items()):
        return False
    white = header["about"].get("white")
    if white is not None and not (type(white) in (int, float) and 0 < white < math.inf):
        return False
    return 32 <= header["size"] <= 4096 and bool(header["kinds"]) and all(kind in list(KINDS) for kind in header["kinds"])
