"""The report page: its content, its size, and its controls in a browser."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch

from petseg.core.files import sha256_file
from petseg.core.textfiles import write_json
from petseg.data.arrays import IMAGES, INDEX, TRIMAPS
from petseg.data.masks import save_masks
from petseg.evaluation.metrics import PixelCounts
from petseg.evaluation.outputs import HEADLINES
from petseg.report.content import MOST_EPOCHS, content, evenly
from petseg.report.notes import notes
from petseg.report.page import LIMIT_BYTES, report
from petseg.report.pictures import LARGEST_PX, mask_uri, photo_uri
from petseg.report.results import Results
from petseg.store.card import LIMITS
from petseg.store.keep import keep
from petseg.store.layout import EVALUATIONS
from petseg.store.run import StoredRun
from tests.support.results import BREEDS, EPOCHS, HOSTILE, KEY, VAL, write_results
from tests.support.runs import trained

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

TEST = 18


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return write_results(tmp_path_factory.mktemp("results"), TEST)


@pytest.fixture
def results(files: Results) -> Results:
    return replace(files)


@pytest.fixture(scope="module")
def run(files: Results) -> StoredRun:
    """A finished run of the store, with the evaluation from which the results come."""
    folder = files.folder.parent / KEY
    manifest = trained(
        created="2026-01-02T03:04:05+00:00",
        run_key=KEY,
        params={"model.name": "unet", "model.width": 2, "model.depth": 2, "train.gradient_clip": None},
        data={"data.source": "sample"},
        data_sha256="d" * 64,
        code_sha256="c" * 64,
        photos={"train": 9, "val": 3},
        git={"commit": "f00d" * 10, "dirty": True},
        environment={"device": "cpu", "cpu_capability": "AVX2", "threads": 1, "torch": "2", "python": "3"},
        best={"epoch": 3, "val_dice": 0.7123},
    )
    write_json(folder / "manifest.json", manifest)
    run = StoredRun.open(folder)
    about = {"settings": {"infer.flip_average": True}}
    keep(run, EVALUATIONS, "e", about, {HEADLINES: files.folder / HEADLINES})
    return run


def data_of(page: bytes) -> dict[str, Any]:
    """Return the data in a page."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.decode(), re.S)
    data: dict[str, Any] = json.loads(text)
    return data


def test_the_page_has_scores_curves_params_and_commands(results: Results, run: StoredRun) -> None:
    data = data_of(report(results, run))
    assert data["model"] == "unet, width 2, depth 2"
    assert data["run"] == KEY
    scores = results.headlines
    assert [answer["name"] for answer in data["answers"]][-1] == "every pixel is pet"
    assert data["title"] == "masks of the whole pet, scored by the foreground rule"
    assert [(row["name"], row["mask"], row["main"]) for row in data["answers"][:3]] == [
        ("foreground rule", "the whole pet", True),
        ("background rule", "the pet within its border", False),
        ("ignore rule", "the pet within its border", False),
    ]
    assert data["answers"][0]["dice"] == scores["dice_per_image"]
    assert data["answers"][1]["dice"] == scores["boundary_background"]["dice_per_image"]
    assert data["answers"][-1]["low"] == scores["all_foreground"]["dice_per_image_low"]
    rules, sizes, blind = (table["rows"] for table in data["scores"])
    assert [row["iou"] for row in rules] == [
        each["iou_per_image"] for each in (scores, scores["boundary_background"], scores["boundary_ignore"])
    ]
    assert rules[2]["boundary_f"] is None  # the ignore rule leaves out the strip that has the edge
    assert [(row["name"], row["main"]) for row in sizes] == [
        ("as they are, at the packed size", True),
        ("cleaned, at the packed size", False),
        ("as they are, at the photos' own size", False),
        ("cleaned, at the photos' own size", False),
    ]
    assert len(blind) == 2
    assert data["other_thresholds"] == [["the pet within its border", 0.4]]
    assert data["output_curves"]["the whole pet"] == [0.5, 0.7, 0.8123, 0.8]
    assert data["validation"] == {"dice": 0.7123, "epoch": 3, "epochs": EPOCHS}
    assert dict(data["params"]) == {
        "model.name": "unet", "model.width": "2", "model.depth": "2",
        "train.gradient_clip": "null", "infer.flip_average": "true",
    }  # fmt: skip
    facts = dict(data["facts"])
    assert facts["code"] == f"commit {'f00d' * 10}, changed: see changes.diff"
    assert "d" * 64 in facts["sha256 of the data"]
    assert "c" * 64 in facts["sha256 of the code"]
    assert [command for command, _ in data["ways_back"]] == [
        f"petseg runs {word} {KEY}" for word in ("restore", "verify", "reproduce")
    ]
    assert data["limits"] == list(LIMITS)
    assert sum(data["histogram"]["photos"]) == TEST - 1
    total = results.counts.total()
    assert data["confusion"] == {name: int(getattr(total, name)) for name in ("tp", "fn", "fp", "tn")}
    assert [breed["name"] for breed in data["breeds"]] == results.breeds["breed"].to_list()
    assert [len(photo["predicted"]) for photo in data["evolution"]["photos"]] == [EPOCHS] * VAL
    assert {photo["name"] for photo in data["gallery"]} == set(results.table["name"])


