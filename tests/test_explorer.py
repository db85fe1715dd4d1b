"""The explorer without a browser: code, images, words. `tests/explorer` has the page."""

from __future__ import annotations

import io
import os
import re
import struct
import time
import zlib
from concurrent.futures import Executor, Future
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models
from explorer import images, settings, views, visitor
from explorer.images import Photo, RefusedImage, check_photo, opened, plain_name, sample
from explorer.settings import RANDOM, Settings
from explorer.uploads import STALE, Uploads
from explorer.views import update
from explorer.visitor import KEPT_FILES, SAMPLES, Visitor, Visitors
from explorer.words import SCALES, advise, share_with_room
from PIL import Image

from cutswap_transforms import SaliencySwap
from cutswap_transforms.preview.steps import found_steps


class AtOnce(Executor):
    """Makes every picture in the same thread."""

    def submit(self, make: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(make(*args, **kwargs))
        return future


def picture(mode: str = "RGB", size: tuple[int, int] = (70, 50), seed: int = 0) -> Image.Image:
    """A bright disc on a dark, noisy ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[1], : size[0]]
    disc = (y - size[1] / 2) ** 2 + (x - size[0] / 2) ** 2 < (min(size) / 3) ** 2
    grey = np.where(disc, 150, 40)[..., None] + rng.integers(0, 60, (size[1], size[0], 3))
    if mode.startswith("I;16"):
        return Image.frombytes(mode, size, (grey[..., 0] * 257).astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    if mode.startswith("clear "):
        made = Image.fromarray(np.dstack([grey, 255 * disc]).astype(np.uint8))
        return made.quantize(30) if mode == "clear P" else made.convert(mode.split()[1])
    return Image.fromarray(grey.astype(np.uint8)).convert(mode)


def content(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def guest(*given: tuple[str, bytes]) -> Visitor:
    made = Visitor(AtOnce())
    for name, data in given:
        made.add(name, data)
    return made


def values(**changed: Any) -> list[Any]:
    """What the page sends."""
    return [getattr(Settings(**changed), f.name) for f in fields(Settings)]


def fetched(visitor: Visitor, html: str | None, name: str) -> Image.Image:
    found = re.search(rf'"files/([\w-]+)/{re.escape(name)}"', html or "")
    assert found, (name, html)
    make = visitor.file(found[1], name)
    assert make is not None
    return Image.open(io.BytesIO(make()))


def run(code: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Image.Image, torch.Tensor]:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(code or "", names)
    return names["negative"], names["mask"]


# ---- the lines of Python ------------------------------------------------------------------------------------------------

CHANGES: list[dict[str, Any]] = [
    {},
    {"seed": 999},
    {"size": "as it is"},
    {"size": "128", "levels": "all", "largest": 1.0},
    {"levels": "random", "smallest": 0.05, "flattest": 0.1, "tallest": 10.0},
    {"levels": "chosen", "chosen": (2,)},
    {"levels": "chosen", "chosen": (0, 3), "grid": 9},
    {"net": RANDOM, "n_clusters": 3, "saliency_weight": 2.5},
    {"color": False, "region": "top", "n_iter": 3},
    {"clustering": "sklearn", "n_clusters": 7},
    {"clustering": "opencv"},
    {"net": RANDOM, "n_clusters": 3, "saliency_weight": 2.5, "grid": 40, "levels": "all", "flattest": 0.5, "tallest": 2.0},
]


@pytest.mark.parametrize("changed", CHANGES, ids=[" ".join(change) or "defaults" for change in CHANGES])
def test_the_lines_that_are_shown_make_the_very_pixels_that_can_be_downloaded(
    changed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = content(picture())
    (tmp_path / "part.png").write_bytes(data)
    visitor = guest(("part.png", data))
    view = update(visitor, "part.png", values(**changed))
    assert view.message == ""
    negative, mask = run(view.code, tmp_path, monkeypatch)
    np.testing.assert_array_equal(np.asarray(fetched(visitor, view.words, "negative.png")), np.asarray(negative))
    np.testing.assert_array_equal(np.asarray(fetched(visitor, view.words, "mask.png")), mask[0].numpy() * 255)
    assert mask.any()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("L", "PNG"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("CMYK", "JPEG"),
        ("1", "PNG"),
        ("I;16", "PNG"),
        ("I;16", "TIFF"),
        ("RGB", "WEBP"),
        ("I;16B", "TIFF"),
        ("I;16", "PPM"),
        ("clear RGBA", "PNG"),
        ("clear LA", "PNG"),
        ("clear P", "PNG"),
        ("clear RGBA", "WEBP"),
    ],
)
def test_the_lines_hold_for_every_kind_of_file(mode: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = 'it\'s "a" part.file'
    data = content(picture(mode), kind)
    (tmp_path / name).write_bytes(data)
    visitor = guest((name, data))
    view = update(visitor, name, values(size="128"))
    negative, _ = run(view.code, tmp_path, monkeypatch)
    shown = fetched(visitor, view.words, "negative.png")
    assert shown.mode == negative.mode == ("I;16" if mode.startswith("I;16") else "RGB") and min(shown.size) == 128
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(negative))


MASK = Image.fromarray(np.pad(np.full((30, 40), 255, np.uint8), ((10, 20), (20, 20))))  # 80 x 60 pixels


@pytest.mark.parametrize(
    ("mode", "kind", "orientation"),
    [
        ("L", "PNG", 1),
        ("1", "PNG", 1),
        ("P", "PNG", 1),
        ("clear", "PNG", 1),
        ("L", "JPEG", 1),
        ("RGB", "WEBP", 1),
        ("L", "PNG", 6),
        ("L", "TIFF", 8),
    ],
)
def test_the_lines_hold_with_a_region_of_interest(
    mode: str, kind: str, orientation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = Image.merge("LA", (Image.new("L", MASK.size, 255), MASK)) if mode == "clear" else MASK.convert(mode)
    data, region = content(picture()), turned(mask, kind, orientation)
    (tmp_path / "part.png").write_bytes(data)
    (tmp_path / "it's a mask.file").write_bytes(region)
    visitor = guest(("part.png", data))
    before = update(visitor, "part.png", values(size="128"))
    visitor.confine("it's a mask.file", region)
    view = update(visitor, "part.png", values(size="128"))
    assert view.message == "" and view.code is not None and "roi=" in view.code and "roi" not in (before.code or "")
    negative, marked = run(view.code, tmp_path, monkeypatch)
    np.testing.assert_array_equal(np.asarray(fetched(visitor, view.words, "negative.png")), np.asarray(negative))
    np.testing.assert_array_equal(np.asarray(fetched(visitor, view.words, "mask.png")), marked[0].numpy() * 255)
    for name, html in (("drawn.jpg", view.drawn), ("found.jpg", view.found)):
        old = before.drawn if name == "drawn.jpg" else before.found
        assert fetched(visitor, html, name).tobytes() != fetched(visitor, old, name).tobytes()
    shown = np.asarray(fetched(visitor, view.drawn, "drawn.jpg")).astype(int)[:, : visitor.shown.found.photo.width]
    assert (shown[..., 1] - shown.min(-1) > 60).sum() > 100  # a green line around it
    visitor.region = None
    assert update(visitor, "part.png", values(size="128")).code == before.code


def test_what_is_no_region_of_interest_is_refused_and_the_one_before_stays() -> None:
    visitor = guest(("part.png", content(picture())))
    visitor.confine("mask.png", content(MASK))
    kept = visitor.region
    whole = content(picture(size=(300, 200)))
    for data, sentence in (
        (b"hello", "'no.png' is not a PNG"),
        (whole[: len(whole) // 2], "'no.png' is no region of interest: image file is truncated"),
        (content(Image.new("L", (9, 7))), "'no.png' is no region of interest: `roi` must be true where pixels may be swapped"),
        (png_header(9000, 9000), "'no.png' has 9000 x 9000 pixels"),
    ):
        with pytest.raises(RefusedImage, match=re.escape(sentence)):
            visitor.confine("folder/no.png", data)
        assert visitor.region is kept
    dot = Image.fromarray(np.pad(np.full((1, 1), 255, np.uint8), 100))
    visitor.confine("dot.png", content(dot))
    view = update(visitor, "part.png", values())
    assert "`roi` must hold a cell of the grid by half" in view.message and view.drawn is None


def test_the_lines_name_what_differs_from_the_defaults_alone() -> None:
    photo = Photo("a.png", content(picture()))
    assert Settings().code(photo).splitlines()[-4:] == [
        "image = v2.Resize(256)(Image.open('a.png').convert(\"RGB\"))",
        "swap = SaliencySwap(return_mask=True)",
        "torch.manual_seed(0)",
        "negative, mask = swap(image)",
    ]
    code = Settings(size="as it is", net=RANDOM, n_clusters=5, levels="chosen", chosen=(1, 2), seed=4).code(photo)
    assert "v2" not in code and "from cutswap_transforms import KMeans, LayerCAMExtractor, SaliencySwap" in code
    assert "    LayerCAMExtractor(weights=None),\n    clustering=KMeans(n_clusters=5),\n    levels=(1, 2)," in code
    assert max(map(len, code.splitlines())) < 100


def test_a_sample_says_which_command_draws_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import make_samples

    view = update(guest(), SAMPLES[0], values())
    (command,) = re.findall(r"^# python examples/make_samples.py (.*)$", view.code or "", re.M)
    monkeypatch.chdir(tmp_path)
    make_samples.main(command.split())
    (name,) = re.findall(r"Image.open\('(.*?)'\)", view.code or "")
    assert np.array_equal(np.asarray(Image.open(name)), np.asarray(Image.open(io.BytesIO(sample("screws").content))))


# ---- the controls -------------------------------------------------------------------------------------------------------


def test_settings_start_at_the_defaults_of_the_library() -> None:
    given, swap = SaliencySwap(), Settings().swap()
    for name in ("levels", "scale", "ratio", "grid"):
        assert getattr(swap, name) == getattr(given, name), name
    assert swap.clustering == given.clustering and swap.saliency.fingerprint == given.saliency.fingerprint


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"size": "12"}, "`size` must be one of 128, 256, 384, 512, 1024, as it is, got '12'"),
        ({"net": "resnet50"}, "`net` must be one of tiny, tiny, random weights, got 'resnet50'"),
        ({"clustering": "__import__"}, "`clustering` must be one of kmeans, sklearn, opencv, got '__import__'"),
        ({"grid": None}, "`grid` must be like 24, got nothing."),
        ({"seed": float("inf")}, "`seed` must be like 0, got 'inf'"),
        ({"chosen": ["a"]}, r"`chosen` must be like \(0,\)"),
        ({"smallest": 5.0}, "The smallest patch of 5 % is larger than the largest of 3 %: move one of the two."),
        ({"levels": "chosen", "chosen": (7,)}, r"`levels` must lie in \[-4, 3\] for 4 saliency maps, got 7"),
        ({"levels": "chosen", "chosen": ()}, "No level is chosen: choose one."),
    ],
)
def test_what_no_control_can_send_is_refused_in_words_and_nothing_else_changes(changed: dict[str, Any], sentence: str) -> None:
    visitor = guest(("a.png", content(picture())))
    view = update(visitor, "a.png", [changed.get(f.name, v) for f, v in zip(fields(Settings), values(), strict=True)])
    assert re.search(sentence, view.message.replace("&#x27;", "'").replace("&lt;", "<")), view.message
    assert views.BEFORE in view.message and (view.drawn, view.words, view.found, view.code) == (None, None, None, None)


def test_nets_are_offered_when_their_weights_are_at_hand_and_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("asked the network"))
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    weights = {
        name: torchvision.models.get_model_weights(name).DEFAULT.url.rsplit("/", 1)[-1] for name in ("squeezenet1_1", "alexnet")
    }
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), folder / weights["squeezenet1_1"])
    (folder / weights["alexnet"]).write_bytes(b"half a down")
    settings.nets_at_hand.cache_clear()
    try:
        assert settings.nets_at_hand() == ("tiny", RANDOM, "alexnet", "squeezenet1_1")
        visitor = guest(("a.png", content(picture())))
        view = update(visitor, "a.png", values(net="squeezenet1_1"))
        assert view.message == "" and 'SaliencySwap("squeezenet1_1", return_mask=True)' in (view.code or "")
        assert update(visitor, "a.png", values(net="alexnet")).message.startswith('<p class="error">')
    finally:
        settings.nets_at_hand.cache_clear()
        settings._guide.cache_clear()  # or the net lives on, and other tests find it without its weights


# ---- what is shown ------------------------------------------------------------------------------------------------------


def test_an_update_shows_every_step_with_a_text_for_those_who_do_not_see_it() -> None:
    visitor = guest(("<b>.png", content(picture())))
    view = update(visitor, "<b>.png", values(seed=3))
    assert fetched(visitor, view.drawn, "drawn.jpg").size == (4 * 292, 206)  # pair, negative, mask, difference
    assert fetched(visitor, view.found, "found.jpg").size == (12 * 292, 206)  # maps, clusters, regions of four levels
    assert re.findall(r'data-set="seed=(\d+)" aria-pressed="(\w+)"', view.words or "") == [
        (str(seed), str(seed == 3).lower()) for seed in range(8)
    ]
    texts = re.findall(r'<img [^>]*alt="([^"]+)"', f"{view.drawn}{view.words}{view.found}")
    assert len(texts) == 4 + 8 + 12 and all(texts)
    assert fetched(visitor, view.words, "sheet.png").width > 1000
    assert "&lt;b&gt;_seed3_negative.png" in (view.words or "") and "<b>" not in f"{view.drawn}{view.words}{view.found}"


def test_the_strip_holds_the_negatives_of_the_seeds() -> None:
    image = picture(size=(256, 256))
    visitor = guest(("a.png", content(image)))
    strip = fetched(visitor, update(visitor, "a.png", values(seed=5)).words, "seeds.jpg")
    assert strip.size == (8 * 132, 128)
    for seed, others in ((3, ["8"]), (8, ["0", "16"]), (999, ["984"])):
        words = update(visitor, "a.png", values(seed=seed)).words or ""
        assert re.findall(r'class="offer" data-set="seed=(\d+)"', words) == others  # previous and next
    for k in (0, 7):
        torch.manual_seed(k)
        expected = np.asarray(SaliencySwap()(image).reduce(2), dtype=int)
        part = np.asarray(strip.crop((k * 132 + 2, 0, k * 132 + 130, 128)), dtype=int)
        assert np.abs(part - expected).mean() < 8  # it is a JPEG


def test_the_deterministic_half_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    visitor, calls = guest(("a.png", content(picture())), ("b.png", content(picture(seed=1)))), []
    monkeypatch.setattr(views, "found_steps", lambda *given: calls.append(1) or found_steps(*given))
    seen = [
        update(visitor, name, values(**changed)).found
        for name, changed in (
            ("a.png", {}),
            ("a.png", {"seed": 5}),
            ("a.png", {"largest": 9.0, "levels": "all", "tallest": 5.0}),
            ("b.png", {}),
            ("b.png", {"grid": 20}),
            ("b.png", {"grid": 20, "size": "128"}),
        )
    ]
    assert len(calls) == 4 and seen[0] == seen[1] == seen[2] and len(set(seen)) == 4


def address_works(visitor: Visitor, html: str | None) -> bool:
    """Whether each picture and download that the HTML names can be fetched."""
    found = re.findall(r'"files/([\w-]+)/([\w.]+)"', html or "")
    return bool(found) and all(visitor.file(token, name) for token, name in found)


def test_what_is_shown_can_be_fetched_as_long_as_it_is_shown() -> None:
    visitor = guest(("a.png", content(picture())))
    first = update(visitor, "a.png", values())
    for seed in range(1, 20):
        view = update(visitor, "a.png", values(seed=seed))
        assert view.found == first.found
        assert all(address_works(visitor, html) for html in (view.drawn, view.words, view.found))
    assert not address_works(visitor, first.drawn)  # which is kept for six updates


def test_updates_that_fail_leave_what_is_shown_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = guest(("a.png", content(picture())))
    view = update(visitor, "a.png", values())
    monkeypatch.setattr(views, "advise", lambda *_: 1 / 0)
    for grid in range(10, 20):
        assert "ZeroDivisionError" in update(visitor, "a.png", values(grid=grid)).message
    assert all(address_works(visitor, html) for html in (view.drawn, view.words, view.found))
    assert len(visitor._files) == KEPT_FILES


def test_words_suggest_a_size_where_too_few_patches_have_room() -> None:
    found = found_steps(picture(size=(128, 128)), SaliencySwap(), 64)
    every, small = torch.ones(4, 24, 24, dtype=torch.bool), torch.zeros(4, 24, 24, dtype=torch.bool)
    small[:, 10, 10] = True
    cases = {
        "large": (found._replace(regions=every), None, "cover 100, 100, 100 and 100 %"),
        "small": (found._replace(regions=small), SCALES[-1], "cover 0.2, 0.2, 0.2 and 0.2 %"),
    }
    for name, (case, scale, words) in cases.items():
        now = Settings(smallest=1.0, largest=2.0, levels="random")
        advice = advise(case, now, (128, 128))
        text = " ".join(advice.sentences)
        assert words in text and advice.scale == scale, (name, text)
        assert ("this size suits it" in text) == (scale is None)
        if scale:
            assert "0.05 to 0.2 % is suggested" in text
            taken = advise(case, replace(now, smallest=100 * scale[0], largest=100 * scale[1]), (128, 128))
            assert taken.scale is None, (name, taken)


def test_no_larger_size_is_suggested_and_none_is_said_to_fit_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = found_steps(picture(size=(128, 128)), SaliencySwap(), 64)
    monkeypatch.setattr("explorer.words.share_with_room", lambda *_: 0.5)
    least = advise(found, Settings(smallest=0.05, largest=0.2), (128, 128))
    assert least.scale is None and "No smaller size is suggested." in least.sentences[-1]
    some = advise(found, Settings(), (128, 128))
    assert some.scale == SCALES[-1] and "So that more of them fit, 0.05 to 0.2 % is suggested." in some.sentences[-1]


def test_room_is_the_share_of_patches_that_keep_the_size_they_were_drawn_with() -> None:
    everywhere = np.ones((2, 8, 8), bool)
    one_cell = np.zeros((2, 8, 8), bool)
    one_cell[:, 3, 3] = True
    assert share_with_room(everywhere, (64, 64), (0.01, 0.02), (1.0, 1.0), None) > 0.95
    assert share_with_room(one_cell, (64, 64), (0.02, 0.03), (1.0, 1.0), None) == 0  # 9 pixels do not fit twice into 8
    assert 0 < share_with_room(one_cell, (64, 64), (0.0002, 0.02), (1.0, 1.0), None) < 1


def test_what_may_surprise_is_said() -> None:
    black, dark = Image.new("RGB", (60, 60)), Image.fromarray((np.arange(4800).reshape(60, 80) % 4000).astype(np.uint16))
    visitor = guest(
        *[
            (n, content(i))
            for n, i in (("black", black), ("dark", dark), ("clear", picture("clear RGBA")), ("plain", picture("RGBA")))
        ]
    )
    views_of = {name: update(visitor, name, values()) for name in visitor.photos}
    assert "They are equal pixel by pixel, so this negative is the image itself." in (views_of["black"].words or "")
    assert "The brightest of the 16-bit pixels is 3999 of 65535." in views_of["dark"].message
    assert "The transparency is laid on white." in views_of["clear"].message
    assert views_of["plain"].message == "" and "equal pixel" not in (views_of["plain"].words or "")
    assert "In the image of 358 x 256 pixels, seed 0 swaps patches " in (views_of["plain"].words or "")


def test_numbers_beyond_a_slider_are_its_end_as_its_box_then_shows() -> None:
    made = Settings.of(
        [{"seed": -1, "grid": 1e9, "largest": 999}.get(f.name, v) for f, v in zip(fields(Settings), values(), strict=True)]
    )
    assert (made.seed, made.grid, made.largest) == (0, 64, 20)


def test_two_files_of_one_name_are_told_apart_on_the_page_and_not_in_the_code() -> None:
    visitor = guest(("a/000.png", content(picture())), ("b/000.png", content(picture(seed=1))))
    view = update(visitor, "000 (2).png", values())
    assert "Image.open('000.png')" in (view.code or "") and "000 (2)_seed0_mask.png" in (view.words or "")


# ---- what visitors bring ------------------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """A PNG that says a size and holds nothing."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "'x' is not a PNG, JPEG, .* or PPM image."),
        (b"hello" * 99, "'x' is not a PNG, JPEG, .* or PPM image."),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "'x' is not a PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "'x' is not a PNG"),
        (png_header(9000, 9000), "'x' has 9000 x 9000 pixels; the limit is 67 million. Make it smaller first."),
        (png_header(10000, 10000), "'x' has 10000 x 10000 pixels; the limit"),  # of which Pillow warns
        (png_header(50000, 50000), "'x' has too many pixels"),
        (content(picture().convert("I"), "TIFF"), r"'x' has pixels of 32 bits \(mode I\). Convert it to 8 or 16 bits first."),
        (content(picture().convert("F"), "TIFF"), r"\(mode F\)"),
        (bytes(images.MAX_BYTES + 1), "'x' has 32 MB; 32 MB is the most."),
    ],
    ids=["empty", "text", "svg", "eps", "bomb", "bomb of a warning", "larger bomb", "32 bits", "float", "large file"],
)
def test_files_that_are_no_images_are_refused_with_the_reason(data: bytes, sentence: str) -> None:
    with pytest.raises(RefusedImage, match=sentence):
        guest().add("x", data)


