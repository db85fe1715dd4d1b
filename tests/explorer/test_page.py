"""The explorer in a real browser: `make test-explorer`."""

from __future__ import annotations

import io
import re
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driver import MOVE, ROOT, Server, Visit
from make_samples import make_scene
from PIL import Image
from playwright.sync_api import Browser

PAUSE = 0.12  # seconds between two updates of a hundred


def image_file(folder: Path, name: str, scene: str = "flange", size: tuple[int, int] = (200, 160), seed: int = 1) -> Path:
    image = Image.fromarray(make_scene(scene, seed, 256)).resize(size)
    image.save(folder / name)
    return folder / name


# ---- what a visit is ----------------------------------------------------------------------------------------------------


def test_the_page_shows_every_step_and_asks_nobody_else(visit: Visit, server: Server) -> None:
    for part, count in (("#drawn", 4), ("#words", 8), ("#found", 9)):
        assert visit.page.locator(f"{part} img").count() == count
    assert "The regions cover" in visit.page.inner_text("#words") and "SaliencySwap(" in visit.code()
    addresses = {url for url in visit.requests if not url.startswith(("data:", "blob:"))}
    assert len(addresses) > 10 and all(url.startswith(server.url + "/") for url in addresses)
    files = [url for url in visit.requests if "/files/" in url]
    assert len(files) == len(set(files)) == 3  # one request per strip, though each is shown in many windows


def test_a_folder_of_images_is_added_and_the_first_one_shown(visit: Visit, server: Server, tmp_path: Path) -> None:
    before = visit.shown()
    visit.upload(*[image_file(tmp_path, f"part {i}.png", seed=i) for i in range(3)])
    assert "3 images added." in visit.page.inner_text("#notice")
    assert visit.page.input_value("#image input") == "part 0.png" and "Image.open('part 0.png')" in visit.code()
    assert all(a != b for a, b in zip(visit.shown(), before, strict=True))
    first = visit.shown()
    visit.choose("image", "part 2.png")
    assert visit.shown() != first and "part 2.png" in visit.code()
    visit.choose("image", "sample: wood")
    assert "wood_000.png" in visit.code()
    assert server.files() == []  # what was uploaded is in memory alone


CONTROLS: dict[str, Any] = {
    "size": "128",
    "seed": 7,
    "smallest": 2.0,
    "largest": 15.0,
    "flattest": 0.9,
    "tallest": 9.0,
    "levels": "random",
    "net": "tiny, random weights",
    "grid": 12,
    "clustering": "sklearn",
    "n_clusters": 2,
    "saliency_weight": 4.0,
    "n_iter": 1,
    "color": False,
    "region": "top",
}


def open_options(visit: Visit) -> None:
    visit.page.get_by_role("button", name="Options of kmeans").click()
    visit.page.locator("#n_iter input").first.wait_for()


def operate(visit: Visit, control: str, value: Any) -> None:
    page = visit.page
    if control in ("n_clusters", "saliency_weight", "n_iter", "color"):
        open_options(visit)
    if isinstance(value, bool):
        page.set_checked(f"#{control} input", value)
    elif isinstance(value, int | float):
        visit.slide(control, value)
    elif page.locator(f"#{control} input[type=radio]").count():
        page.check(f"#{control} input[value={value}]")
    else:
        visit.choose(control, value)
    visit.settle()


@pytest.mark.parametrize("control", CONTROLS)
def test_every_control_changes_the_picture(control: str, visit: Visit) -> None:
    operate(visit, "largest", 6.0)  # so that a size differs visibly
    before, code = visit.shown(), visit.code()
    operate(visit, control, CONTROLS[control])
    assert visit.shown() != before, control
    if control != "clustering":  # scikit-learn's k-means finds what ours does, up to a few cells
        assert visit.code() != code
    assert not visit.page.locator("#message p").count()