def test_the_page_of_an_absent_run_has_only_scores(results: Results) -> None:
    data = data_of(report(results, None))
    assert (data["model"], data["params"], data["facts"], data["ways_back"]) == (None, [], [], [])
    assert data["answers"][0]["dice"] == results.headlines["dice_per_image"]


def test_the_page_of_a_network_with_one_output_has_one_mask_and_rule(tmp_path: Path) -> None:
    results = write_results(tmp_path / "old", TEST, outputs=1)
    data = data_of(report(results, None))
    assert data["title"] == "masks scored by the foreground rule"
    assert [row["name"] for row in data["answers"]] == [
        "foreground rule", "the mean training mask, for every photo", "every pixel is pet",
    ]  # fmt: skip
    assert {row["mask"] for table in data["scores"] for row in table["rows"]} == {""}
    assert data["scores"][1]["title"] == "By size, by the foreground rule"
    assert [row["name"] for row in data["scores"][1]["rows"]] == ["at the photos' own size"]
    assert (data["output_curves"], data["other_thresholds"]) == ({}, [])
    assert [len(photo["predicted"]) for photo in data["evolution"]["photos"]] == [EPOCHS] * VAL


def test_the_same_results_give_the_same_bytes(files: Results, run: StoredRun) -> None:
    assert report(replace(files), run) == report(replace(files), run)


def test_no_name_becomes_markup(results: Results, run: StoredRun) -> None:
    page = report(results, run).decode()
    assert HOSTILE not in page
    assert HOSTILE in {photo["breed"] for photo in data_of(page.encode())["gallery"]}
    assert "innerHTML" not in page
    assert re.findall(r"(?:src|href)=\"(?!#|data:)[^\"]*\"|@import|url\(", page) == []


def test_many_epochs_are_thinned(results: Results) -> None:
    epochs = np.arange(1, 1002)
    evolution = replace(
        results.evolution,
        epochs=epochs.tolist(),
        masks=np.repeat(results.evolution.masks[-1:], len(epochs), axis=0),
        dices=np.ones((len(epochs), VAL)),
    )
    vars(results)["evolution"] = evolution  # the place of a cached property's value
    kept = content(results, None)["evolution"]["epochs"]
    assert MOST_EPOCHS <= len(kept) <= MOST_EPOCHS + 1
    assert (kept[0], kept[-1]) == (1, 1001)
    assert 3 in kept  # the best epoch


def test_places_are_evenly_spread() -> None:
    assert evenly(9, 3) == [0, 4, 8]
    assert evenly(3, 9) == [0, 1, 2]
    assert evenly(5, 1) == [0]
    assert evenly(0, 4) == []


def test_large_photos_are_shrunk() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    small = photo[:LARGEST_PX, :LARGEST_PX]
    assert len(photo_uri(photo)) < 1.5 * len(photo_uri(small))
    assert mask_uri(np.ones((512, 512), bool)) == mask_uri(np.ones((LARGEST_PX, LARGEST_PX), bool))


