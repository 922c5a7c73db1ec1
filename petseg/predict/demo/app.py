"""The API of the demo page, and its limits.

``GET /api/models``        the networks, and which one to begin with
``POST /api/probability``  a photo's file, and ``model``: what the page needs to show it at any threshold
``POST /api/mask``, ``/api/cutout``  a photo's file, ``model``, ``threshold``, ``edge`` and ``as_is``: a PNG
    in the photo's own size, with the pixels that ``petseg predict`` writes with these options

Nothing is stored: for a download, the page sends the photo again.
"""

import asyncio
import io
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from PIL import Image, ImageOps

from petseg.core.loopback import WITHOUT_BODY, App, Gate, Limits, Message, Receive, Refused, Send
from petseg.core.textfiles import printable, with_texts, without_nan
from petseg.data.images import decode_photo
from petseg.errors import BadImage, PetsegError, UsageError
from petseg.models.masking import HOLE, ISLAND
from petseg.models.predictor import OwnSize, at_own_size
from petseg.params import OUTPUTS, Edge
from petseg.predict.cutting import found_in, highest_of, mask_of, why_empty
from petseg.predict.demo.models import Models
from petseg.predict.load import Model
from petseg.predict.pictures import SOFTNESS, Cutout, alpha_of, colour_profile
from petseg.predict.png import Picture, write_png

MAX_BYTES = 20_000_000  # of a photo's file
MAX_REQUESTS = 4  # whose photos are in memory at once; they are worked on one by one
PER_MINUTE = 300  # photos
SENDING_S = 30  # within which a photo has to arrive
VIEW_PX = 1600  # the longer side of a photo on the page

_HERE = Path(__file__).parent
_ASSETS = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js", "/masks.js": "masks.js"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_JPEG_QUALITY = 85
LIMITS = Limits(
    max_bytes=MAX_BYTES,
    max_requests=MAX_REQUESTS,
    sending_s=SENDING_S,
    foreign_host=Refused(403, "a foreign host name; the page is served to this machine alone"),
    foreign_page=Refused(403, "a foreign page; only the page that is served here may ask"),
    too_large=Refused(413, f"the file has more than {MAX_BYTES / 1e6:.0f} MB"),
    busy=Refused(503, "busy with other photos; try this one again"),
    late=Refused(408, f"the photo did not arrive within {SENDING_S} s"),
)

Result = TypeVar("Result")


class DemoGate(Gate):
    """The ASGI application in front of FastAPI's: it limits who may ask, how much at once, and how often."""

    def __init__(self, app: App) -> None:
        super().__init__(app, LIMITS)
        self._rate = Rate(PER_MINUTE, 60)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, and add the headers that every answer has."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
            await send(message)

        await super().__call__(scope, receive, send_with_headers)

    def too_much(self, scope: Message, headers: dict[str, str]) -> Refused | None:
        """Return why a photo is refused: there is no room for it, or too many came lately; else None."""
        refusal = super().too_much(scope, headers)
        if refusal or scope["method"] in WITHOUT_BODY or self._rate.allows(time.monotonic()):
            return refusal
        return Refused(429, f"more than {PER_MINUTE} photos in a minute; try this one again later")


