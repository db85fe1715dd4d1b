"""Text on the sheet: every character is drawn by a typeface that has it, or replaced; lines fit."""

from __future__ import annotations

import unicodedata

import pytest
from PIL import Image, ImageDraw

from cutswap_transforms.preview import lettering
from cutswap_transforms.preview.lettering import clipped, font, lettered, width_of, wrapped, write

BYTES = "\udcff"  # of a file name that is no text


class Cyrillic:
    """A typeface of the system, as far as it is asked."""

    def getmask(self, character: str) -> bytes:
        return character.encode() if "CYRILLIC" in unicodedata.name(character, "") or character == "." else b"missing"

    def getlength(self, text: str) -> float:
        return 7.0 * len(text)


@pytest.fixture
def one_of_the_system(monkeypatch: pytest.MonkeyPatch) -> Cyrillic:
    face = Cyrillic()
    built_in = lettering._face("", 20)
    monkeypatch.setattr(lettering, "SYSTEM", ("a test has it", "no test has it"))
    monkeypatch.setattr(lettering, "_face", lambda name, size: {"": built_in, "a test has it": face}.get(name))
    return face


def test_the_typeface_that_lacks_the_fewest_characters_is_taken(one_of_the_system: Cyrillic) -> None:
    assert lettered("bolt.png", 12)[1].getname()[0] == "Aileron"
    assert lettered("болт.", 12) == ("болт.", one_of_the_system)
    assert lettered("болтß.", 12) == ("болт?.", one_of_the_system)
    assert lettered("Pr\u00fcf \u0431.png", 12)[0] == "Pruf ?.png"
    assert width_of("болт.", 12) == 35


def test_without_a_typeface_accents_are_dropped_and_nothing_is_an_empty_box(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "SYSTEM", ())
    for form in ("NFC", "NFD"):  # as files are named on Linux, and on macOS
        assert lettered(unicodedata.normalize("NFC" if form == "NFC" else "NFD", "Prüfstück é.png"), 12)[0] == "Prufstuck e.png"
    assert lettered(f"a\nb\u00a0c\0{BYTES}日.png", 12)[0] == "a b c???.png"


def test_accents_are_drawn_by_the_typeface_of_this_system() -> None:
    if all(lettering._face(name, 12) is None for name in lettering.SYSTEM):
        pytest.skip("no typeface with accents is installed")
    name = "Prüfstück_é_ø_ß.png"
    shown, face = lettered(unicodedata.normalize("NFD", name), 12)
    assert shown == name and face.getname()[0] != "Aileron"
    pages = []
    for text in (name, "Prufstuck_e_o_?.png"):
        page = Image.new("RGB", (200, 20), "white")
        write(ImageDraw.Draw(page), (2, 2), text, (0, 0, 0), 12)
        pages.append(page.tobytes())
    assert pages[0] != pages[1]


def test_lines_are_broken_between_words_and_names_keep_their_end() -> None:
    text = "one two three " * 5 + "x" * 60
    lines = wrapped(text, 90, 12)
    assert " ".join(lines) == text and lines[-1] == "x" * 60
    assert all(width_of(line, 12) <= 90 for line in lines[:-1])
    assert clipped("short.png", 500, 12) == "short.png"
    name = clipped("a_very_long_folder_name_" * 5 + "000.png", 120, 12)
    assert name.startswith("...") and name.endswith("000.png") and font(12).getlength(name) <= 120