@pytest.mark.whole
def test_the_page_of_the_whole_data_set_stays_small(files: Results, tmp_path: Path) -> None:
    """The page has a part of 3,669 photos that JPEG cannot make small, chosen evenly by rank."""
    count, random = 3669, np.random.default_rng(0)
    names = [f"breed_{n % 37}_{n}" for n in range(count)]
    photos = {"name": names, "breed": [name.rpartition("_")[0] for name in names], "species": "cat"}
    (tmp_path / "pets").mkdir()
    shutil.copytree(files.folder, tmp_path / "test")
    np.save(tmp_path / "pets" / IMAGES, random.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8))
    np.save(tmp_path / "pets" / TRIMAPS, random.integers(1, 4, (count, 64, 64), dtype=np.uint8))
    index = pd.DataFrame(photos | {"split": "test", "width": 64, "height": 64})
    index.to_csv(tmp_path / "pets" / INDEX, index=False)
    rows, dice = np.arange(count), random.permutation(count) / count
    save_masks(tmp_path / "test/predictions.npz", random.random((count, 64, 64)) > 0.5, rows=rows)
    save_masks(
        tmp_path / "evolution.npz", np.ones((EPOCHS, 6, 64, 64), bool), rows=rows[:6], epochs=rows[1:5]
    )
    pd.DataFrame(photos | {"dice": dice, "iou": dice}).to_csv(tmp_path / "test/per_image.csv", index=False)
    headlines = json.loads((files.folder / HEADLINES).read_text())
    write_json(tmp_path / "test/test.json", headlines | {"photos": count})
    whole = Results(tmp_path / "pets", tmp_path / "evolution.npz", files.history_file, tmp_path / "test")

    page = report(whole, None)
    assert 0.9 * LIMIT_BYTES < len(page) < LIMIT_BYTES
    data = data_of(page)
    assert data["photos"] == count
    ranks = [round((1 - photo["dice"]) * count) for photo in data["gallery"]]
    assert (ranks[0], ranks[-1]) == (1, count)
    steps = np.diff(ranks)
    assert steps.max() - steps.min() <= 1


# ---- failure notes ----


def notes_for(
    dice: list[float], tp: list[int], fp: list[int], fn: list[int], breeds: "pd.DataFrame | None" = None
) -> str:
    """Return the notes for photos of 100 pixels each."""
    tn = [100 - sum(each) for each in zip(tp, fp, fn, strict=True)]
    table = pd.DataFrame({"name": [f"n{i}" for i in range(len(dice))], "dice": dice})
    results: Any = SimpleNamespace(
        table=table,
        counts=PixelCounts(*map(torch.tensor, (tp, fp, fn, tn))),
        breeds=pd.DataFrame({"breed": [], "photos": []}) if breeds is None else breeds,
        headlines={"dice_per_image": 0.8},
        ranked=lambda: list(table["dice"].dropna().sort_values(ascending=False).index),
    )
    return "\n".join(f"{heading}: {text}" for heading, text in notes(results))


def test_notes_count_poor_photos_and_name_the_worst() -> None:
    text = notes_for([0.9, 0.6, 0.8, 0.71], [10] * 4, [0] * 4, [1] * 4)
    assert "25 % of the photos are cut out poorly: 1 of 4 have a Dice below 0.7." in text
    assert "The median is 0.755; the worst is `n1`, at 0.600." in text


@pytest.mark.parametrize(
    ("fp", "fn", "heading", "text"),
    [
        (30, 10, "most are background called pet", "75 % are background called pet, 25 % are pet that was"),
        (10, 30, "most are pet that was missed", "25 % are background called pet, 75 % are pet that was"),
        (21, 20, "about as many were missed as", "51 % are background called pet, 49 % are pet that was"),
    ],
)
def test_notes_name_the_dominating_errors(fp: int, fn: int, heading: str, text: str) -> None:
    found = notes_for([0.9], [20], [fp], [fn])
    assert f"Of all wrong pixels, {heading}" in found
    assert text in found
    assert "below 0.7, " not in found  # no photo is poor


def test_notes_name_the_errors_of_poor_photos() -> None:
    text = notes_for([0.9, 0.2], [20, 20], [40, 0], [0, 9])
    assert "Of all wrong pixels, most are background" in text
    assert "Of the wrong pixels of photos below 0.7, most are pet that was missed: 0 % are background" in text


