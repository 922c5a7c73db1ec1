"""``petseg demo``: the answers and refusals of its server, and the page in a browser."""

import asyncio
import base64
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import requests
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from petseg.cli import app
from petseg.core.loopback import Message, Receive, Send
from petseg.errors import UsageError
from petseg.models.masking import HOLE, ISLAND, Thresholds, cleaned
from petseg.models.predictor import OwnSize
from petseg.params import OUTPUTS
from petseg.predict.demo.app import MAX_BYTES, MAX_REQUESTS, DemoGate, Rate
from petseg.predict.demo.server import listen
from petseg.predict.pictures import SOFTNESS, alpha_of
from petseg.store.champion import promote
from petseg.store.run import StoredRun
from tests.support import ROOT
from tests.support.pets import HEIC, encoded, picture, sample_photos
from tests.support.runs import make_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

KEY, OTHER = "aaaa111122223333", "bbbb111122223333"
(JPEG,) = sample_photos(1)
SIZE = Image.open(io.BytesIO(JPEG)).size
SCREENSHOTS = "PETSEG_SCREENSHOTS"  # the variable that names a folder for screenshots of the page


@dataclass
class Demo:
    """A running server."""

    url: str
    root: Path

    def post(self, kind: str, data: bytes, **query: Any) -> requests.Response:
        params = {"model": KEY} | query
        return requests.post(f"{self.url}/api/{kind}", data=data, params=params, timeout=60)

    def refusal(self, status: int, kind: str, data: bytes, **query: object) -> str:
        answer = self.post(kind, data, **query)
        assert answer.status_code == status
        [(name, line)] = answer.json().items()
        assert name == "error"
        assert "\n" not in line
        return str(line)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """The command in a project with two finished runs. The network of one of them has one output."""
    root = tmp_path_factory.mktemp("project")
    (root / ".dvc").mkdir()
    make_run(root / "runs" / OTHER, "resnet34_unet", one_output=True, spread=True)
    promote(make_run(root / "runs" / KEY, "unet", spread=True), force=False)
    (root / "photo.jpg").write_bytes(JPEG)
    command = [sys.executable, "-m", "petseg", "demo", "--port", "0", "--no-open"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == f"the page begins with run {KEY}, the champion\n"
    yield Demo(started.stdout.readline().strip(), root)
    started.send_signal(signal.SIGINT)
    rest, _ = started.communicate(timeout=30)
    assert (started.returncode, rest) == (0, "")


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)))


def from_url(url: str) -> NDArray[np.uint8]:
    return pixels(base64.b64decode(url.partition(",")[2]))


@pytest.mark.whole
@pytest.mark.parametrize("key", [KEY, OTHER])
def test_the_demo_gives_the_pictures_of_petseg_predict(demo: Demo, key: str) -> None:
    found = {}
    for edge, as_is in product(OUTPUTS, (False, True)):
        options = ["--edge", edge, "--threshold", "0.4", *(["--as-is"] if as_is else []), "--force"]
        with chdir(demo.root):
            result = CliRunner().invoke(app, ["predict", "photo.jpg", "--model", key, *options])
        assert result.exit_code == 0, result.output
        for kind, folder in (("mask", "masks"), ("cutout", "cutouts")):
            answer = demo.post(kind, JPEG, model=key, threshold=0.4, edge=edge, as_is=as_is)
            written = (demo.root / f"predicted/{folder}/photo.png").read_bytes()
            assert np.array_equal(pixels(answer.content), pixels(written))
            assert pixels(written).shape[:2] == SIZE[::-1]
            found[kind, edge, as_is] = answer.content
    masks = {content for (kind, *_), content in found.items() if kind == "mask"}
    assert len(masks) == (4 if key == KEY else 2)  # with one output, both edges are the same


def test_the_page_gets_both_raw_probabilities(demo: Demo) -> None:
    seen = demo.post("probability", JPEG).json()
    assert seen["thresholds"] == {"whole": 0.45, "tight": 0.27}
    greys = {edge: from_url(url) for edge, url in seen["probability"].items()}
    assert (greys["tight"] <= greys["whole"]).all()
    for edge in OUTPUTS:
        mask = pixels(demo.post("mask", JPEG, threshold=0.5, edge=edge, as_is=True).content) == 255
        shown = (greys[edge] >= 0.5 * 255) & (greys["whole"] >= 0.45 * 255)
        assert (shown != mask).mean() < 0.01  # only pixels affected by the rounding to 8 bits
        assert seen["empty"][edge]["limit"] == edge
        assert seen["empty"][edge]["highest"] == pytest.approx(greys[edge].max() / 255, abs=0.01)
    old = demo.post("probability", JPEG, model=OTHER).json()
    assert old["probability"]["whole"] == old["probability"]["tight"]


