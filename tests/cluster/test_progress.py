"""What people see where there is no terminal."""

import pytest

from cluster.progress import Screen


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
