"""The values of the controls, the swap that they define, and Python lines for the same swap."""

from __future__ import annotations

import importlib.util
import inspect
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torchvision.models

from cutswap_transforms import KMeans, LayerCAMExtractor, SaliencySwap

from .images import AS_IT_IS, Photo, Region

TINY, RANDOM = "tiny", "tiny, random weights"
SIZES = ("128", "256", "384", "512", "1024", AS_IT_IS)  # of the shorter side, in pixels
RANGES = {  # of the sliders: lowest, highest, step
    "seed": (0, 999, 1),
    "grid": (2, 64, 1),
    "n_clusters": (1, 10, 1),
    "saliency_weight": (0.1, 5, 0.1),
    "n_iter": (1, 30, 1),
    "smallest": (0.05, 10, 0.05),
    "largest": (0.1, 20, 0.1),
    "flattest": (0.1, 1, 0.1),
    "tallest": (1, 10, 0.1),
}
CHOSEN = "chosen"
LEVELS = ("all", "random", CHOSEN)
REGIONS = ("salient", "top")
WIDTH = 80  # characters
KEPT = 4  # nets that stay in memory, with their regions


@dataclass(frozen=True)
class Settings:
    """The values of the controls, in their order."""

    size: str = "256"
    net: str = TINY
    grid: int = 24
    clustering: str = "kmeans"
    n_clusters: int = 4
    saliency_weight: float = 0.5
    color: bool = True
    n_iter: int = 10
    region: str = "salient"
    levels: str = "all"
    chosen: tuple[int, ...] = (0,)
    smallest: float = 0.2  # percent of the image, as are the largest
    largest: float = 3.0
    flattest: float = 0.3  # height / width
    tallest: float = 3.3
    seed: int = 0

    @classmethod
    def of(cls, values: Any) -> Settings:
        """From a browser's values, which may be anything.

        Raises:
            ValueError: a value that the control cannot have.
        """
        settings = cls(**{f.name: _read(f.name, f.default, value) for f, value in zip(fields(cls), values, strict=True)})
        for name, (low, high, _) in RANGES.items():
            if not low <= (number := getattr(settings, name)) <= high:
                raise ValueError(f"`{name}` must be from {low} to {high}, got {number:g}.")
        if settings.size not in SIZES:
            raise ValueError(f"`size` must be one of {', '.join(SIZES)}, got {settings.size[:80]!r}")
        if settings.net not in nets_at_hand():
            raise ValueError(f"`net` must be one of {', '.join(nets_at_hand())}, got {settings.net[:80]!r}")
        if settings.clustering not in clusterings_at_hand():
            raise ValueError(
                f"`clustering` must be one of {', '.join(clusterings_at_hand())}, got {settings.clustering[:80]!r}"
            )
        if settings.smallest > settings.largest:
            sizes = f"The smallest patch of {settings.smallest:g} % is larger than the largest of {settings.largest:g} %"
            raise ValueError(f"{sizes}: move one of the two.")
        if settings.levels == CHOSEN and not settings.chosen:
            raise ValueError("No level is chosen: choose one.")
        return settings

    @property
    def guidance(self) -> tuple[Any, ...]:
        """The settings that determine the regions of an image: equal guidance, equal regions."""
        return (self.net, self._clustering(), self.grid, self.region)

    def swap(self, interest: Region | None = None) -> SaliencySwap:
        """The transform; its net and regions stay in memory for the next one.

        Raises:
            ValueError: as `SaliencySwap`.
        """
        base, roi = _guide(*self.guidance), interest and interest.mask
        return SaliencySwap(base.saliency, base.clustering, grid=self.grid, region=self.region, roi=roi, **self._draw())

    def code(self, photo: Photo, interest: Region | None = None) -> str:
        """Python code for the same negative and mask, from the files of the image and of a region of interest."""
        before, image = photo.opening()
        opening = "".join((*before, image, interest.code if interest else ""))
        lines = ["import torch", f"from PIL import Image{', ImageOps' if 'ImageOps.' in opening else ''}"]
        if "BytesIO(" in opening:
            lines[:0] = ["from io import BytesIO", "from pathlib import Path"]
        if self.size != AS_IT_IS:
            lines.append("from torchvision.transforms import v2")
            image = f"v2.Resize({self.size})({image})"
        saliency = {TINY: "", RANDOM: "LayerCAMExtractor(weights=None)"}.get(self.net, f'"{self.net}"')
        words = [saliency] if saliency else []
        clustering = self._clustering()
        if isinstance(clustering, str):
            words.append(f'clustering="{clustering}"')
        elif options := _changed(KMeans, asdict(clustering)):
            words.append(f"clustering=KMeans({', '.join(options)})")
        words += _changed(SaliencySwap, {"grid": self.grid, "region": self.region, **self._draw(), "return_mask": True})
        words[-1:-1] = [f"roi={interest.code}"] if interest else []
        names = ["SaliencySwap"]
        names += [name for name in ("KMeans", "LayerCAMExtractor") if any(name in word for word in words)]
        lines += [f"from cutswap_transforms import {', '.join(sorted(names))}", ""]
        lines += photo.comment()
        lines += [*before, f"image = {image}", f"swap = SaliencySwap({_listed(words)})"]
        lines += [f"torch.manual_seed({self.seed})", "negative, mask = swap(image)"]
        return "\n".join(lines)

    def _clustering(self) -> KMeans | str:
        """The default clustering with its options, or the name of another, without options."""
        if self.clustering != "kmeans":
            return self.clustering
        return KMeans(**{name: getattr(self, name) for name in ("n_clusters", "saliency_weight", "color", "n_iter")})

    @property
    def scale(self) -> tuple[float, float]:
        return round(self.smallest / 100, 6), round(self.largest / 100, 6)

    def _draw(self) -> dict[str, Any]:
        levels = self.chosen if self.levels == CHOSEN else self.levels
        levels = levels[0] if isinstance(levels, tuple) and len(levels) == 1 else levels
        return {"levels": levels, "scale": self.scale, "ratio": (self.flattest, self.tallest)}