def test_notes_compare_small_and_large_pets_only_if_they_differ() -> None:
    sizes = list(range(1, 41))
    clear = notes_for([0.5 + size / 100 for size in sizes], sizes, [0] * 40, [0] * 40)
    assert "Small pets are cut out worse than large ones" in clear
    assert "smallest pets, up to 10 % of the photo" in clear
    assert "the largest, from 31 %" in clear
    reverse = notes_for([0.9 - size / 100 for size in sizes], sizes, [0] * 40, [0] * 40)
    assert "Large pets are cut out worse than small ones" in reverse
    same = notes_for([0.7 + (size % 3) / 10 for size in sizes], sizes, [0] * 40, [0] * 40)
    assert "Small and large pets are not shown to differ" in same
    assert "quarter" not in notes_for([0.5, 0.9], [1, 9], [0, 0], [0, 0])  # there are only two photos


def test_notes_call_a_breed_hard_only_if_its_interval_shows_it() -> None:
    columns = ["breed", "photos", "dice_per_image", "dice_per_image_low", "dice_per_image_high"]
    rows = [("few", 2, 0.1, 0.0, 0.2), ("Maine_Coon", 9, 0.6, 0.5, 0.7), ("pug", 9, 0.7, 0.6, 0.85)]
    text = notes_for([0.9], [1], [0], [0], pd.DataFrame(rows, columns=columns))
    assert "Maine Coon 0.6000 (0.500 to 0.700), 9 photos; pug 0.7000 (0.600 to 0.850), 9 photos." in text
    assert "The whole interval of Maine Coon is below the mean of all photos, 0.800" in text
    assert "few" not in text
    text = notes_for([0.9], [1], [0], [0], pd.DataFrame([rows[0], rows[2]], columns=columns))
    assert "none is shown to be harder" in text


def test_notes_name_photos_with_empty_masks_or_undefined_dice() -> None:
    text = notes_for([0.0, np.nan, 0.9], [0, 0, 9], [0, 0, 0], [5, 0, 1])
    assert "In one photo no pet was found: Not one pixel reached the threshold: `n0`." in text
    assert "Dice is undefined for one photo" in text
    assert "`n1`" in text
    assert "undefined" not in notes_for([0.9], [9], [0], [1])


# ---- in a browser ----


class Visit:
    """A page that is open offline, with its errors and requests."""

    def __init__(self, browser: "Browser", file: Path, **options: Any) -> None:
        self.context = browser.new_context(offline=True, **options)
        self.page: Page = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def _note(self, message: "ConsoleMessage") -> None:
        self.errors.append(message.text)

    def drawn(self, selector: str, label: str) -> str:
        """Wait for a picture with this label, and return its pixels."""
        canvas = self.page.locator(f'{selector}[aria-label="{label}"]')
        canvas.wait_for()
        return str(canvas.evaluate("canvas => canvas.toDataURL()"))

    def names(self) -> list[str]:
        return list(self.page.locator("#photos .name").all_inner_texts())


