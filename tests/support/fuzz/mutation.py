"""Mutations of valid samples. They leave enough of a sample intact to get deep into a parser."""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

# Texts of JSON: values of other types, values at the ends of ranges, and invalid ones.
ODD_JSON = (
    *("null", "true", "false", "0", "-1", "1.5", "1e400", "-0.0", "NaN", "-Infinity", "1" + "0" * 400),
    *(
        str(2**63),
        str(-(2**63) - 1),
        "1e-320",
        "[]",
        "{}",
        '""',
        '"x"',
        '"\\ud800"',
        '"\\u0000"',
        '"../../x"',
    ),
    *('"/dev/zero"', '"é\\u202e"', '"' + "x" * 5000 + '"', "[[]]", '{"": null}', '[1, "2", null]', "[" * 200),
    *("[" * 90 + "]" * 90, "{" * 3, '{"a": 1, "a": 2}', "\xff", '"\\u001b]0;x\\u0007"', '"2026-13-45T99:00"'),
)
ODD_TEXTS = (
    *(
        "",
        " ",
        "\0",
        "\n",
        "\r",
        "\t",
        "\ufeff",
        "\u202e",
        "\x1b[31m",
        "é",
        "\u0301",
        "𝒳",
        ",",
        '"',
        "'",
        "\\",
    ),
    *(
        "NaN",
        "inf",
        "1e999",
        "-1",
        "9" * 400,
        "../..",
        "/etc/passwd",
        "~",
        "a" * 70_000,
        "=1+1",
        "null",
        "%s%n",
    ),
)
ODD_YAML = (
    *("&a [*a]", "!!python/object:os.system x", "!!binary aGVsbG8=", "!!set {a}", "!!timestamp 2001-13-45"),
    *(
        "2001-12-14t21:59:43.10-05:00",
        "0o777",
        "0x1F",
        "1_000",
        ".inf",
        ".nan",
        "~",
        "yes",
        "{a: b}",
        "[1, 2]",
    ),
    *(
        "|\n  x",
        ">-\n  y",
        "? a",
        "- b",
        "<<: *a",
        "%TAG ! x",
        "---",
        "...",
        "&x",
        "*x",
        "1:30:00",
        "2026-01-01",
    ),
    *(
        "9" * 5000,
        "0b" + "1" * 70,
        "[" * 2000,
        "{a: " * 400,
        "!<tag:x> 1",
        "\x85",
        "\u2028",
        "@",
        "`",
        "1e400",
    ),
)
_SURPRISES = (
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\0",
    b"\x7f",
    b"\x1b]0;x\x07",
    b"\xe2\x80\xae",
    b"\xef\xbb\xbf",
)


def bytes_of(random: Random, sample: bytes) -> bytes:
    """Flip, overwrite, cut, repeat, insert or exchange some bytes of a sample, a few times."""
    data = bytearray(sample)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8, 30))):
        start = _place(random, len(data))
        length = min(len(data) - start, random.choice((1, 1, 2, 4, 8, 64, 1024)))
        match random.randrange(8):
            case 0 if start < len(data):
                data[start] ^= 1 << random.randrange(8)
            case 1:
                data[start : start + length] = random.randbytes(length)
            case 2:
                del data[start : start + length]
            case 3:
                data[start:start] = data[start : start + length] * random.choice((1, 2, 300))
            case 4:
                data[start:start] = random.choice(_SURPRISES)
            case 5:
                number = random.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1))
                size = random.choice((1, 2, 4, 8))
                data[start : start + size] = (number % 256**size).to_bytes(
                    size, random.choice(("big", "little"))
                )
            case 6:
                other = _place(random, len(data))
                part = data[other : other + length]
                data[start : start + len(part)] = part
            case _:
                if random.random() < 0.2:  # cut rarely, so that most inputs stay long
                    del data[start:]
    return bytes(data)


def _place(random: Random, length: int) -> int:
    """Choose a place, half the time among the first bytes, where formats have their headers."""
    return random.randrange(1 + (min(length, 64) if random.random() < 0.5 else length))


def lines_of(random: Random, sample: bytes, odd: Sequence[str] = ODD_TEXTS) -> bytes:
    """Change lines and cells of a text such as CSV or YAML."""
    lines = sample.decode().split("\n")
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(lines))
        value = random.choice(odd)
        match random.randrange(7):
            case 0:
                lines[at] = value
            case 1:
                lines[at] += value
            case 2:
                lines.insert(at, random.choice(lines))
            case 3:
                del lines[at]
                lines = lines or [""]
            case 4:
                lines[at] = random.choice(("  ", "\t", " ")) + lines[at]
            case 5:
                cells = lines[at].split(",") if "," in lines[at] else lines[at].split(" ")
                cells[random.randrange(len(cells))] = value
                lines[at] = ("," if "," in lines[at] else " ").join(cells)
            case _:
                name, colon, _ = lines[at].partition(": ")
                lines[at] = f"{name}{colon}{value}"
    text = "\n".join(lines).encode(errors="surrogatepass")
    return bytes_of(random, text) if random.random() < 0.2 else text


def json_of(random: Random, sample: bytes) -> bytes:
    """Replace values of a record; remove, rename, repeat and nest its entries."""
    record = json.loads(sample)
    put: list[str] = []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        holders = list(_holders(record))
        if not holders:
            break
        holder = random.choice(holders)
        key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        match random.randrange(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[random.choice((str(key) * 2, "", "é\u202e", "../x", "k" * 300))] = holder.pop(key)
            case 2:
                holder[key] = random.choice(([holder[key]], {str(key): holder[key]}))
            case 3:
                other = random.choice(holders)
                holder[key] = json.loads(json.dumps(other))
            case 4 if isinstance(holder, list):
                holder.extend([holder[key]] * random.choice((1, 50)))
            case _:
                put.append(random.choice(ODD_JSON))
                holder[key] = f"@{len(put) - 1}@"
    text = json.dumps(record)
    for number, value in enumerate(put):
        text = text.replace(f'"@{number}@"', value)
    if random.random() < 0.1:  # an entry twice
        text = text.replace("{", '{"epoch": 1, "epoch": 2, ', 1)
    data = text.encode("latin-1", "replace") if "\xff" in text else text.encode()
    return bytes_of(random, data) if random.random() < 0.15 else data


def _holders(record: Any) -> list[Any]:
    """Return each list and dict of a record that is not empty."""
    found = [record] if isinstance(record, dict | list) and record else []
    inner = record.values() if isinstance(record, dict) else record if isinstance(record, list) else ()
    return found + [holder for each in inner for holder in _holders(each)]


def repaired(random: Random, data: bytes, repair: Callable[[Any], Any]) -> bytes:
    """Bring the hashes of a mutated record up to date half the time, so that parsers read on.

    Args:
        random: decides whether.
        data: a mutated record, which may be no JSON any more.
        repair: returns a record with a valid hash.
    """
    try:
        if random.random() < 0.5:
            return json.dumps(repair(json.loads(data))).encode()
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        pass
    return data
