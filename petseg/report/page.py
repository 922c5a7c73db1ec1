"""Puts the report page together as one file."""

import base64
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from petseg.core.textfiles import printable, with_texts, without_nan
from petseg.report.content import content, evenly, gallery_photo
from petseg.report.results import Results
from petseg.store.run import StoredRun

LIMIT_BYTES = 5_000_000
_SPARE_BYTES = 20_000
_HERE = Path(__file__).parent


def report(results: Results, run: StoredRun | None, limit_bytes: int = LIMIT_BYTES) -> bytes:
    """Return the page, which loads no other file.

    Its gallery has as many test photos as fit, evenly chosen by their rank in Dice.

    Args:
        results: the results of a training and its evaluation.
        run: the run that trained the model; None if the store does not have it.
        limit_bytes: the page is smaller than this.
    """
    values = content(results, run)
    room = limit_bytes - _SPARE_BYTES - len(_filled(values | {"gallery": []}))
    return _filled(values | {"gallery": _gallery(results, room)})


def _gallery(results: Results, room: int) -> list[dict[str, Any]]:
    """Return test photos, the best first, that take no more than ``room`` bytes as JSON."""
    undefined = results.table.index[results.table["dice"].isna()]
    places = [*results.ranked(), *undefined]
    photo = cache(lambda place: gallery_photo(results, place))
    size = cache(lambda place: len(_json(photo(place))) + 1)
    some = [size(places[i]) for i in evenly(len(places), 60)]
    count = min(len(places), int(1.02 * room * len(some) / max(1, sum(some))))
    while count > 0:
        chosen = [places[i] for i in evenly(len(places), count)]
        if sum(map(size, chosen)) <= room:
            return [photo(place) for place in chosen]
        count = int(0.98 * count)
    return []


def _filled(values: dict[str, Any]) -> bytes:
    script = _asset("charts.js") + _asset("page.js")
    style = _asset("page.css")
    policy = f"default-src 'none'; img-src data:; style-src {_allowed(style)}; script-src {_allowed(script)}"
    parts = {"policy": policy, "style": style, "data": _json(values), "script": script}
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("page.html"))
    return page.encode()


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _allowed(text: str) -> str:
    """Return the name of an inline script or style in a content security policy, which allows no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(values: object) -> str:
    """Return JSON in ASCII, with printable text only; nothing in it ends the script element around it."""
    text = json.dumps(with_texts(without_nan(values), printable), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
