"""The contact sheet: its rows, its names, the images that it takes and refuses, and the previews that transforms give."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
from helpers.sheets import CELL, corners, picture, swapper
from PIL import Image, ImageDraw

from cutswap_transforms import LayerCAMExtractor
from cutswap_transforms.preview import sheet as sheet_file
from cutswap_transforms.preview.lettering import lettered
from cutswap_transforms.preview.panels import fitted
from cutswap_transforms.preview.sheet import LEVELS_NAMED, contact_sheet, spread

Written = list[tuple[str, tuple[int, ...]]]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    """Every line of text on a sheet, and the box of its ink."""
    lines: Written = []
    write = sheet_file.write

    def noted(draw: ImageDraw.ImageDraw, spot: Any, text: str, color: Any, size: float, anchor: str = "la") -> None:
        shown, face = lettered(text, size)
        lines.append((text, tuple(draw.textbbox(spot, shown, face, anchor=anchor))))
        write(draw, spot, text, color, size, anchor)

    monkeypatch.setattr(sheet_file, "write", noted)
    return lines


def test_sheet_is_the_same_for_the_same_seed() -> None:
    sheets = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        sheets.append(contact_sheet([picture(3)], swapper(), cell=CELL).tobytes())
    assert sheets[0] == sheets[1] != sheets[2]


def test_rows_follow_the_shape_of_each_image() -> None:
    images = [picture(0), picture(1, height=32), picture(2, width=40)]
    sheet = contact_sheet(images, swapper(), names=["a", "b", "c"], cell=CELL)
    tops = [corners(sheet, image)[0][0] for image in images]
    assert tops[0] < tops[1] < tops[2]
    assert (tops[1] - tops[0]) - (tops[2] - tops[1]) == 32  # the second row is half as high


def test_no_swap_shows_the_original_as_negative_and_an_empty_mask() -> None:
    image = picture(5)
    sheet = contact_sheet([image], swapper(p=0.0), cell=CELL)
    assert len(corners(sheet, image)) == 2
    assert len(corners(sheet, Image.new("RGB", (CELL, CELL)))) == 1


@pytest.mark.parametrize("levels", ["all", (0, 2), 1])
def test_every_setting_has_a_sheet(levels: Any) -> None:
    swap = swapper(levels=levels, return_mask=True, scale=(0.01, 0.02))
    image = picture(6)
    torch.manual_seed(3)
    _, expected = swap(image)
    torch.manual_seed(3)
    sheet = contact_sheet([image], swap, cell=CELL)
    assert len(corners(sheet, Image.fromarray(expected[0].numpy() * 255))) == 1
    assert expected.any()


@pytest.mark.parametrize(
    "image",
    [
        torch.rand(3, 20, 30),
        torch.randint(0, 65536, (1, 20, 30)).to(torch.uint16),
        Image.new("L", (30, 20), 70),
        picture(7, 20, 30).quantize(16),
    ],
    ids=["float", "uint16", "grey", "palette"],
)
def test_takes_what_the_swap_takes(image: Any) -> None:
    assert contact_sheet([image], swapper(), cell=CELL).mode == "RGB"


def test_normalised_images_are_shown_as_they_were() -> None:
    image, (mean, std) = picture(8), ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).double() / 255
    tensor = (tensor - torch.tensor(mean, dtype=torch.float64)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert len(corners(contact_sheet([tensor], swapper(normalized=(mean, std)), cell=CELL), image)) == 1


def test_bad_sheets() -> None:
    with pytest.raises(ValueError, match="`images` must hold at least one image, got none"):
        contact_sheet([], swapper())
    with pytest.raises(ValueError, match=r"`names` must be one per image \(1\), got 2"):
        contact_sheet([picture()], swapper(), names=["a", "b"])
    with pytest.raises(ValueError, match="`cell` must be at least 64 pixels, got 10"):
        contact_sheet([picture()], swapper(), cell=10)
    with pytest.raises(ValueError, match=r"`images` must be single images \[C, H, W\], got a batch of 2"):
        contact_sheet([torch.rand(2, 3, 20, 20)], swapper())
    with pytest.raises(TypeError, match=r"numpy\.ndarray"):
        contact_sheet([np.zeros((20, 20, 3), np.uint8)], swapper())


@pytest.mark.parametrize("cell", [64, 80, 192])
def test_no_text_covers_another_or_a_picture_or_leaves_the_sheet(written: Written, cell: int) -> None:
    image = picture(2, 200, 300)
    names = ["short.png", "a_very_long_folder_name_" * 12 + "000.png"]
    sheet = contact_sheet([image, image], swapper(roi=np.ones((9, 9))), names=names, cell=cell)
    boxes = [box for text, box in written if text]
    assert len(boxes) > 15
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)
    assert all(left >= 0 and right <= sheet.width for left, _, right, _ in boxes)
    tops = [top for top, _ in corners(sheet, fitted(image, cell))]
    assert len(tops) == 2  # rows, whose pictures no text is on
    for text, (_, above, _, below) in written:
        assert not text or all(below <= top or above >= top + 2 * cell // 3 for top in tops), text
    assert any(text.startswith("...") and text.endswith("000.png") for text, _ in written)
    assert " ".join(text for text, _ in written).count("image 300 x 200, swapped ") == 2


def test_each_row_says_whether_its_patches_fit(written: Written) -> None:
    contact_sheet([picture(1), picture(2)], swapper(levels="random"), cell=192)
    said = " ".join(text for text, _ in written if text)
    covers = r"The regions cover \d+, \d+ and \d+ % of the frame, from the finest level to the coarsest\."
    assert len(re.findall(rf"{covers} \d+ % of the patches of 0\.2 to 3 % of the frame fit into their region", said)) == 2
    written.clear()
    contact_sheet([picture(1)], swapper(scale=(0.5, 0.6)), cell=192)  # six patches of a fifth of the image
    said = " ".join(text for text, _ in written if text)
    assert "the others are halved until they do." in said and "As an argument: scale=(0.00" in said


def test_the_digit_of_a_box_is_explained_where_there_is_one(written: Written) -> None:
    contact_sheet([picture(1)], swapper(levels=1))
    assert LEVELS_NAMED not in [text for text, _ in written]
    contact_sheet([picture(1)], swapper())
    assert LEVELS_NAMED in [text for text, _ in written]


def test_the_caption_is_the_settings_in_words_or_as_given(written: Written) -> None:
    contact_sheet([picture(1)], swapper(), cell=192)
    words = "saliency hot_quarter; clustering two_clusters; levels all; scale 0.002 to 0.03; ratio 0.3 to 3.3; grid 24"
    assert words in [text for text, _ in written]
    contact_sheet([picture(1)], swapper(), cell=192, caption="as given")
    assert "as given" in [text for text, _ in written]


def test_limit_is_spread_over_the_images() -> None:
    assert spread(range(14), 7) == [0, 2, 4, 6, 8, 10, 12]
    assert spread(range(3), 8) == [0, 1, 2]


def test_a_preview_by_a_key_says_that_it_takes_samples() -> None:
    swap = swapper(roi="where")
    with pytest.raises(TypeError, match=r"`roi='where'` must be the key of a .* in each sample, a dict, got Image"):
        swap.preview([picture()])
    with pytest.raises(TypeError, match=r"`images` must be a sequence .*, got one dict; pass \[image\]"):
        swap.preview({"image": picture()})  # type: ignore[arg-type]


def test_a_preview_of_some_images_says_of_how_many_and_names_them_by_their_place(written: Written) -> None:
    swapper().preview([picture(i) for i in range(5)], rows=2)
    lines = [text for text, _ in written]
    assert any(line.endswith("2 of 5 images, see rows") for line in lines)
    assert [line for line in lines if re.fullmatch(r"image \d", line)] == ["image 0", "image 2"]
    written.clear()
    swapper().preview(torch.rand(2, 3, 20, 20), rows=2)
    assert not any("see rows" in text for text, _ in written)


def test_a_swap_previews_itself_and_an_extractor_its_maps() -> None:
    images, swap = [picture(i) for i in range(5)], swapper()
    torch.manual_seed(0)
    sheet = swap.preview(images, rows=5)
    torch.manual_seed(0)
    assert sheet.tobytes() == contact_sheet(images, swap).tobytes()
    with pytest.raises(ValueError, match="`rows` must be at least 1, got 0"):
        swap.preview(images, rows=0)
    with pytest.raises(ValueError, match="`images` must hold at least one image, got none"):
        swap.preview([])
    for wrong in (images[0], torch.rand(3, 8, 8)):
        with pytest.raises(TypeError, match=r"`images` must be a sequence of images or a batch, got one \w+; pass \[image\]"):
            swap.preview(wrong)
    with pytest.raises(TypeError, match="`rows` must be an int, got 'a'"):
        swap.preview(images, rows="a")
    assert swap.preview(torch.rand(2, 3, 20, 20)).mode == "RGB"
    cam = LayerCAMExtractor()
    assert cam.overlay(images[0]).size == (3 * CELL + 2 * 8, CELL)
    one = cam.overlay(images[0], level=-1)
    assert one.size == (CELL, CELL) and one.mode == "RGB"
    assert np.array_equal(np.asarray(one), np.asarray(cam.overlay(images[0]))[:, -CELL:])
    with pytest.raises(ValueError, match=r"`level` must be in \[-3, 2\] for 3 levels, got 3"):
        cam.overlay(images[0], level=3)
    with pytest.raises(TypeError, match="`level` must be an int or None, got 'a'"):
        cam.overlay(images[0], level="a")
    with pytest.raises(ValueError, match="`image` must be a single image, got a batch of 2"):
        cam.overlay(torch.rand(2, 3, 8, 8))
