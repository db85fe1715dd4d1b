"""What each picture in a row of the sheet shows: maps, clusters, boxes, negative, mask, and the region of interest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.sheets import CELL, cells_of, picture, swapper
from PIL import Image
from torchvision import tv_tensors

from cutswap_transforms.preview.panels import ROI
from cutswap_transforms.preview.sheet import contact_sheet
from cutswap_transforms.preview.steps import region_steps


def test_row_holds_original_maps_clusters_boxes_negative_and_mask() -> None:
    image, swap = picture(), swapper(levels=1)
    torch.manual_seed(0)
    sheet = contact_sheet([image], swap, cell=CELL)
    torch.manual_seed(0)
    params = swap.make_params([image])
    negative = swap.transform(image, params)
    cells = cells_of(sheet, image, 1 + 3 + 4)
    np.testing.assert_array_equal(cells[6], np.asarray(negative))
    region = np.zeros((CELL, CELL), bool)
    for _, ta, la, tb, lb, h, w in params["pairs"][0].tolist():
        region[ta : ta + h, la : la + w] = region[tb : tb + h, lb : lb + w] = True
    np.testing.assert_array_equal(cells[7], np.repeat(region[..., None] * np.uint8(255), 3, 2))
    assert not np.array_equal(cells[5], cells[0])  # boxes are drawn


def test_maps_and_clusters_are_bright_where_the_saliency_is() -> None:
    image = Image.new("RGB", (CELL, CELL), (90, 90, 90))
    image.putpixel((0, 0), (1, 2, 3))  # so that the cell is found
    cells = cells_of(contact_sheet([image], swapper(levels=0), cell=CELL), image, 8)
    for heat in cells[1:4]:
        assert heat[:24, :24].mean() > heat[40:, 40:].mean() + 60
    clusters = cells[4].astype(int)
    warmth = clusters[..., 0] - clusters[..., 2]
    assert warmth[2:30, 2:30].mean() > 40 and warmth[34:, 34:].mean() < 0
    white = (clusters[8:24] == 255).all(2).all(0)  # [W]: a line around the region
    assert white[28:40].sum() == 1 and not white[:28].any() and not white[40:].any(), np.flatnonzero(white)


@pytest.mark.parametrize("key", [False, True])
def test_the_region_of_interest_is_shown_in_the_photo_and_in_the_cells(key: bool) -> None:
    """Its left half: the other half is dim in the original and the cells, and not in the negative."""
    image = Image.new("RGB", (CELL, CELL), (200, 60, 60))
    left = np.zeros((CELL, CELL), dtype=bool)
    left[:, : CELL // 2] = True
    sample = {"image": image, "where": tv_tensors.Mask(torch.from_numpy(left))} if key else image
    swap = swapper(roi="where" if key else left[::2, ::2])
    found = region_steps(sample, swap, CELL)
    for panel in (found.original, found.cells[0]):
        pixels = np.asarray(panel).astype(int)
        assert pixels[:, : CELL // 2 - 1].mean() > 2 * pixels[:, CELL // 2 + 1 :].mean()
        assert (pixels[:, CELL // 2] == ROI).all()
    assert np.ptp(np.asarray(found.photo), axis=(0, 1)).max() == 0  # what the negative is compared with
    sheet = swap.preview([sample])
    assert (np.asarray(sheet) == ROI).all(-1).sum() >= 2 * CELL
    assert not (np.asarray(swapper().preview([image])) == ROI).all(-1).any()
