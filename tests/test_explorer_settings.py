"""The explorer's settings: the lines of Python make the pixels that are shown, and controls start at the defaults."""

from __future__ import annotations

import io
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models
from explorer import settings, views
from explorer.images import Photo, sample
from explorer.settings import RANDOM, Settings
from explorer.views import update
from explorer.visitor import SAMPLES
from helpers.explorer import MASK, content, fetched, guest, picture, run, turned, values
from PIL import Image

from cutswap_transforms import SaliencySwap

CHANGES: list[dict[str, Any]] = [
    {},
    {"seed": 999},
    {"size": "as it is"},
    {"size": "128", "levels": "all", "largest": 1.0},
    {"levels": "random", "smallest": 0.05, "flattest": 0.1, "tallest": 10.0},
    {"levels": "chosen", "chosen": (2,)},
    {"levels": "chosen", "chosen": (0, 2), "grid": 9},
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
        ({"seed": -1}, "`seed` must be from 0 to 999, got -1."),
        ({"grid": 1e9}, "`grid` must be from 2 to 64, got 1e[+]09."),
        ({"grid": 24.7}, "`grid` must be like 24, got '24.7'."),
        ({"largest": 999}, "`largest` must be from 0.1 to 20, got 999."),
        ({"largest": float("nan")}, "`largest` must be from 0.1 to 20, got nan."),
        ({"chosen": ["a"]}, r"`chosen` must be like \(0,\)"),
        ({"smallest": 5.0}, "The smallest patch of 5 % is larger than the largest of 3 %: move one of the two."),
        ({"levels": "chosen", "chosen": (7,)}, r"`levels` must be in \[-3, 2\] for 3 saliency maps, got 7"),
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
