from codistill.watch.printable import LONGEST_TEXT, printable


def test_nothing_that_moves_a_cursor_or_turns_a_line_round_is_left():
    hostile = "a\x1b[2J\x1b]0;title\x07b\r\nc\td\x9b31m \u202ee\u2066 \x00 \ud800"
    shown = printable(hostile)
    assert shown.isprintable()
    assert shown == "a?[2J?]0;title?b c d?31m ?e? ? ?"


def test_plain_text_of_any_language_stays():
    assert printable("weight \u00e9\u4e16") == "weight \u00e9\u4e16"


def test_a_long_text_is_cut():
    assert printable("x" * LONGEST_TEXT) == "x" * LONGEST_TEXT
    cut = printable("x" * 10**6)
    assert len(cut) == LONGEST_TEXT
    assert cut.endswith("...")