def test_damaged_data_is_told_when_the_image_is_shown() -> None:
    visitor = guest(
        ("a.png", content(picture(size=(200, 200)))[:5000]),
        ("b.jpg", content(picture(), "JPEG")[:900]),
        ("c.png", png_header(9, 9)),
    )
    for name in visitor.photos:
        assert f"{name}&#x27; is damaged" in update(visitor, name, values()).message
    assert update(visitor, SAMPLES[0], values()).message == ""


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"])
def test_no_change_of_a_file_escapes_as_another_error(kind: str) -> None:
    rng, data = np.random.default_rng(0), content(picture(), kind)
    for _ in range(60):
        damaged = bytearray(data)
        for at in rng.integers(0, min(len(data), 400), 3):
            damaged[at] = rng.integers(0, 256)
        try:
            opened(Photo("x", bytes(damaged)), "128")
        except RefusedImage as error:
            assert str(error).startswith("'x' ")


def test_twenty_megapixels_work_at_a_size_and_are_refused_as_they_are() -> None:
    photo = Photo("x", content(Image.new("L", (5472, 3648), 90), "JPEG"))
    assert opened(photo, "256").image.size == (384, 256)
    with pytest.raises(RefusedImage, match=r"'x' of 5472 x 3648 pixels is too large at the size as it is. Choose a size."):
        opened(photo, "as it is")
    with pytest.raises(RefusedImage, match=r"It is too long and narrow: crop it, or choose a smaller size."):
        opened(Photo("x", content(Image.new("L", (30000, 9)))), "512")