@pytest.fixture(scope="module")
def file(files: Results, run: StoredRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(report(replace(files), run))
    return path


@pytest.fixture
def visit(browser: "Browser", file: Path) -> Iterator[Visit]:
    """The page in a browser. At the end there must be no errors, and no requests to others."""
    visit = Visit(browser, file, viewport={"width": 1200, "height": 900})
    visit.page.set_default_timeout(10_000)
    yield visit
    assert visit.errors == []
    assert [url for url in visit.requests if not url.startswith("data:")] == [file.as_uri()]
    visit.context.close()


def test_the_page_shows_the_scores_and_the_record(visit: Visit, results: Results) -> None:
    text = visit.page.locator("body").inner_text()
    headlines = results.headlines
    tight = headlines["boundary_background"]
    scores = (
        "unet, width 2, depth 2",
        KEY,
        f"{headlines['dice_per_image']:.3f}",
        f"{tight['dice_per_image']:.3f}",
    )
    words = ("every pixel is pet", "Dice is undefined for one photo", f"petseg runs restore {KEY}", LIMITS[0])
    for part in (*scores, *words, "0.712", "the best by the mean of both masks"):
        assert part in text
    assert text.count(results.title) >= 6  # each section says which masks it shows
    row = visit.page.locator("#score-table tr", has_text="background (the border counts as background)")
    for part in ("the pet within its border", f"{tight['iou_per_image']:.3f}"):
        assert part in row.inner_text()
    assert visit.page.locator("#score-table tr.main").count() == 2
    assert visit.page.locator("#unknown").is_hidden()
    assert visit.page.title() == f"unet, width 2, depth 2: run {KEY}"
    assert visit.page.locator("#breed-table tr").count() == len(BREEDS) + 1  # with the scale
    visit.page.locator("summary").click()
    assert "train.gradient_clip" in visit.page.locator("#params").inner_text()


def test_curves_are_read_with_keys_and_pointer(visit: Visit) -> None:
    legend = visit.page.locator("#dice-chart .legend")
    assert "epoch 3, the best" in legend.inner_text()
    for part in ("mean of both 0.712", "validation, the whole pet 0.812", "the pet within its border 0.612"):
        assert part in legend.inner_text()
    chart = visit.page.locator("#dice-chart svg")
    chart.press("ArrowLeft")
    assert "mean of both 0.600" in legend.inner_text()
    chart.press("Home")
    chart.press("ArrowLeft")
    assert "epoch 1" in legend.inner_text()
    box = chart.bounding_box()
    assert box
    chart.hover(position={"x": box["width"] - 10, "y": 60})  # also scrolls to the chart
    assert "epoch 4" in legend.inner_text()
    visit.page.mouse.move(0, 0)
    assert "epoch 3, the best" in legend.inner_text()
    for place in ("threshold", "trade", "calibration"):
        legend = visit.page.locator(f"#{place}-chart .legend")
        before = legend.inner_text()
        visit.page.locator(f"#{place}-chart svg").press("Home")
        assert legend.inner_text() != before
    histogram = visit.page.locator("#histogram svg")
    histogram.press("End")
    assert "0.95 to 1.00" in visit.page.locator("#histogram .legend").inner_text()


def test_the_slider_goes_through_the_epochs(visit: Visit, results: Results) -> None:
    name, page = results.evolution.names[0], visit.page
    slider = page.get_by_label("Epoch", exact=True)
    caption, dice = page.locator("#epoch-text"), page.locator("#evolution-photos .dice").first
    assert caption.inner_text().startswith("epoch 3, the best")
    last = visit.drawn("#evolution-photos canvas", f"{name}: prediction")
    seen = {dice.inner_text()}
    for epoch in (2, 1):
        slider.press("ArrowLeft")
        assert caption.inner_text().startswith(f"epoch {epoch}:")
        assert slider.get_attribute("aria-valuetext") == caption.inner_text()
        seen.add(dice.inner_text())
    assert len(seen) == 3
    changed = "([selector, before]) => document.querySelector(selector).toDataURL() !== before"
    page.wait_for_function(changed, arg=["#evolution-photos canvas", last])
    page.get_by_role("button", name="Best epoch: 3").click()
    assert caption.inner_text().startswith("epoch 3, the best")
    page.locator("#evolution-views").get_by_text("truth").click()
    assert visit.drawn("#evolution-photos canvas", f"{name}: truth") != last


def test_the_gallery_is_sorted_and_filtered(visit: Visit, results: Results) -> None:
    page = visit.page
    undefined = results.table["name"].iloc[-1].replace("_", " ")
    assert page.locator("#gallery-count").inner_text() == f"{TEST} of {TEST} photos"
    scores = page.locator("#photos .dice").all_inner_texts()
    assert scores == [*sorted(scores[:-1]), "undefined"]
    assert visit.names()[-1] == undefined
    page.get_by_label("Sort by").select_option("best")
    assert visit.names()[-1] == undefined
    assert page.locator("#photos .dice").all_inner_texts() == [
        *sorted(scores[:-1], reverse=True),
        "undefined",
    ]
    page.get_by_label("Sort by").select_option("name")
    pugs = [name for name in visit.names() if name.startswith("pug")]
    assert pugs == sorted(pugs, key=lambda name: int(name.split()[-1]))
    page.get_by_label("Breed", exact=True).select_option("pug")
    assert visit.names() == pugs
    assert page.locator("#gallery-count").inner_text() == f"{len(pugs)} of {TEST} photos"
    page.get_by_label("Breed", exact=True).select_option(HOSTILE)
    assert all(name.startswith("</script>") for name in visit.names())
    assert page.locator("img").count() == 0


def test_views_are_chosen_with_clicks_and_keys(visit: Visit) -> None:
    name = visit.page.locator("#photos .name").first.inner_text().replace(" ", "_")
    assert visit.page.locator("#photos canvas").first.get_attribute("aria-label") == name  # not drawn yet
    visit.page.locator("#gallery").scroll_into_view_if_needed()
    seen = {visit.drawn("#photos canvas", f"{name}: errors")}
    visit.page.locator("#gallery-views").get_by_text("photo", exact=True).click()
    seen.add(visit.drawn("#photos canvas", f"{name}: photo"))
    for key, view in (("2", "truth"), ("3", "prediction")):
        visit.page.keyboard.press(key)
        seen.add(visit.drawn("#photos canvas", f"{name}: {view}"))
        assert visit.page.locator("#gallery-views input:checked").get_attribute("value") == view
    assert len(seen) == 4


def test_a_photo_is_enlarged_with_the_keyboard_alone(visit: Visit) -> None:
    page, names = visit.page, visit.names()
    dialog, title = page.locator("dialog"), page.locator("#large-title")
    first = page.locator("#photos button").first
    first.focus()
    page.keyboard.press("Enter")
    assert dialog.is_visible()
    assert title.inner_text().replace("_", " ") == names[0]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert title.inner_text().replace("_", " ") == names[2]
    page.keyboard.press("ArrowLeft")
    raw = title.inner_text()
    assert raw.replace("_", " ") == names[1]
    errors = visit.drawn("#large-picture", f"{raw}: errors")
    page.keyboard.press("1")
    assert visit.drawn("#large-picture", f"{raw}: photo") != errors
    page.locator("#large-picture").click()
    visit.drawn("#large-picture", f"{raw}: truth")
    assert (
        page.locator("#gallery-views input:checked").get_attribute("value") == "errors"
    )  # for the other photos
    page.keyboard.press("Escape")
    assert dialog.is_hidden()
    assert first.evaluate("button => document.activeElement === button")
    page.locator("#photos button").last.click()
    assert page.get_by_role("button", name="Next photo").is_disabled()
    page.get_by_role("button", name="Close").click()
    assert dialog.is_hidden()


CONTRAST = """element => {
    const linear = part => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    const luminance = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(part => linear(part / 255))
        .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
    const ink = getComputedStyle(element).color;
    const clear = e => getComputedStyle(e).backgroundColor === "rgba(0, 0, 0, 0)";
    while (clear(element)) element = element.parentElement;
    const pair = [ink, getComputedStyle(element).backgroundColor].map(luminance);
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_light_and_dark(browser: "Browser", file: Path, scheme: str) -> None:
    visit = Visit(browser, file, color_scheme=scheme)
    background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 384) is (scheme == "dark")
    for selector in ("h1", ".muted", "dt", "select", "#gallery-views label:last-of-type", "pre", ".value"):
        assert visit.page.locator(selector).first.evaluate(CONTRAST) >= 4.5, selector
    visit.context.close()


def test_a_phone_scrolls_in_one_direction_only(browser: "Browser", file: Path) -> None:
    visit = Visit(browser, file, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    wide = "() => document.documentElement.scrollWidth"
    assert visit.page.evaluate(wide) == 390
    visit.page.locator("summary").tap()
    visit.page.locator("#photos button").first.tap()
    assert visit.page.locator("dialog").is_visible()
    assert visit.page.evaluate(wide) == 390
    box = visit.page.locator("dialog").bounding_box()
    assert box
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert visit.errors == []
    visit.context.close()


def test_a_page_of_one_output_has_no_second_mask(browser: "Browser", tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(report(write_results(tmp_path / "old", TEST, outputs=1), None))
    visit = Visit(browser, path)
    table = visit.page.locator("#score-table").inner_text()
    assert "answered by" not in table
    assert "foreground (the border counts as pet)" in table
    legend = visit.page.locator("#dice-chart .legend").inner_text()
    assert "validation 0.712" in legend
    assert "both" not in visit.page.locator("header").inner_text()
    assert visit.errors == []
    visit.context.close()


def test_the_page_of_an_absent_run_is_marked(browser: "Browser", results: Results, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(report(results, None))
    before = sha256_file(path)
    visit = Visit(browser, path)
    assert visit.page.locator("#unknown").is_visible()
    assert visit.page.locator("#ways-back").is_hidden()
    assert visit.page.locator("summary").is_hidden()
    assert visit.errors == []
    visit.context.close()
    assert sha256_file(path) == before