def test_a_photo_that_browsers_cannot_decode_comes_back_upright(demo: Demo) -> None:
    seen = demo.post("probability", HEIC.read_bytes()).json()
    assert (seen["width"], seen["height"]) == (48, 64)
    assert from_url(seen["photo"]).shape == (64, 48, 3)
    assert {from_url(url).shape for url in seen["probability"].values()} == {(64, 48)}
    large = demo.post("probability", encoded(picture(1, (3200, 100)), "JPEG")).json()
    assert (large["width"], from_url(large["photo"]).shape) == (3200, (50, 1600, 3))


@pytest.mark.whole
def test_the_finished_runs_are_offered(demo: Demo) -> None:
    answer: dict[str, Any] = requests.get(f"{demo.url}/api/models", timeout=60).json()
    assert answer["first"] == KEY
    assert {model["key"]: model["champion"] for model in answer["models"]} == {KEY: True, OTHER: False}
    both, one = {"whole": 0.45, "tight": 0.27}, {"whole": 0.45, "tight": 0.45}
    assert {model["key"]: model["thresholds"] for model in answer["models"]} == {KEY: both, OTHER: one}
    assert {model["key"]: model["two_outputs"] for model in answer["models"]} == {KEY: True, OTHER: False}
    first, other = (demo.post("probability", JPEG, model=key).json() for key in (KEY, OTHER))
    assert first["probability"] != other["probability"]


def test_without_options_it_is_the_first_model_with_its_threshold(demo: Demo) -> None:
    threshold = demo.post("probability", JPEG).json()["thresholds"]["tight"]
    given = requests.post(f"{demo.url}/api/mask", data=JPEG, timeout=60)
    assert given.content == demo.post("mask", JPEG, threshold=threshold).content


def test_a_bad_request_is_refused_in_one_line(demo: Demo) -> None:
    assert demo.refusal(400, "probability", b"hello") == "not a picture of a known format"
    assert demo.refusal(400, "probability", JPEG[:3000]).startswith("can't be decoded")
    assert "megapixels" in demo.refusal(
        400, "mask", encoded(Image.new("1", (9000, 9000)), "PNG"), threshold=1
    )
    assert "no finished run" in demo.refusal(404, "probability", JPEG, model="../runs")
    assert demo.refusal(413, "probability", bytes(MAX_BYTES + 1)) == "the file has more than 20 MB"
    assert demo.refusal(422, "cutout", JPEG, threshold=0).startswith("threshold:")
    refusal = demo.refusal(422, "mask", JPEG, threshold=0.5, edge="loose", as_is="perhaps")
    assert refusal.startswith("edge: Input should be 'whole' or 'tight'; as_is: Input should be a valid bool")


def test_a_head_request_is_answered(demo: Demo) -> None:
    answer = requests.head(demo.url, timeout=60)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("headers", [{"Host": "pets.example"}, {"Origin": "https://pets.example"}])
def test_foreign_pages_and_names_are_refused(demo: Demo, headers: dict[str, str]) -> None:
    for answer in (
        requests.get(demo.url, headers=headers, timeout=60),
        requests.post(
            f"{demo.url}/api/probability", JPEG, params={"model": KEY}, headers=headers, timeout=60
        ),
    ):
        assert answer.status_code == 403
        assert answer.json()["error"].startswith("a foreign")


def test_the_number_of_photos_per_minute_is_limited() -> None:
    rate = Rate(2, 60)
    assert [rate.allows(now) for now in (0, 1, 2, 59, 60, 60.5, 61)] == [
        *(True, True, False, False, True, False, True)
    ]