def test_levels_are_chosen_where_they_are_asked_for_alone(visit: Visit) -> None:
    page = visit.page
    assert not page.locator("#chosen").is_visible()
    page.check("#levels input[value=chosen]")
    page.locator("#chosen").wait_for(state="visible")
    visit.settle()
    assert "levels=0" in visit.code()
    before = visit.shown()
    page.locator("#chosen input").nth(2).check()
    page.wait_for_function("document.querySelector('#code textarea').value.includes('levels=(0, 2)')")
    visit.settle()
    assert visit.shown() != before
    page.check("#clustering input[value=opencv]")
    page.get_by_role("button", name="Options of kmeans").wait_for(state="hidden")


def test_a_negative_of_the_strip_chooses_its_seed_and_the_suggested_size_can_be_taken(visit: Visit) -> None:
    page = visit.page
    before = visit.shown()
    page.get_by_role("button", name="seed 5").click()
    page.wait_for_function("document.querySelector('#code textarea').value.includes('manual_seed(5)')")
    assert page.input_value("#seed input[type=number]") == "5"
    visit.settle()
    assert visit.shown() != before
    assert page.locator(".seeds [aria-pressed=true]").inner_text() == "seed 5"
    page.get_by_role("button", name="next 8").click()
    page.wait_for_function("document.querySelector('#code textarea').value.includes('manual_seed(8)')")
    visit.choose("image", "sample: wood")  # half of its patches have no room at this size
    visit.slide("largest", 20)
    page.get_by_role("button", name="Use 0.").click()
    page.wait_for_function("!document.querySelector('#code textarea').value.includes('0.2)')")
    assert float(page.input_value("#largest input[type=number]")) < 20
    visit.settle()
    assert "this size suits it" in page.inner_text("#words")


def test_a_region_of_interest_is_shown_can_be_replaced_and_removed(visit: Visit, server: Server, tmp_path: Path) -> None:
    page = visit.page
    before, code, first = visit.shown(), visit.code(), page.input_value("#image input")
    Image.fromarray(np.pad(np.full((60, 60), 255, np.uint8), 20)).save(tmp_path / "part mask.png")
    Image.new("L", (50, 50)).save(tmp_path / "black.png")
    page.get_by_role("button", name="Region of interest").click()

    def confine(name: str, until: str) -> None:
        page.set_input_files("#roi input[type=file]", str(tmp_path / name))
        page.wait_for_function(until)
        visit.settle()

    confine("part mask.png", "document.querySelector('#code textarea').value.includes('roi=')")
    assert "roi=Image.open('part mask.png')" in visit.code() and "keep to 36% of the image" in page.inner_text("#notice")
    confined = visit.shown()
    assert all(a != b for a, b in zip(confined, before, strict=True))
    confine("black.png", "document.querySelector('#notice .error')")
    assert "'black.png' is no region of interest" in page.inner_text("#notice") and visit.shown() == confined
    visit.choose("image", "sample: wood")
    assert "roi=Image.open('part mask.png')" in visit.code()  # it holds for all images
    visit.choose("image", first)
    assert visit.shown() == confined and server.files() == []
    page.get_by_role("button", name="Remove it").click()
    page.wait_for_function("!document.querySelector('#code textarea').value.includes('roi=')")
    visit.settle()
    assert visit.code() == code and visit.shown() == before
    page.get_by_role("button", name="Remove it").wait_for(state="hidden")


