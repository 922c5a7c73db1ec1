import pytest
from rich.console import Console

from petseg.core.terminal import cell, print_lines

HOSTILE = "a\x1b[31mb\x07\r\u202ec\u2066\u200f\u2028\x85\x9b\ud800\ne"


def test_a_printed_line_has_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines(HOSTILE, "next")
    print_lines(HOSTILE, err=True)
    out, err = capsys.readouterr()
    line = r"a\x1b[31mb\x07\r\u202ec\u2066\u200f\u2028\x85\x9b\ud800\ne"
    assert out == f"{line}\nnext\n"
    assert err == f"{line}\n"


def test_a_table_cell_has_no_markup_and_no_control_characters() -> None:
    console = Console(width=200, no_color=True)
    with console.capture() as captured:
        console.print(cell(f"[bold]{HOSTILE}[/bold]"), soft_wrap=True)
    assert captured.get().strip().startswith(r"[bold]a\x1b[31mb")
    assert all(letter.isprintable() for letter in captured.get().rstrip("\n"))
