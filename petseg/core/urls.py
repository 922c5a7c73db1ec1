"""Mask users, passwords and tokens in URLs, so that no file, message or page of petseg shows them."""

import re

_URL = re.compile(r"((?:[a-z][a-z0-9+.-]+:[/\\]+)|//)(\S+)", re.IGNORECASE)  # http:/host counts as one too
_USER = re.compile(r"[^/\s]+:[^/\s]*@")  # user:password@host, without a scheme


def without_secrets(text: object) -> str:
    """Return a text in which the user, the password and the query of each URL are masked."""
    return _URL.sub(lambda url: url[1] + _public(url[1], url[2]), str(text))


def public_url(value: str) -> str:
    """Return a setting; if it is a URL and not a path, its user, password and query are masked."""
    joined = "%20".join(value.split())
    shown = _USER.sub("***@", without_secrets(joined))
    return value if shown == joined else shown


def has_secrets(value: str) -> bool:
    """Return whether a setting is a URL that has a user, a password or a query."""
    return public_url(value) != value


def _public(scheme: str, rest: str) -> str:
    before, query, _ = rest.partition("?") if scheme.lower().startswith("http") else (rest, "", "")
    if "@" in rest[len(before) :]:  # in a query, or in a password with a question mark
        return "***"
    _, at, host = before.rpartition("@")  # a password may hold an @ too
    return (f"***@{host}" if at else host) + ("?***" if query else "")