def _read(name: str, default: Any, value: Any) -> Any:
    """The value in the type of the default."""
    try:
        if isinstance(default, tuple):
            return tuple(sorted(int(v) for v in value))
        read = type(default)(value)
        if isinstance(default, int) and read != value:
            raise ValueError("it would be rounded")
        return read
    except (TypeError, ValueError, OverflowError):
        got = "nothing" if value is None else repr(str(value)[:80])
        raise ValueError(f"`{name}` must be like {default!r}, got {got}.") from None


@lru_cache(maxsize=KEPT)
def _guide(net: str, clustering: KMeans | str, grid: int, region: str) -> SaliencySwap:
    return SaliencySwap(LayerCAMExtractor(weights=None) if net == RANDOM else net, clustering, grid=grid, region=region)


def _changed(function: Any, values: dict[str, Any]) -> list[str]:
    """`name=value` of the values that are not the function's defaults."""
    defaults = {n: p.default for n, p in inspect.signature(function).parameters.items()}
    return [f"{name}={_text(value)}" for name, value in values.items() if value != defaults[name]]


def _listed(words: list[str]) -> str:
    """On one line, or one per line if that is too long."""
    line = ", ".join(words)
    return line if len(line) <= WIDTH else "".join(f"\n    {word}," for word in words) + "\n"


def _text(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


@lru_cache(maxsize=1)
def nets_at_hand() -> tuple[str, ...]:
    """The embedded net, and the torchvision models whose weights are already on this machine; nothing is downloaded."""
    folder = Path(torch.hub.get_dir(), "checkpoints")
    found = []
    for name in torchvision.models.list_models(module=torchvision.models):
        weights = getattr(torchvision.models.get_model_weights(name), "DEFAULT", None)
        if weights is not None and (folder / weights.url.rsplit("/", 1)[-1]).is_file():
            found.append(name)
    return (TINY, RANDOM, *found)


@lru_cache(maxsize=1)
def clusterings_at_hand() -> tuple[str, ...]:
    modules = {"kmeans": "torch", "sklearn": "sklearn", "opencv": "cv2"}
    return tuple(name for name, module in modules.items() if importlib.util.find_spec(module))
