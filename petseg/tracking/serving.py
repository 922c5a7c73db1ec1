"""Answers the requests to a served model, in place of MLflow's scoring server.

MLflow's own handler copies an array number by number (a second for a small photo), answers a mistake with the
whole input and a traceback, and has no limits. So POST /invocations is answered here. It checks who may ask
and how much, and answers with masks, or with one line that says what is wrong. MLflow still answers /ping,
/health and /version.
"""

import asyncio
import gc
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
from mlflow.environment_variables import (
    MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT,
    MLFLOW_SERVER_ALLOWED_HOSTS,
    MLFLOW_SERVER_CORS_ALLOWED_ORIGINS,
)
from numpy.typing import NDArray

from petseg.core.loopback import WITHOUT_BODY, App, Gate, Limits, Message, Receive, Refused, Send, answer
from petseg.errors import BadImage

MAX_BYTES = 32_000_000  # of a request; enough for the largest files of a phone's camera, in base64
MAX_PHOTOS = 64  # in a request
MAX_REQUESTS = 8  # whose bodies are held in memory at once

_SERVER = "mlflow.pyfunc.scoring_server.app"
_FORMS = (
    'one of {"inputs": ...}, {"instances": ...}, {"dataframe_split": {"data": [[photo], ...]}} '
    'and {"dataframe_records": [{"image": photo}, ...]}'
)

Masks = NDArray[np.uint8] | list[NDArray[np.uint8]]


def take_over(segment: Callable[[Any, Any], Masks]) -> None:
    """Put ``Front`` before MLflow's scoring server, if that loads the model; otherwise do nothing.

    ``mlflow models serve`` runs ``uvicorn mlflow.pyfunc.scoring_server.app:app``. That module loads the model
    while it is imported, and MLflow has no hook for later. So the module object gets a class whose property
    ``app`` is MLflow's application behind a ``Front``.

    Args:
        segment: maps a request's photos and params to masks; raises BadImage.
    """
    module = sys.modules.get(_SERVER)
    if module is None:
        return

    class Served(ModuleType):
        @property
        def app(self) -> Front:
            return Front(self.__dict__["app"], segment)

    module.__class__ = Served
    # A photo as nested lists has 200,000 objects. While they are parsed, the garbage collector would go
    # through all of torch and mlflow again and again, for three quarters of the time.
    gc.set_threshold(100_000)


class Front(Gate):
    """The ASGI application in front of MLflow's.

    Args:
        app: MLflow's application.
        segment: as for ``take_over``.
    """

    def __init__(self, app: App, segment: Callable[[Any, Any], Masks]) -> None:
        timeout_s = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()
        super().__init__(self._routed, _limits(timeout_s))
        self._mlflow, self._segment = app, segment
        self._worker = ThreadPoolExecutor(1)  # a photo takes every core and much memory, so the next waits

    def refusal(self, scope: Message, headers: dict[str, str]) -> Refused | None:
        """Return why a request is refused, before its body is read; None if it is not."""
        return self.foreign(headers) or _misdirected(scope, headers) or self.too_much(scope, headers)

    async def _routed(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request that the gate lets through."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._mlflow(scope, receive, send)
        body = (await receive())["body"]
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.limits.sending_s):
                answered = await loop.run_in_executor(self._worker, self._answer, body)
        except TimeoutError:
            answered = self.limits.late
        return await answer(send, answered)

    def _answer(self, body: bytes) -> bytes | Refused:
        try:
            return b'{"predictions": %b}' % _as_json(self._segment(*_given(body)))
        except BadImage as error:
            return Refused(400, str(error))
        except Refused as refused:
            return refused


def _limits(timeout_s: float) -> Limits:
    """Return the gate's limits; MLflow's own variables list more hosts and pages that may ask."""
    return Limits(
        max_bytes=MAX_BYTES,
        max_requests=MAX_REQUESTS,
        sending_s=timeout_s,
        foreign_host=Refused(
            403, "a foreign host name; MLFLOW_SERVER_ALLOWED_HOSTS lists more that are served"
        ),
        foreign_page=Refused(
            403, "a foreign page; MLFLOW_SERVER_CORS_ALLOWED_ORIGINS lists more that may ask"
        ),
        too_large=Refused(
            413, f"more than {MAX_BYTES / 1e6:.0f} MB; send photos as files in base64, or fewer"
        ),
        busy=Refused(503, "busy; ask again"),
        late=Refused(504, f"took more than {timeout_s} s"),
        hosts=MLFLOW_SERVER_ALLOWED_HOSTS.get() or "",
        origins=MLFLOW_SERVER_CORS_ALLOWED_ORIGINS.get() or "",
    )


def _misdirected(scope: Message, headers: dict[str, str]) -> Refused | None:
    """Return why a request has a wrong path or content type; requests without a body are left to MLflow."""
    if scope["method"] in WITHOUT_BODY:
        return None
    if (scope["method"], scope["path"]) != ("POST", "/invocations"):
        return Refused(404, "there are POST /invocations and GET /ping, /health, /version")
    kind = headers.get("content-type", "").partition(";")[0]
    if kind.strip().lower() != "application/json":
        return Refused(415, "expected Content-Type: application/json")
    return None


def _given(body: bytes) -> tuple[Any, Any]:
    """Return the photos of a request, which may have any of MLflow's four forms, and its params."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is no JSON: {error}") from None
    try:
        params = request.pop("params", None)
        [(form, value)] = request.items()
        if form == "dataframe_split":
            return [photo for (photo,) in value["data"]], params
        if form == "dataframe_records":
            return [photo for record in value for (photo,) in [record.values()]], params
    except (AttributeError, KeyError, TypeError, ValueError):
        form = None
    if form not in ("inputs", "instances"):
        raise Refused(400, f"expected {_FORMS}")
    return value, params


def _as_json(masks: Masks) -> bytes:
    """Return masks as nested lists in JSON, as json.dumps of ``tolist()`` does, a hundred times as fast."""
    if isinstance(masks, list) or masks.ndim == 3:
        return b"[%b]" % b",".join(map(_as_json, masks))
    height, width = masks.shape
    text = np.full((height, 2 * width + 2), ord(","), np.uint8)  # rows of [0,1,...,0],
    text[:, 0], text[:, -2] = b"[]"
    text[:, 1:-2:2] = masks + ord("0")
    return b"[%b]" % text.tobytes()[:-1]
