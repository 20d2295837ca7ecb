from codistill.cli import output


def test_a_bar_over_all_runs_knows_what_is_ahead(capsys):
    with output.bars({"search of one": 100, "one": 50}) as show:
        show("search of one", 100, 100)
        # A budget has left it more updates than were expected.
        show("one", 20, 60)
        show("search of one", 100, 100)
    # Not on a terminal: what is done is said at once, and once; the bars come at the end.
    said, *lines = capsys.readouterr().err.splitlines()
    assert said == "search of one: 100 updates are done"
    assert lines[0].startswith("all runs")
    assert "120/160" in lines[0]
    assert "20/60" in lines[2]


def test_without_what_is_ahead_each_arm_has_a_bar(capsys):
    with output.bars() as show:
        show("one", 1, 2)
    assert "all runs" not in capsys.readouterr().err
