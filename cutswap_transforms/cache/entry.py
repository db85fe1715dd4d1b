"""Cache entries: the regions of an image as packed bits, under a key of its 8-bit values and the settings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

PREFIX = 8  # bytes of a key that identify the settings; the rest identifies the image
_HEAD = 2  # bytes before the bits
Regions = npt.NDArray[np.bool_]


def pack(regions: Regions) -> list[bytes]:
    """One entry per image from bool [N, L, G, G]: L, G, then the bits."""
    n, levels, grid, _ = regions.shape
    bits = np.packbits(regions.reshape(n, -1), axis=1)
    return [bytes((levels, grid)) + row.tobytes() for row in bits]


def unpack(entry: bytes, grid: int, levels: int | None = None) -> Regions | None:
    """The regions bool [L, G, G] of an entry; None if it has another grid, another number of levels than `levels`, or a
    level without a cell."""
    count = entry[0] * grid * grid if len(entry) > _HEAD else 0
    if not count or entry[1] != grid or entry[0] != (levels or entry[0]) or len(entry) != _HEAD + (count + 7) // 8:
        return None
    bits = np.unpackbits(np.frombuffer(entry, np.uint8, offset=_HEAD), count=count)
    regions = bits.view(np.bool_).reshape(entry[0], -1)
    return regions.reshape(entry[0], grid, grid) if regions.any(1).all() else None


def content_key(settings: bytes, pixels: npt.NDArray[np.uint8], inside: npt.NDArray[np.bool_] | None = None) -> bytes:
    """24 bytes: a prefix of the settings, and a digest of the settings, the image uint8 [H, W, 3] and the cells of its
    region of interest, if it has one."""
    cells = b"" if inside is None else np.packbits(inside).tobytes()
    digest = hashlib.sha256(settings + f"{pixels.shape}".encode() + cells)
    for part in _condensed(pixels):
        digest.update(part)
    return settings[:PREFIX] + digest.digest()[:16]


def keys_and_cells(
    settings: bytes, images: Sequence[npt.NDArray[np.uint8]], inside: Tensor | None
) -> list[tuple[bytes, npt.NDArray[np.bool_] | None]]:
    """For each image uint8 [H, W, 3] its key, and the cells bool [G * G] of its region of interest, if it has one.

    Args:
        inside: bool [N or 1, G * G], the cells of every image or of all.
    """
    cells = [None] * len(images) if inside is None else inside.expand(len(images), -1).numpy()
    return [(content_key(settings, image, c), c) for image, c in zip(images, cells, strict=True)]


# Random odd 64-bit multipliers, from a hash so that they never change.
_MULTIPLIERS = np.frombuffer(hashlib.shake_128(b"cutswap_transforms").digest(2 * 8 * 8192), "<u8").reshape(2, -1) | np.uint64(1)


def _condensed(array: npt.NDArray[np.uint8]) -> list[bytes]:
    """16 bytes for every 64 kB of an array, and the last 0 to 7 bytes: three times as fast as SHA-256.

    Multilinear hashing modulo 2**64: sums of 64-bit words times random multipliers. Differences only in the high bytes
    of words change only the high bytes of such a sum, so the second sum takes the words with their bytes reversed.
    Two images collide in both with a probability of at most 2**-56. It is not secure against forged images.
    """
    flat, block = array.reshape(-1), _MULTIPLIERS.shape[1]
    count = flat.size // 8
    whole, sums = count // block * block, [flat[8 * count :].tobytes()]
    for order, multipliers in zip(("<u8", ">u8"), _MULTIPLIERS, strict=True):
        words = flat[: 8 * count].view(order).astype("<u8", copy=False)  # a fifth of the time of `byteswap`
        # einsum takes two thirds of the time of `dot`, which has no fast loop for integers.
        sums.append(np.einsum("ij,j->i", words[:whole].reshape(-1, block), multipliers).tobytes())
        rest = words[whole:]  # often empty: then its sum is zero
        sums.append(np.einsum("i,i->", rest, multipliers[: len(rest)]).tobytes() if len(rest) else bytes(8))
    return sums