def turned(image: Image.Image, kind: str, orientation: int) -> bytes:
    """A file that asks for the image to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return content(image, kind, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("I;16", "PNG"), ("I;16B", "TIFF"), ("L", "TIFF"), ("clear RGBA", "PNG")]
)
def test_a_photograph_is_upright_as_in_the_commands(
    mode: str, kind: str, orientation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = turned(picture(mode), kind, orientation)
    (tmp_path / "a.file").write_bytes(data)
    visitor = guest(("a.file", data))
    view = update(visitor, "a.file", values(size="as it is"))
    assert ("transparency is laid on white" in view.message) == (mode == "clear RGBA")
    shown = opened(visitor.photos["a.file"], "as it is").image
    stored = picture(mode).convert("I" if mode.startswith("I") else "RGBA")
    expected = upright(np.asarray(stored), orientation)
    if mode.startswith("I;16"):
        np.testing.assert_array_equal(np.asarray(shown), expected)
    else:
        expected = np.where(expected[..., 3:] > 0, expected[..., :3], 255).astype(int)
        assert np.abs(np.asarray(shown) - expected).mean() < (8 if kind == "JPEG" else 1e-9)
    negative, _ = run(view.code, tmp_path, monkeypatch)
    np.testing.assert_array_equal(np.asarray(fetched(visitor, view.words, "negative.png")), np.asarray(negative))


def upright(stored: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """By the table of EXIF, which says where row 0 and column 0 of the stored pixels belong."""
    if orientation >= 5:
        stored = stored.swapaxes(0, 1)
    rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    return stored[::rows, ::columns]


def test_sixteen_bits_look_the_same_in_either_order_of_bytes() -> None:
    shown = [
        np.asarray(opened(Photo("x", content(picture(mode), kind)), "as it is").image)
        for mode, kind in (("I;16", "PNG"), ("I;16", "TIFF"), ("I;16B", "TIFF"), ("I;16", "PPM"))
    ]
    assert shown[0].max() == 209 * 257 and all(np.array_equal(shown[0], other) for other in shown[1:])


def test_sixteen_bits_of_colour_are_scaled_and_told_when_they_are_dark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    values_of_12_bits = (np.asarray(picture()).astype(np.uint16) * 257) >> 4
    cases = {"bright.png": values_of_12_bits << 4, "dark.png": values_of_12_bits >> 1}
    for name, values_of_case in cases.items():
        cv2.imwrite(str(tmp_path / name), values_of_case)
        visitor = guest((name, (tmp_path / name).read_bytes()))
        view = update(visitor, name, values())
        assert ("If white is lower, scale the values first." in view.message) == (name == "dark.png")
        negative, _ = run(view.code, tmp_path, monkeypatch)
        np.testing.assert_array_equal(np.asarray(fetched(visitor, view.words, "negative.png")), np.asarray(negative))


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("a.png", "a.png"),
        ("../../etc/a.png", "a.png"),
        ("C:\\photos\\a.png", "a.png"),
        ("a\n\x00b.png", "ab.png"),
        ("", "image"),
        ("..", "image"),
    ],
)
def test_names_lose_their_folders(given: str, plain: str) -> None:
    assert plain_name(given) == plain


def test_a_visitor_keeps_so_many_images_under_names_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    data = content(picture())
    visitor = guest()
    assert [visitor.add(name, data) for name in ("a.png", "x/a.png", "a.png", "b")] == ["a.png", "a (2).png", "a (3).png", "b"]
    assert visitor.choices() == ["a.png", "a (2).png", "a (3).png", "b", *SAMPLES]
    monkeypatch.setattr("explorer.visitor.MAX_IMAGES", 4)
    with pytest.raises(RefusedImage, match=r"'c' is left out: the limit is 4 images. Reload the page to start again."):
        visitor.add("c", data)
    monkeypatch.setattr("explorer.visitor.MAX_IMAGES", 9)
    monkeypatch.setattr("explorer.visitor.MAX_TOTAL", 4 * len(data))
    with pytest.raises(RefusedImage, match="'c' is left out: the limit is 0 MB"):
        visitor.add("c", data)


def test_visitors_do_not_see_each_other_and_leave_nothing() -> None:
    visitors = Visitors(AtOnce())
    first, second = visitors["one"], visitors["two"]
    first.add("secret.png", content(picture()))
    assert visitors["one"] is first and "secret.png" not in second.choices()
    assert "no longer kept" in update(second, "secret.png", values()).message
    view = update(first, "secret.png", values())
    token = re.findall(r"files/([\w-]+)/drawn.jpg", view.drawn or "")[0]
    assert (
        len(token) >= 20
        and visitors.file(token, "drawn.jpg")
        and not visitors.file(token, "other")
        and not visitors.file("", "drawn.jpg")
    )
    visitors.leave("one")
    assert visitors.file(token, "drawn.jpg") is None and visitors["one"] is not first


def test_what_is_kept_has_bounds() -> None:
    visitors = Visitors(AtOnce())
    for page in range(visitor.MAX_VISITORS + 5):
        assert visitors[f"page {page}"]
    assert len(visitors) == visitor.MAX_VISITORS
    someone = guest(("a.png", content(picture())))
    for seed in range(20):
        update(someone, "a.png", values(seed=seed, size=("128", "256", "as it is")[seed % 3]))
    assert len(someone._files) == visitor.KEPT_FILES and len(someone._opened) <= visitor.KEPT_OPENED


def test_check_photo_reads_the_header_alone() -> None:
    check_photo(Photo("x", png_header(9, 9)))  # its data is missing, which is told when it is shown
    assert astuple(Photo("x", b"1")) == ("x", b"1", "", "")


# ---- the folder of uploads ----------------------------------------------------------------------------------------------


def uploaded(folder: Path, name: str, age: float) -> Path:
    """A complete upload whose folder has not changed for `age` seconds."""
    place = folder / f"{hash(name):064x}"[-64:].replace("-", "0")
    place.mkdir()
    (place / name).write_bytes(b"1" * 10_000)
    at = time.time() - age
    os.utime(place, (at, at))
    return place / name


def test_uploads_are_found_by_absolute_paths_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "uploads"
    folder.mkdir()
    uploads, path = Uploads(str(folder)), uploaded(folder, "a.png", 0)
    (tmp_path / "secret.png").write_bytes(b"1")
    (path.with_name("link.png")).symlink_to(tmp_path / "secret.png")
    os.mkfifo(path.with_name("pipe.png"))
    assert uploads.find(str(path)) == path.resolve() and uploads.size() > 10_000
    monkeypatch.chdir(folder)
    relative = path.relative_to(folder)
    for other in (
        str(relative),
        f"http://x/../../{relative}",
        path,
        None,
        "",
        "\0",
        "/" + "x" * 5000,
        str(path.parent),
        str(folder),
    ):
        assert uploads.find(other) is None, other
    for name in ("link.png", "pipe.png", "../../secret.png", "other.png"):
        assert uploads.find(f"{path.parent}/{name}") is None, name


def test_only_what_nobody_took_for_long_and_what_broke_off_is_swept(tmp_path: Path) -> None:
    uploads = Uploads(str(tmp_path))
    old, fresh = uploaded(tmp_path, "old.png", STALE + 5), uploaded(tmp_path, "fresh.png", STALE - 20)
    os.utime(fresh, (0, 0))  # it arrived slowly: the time at which it was complete counts
    half, other = tmp_path / "tmpabc", tmp_path / "fontlist.json"
    for path in (half, other):
        path.write_bytes(b"1")
    uploads.sweep(unfinished=False)
    assert not old.parent.exists() and fresh.exists() and half.exists() and other.exists()
    uploads.sweep(unfinished=True)
    assert fresh.exists() and not half.exists() and other.exists()
