"""URLs may carry a user, a password or a token; no file, message or page of ours does."""

import re

_URL = re.compile(r"((?:[a-z][a-z0-9+.-]+:[/\\]+)|//)(\S+)", re.IGNORECASE)  # http:/host is meant as one too
_USER = re.compile(r"[^/\s]+:[^/\s]*@")  # and user:password@host


def without_secrets(text: object) -> str:
    """Return text in which no URL has a user, a password or a query."""
    return _URL.sub(lambda url: url[1] + _public(url[1], url[2]), str(text))


def public_url(value: str) -> str:
    """Return a setting, which may be a path; if it is a URL, without user, password and query."""
    joined = "%20".join(value.split())
    shown = _USER.sub("***@", without_secrets(joined))
    return value if shown == joined else shown


def has_secrets(value: str) -> bool:
    """Tell whether a setting is a URL that has a user, a password or a query."""
    return public_url(value) != value


def _public(scheme: str, rest: str) -> str:
    before, query, _ = rest.partition("?") if scheme.lower().startswith("http") else (rest, "", "")
    if "@" in rest[len(before) :]:  # of a query, or of a password that has a question mark
        return "***"
    _, at, host = before.rpartition("@")  # a password may have an @ too
    return (f"***@{host}" if at else host) + ("?***" if query else "")
