"""Each parser reads a mutated input, or refuses it in one line, within ten seconds and in little memory."""

import os
from pathlib import Path
from random import Random

import pytest

from tests.support.fuzz.parsers import PARSERS
from tests.support.fuzz.records import RECORDS
from tests.support.fuzz.running import LIMIT_MB, Parser, fuzzed, kept, table

INPUTS = 200  # of each parser; make fuzz gives it 10,000
MOST_MB = 2000  # beyond the memory that a process has at the start


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PARSERS, *RECORDS])
def test_a_parser_reads_or_refuses_each_mutated_input(name: str, tmp_path: Path) -> None:
    outcome = fuzzed(name, (PARSERS | RECORDS)[name], INPUTS, seed=0)
    assert kept(outcome, name, tmp_path) == []
    assert outcome.tried == INPUTS
    assert outcome.peak_mb - outcome.start_mb < MOST_MB


def planted(folder: Path) -> Parser:
    """A parser with one mistake of each kind, which it makes at the inputs with these words."""

    def make(random: Random) -> bytes:
        return random.choice((b"ok", b"zero", b"hang", b"exit", b"huge"))

    def parse(data: bytes) -> object:
        match data:
            case b"zero":
                return 1 // 0
            case b"hang":
                while True:
                    pass
            case b"exit":
                os._exit(3)
            case b"huge":
                return bytes(2 * LIMIT_MB << 20)
        raise FileNotFoundError(2, "No such file", "x")  # an error of the system, which counts as a refusal

    return Parser(make, parse)


def test_the_harness_finds_planted_mistakes(tmp_path: Path) -> None:
    outcome = fuzzed("planted", planted, 7, seed=9, limit_s=1)
    assert outcome.tried == 7
    inputs = [planted(tmp_path).make(Random(f"9 planted {number}")) for number in range(7)]
    assert set(inputs) == {b"ok", b"zero", b"hang", b"exit", b"huge"}
    assert [(find.kind, find.data) for find in outcome.finds] == [
        ({b"hang": "hang", b"exit": "crash"}.get(data, "traceback"), data) for data in inputs if data != b"ok"
    ]
    assert outcome.refused == inputs.count(b"ok")
    lines = kept(outcome, "planted", tmp_path / "finds")
    assert len(lines) == 4
    assert sum("ZeroDivisionError" in line for line in lines) == 1
    assert {path.read_bytes() for path in (tmp_path / "finds").iterdir()} == set(inputs) - {b"ok"}
    row = [cell.strip() for cell in list(table({"planted": outcome}))[-1].split("|")]
    assert row[1:7] == [
        "planted", "7", str(inputs.count(b"ok")), str(inputs.count(b"zero") + inputs.count(b"huge")),
        str(inputs.count(b"hang")), str(inputs.count(b"exit")),
    ]  # fmt: skip