def test_one_negative_of_each_image_is_shown_chosen_from_and_put_away(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    visit.upload(*[image_file(tmp_path, f"{name}.png", seed=i) for i, name in enumerate("abc")])
    show = page.get_by_role("button", name="One negative of each of my images")
    show.click()
    page.locator("#mosaic img").nth(2).wait_for()
    page.get_by_role("button", name="Negative of c.png").click()
    page.wait_for_function("document.querySelector('#code textarea').value.includes('c.png')")
    visit.settle()
    assert page.input_value("#image input") == "c.png" and page.locator("#mosaic img").count() == 3
    visit.slide("seed", 4)  # so these are not the negatives of the settings any more
    page.locator("#mosaic").wait_for(state="hidden")
    show.click()
    page.get_by_text("One negative of each of your images, seed 4").wait_for()
    page.locator("#mosaic [data-close]").click()
    page.locator("#mosaic").wait_for(state="hidden")


def test_controls_for_experts_are_folded_and_the_column_shows_that_it_goes_on(browser: Browser, server: Server) -> None:
    visit = Visit(browser, server.url)
    shade = "getComputedStyle(document.querySelector('#controls'), '::after').opacity"
    assert not any(visit.page.locator(f"#{control}").is_visible() for control in ("largest", "grid", "net", "n_iter"))
    assert visit.page.evaluate(shade) == "0"  # everything is in sight
    visit.open_controls()
    assert float(visit.page.evaluate(shade)) > 0.5
    visit.page.evaluate("document.querySelector('#controls').scrollTo(0, 9999)")
    visit.page.wait_for_function(f"Number({shade}) < 0.1")
    visit.close()


def test_a_suggested_size_is_taken_while_its_controls_are_folded(browser: Browser, server: Server) -> None:
    visit = Visit(browser, server.url)
    visit.open_controls()
    visit.choose("image", "sample: wood")
    visit.slide("largest", 20)
    visit.page.get_by_role("button", name="Patches").click()
    visit.page.locator("#largest").wait_for(state="hidden")
    visit.page.get_by_role("button", name="Use 0.").click()
    visit.page.wait_for_function("!document.querySelector('#code textarea').value.includes('0.2)')")
    visit.close()


# ---- the detector -------------------------------------------------------------------------------------------------------


def fit_on_drawn_parts(visit: Visit) -> None:
    visit.page.get_by_role("tab", name="Detector").click()
    visit.page.get_by_role("button", name="Or try it on drawn parts").click()
    visit.page.get_by_text(re.compile("You have 3. good parts and 10 images to judge")).wait_for(timeout=90_000)
    visit.page.get_by_role("button", name="Fit and judge").click()
    visit.page.locator("#trial .chart").wait_for(timeout=120_000)


def test_a_detector_is_fitted_and_its_verdict_follows_the_rate(visit: Visit, server: Server, tmp_path: Path) -> None:
    page = visit.page
    fit_on_drawn_parts(visit)
    page.wait_for_function("[...document.querySelectorAll('#trial img')].every((p) => p.complete && p.naturalWidth)")
    assert page.locator("#trial img").count() == 10 + 6 and not page.locator("#trial-message p").count()
    assert "would be needed), so that is the rate." in page.inner_text("#trial")
    first = page.inner_text("#trial .verdict")
    page.locator("#rate input[type=number]").fill("30")
    page.get_by_text("At most 0.3 of new normal images").wait_for()
    assert page.inner_text("#trial .verdict") != first
    (tmp_path / "notes.txt").write_text("hello")
    part = image_file(tmp_path, "mine.png", seed=3)
    page.set_input_files("#others input[type=file]", [str(tmp_path / "notes.txt"), str(part)])
    page.get_by_text("of 11 images are defects").wait_for()
    assert "'notes.txt' is not a PNG" in page.inner_text("#others-said") and "mine.png" in page.inner_text("#trial")
    name, _ = saved(visit, "scores.csv")
    assert name == "scores.csv" and server.files() == []
    page.get_by_role("button", name="Remove the images to judge").click()
    page.get_by_text("Scores above").wait_for()
    assert page.locator("#trial img").count() == 6
    page.get_by_role("tab", name="Negatives").click()
    visit.choose("image", "flange_03.png")  # good parts are images of the other tab as well
    assert "flange_03.png" in visit.code()


def test_too_few_good_parts_are_told_as_by_the_command(visit: Visit, tmp_path: Path) -> None:
    visit.page.get_by_role("tab", name="Detector").click()
    visit.page.set_input_files("#good input[type=file]", str(image_file(tmp_path, "good.png")))
    visit.page.get_by_text("You have 1 good part and 0 images to judge.").wait_for()
    visit.page.get_by_role("button", name="Fit and judge").click()
    visit.page.get_by_text("`data` must hold 20 normal images or more, got 1.").wait_for(timeout=60_000)
    assert not visit.page.locator("#rate").is_visible()


# ---- what is taken home -------------------------------------------------------------------------------------------------


def saved(visit: Visit, name: str) -> tuple[str, bytes]:
    with visit.page.expect_download() as waiting:
        visit.page.get_by_role("link", name=name, exact=True).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def download(visit: Visit, name: str) -> tuple[str, Image.Image]:
    file, content = saved(visit, name)
    return file, Image.open(io.BytesIO(content))


def test_the_copied_lines_make_the_downloaded_pictures(visit: Visit, tmp_path: Path) -> None:
    image_file(tmp_path, "my part.png", size=(300, 220))
    visit.upload(tmp_path / "my part.png")
    visit.slide("seed", 3)
    visit.page.check("#levels input[value=random]")
    visit.slide("largest", 1.2)
    code = visit.code()
    visit.page.locator("#code button").click()
    visit.page.wait_for_function("async (code) => await navigator.clipboard.readText() === code", arg=code)
    assert 'levels="random"' in code and "scale=(0.002, 0.012)" in code
    (tmp_path / "lines.py").write_text(
        code + "\nimport numpy\nnumpy.savez('made', negative=numpy.asarray(negative), mask=mask)\n"
    )
    subprocess.run([sys.executable, "lines.py"], cwd=tmp_path, check=True)
    made = np.load(tmp_path / "made.npz")
    name, negative = download(visit, "negative")
    assert name == "my part_seed3_negative.png"
    np.testing.assert_array_equal(np.asarray(negative), made["negative"])
    name, mask = download(visit, "mask")
    assert name == "my part_seed3_mask.png"
    np.testing.assert_array_equal(np.asarray(mask), made["mask"][0] * 255)
    name, sheet = download(visit, "contact sheet")
    assert name == "my part_seed3_sheet.png" and sheet.width > 1500


# ---- what goes wrong ----------------------------------------------------------------------------------------------------


def test_bad_files_are_told_and_good_ones_beside_them_taken(visit: Visit, server: Server, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "<img src=x onerror=alert(1)>.png").write_text("hello")
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    whole = image_file(tmp_path, "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "huge.png").write_bytes(whole + bytes(33 * 2**20))
    Image.new("L", (5472, 3648), 90).save(tmp_path / "large.jpg")
    Image.fromarray((np.arange(4800).reshape(60, 80) * 13).astype(np.uint16)).save(tmp_path / "sixteen.png")
    visit.upload(*sorted(tmp_path.iterdir()))
    said = visit.page.inner_text("#notice")
    assert "3 images added." in said and "2 more files were left out." in said and "'cut.png' is damaged" in said
    assert (
        "'bomb.png' has 9000 x 9000 pixels; the limit is 67 million." in said
        and "'<img src=x onerror=alert(1)>.png' is not" in said
    )
    for name in ("large.jpg", "sixteen.png"):
        visit.choose("image", name)
        visit.page.wait_for_function("(name) => document.querySelector('#code textarea').value.includes(name)", arg=name)
        assert not visit.page.locator("#message .error").count()
    visit.choose("size", "as it is")
    visit.choose("image", "large.jpg")
    visit.page.wait_for_selector("#message .error")
    assert "is too large at the size as it is. Choose a size." in visit.page.inner_text("#message")
    assert "sixteen.png" in visit.code()  # of what is still shown
    assert visit.page.inner_text("#notice") == said  # it stays until it is closed
    visit.page.get_by_role("button", name="Close").click()
    visit.page.locator("#notice").wait_for(state="hidden")
    assert server.files() == []


def test_a_file_that_is_too_large_leaves_the_good_one_beside_it(visit: Visit, server: Server, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bytes(33 * 2**20))
    visit.upload(tmp_path / "large.png", image_file(tmp_path, "good.png"))
    said = visit.page.inner_text("#notice")
    assert "1 image added." in said and "'large.png' has 33 MB; 32 MB is the most." in said
    assert visit.page.input_value("#image input") == "good.png" and server.files() == []


def test_what_the_browser_refuses_stays_told_as_well(browser: Browser, server: Server, tmp_path: Path) -> None:
    with (tmp_path / "larger.png").open("wb") as file:
        file.truncate(300 * 2**20)
    visit = Visit(browser, server.url)
    visit.page.set_input_files("#drop input[type=file]", str(tmp_path / "larger.png"))
    visit.page.wait_for_selector("#notice .error")
    assert "maximum allowed size" in visit.page.inner_text("#notice .error")
    visit.upload(image_file(tmp_path, "good.png"))
    assert visit.page.inner_text("#notice") == "1 image added."
    visit.close()
    assert server.files() == []


def test_images_are_removed_one_by_one_and_all_at_once(visit: Visit, tmp_path: Path) -> None:
    page, image = visit.page, visit.page.locator("#image input")
    before, remove = image.input_value(), visit.page.get_by_role("button", name="Remove this image")
    assert not remove.is_visible()
    visit.upload(*[image_file(tmp_path, f"{name}.png", seed=i) for i, name in enumerate("abc")])

    def click(name: str, then: str) -> None:
        page.get_by_role("button", name=name).click()
        page.wait_for_function("(then) => document.querySelector('#code textarea').value.includes(then)", arg=then)
        visit.settle()

    visit.choose("image", "b.png")
    click("Remove this image", "'c.png'")
    visit.choose("image", before)
    remove.click()
    page.wait_for_selector("#notice .error")
    assert f"'{before}' is none of your images, so it stays." in page.inner_text("#notice")
    visit.choose("image", "c.png")
    click("Remove this image", "'a.png'")
    click("Remove all", "make_samples.py")
    assert image.input_value() == before
    remove.wait_for(state="hidden")
    page.click("#image input")
    assert page.get_by_role("option", name="a.png", exact=True).count() == 0


def test_settings_that_contradict_are_told(visit: Visit) -> None:
    before = visit.shown()
    visit.page.evaluate(MOVE, ["smallest", 8])
    visit.page.wait_for_selector("#message .error")
    assert "The smallest patch of 8 % is larger than the largest of 3 %:" in visit.page.inner_text("#message")
    assert visit.shown() == before
    visit.slide("smallest", 1)
    visit.page.wait_for_selector("#message .error", state="detached")


def test_numbers_that_are_typed_are_taken_or_told(visit: Visit) -> None:
    box = visit.page.locator("#largest input[type=number]")
    code = visit.code()
    box.fill("999")
    visit.page.wait_for_selector("#message .error")
    visit.page.keyboard.press("Tab")
    visit.settle()
    assert "`largest` must be from 0.1 to 20, got 999." in visit.page.inner_text("#message")
    assert (box.input_value(), visit.code()) == ("999", code)  # neither is moved into the range
    box.fill("")
    visit.page.get_by_text("`largest` must be like 3.0, got nothing.").wait_for()
    assert visit.page.evaluate("getComputedStyle(document.querySelector('#drawn')).opacity") == "0.35"
    box.fill("4")
    visit.page.wait_for_function("document.querySelector('#code textarea').value.includes('0.04)')")
    visit.page.wait_for_selector("#message .error", state="detached")


# ---- who may see and reach what -----------------------------------------------------------------------------------------


def test_two_visitors_do_not_see_each_other(browser: Browser, server: Server, tmp_path: Path) -> None:
    first, second = Visit(browser, server.url), Visit(browser, server.url)
    first.upload(image_file(tmp_path, "secret.png"))
    other = second.shown()
    second.page.click("#image input")
    assert second.page.get_by_role("option", name="sample: wood").count() == 1
    assert second.page.get_by_role("option", name="secret.png").count() == 0
    second.page.keyboard.press("Escape")
    first.slide("seed", 9)
    second.open_controls()
    second.slide("grid", 23)
    second.slide("grid", 24)
    assert second.shown() == other and "secret" not in second.page.content()
    picture = first.page.get_attribute("#drawn img", "src")
    assert urllib.request.urlopen(f"{server.url}/{picture}").status == 200
    first.close()
    for _ in range(50):
        try:
            urllib.request.urlopen(f"{server.url}/{picture}").close()
        except urllib.error.HTTPError as error:
            assert error.code == 404
            break
        time.sleep(0.2)
    else:
        raise AssertionError("the picture is still there after its visitor left")
    second.close()


# ---- how it feels -------------------------------------------------------------------------------------------------------

# Milliseconds from the move of a slider until the new pictures are decoded and painted.
TIMED = """async ([control, value, parts]) => {
    const pictures = () => parts.flatMap((part) => [...document.querySelectorAll(part + ' img')]);
    const before = parts.map((part) => document.querySelector(part + ' img').src);
    const start = performance.now();
    const slider = document.querySelector(`#${control} input[type=range]`);
    slider.value = value;
    slider.dispatchEvent(new Event('input', {bubbles: true}));
    const news = () => parts.every((part, i) => document.querySelector(part + ' img')?.src !== before[i]);
    while (!news() || !pictures().every((p) => p.complete && p.naturalWidth)) await new Promise((r) => setTimeout(r, 1));
    await new Promise((r) => requestAnimationFrame(r));
    return performance.now() - start;
}"""


def times(visit: Visit, control: str, values: list[float], parts: list[str]) -> list[float]:
    taken = []
    for value in values:
        taken.append(visit.page.evaluate(TIMED, [control, value, parts]))
        time.sleep(0.15)
    return sorted(taken[5:])


def test_updates_of_a_512_pixel_image_keep_up_with_the_hand(visit: Visit, capsys: pytest.CaptureFixture[str]) -> None:
    open_options(visit)
    visit.choose("size", "512")
    drawn, found = ["#drawn", "#words"], ["#drawn", "#words", "#found"]
    runs = {
        "seed": (times(visit, "seed", [100 + i for i in range(30)], drawn), 100),
        "largest patch": (times(visit, "largest", [4 + i / 10 for i in range(30)], drawn), 100),
        "grid": (times(visit, "grid", [12 + i for i in range(30)], found), 300),
        "clusters": (times(visit, "n_clusters", [2 + i % 8 for i in range(30)], found), 300),
    }
    with capsys.disabled():
        for name, (taken, limit) in runs.items():
            middle, late = statistics.median(taken), taken[int(0.9 * len(taken))]
            print(f"\n  {name}: {middle:.0f} ms, nine of ten within {late:.0f} ms (limit {limit} ms)", end="")
        print()
    for name, (taken, limit) in runs.items():
        assert statistics.median(taken) <= limit, (name, taken)


def test_a_slider_that_is_dragged_ends_at_its_last_position(visit: Visit) -> None:
    visit.page.evaluate(
        f"""async () => {{
            const move = {MOVE};
            for (let i = 0; i < 60; i++) {{
                move(['seed', i]);
                await new Promise((r) => setTimeout(r, 8));
            }}
        }}"""
    )
    visit.page.wait_for_function("document.querySelector('#code textarea').value.includes('manual_seed(59)')")
    visit.settle()
    dragged = visit.shown()
    visit.slide("seed", 60)
    visit.slide("seed", 59)
    assert visit.shown() == dragged


def test_a_hundred_updates_leave_memory_where_it_was(visit: Visit, server: Server) -> None:
    def updates(count: int) -> None:
        for i in range(count):
            visit.page.evaluate(TIMED, ["seed" if i % 2 else "grid", 10 + i % 50, ["#drawn"]])
            time.sleep(PAUSE)

    updates(40)
    before = server.memory()
    updates(100)
    assert server.memory() - before < 16, (before, server.memory())


FOCUSED = """() => {
    const e = document.activeElement;
    return [e.closest('#controls [id], #results [id]')?.id, e.innerText || e.type];
}"""


def test_the_keyboard_reaches_everything(visit: Visit) -> None:
    page = visit.page
    open_options(visit)
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached = []
    for _ in range(90):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
    ids = {name for name, _ in reached}
    wanted = {*CONTROLS, "image", "drop", "code"} - {"chosen"}
    assert wanted <= ids, wanted - ids
    texts = {text.strip() for _, text in reached if text}
    assert {"negative", "mask", "contact sheet", "seed 0", "seed 7"} <= texts
    page.focus("#seed input[type=range]")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('#code textarea').value.includes('manual_seed(1)')")
    page.get_by_role("button", name="seed 4").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#code textarea').value.includes('manual_seed(4)')")


def test_a_phone_shows_it_without_sideways_scrolling_and_keeps_the_pair_in_sight(browser: Browser, server: Server) -> None:
    visit = Visit(browser, server.url, 390, 844)
    page = visit.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    tops = page.evaluate("['images', 'drawn', 'words', 'settings', 'found'].map((id) => document.getElementById(id).offsetTop)")
    assert tops == sorted(tops) and len(set(tops)) == 5  # advice and seeds come before the controls
    visit.open_controls()
    page.evaluate("document.querySelector('#clustering').scrollIntoView({block: 'center'})")
    time.sleep(0.3)
    box = page.locator("#drawn").bounding_box()
    assert box is not None and -1 <= box["y"] <= 1 and box["height"] < 300
    before = visit.shown()
    page.locator("#grid input[type=number]").fill("9")
    page.keyboard.press("Tab")
    page.wait_for_function("document.querySelector('#code textarea').value.includes('grid=9')")
    visit.settle()
    assert visit.shown() != before
    assert visit.complaints == []
    visit.close()


def test_every_control_has_a_name_and_every_picture_a_text(visit: Visit) -> None:
    page = visit.page
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('#controls input, #controls textarea, #results a, #results button')]
            .filter((e) => e.type !== 'file' && !e.ariaLabel && !e.labels?.length && !e.innerText.trim() && !e.title)
            .map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert unnamed == []
    assert page.evaluate("[...document.querySelectorAll('#results img')].every((p) => p.alt.length > 5)")


def test_a_port_that_is_taken_is_told(server: Server) -> None:
    command = [sys.executable, "-m", "explorer", "--port", str(server.port)]
    done = subprocess.run(command, cwd=ROOT / "examples", capture_output=True, text=True)
    assert done.returncode == 2
    assert f"`--port` {server.port} could not be opened" in done.stderr and "name another" in done.stderr


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_screenshots_of_the_documents(width: int, height: int, browser: Browser, server: Server) -> None:
    visit = Visit(browser, server.url, width, height)
    visit.page.get_by_role("button", name="seed 2").click()
    visit.page.wait_for_function("document.querySelector('#code textarea').value.includes('manual_seed(2)')")
    visit.settle()
    visit.page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    visit.page.mouse.move(0, 0)
    folder = ROOT / "demo"
    folder.mkdir(exist_ok=True)
    visit.page.screenshot(path=folder / f"explorer-{width}.png", full_page=True)
    if width == 1280:
        visit.page.screenshot(path=folder / "explorer.jpg", quality=88)
    fit_on_drawn_parts(visit)
    visit.page.wait_for_function("[...document.querySelectorAll('#trial img')].every((p) => p.complete && p.naturalWidth)")
    visit.page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    visit.page.mouse.move(0, 0)
    visit.page.screenshot(path=folder / f"explorer-detector-{width}.png", full_page=True)
    if width == 1280:
        visit.page.screenshot(path=folder / "explorer-detector.jpg", quality=88)
    with Image.open(folder / f"explorer-{width}.png") as shot:
        assert shot.width == width and shot.height > height
    visit.close()


# ---- what it leaves -----------------------------------------------------------------------------------------------------


def test_it_writes_into_its_own_folder_alone_reaches_nobody_and_removes_the_folder(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    server = Server(tmp_path_factory.mktemp("leaves"))
    visit = Visit(browser, server.url)
    try:
        visit.upload(image_file(tmp_path, "a.png"), image_file(tmp_path, "b.jpg"))
        download(visit, "contact sheet")
        fit_on_drawn_parts(visit)
        saved(visit, "detector")
        (folder,) = server.temporary.iterdir()
        assert folder.name.startswith("cutswap-explorer-") and server.files() == []
    finally:
        server.stop()  # while the page is open
        visit.close()
    assert server.process.returncode == 0 and "Traceback" not in server.said(), server.said()
    assert list(server.temporary.iterdir()) == []
    assert [p for p in server.home.rglob("*") if p.is_file()] == []
    notes = server.notes()
    assert any(note.startswith(f"write {folder}") for note in notes)  # the watch works
    writes = [n.removeprefix("write ") for n in notes if n.startswith("write ")]
    probe = re.compile(rf"{server.temporary}/\w{{8}}")  # Python's look whether the folder of all temporary files can be used
    assert [w for w in writes if not w.startswith((str(folder), "/dev/null")) and not probe.fullmatch(w)] == []
    reached = {note for note in notes if note.startswith(("connect ", "look up "))}
    assert reached <= {"look up 127.0.0.1", "connect 127.0.0.1"}, reached