class Rate:
    """A limit on how many requests may come within some seconds.

    Args:
        most: how many are allowed.
        seconds: within how many seconds.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._times: deque[float] = deque()

    def allows(self, now: float) -> bool:
        """Return whether one more is allowed, and count it if so."""
        while self._times and self._times[0] <= now - self._seconds:
            self._times.popleft()
        allowed = len(self._times) < self._most
        if allowed:
            self._times.append(now)
        return allowed


class Worker:
    """Works on photos one by one, because each takes hundreds of MB of memory.

    Args:
        models: the networks that the page offers.
    """

    def __init__(self, models: Models) -> None:
        self._models, self._pool = models, ThreadPoolExecutor(1)

    async def work(
        self, request: Request, function: Callable[[Image.Image, Model], Result], key: str
    ) -> Result:
        """Return the result of a function for the photo in a request and the model with this key.

        Raises:
            Refused: the photo can't be used, or there is no such model.
        """
        body = (await request.receive())["body"]  # the gate passes it on whole

        def call() -> Result:
            model = self._models.get(key)
            return function(decode_photo(body), model)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call)
        except BadImage as error:
            raise Refused(400, str(error)) from None
        except UsageError as error:
            raise Refused(404, str(error)) from None
        except PetsegError as error:
            raise Refused(500, str(error)) from None


def make_app(models: Models) -> App:
    """Return the ASGI application.

    Args:
        models: the networks that the page offers.
    """
    app, worker = FastAPI(openapi_url=None), Worker(models)
    for path, name in _ASSETS.items():
        app.api_route(path, methods=["GET", "HEAD"])(_serving(_HERE / name))

    @app.get("/api/models")
    def list_models() -> JSONResponse:
        offers = [asdict(offer) for offer in models.offers()]
        payload: dict[str, Any] = {"models": offers, "first": models.first_key}
        payload |= {"softness": SOFTNESS, "island": ISLAND, "hole": HOLE}
        return JSONResponse(with_texts(without_nan(payload), printable))

    @app.post("/api/probability")
    async def probability(request: Request, model: str) -> JSONResponse:
        return JSONResponse(await worker.work(request, _shown, model))

    @app.post("/api/{kind}")
    async def download(
        request: Request,
        kind: Literal["mask", "cutout"],
        model: str | None = None,
        threshold: Annotated[float | None, Query(gt=0, le=1)] = None,
        edge: Edge = "tight",
        as_is: bool = False,
    ) -> Response:
        drawn = partial(_picture, kind=kind, edge=edge, threshold=threshold, as_is=as_is)
        key = model or models.first_key
        return Response(await worker.work(request, drawn, key), media_type="image/png")

    @app.exception_handler(Refused)
    def refused(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"error": error.line}, error.status)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        mistakes = (f"{mistake['loc'][-1]}: {mistake['msg']}" for mistake in error.errors())
        return refused(request, Refused(422, "; ".join(mistakes)))

    return DemoGate(app)


def _serving(file: Path) -> Callable[[], FileResponse]:
    def asset() -> FileResponse:
        return FileResponse(file)

    return asset


def _shown(photo: Image.Image, model: Model) -> dict[str, Any]:
    """Return what the page needs to show a photo at any thresholds."""
    started = time.perf_counter()
    small = model.predictor.probability_of(photo)
    shown = photo if max(photo.size) <= VIEW_PX else ImageOps.contain(photo, (VIEW_PX, VIEW_PX))
    own = OwnSize(small, (shown.height, shown.width), model.thresholds)
    probability = at_own_size(small, own.shape)
    greys = np.rint(probability * 255).astype(np.uint8)
    return {
        "width": photo.width,
        "height": photo.height,
        "photo": _url("jpeg", _jpeg(shown, colour_profile(photo))),
        "probability": {
            edge: _url("png", _png(Image.fromarray(grey))) for edge, grey in zip(OUTPUTS, greys, strict=True)
        },
        "thresholds": model.thresholds,
        "empty": {edge: _why_empty(own, edge) for edge in OUTPUTS},
        "seconds": time.perf_counter() - started,
    }


def _why_empty(own: OwnSize, edge: Edge) -> dict[str, Any]:
    """Return what the page needs to explain an empty mask."""
    limit, highest = highest_of(own, edge)
    return {"limit": limit, "highest": highest, "why": why_empty(own, edge)}


def _picture(
    photo: Image.Image, model: Model, kind: str, edge: Edge, threshold: float | None, *, as_is: bool
) -> bytes:
    """Return a photo's mask or cut-out, as a PNG in the photo's own size."""
    model = model.shown_as(edge, threshold)
    found = found_in(photo, model, clean=not as_is)
    if kind == "mask":
        return _png(Image.fromarray(mask_of(found.own, edge)))
    return _png(Cutout(photo, alpha_of(found.own, edge)), colour_profile(photo))


def _url(form: str, content: bytes) -> str:
    return f"data:image/{form};base64,{b64encode(content).decode()}"


def _png(picture: Picture, profile: bytes | None = None) -> bytes:
    file = io.BytesIO()
    write_png(file, picture, profile)
    return file.getvalue()


def _jpeg(picture: Image.Image, profile: bytes | None) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_JPEG_QUALITY, icc_profile=profile)
    return file.getvalue()
