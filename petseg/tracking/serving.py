"""What answers a served model's visitors, in place of MLflow's scoring server.

MLflow's own handler copies an array number by number (a second for a small photo), answers a mistake
with all of the input and a traceback, and has no limit on anything. So POST /invocations is answered
here: who may ask, how much, and then a mask, or one line that says what is wrong. /ping, /health and
/version stay MLflow's.
"""

import asyncio
import gc
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from types import ModuleType
from typing import Any

import numpy as np
from mlflow.environment_variables import (
    MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT,
    MLFLOW_SERVER_ALLOWED_HOSTS,
    MLFLOW_SERVER_CORS_ALLOWED_ORIGINS,
)
from numpy.typing import NDArray

from petseg.core.loopback import App, Message, Receive, Refused, Send, headers_of, is_loopback, read_body
from petseg.errors import BadImage

MAX_BYTES = 32_000_000  # of a request: in base64, the file of a phone's largest photos
MAX_PHOTOS = 64  # in a request
MAX_REQUESTS = 8  # whose bodies are held in memory at once

_SERVER = "mlflow.pyfunc.scoring_server.app"
_FORMS = (
    'one of {"inputs": ...}, {"instances": ...}, {"dataframe_split": {"data": [[photo], ...]}} '
    'and {"dataframe_records": [{"image": photo}, ...]}'
)

Masks = NDArray[np.uint8] | list[NDArray[np.uint8]]


def take_over(segment: Callable[[Any], Masks]) -> None:
    """Answer for MLflow's scoring server, if it is what loads the model; otherwise do nothing.

    ``mlflow models serve`` runs ``uvicorn mlflow.pyfunc.scoring_server.app:app``. That module loads
    the model while it is imported, and MLflow has no hook for what comes after; so the module itself
    is given a class in which its ``app`` is seen through ``Front``.

    Args:
        segment: from what a request holds to masks; raises BadImage.
    """
    module = sys.modules.get(_SERVER)
    if module is None:
        return

    class Served(ModuleType):
        @property
        def app(self) -> Front:
            return Front(self.__dict__["app"], segment)

    module.__class__ = Served
    # A photo as nested lists is 200,000 objects, for which the collector would look through all of
    # torch and mlflow again and again: three quarters of the time that parsing takes.
    gc.set_threshold(100_000)


class Front:
    """The ASGI application before MLflow's.

    Args:
        app: MLflow's.
        segment: as of ``take_over``.
    """

    def __init__(self, app: App, segment: Callable[[Any], Masks]) -> None:
        self._app, self._segment = app, segment
        self._worker = ThreadPoolExecutor(1)  # a photo takes every core, and memory; the next one waits
        self._held = 0
        self._timeout_s = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        refusal = self._refusal(scope)
        if refusal is None and scope["method"] != "POST":
            return await self._app(scope, receive, send)
        self._held += refusal is None
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await read_body(receive, 0 if refusal else MAX_BYTES)
                if refusal:
                    raise refusal
                if body is None:
                    raise _too_large()
                loop = asyncio.get_running_loop()
                status, answer = 200, await loop.run_in_executor(self._worker, self._answer, body)
        except TimeoutError:
            status, answer = 504, _as_answer(Refused(504, f"took more than {self._timeout_s} s"))
        except Refused as error:
            status, answer = error.status, _as_answer(error)
        finally:
            self._held -= refusal is None
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})
        return None

    def _refusal(self, scope: Message) -> Refused | None:
        """Judge a request by all but its body."""
        headers = headers_of(scope)
        if not _is_known(headers.get("host", ""), MLFLOW_SERVER_ALLOWED_HOSTS.get()):
            return Refused(403, "a foreign host name; MLFLOW_SERVER_ALLOWED_HOSTS lists more that are served")
        if not _is_known(headers.get("origin", "http://localhost"), MLFLOW_SERVER_CORS_ALLOWED_ORIGINS.get()):
            return Refused(403, "a foreign page; MLFLOW_SERVER_CORS_ALLOWED_ORIGINS lists more that may ask")
        if scope["method"] in ("GET", "HEAD"):
            return None
        if (scope["method"], scope["path"]) != ("POST", "/invocations"):
            return Refused(404, "there are POST /invocations and GET /ping, /health, /version")
        kind = headers.get("content-type", "").partition(";")[0]
        if kind.strip().lower() != "application/json":
            return Refused(415, "expected Content-Type: application/json")
        if int(headers.get("content-length", 0)) > MAX_BYTES:
            return _too_large()
        if self._held >= MAX_REQUESTS:
            return Refused(503, "busy; ask again")
        return None

    def _answer(self, body: bytes) -> bytes:
        try:
            return b'{"predictions": %b}' % _as_json(self._segment(_given(body)))
        except BadImage as error:
            raise Refused(400, str(error)) from None


def _is_known(host_or_origin: str, listed: str | None) -> bool:
    """Tell whether it is of this machine's loopback, or in a list as MLflow's own server takes it."""
    allowed = [pattern.strip() for pattern in (listed or "").split(",")]
    return is_loopback(host_or_origin) or any(
        fnmatch(host_or_origin, pattern) if "*" in pattern else host_or_origin == pattern
        for pattern in filter(None, allowed)
    )


def _too_large() -> Refused:
    return Refused(413, f"more than {MAX_BYTES / 1e6:.0f} MB; send photos as files in base64, or fewer")


def _as_answer(refused: Refused) -> bytes:
    return json.dumps({"error": refused.line}).encode()


def _given(body: bytes) -> Any:
    """Return what a request holds, out of the four forms in which MLflow takes it."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is no JSON: {error}") from None
    try:
        [(form, value)] = request.items()
        if form == "dataframe_split":
            return [photo for (photo,) in value["data"]]
        if form == "dataframe_records":
            return [photo for record in value for (photo,) in [record.values()]]
    except (AttributeError, KeyError, TypeError, ValueError):
        form = None
    if form not in ("inputs", "instances"):
        raise Refused(400, f"expected {_FORMS}")
    return value


def _as_json(masks: Masks) -> bytes:
    """Return nested lists, as json.dumps does of ``tolist()``, a hundred times as fast."""
    if isinstance(masks, list) or masks.ndim == 3:
        return b"[%b]" % b",".join(map(_as_json, masks))
    height, width = masks.shape
    text = np.full((height, 2 * width + 2), ord(","), np.uint8)  # rows of [0,1,...,0],
    text[:, 0], text[:, -2] = b"[]"
    text[:, 1:-2:2] = masks + ord("0")
    return b"[%b]" % text.tobytes()[:-1]
