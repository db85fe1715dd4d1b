"""Densities of normal features, fitted in parts, and distances from them as maps.

`Place`: a Gaussian for each position in the image (PaDiM: Defard et al., ICPR 2021). `Neighbours`: the nearest feature in a
bank of normal features from all positions (PatchCore: Roth et al., CVPR 2022). `Pooled`: one Gaussian of the whole image's mean
feature (CutPaste: Li et al., CVPR 2021). Each is written from its paper.
"""

from __future__ import annotations

import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn

RIDGE = 0.1  # of the mean variance over all positions and channels, added to the diagonal of every covariance
NUMBERS = 7_000_000  # most numbers in the covariances of a level: with more channels, a random subset is used, as in PaDiM
POOL = 40_000  # cells from which a bank is chosen
ROWS = 512  # cells whose distances to a bank fit into a core's cache
PROJECTION = 32  # dimensions of the projection in which the bank is chosen


class Density(nn.Module):
    """Call `update` with each part of the normal images' maps [N, C, h, w], then `finish`; then maps -> distances [N, h, w].

    `images` is the number of images, `seed` decides the random choices; both matter only for fitting.
    """

    fitted: tuple[str, ...]  # the arrays that `finish` computes

    def __init__(self, images: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.images, self.seed = images, seed

    def update(self, x: Tensor) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        raise NotImplementedError

    def arrays(self) -> dict[str, Tensor]:
        """The arrays of a fitted density."""
        return {name: self.get_buffer(name) for name in self.fitted}

    def restore(self, arrays: dict[str, Tensor]) -> None:
        """Set the arrays of a fitted density."""
        for name in self.fitted:
            self.register_buffer(name, arrays[name])

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


class Place(Density):
    """sqrt((x - m)^T S^-1 (x - m)) with mean m and covariance S of each position."""

    fitted = ("channels", "mean", "whiten")

    def __init__(self, images: int = 0, seed: int = 0) -> None:
        super().__init__(images, seed)
        self.count = 0

    def _cells(self, x: Tensor) -> Tensor:
        return x[:, self.channels].flatten(2).permute(2, 1, 0)  # [P, C, N]

    def update(self, x: Tensor) -> None:
        if not self.count:
            widest = max(1, int((NUMBERS / (x.shape[2] * x.shape[3])) ** 0.5))
            chosen = torch.randperm(x.shape[1], generator=self._generator())[:widest].sort().values
            self.register_buffer("channels", chosen)
            self.shift = self._cells(x).mean(2, keepdim=True)  # so that sums of squares keep their precision
            self.sums, self.squares = torch.zeros(()), torch.zeros(())
        cells = self._cells(x) - self.shift
        self.count += len(x)
        self.sums = self.sums + cells.sum(2).double()
        self.squares = self.squares + (cells @ cells.transpose(1, 2)).double()

    def finish(self) -> None:
        mean = self.sums / self.count
        outer = mean[:, :, None] * mean[:, None, :]
        covariance = (self.squares - self.count * outer) / max(self.count - 1, 1)
        diagonal = covariance.diagonal(dim1=1, dim2=2)
        diagonal.add_(RIDGE * diagonal.mean().clamp(min=1e-12))
        factor = torch.linalg.cholesky(covariance)
        eye = torch.eye(factor.shape[1], dtype=factor.dtype).expand_as(factor)
        self.register_buffer("whiten", torch.linalg.solve_triangular(factor, eye, upper=False).float())
        self.register_buffer("mean", (self.shift[:, :, 0] + mean).float())
        del self.sums, self.squares, self.shift

    def arrays(self) -> dict[str, Tensor]:
        rows, columns = torch.tril_indices(self.whiten.shape[1], self.whiten.shape[1])
        return super().arrays() | {"whiten": self.whiten[:, rows, columns]}

    def restore(self, arrays: dict[str, Tensor]) -> None:
        width = arrays["mean"].shape[1]
        whiten = torch.zeros(len(arrays["mean"]), width, width)
        rows, columns = torch.tril_indices(width, width)
        whiten[:, rows, columns] = arrays["whiten"]
        super().restore(arrays | {"whiten": whiten})

    def forward(self, x: Tensor) -> Tensor:
        white = self.whiten @ (self._cells(x) - self.mean[:, :, None])  # [P, C, N]
        return white.square_().sum(1).sqrt().T.reshape(len(x), *x.shape[2:])


class Neighbours(Density):
    """Distance to the nearest feature of the bank."""

    fitted = ("bank",)

    def __init__(self, images: int = 0, seed: int = 0, size: int = 1024) -> None:
        super().__init__(images, seed)
        self.size = size
        self.parts: list[Tensor] = []
        self.random = self._generator()

    def _cells(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)  # [N, P, C]

    def update(self, x: Tensor) -> None:
        cells = self._cells(x)
        per_image = min(cells.shape[1], -(-POOL // self.images))
        order = torch.rand(cells.shape[:2], generator=self.random).argsort(1)[:, :per_image]
        self.parts.append(cells.gather(1, order[:, :, None].expand(-1, -1, cells.shape[2])).flatten(0, 1))

    def finish(self) -> None:
        cells = torch.cat(self.parts)
        self.register_buffer("bank", cells[greedy_coreset(cells, self.size, self._generator())].clone())
        del self.parts, self.random

    def forward(self, x: Tensor) -> Tensor:
        cells = self._cells(x).flatten(0, 1)
        norms = self.bank.square().sum(1)
        nearest = torch.cat([torch.addmm(norms, part, self.bank.T, alpha=-2).amin(1) for part in cells.split(ROWS)])
        return (nearest + cells.square().sum(1)).clamp(min=0).sqrt().reshape(len(x), *x.shape[2:])


def greedy_coreset(cells: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Indices of cells [M, C], each the farthest from those before it (Sener and Savarese, ICLR 2018).

    Distances are taken in a Gaussian random projection, as in PatchCore.
    """
    if cells.shape[1] > PROJECTION:
        cells = cells @ torch.randn(cells.shape[1], PROJECTION, generator=generator)
    size = min(size, len(cells))
    norms = cells.square().sum(1)
    chosen = torch.empty(size, dtype=torch.int64)
    chosen[0] = torch.randint(len(cells), (), generator=generator)
    nearest = torch.full((len(cells),), torch.inf)
    for i in range(1, size):
        last = chosen[i - 1]
        torch.minimum(nearest, torch.addmv(norms + norms[last], cells, cells[last], alpha=-2), out=nearest)
        chosen[i] = nearest.argmax()
    return chosen


class Pooled(Density):
    """(x - m)^T S^-1 (x - m) of the mean over all cells with Ledoit and Wolf's covariance, split into its cells' shares.

    The distance is linear in one of its two factors, so it is the mean of the shares (cell - m)^T S^-1 (x - m).
    """

    fitted = ("mean", "precision")

    def __init__(self, images: int = 0, seed: int = 0) -> None:
        super().__init__(images, seed)
        self.parts: list[Tensor] = []

    def update(self, x: Tensor) -> None:
        self.parts.append(x.mean((2, 3)))

    def finish(self) -> None:
        fitted = LedoitWolf().fit(torch.cat(self.parts).double().numpy())
        self.register_buffer("mean", torch.from_numpy(fitted.location_).float())
        self.register_buffer("precision", torch.from_numpy(fitted.precision_).float())
        del self.parts

    def forward(self, x: Tensor) -> Tensor:
        off = x - self.mean[:, None, None]
        return torch.einsum("nchw,nc->nhw", off, off.mean((2, 3)) @ self.precision)


KINDS: dict[str, type[Density]] = {"place": Place, "neighbours": Neighbours, "pooled": Pooled}