def test_the_number_of_photos_at_once_is_limited() -> None:
    async def ask(gate: DemoGate) -> int:
        answered: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request"}

        async def send(message: Message) -> None:
            answered.append(message)

        await gate({"type": "http", "method": "POST", "headers": [(b"host", b"localhost")]}, receive, send)
        return int(answered[0]["status"])

    async def together() -> tuple[int, list[int]]:
        worked_on = asyncio.Event()

        async def app(scope: Message, receive: Receive, send: Send) -> None:
            await worked_on.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        gate = DemoGate(app)
        first = [asyncio.create_task(ask(gate)) for _ in range(MAX_REQUESTS)]
        await asyncio.sleep(0)  # lets each of them begin
        refused = await ask(gate)
        worked_on.set()
        return refused, [*await asyncio.gather(*first), await ask(gate)]

    assert asyncio.run(together()) == (503, [200] * (MAX_REQUESTS + 1))


def test_a_taken_port_is_named_with_a_free_one(demo: Demo) -> None:
    port = int(demo.url.rpartition(":")[2])
    with pytest.raises(UsageError, match=f"port {port} of 127.0.0.1 is taken; try --port {port + 1}"):
        listen(port)


def test_weights_without_a_run_are_offered(tmp_path: Path) -> None:
    from petseg.models.device import set_up_torch
    from petseg.predict.demo.models import GIVEN, Models

    run: StoredRun = make_run(tmp_path / "runs" / KEY, "unet")
    weights = tmp_path / "mine.safetensors"
    for suffix in (".safetensors", ".json"):
        shutil.copy(run.folder / f"model{suffix}", weights.with_suffix(suffix))
    device = set_up_torch("cpu", 1)
    assert Models(tmp_path, str(weights), device).first_key == KEY
    run.folder.rename(tmp_path / "away")
    models = Models(tmp_path, str(weights), device)
    assert [offer.key for offer in models.offers()] == [models.first_key] == [GIVEN]
    with pytest.raises(UsageError, match="no finished run"):
        models.get(KEY)


