"""What people see where there is no terminal."""

import re
from io import StringIO

import pytest
from rich.console import Console

from gristmill.cluster.runtime.progress import Screen


def test_plain_lines_go_to_standard_error_and_the_last_state_stands(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen().bar("generate", 10) as bar:
        bar.update(4, "412 tokens/s")
        bar.update(10, "398 tokens/s")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert "generate: 10/10, 398 tokens/s" in lines[-1]
    assert len(lines) <= 2, "updates in quick succession say one line, and the end one more"


def test_a_total_that_becomes_known_later_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen().bar("select") as bar:
        bar.update(1)
        bar.update(3, total=6)
    assert "select: 3/6" in capsys.readouterr().err.splitlines()[-1]


def test_the_last_state_stands_after_an_error_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="stop"), Screen().bar("train", 5) as bar:
        bar.update(2)
        raise ValueError("stop")
    assert "train: 2/5" in capsys.readouterr().err


def test_a_quiet_screen_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(quiet=True)
    screen.say("hello")
    with screen.bar("generate", 3) as bar:
        bar.update(3)
    assert capsys.readouterr() == ("", "")


def test_brackets_in_a_line_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().say("needs gristmill[models]")
    assert capsys.readouterr().err == "needs gristmill[models]\n"


def test_a_job_s_own_words_for_the_time_left_end_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen().bar("generate", 10) as bar:
        bar.update(0, "", left="time left not known yet")
        bar.update(4, "412 tokens/s", left="4 to 15 min left")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "generate: 0/10, time left not known yet (0 s)",
        "generate: 4/10, 412 tokens/s, 4 to 15 min left (0 s)",
    ]


def drawn(width: int, *updates: tuple[int, str, str | None]) -> list[str]:
    """Return the last picture that a terminal of so many columns shows."""
    screen, file = Screen(), StringIO()
    screen.console = Console(file=file, force_terminal=True, width=width, color_system=None)
    with screen.bar("generate", 160) as bar:
        for done, note, left in updates:
            bar.update(done, note, left=left)
    pictures = re.split(r"\x1b\[\?25[lh]|(?:\r\x1b\[2K(?:\x1b\[1A\x1b\[2K)*)", file.getvalue())
    return next(picture.splitlines() for picture in reversed(pictures) if picture.strip())


NOTE = "37 of 92 drafts kept (40%), 3.1 rows/s, 1,412 tokens/s, 250 running, 120 waiting, 79% cached"


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_the_figures_have_a_line_of_their_own_that_never_wraps(width: int) -> None:
    bar, figures = drawn(width, (37, NOTE, "4 to 15 min left"))
    assert re.search(r"generate .* 37/160 +0:00:00 +4 to 15 min left", bar)
    assert max(len(bar), len(figures)) <= width
    assert figures == f"  {NOTE}" if width > len(NOTE) else figures.endswith("…")


def test_a_job_without_words_of_its_own_shows_the_usual_estimate_and_no_second_line() -> None:
    [bar] = drawn(80, (37, "", None))
    assert "37/160" in bar and bar.endswith("-:--:--")
