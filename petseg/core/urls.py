"""URLs may carry a user, a password or a token; no file, message or page of ours does."""

import re

_URL = re.compile(r"((?:\w[\w+.-]*:)?//)(\S+)")


def without_secrets(text: object) -> str:
    """Return text in which no URL has a user, a password or a query."""
    return _URL.sub(lambda url: url[1] + _public(url[1], url[2]), str(text))


def has_secrets(url: str) -> bool:
    """Tell whether a URL has a user, a password or a query."""
    return without_secrets(url) != url


def _public(scheme: str, rest: str) -> str:
    before, query, _ = rest.partition("?") if scheme.startswith("http") else (rest, "", "")
    if "@" in rest[len(before) :]:  # of a query, or of a password that has a question mark
        return "***"
    _, at, host = before.rpartition("@")  # a password may have an @ too
    return (f"***@{host}" if at else host) + ("?***" if query else "")