@pytest.fixture
def page(browser: "Browser", demo: Demo) -> "Iterator[Page]":
    """The page in a browser. No script may fail, and no request may leave this machine."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    requested: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    # The browser itself logs the server's refusals.
    page.on("console", lambda log: errors.append(log.text) if "status of 400" not in log.text else None)
    page.goto(demo.url)
    page.locator("#about", has_text="Dice").wait_for()
    yield page
    assert errors == []
    assert [url for url in requested if not url.startswith((demo.url, "data:", f"blob:{demo.url}"))] == []
    context.close()


def files(*given: tuple[str, bytes]) -> Any:
    return [{"name": name, "mimeType": "image/jpeg", "buffer": data} for name, data in given]


def card_of(page: "Page", name: str = "cat.jpg") -> Any:
    return page.locator("article", has_text=name)


def test_photos_are_cut_out_and_shown(page: "Page", demo: Demo) -> None:
    from playwright.sync_api import expect

    page.set_input_files(
        "#files", files(("cat.jpg", JPEG), ("turned.heic", HEIC.read_bytes()), ("a.txt", b"a"))
    )
    expect(page.locator("#status")).to_have_text("2 of 3 cut out, 1 refused.")
    expect(card_of(page, "a.txt").get_by_role("alert")).to_have_text("not a picture of a known format")
    expect(card_of(page, "turned.heic").locator(".facts")).to_contain_text("48 × 64 px")

    card = card_of(page)
    shown = coverage(card)
    assert shown == pytest.approx(exact_coverage(demo), abs=1)
    page.get_by_label("Threshold").fill("0.99")
    expect(card.get_by_role("alert")).to_contain_text("Empty mask: nothing is this probable")
    page.get_by_role("button", name="Back to 0.27").click()
    expect(card.locator(".facts")).to_contain_text(f"{shown:.1f} %")

    canvas = card.locator("canvas")
    pictures = set()
    for key in "1234":
        page.keyboard.press(key)
        expect(page.locator("#views input").nth(int(key) - 1)).to_be_checked()
        pictures.add(canvas.screenshot())
    assert len(pictures) == 4
    card.locator(".picture").click()
    expect(page.get_by_role("radio", name="Photo")).to_be_checked()
    keep(page, "demo")
    card_of(page, "a.txt").get_by_role("button", name="Remove").click()
    expect(page.locator("article")).to_have_count(2)


def exact_coverage(demo: Demo, **query: Any) -> float:
    """The coverage of the mask that is downloaded, in percent."""
    return float((pixels(demo.post("mask", JPEG, **{"threshold": 0.27} | query).content) == 255).mean()) * 100


def coverage(card: Any) -> float:
    """The coverage that the page shows, in percent."""
    return float(card.locator(".facts").inner_text().partition(" %")[0])


def test_each_edge_has_its_own_threshold(page: "Page", demo: Demo) -> None:
    from playwright.sync_api import expect

    page.set_input_files("#files", files(("cat.jpg", JPEG)))
    card, value = card_of(page), page.locator("#value")
    expect(card.locator(".facts")).to_contain_text("is pet")
    page.get_by_label("Drop islands, fill holes").uncheck()  # the page cleans at another size than the server
    page.get_by_label("Threshold").fill("0.40")
    choose_edge(page, "Whole")
    expect(value).to_have_text("0.45")
    expect(page.locator("#strip")).to_have_text("With the strip of unsure pixels around the pet.")
    whole = exact_coverage(demo, edge="whole", threshold=0.45, as_is=True)
    assert coverage(card) == pytest.approx(whole, abs=1)
    page.get_by_label("Threshold").fill("0.35")
    choose_edge(page, "Tight")
    expect(value).to_have_text("0.40")
    # The whole mask is cut at the threshold that validation chose, as in the download, not at the slider's.
    tight = exact_coverage(demo, threshold=0.4, as_is=True)
    assert whole - tight > 3
    assert coverage(card) == pytest.approx(tight, abs=1)
    choose_edge(page, "Whole")
    expect(value).to_have_text("0.35")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download mask").click()
    found = Path(download.value.path()).read_bytes()
    assert found == demo.post("mask", JPEG, edge="whole", threshold=0.35, as_is=True).content


def test_masks_can_be_left_uncleaned(page: "Page", demo: Demo) -> None:
    from playwright.sync_api import expect

    page.set_input_files("#files", files(("cat.jpg", JPEG)))
    card = card_of(page)
    expect(card.locator(".facts")).to_contain_text("is pet")
    clean, as_is = exact_coverage(demo), exact_coverage(demo, as_is=True)
    assert abs(clean - as_is) > 2
    assert coverage(card) == pytest.approx(clean, abs=1)
    page.get_by_label("Drop islands, fill holes").uncheck()
    wait_until_drawn(page)
    assert coverage(card) == pytest.approx(as_is, abs=1)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download cut-out").click()
    found = Path(download.value.path()).read_bytes()
    assert found == demo.post("cutout", JPEG, threshold=0.27, as_is=True).content


def test_a_model_with_one_output_has_one_edge(page: "Page", demo: Demo) -> None:
    from playwright.sync_api import expect

    page.set_input_files("#files", files(("cat.jpg", JPEG)))
    page.get_by_label("Model").select_option(OTHER)
    expect(page.get_by_role("radio", name="Whole")).to_be_disabled()
    expect(page.locator("#strip")).to_have_text("This model has one output, and so one edge.")
    expect(card_of(page).locator(".facts")).to_contain_text("is pet")
    page.get_by_label("Threshold").fill(
        "0.10"
    )  # of both masks; otherwise the whole one would limit the tight one
    exact = exact_coverage(demo, model=OTHER, threshold=0.1)
    assert exact - exact_coverage(demo, model=OTHER, threshold=0.45) > 3
    wait_until_drawn(page)
    assert coverage(card_of(page)) == pytest.approx(exact, abs=1)
    page.get_by_label("Model").select_option(KEY)
    expect(page.get_by_role("radio", name="Whole")).to_be_enabled()


def choose_edge(page: "Page", name: str) -> None:
    page.locator("#edges label", has_text=name).click()
    wait_until_drawn(page)


def wait_until_drawn(page: "Page") -> None:
    page.evaluate("() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")


BY_THE_PAGE = """async ({ probability, levels, width, shares, edge, softness }) => {
    const { alphaOf, cleaned, cut } = await import("/masks.js");
    const given = {
        whole: Uint8Array.from(probability.whole), tight: Uint8Array.from(probability.tight)
    };
    const clean = cleaned(given, levels, width, shares);
    const masks = cut(clean, levels);
    return [clean.whole, clean.tight, alphaOf(clean, masks, levels, edge, softness, width)].map(a => [...a]);
}"""


@pytest.mark.parametrize("seed", range(8))
def test_the_page_cleans_and_fades_like_petseg_predict(page: "Page", seed: int) -> None:
    """Smooth noise has islands and holes, also at the frame. Some seeds have a strip, others none."""
    edge = OUTPUTS[seed % 2]
    width, height = 60, 40
    coarse = np.random.default_rng(seed).uniform(0, 1, (9, 12)).astype(np.float32)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    whole = np.rint(np.clip(np.asarray(smooth), 0, 1) * 255)
    greys = np.stack([whole, np.rint(whole * (1 if seed > 5 else 0.9))])
    levels = {"whole": 102.0, "tight": 102.0}  # 0.4
    thresholds: Thresholds = {"whole": 0.4, "tight": 0.4}
    probability = (greys / np.float32(255)).astype(np.float32)
    clean = cleaned(probability, thresholds)
    assert (clean != probability).any()
    alpha = alpha_of(OwnSize(clean, (height, width), thresholds), edge)

    given = {
        "probability": {name: grey.ravel().tolist() for name, grey in zip(OUTPUTS, greys, strict=True)},
        "levels": levels,
        "width": width,
        "shares": {"island": ISLAND, "hole": HOLE},
        "edge": edge,
        "softness": SOFTNESS,
    }
    by_page = np.array(page.evaluate(BY_THE_PAGE, given)).reshape(3, height, width)
    assert np.array_equal(by_page[:2], np.rint(clean * 255))
    assert np.abs(by_page[2] - alpha.astype(int)).max() <= 1


def test_a_cutout_is_downloaded_at_the_size_of_the_photo(page: "Page", demo: Demo) -> None:
    from playwright.sync_api import expect

    page.set_input_files("#files", files(("cat.one.jpg", JPEG)))
    page.get_by_label("Threshold").fill("0.5")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download cut-out").click()
    assert download.value.suggested_filename == "cat.one-cutout.png"
    found = Path(download.value.path()).read_bytes()
    assert np.array_equal(pixels(found), pixels(demo.post("cutout", JPEG, threshold=0.5).content))
    assert pixels(found).shape == (*SIZE[::-1], 4)

    before = page.locator(".facts").inner_text()
    page.get_by_label("Model").select_option(OTHER)
    expect(page.locator(".facts")).to_contain_text("px")
    assert page.locator(".facts").inner_text().partition("%")[0] != before.partition("%")[0]


def test_a_photo_is_drawn_when_it_scrolls_into_view(page: "Page") -> None:
    from playwright.sync_api import expect

    page.set_input_files("#files", files(*((f"{n}.jpg", JPEG) for n in range(16))))
    expect(page.locator("#status")).to_have_text("16 of 16 cut out.")
    first, last = (page.locator("article .facts").nth(n) for n in (0, 15))
    expect(first).to_contain_text("is pet")
    assert "is pet" not in last.inner_text()
    last.scroll_into_view_if_needed()
    expect(last).to_contain_text("is pet")
    coverage = last.inner_text()
    page.get_by_label("Threshold").fill("0.05")
    expect(last).not_to_have_text(coverage)


def test_a_photo_that_is_gone_is_marked(page: "Page", tmp_path: Path) -> None:
    from playwright.sync_api import expect

    photo = tmp_path / "cat.jpg"
    photo.write_bytes(JPEG)
    page.set_input_files("#files", photo)
    expect(page.locator("#status")).to_have_text("1 of 1 cut out.")
    photo.unlink()
    page.get_by_label("Model").select_option(OTHER)
    expect(page.locator("#status")).to_have_text("0 of 1 cut out, 1 refused.")
    expect(card_of(page).get_by_role("alert")).to_contain_text("It can't be read: the file is gone")


def test_photos_can_be_dropped(page: "Page") -> None:
    from playwright.sync_api import expect

    dropped = page.evaluate_handle(
        """base64 => {
            const data = new DataTransfer();
            const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0));
            data.items.add(new File([bytes], "cat.jpg"));
            return data;
        }""",
        base64.b64encode(JPEG).decode(),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    expect(page.locator("#status")).to_have_text("1 of 1 cut out.")


def test_the_page_fits_a_phone_and_dark_mode(page: "Page") -> None:
    from playwright.sync_api import expect

    page.set_viewport_size({"width": 390, "height": 844})
    page.set_input_files("#files", files(("a-cat-with-a-name-of-no-end-" * 4 + ".jpg", JPEG)))
    expect(page.locator("#status")).to_have_text("1 of 1 cut out.")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(paper) != light
    keep(page, "demo-dark-phone")


def keep(page: "Page", name: str) -> None:
    """Save a screenshot of the page if the variable names a folder."""
    if folder := os.environ.get(SCREENSHOTS):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
