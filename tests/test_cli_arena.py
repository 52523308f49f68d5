"""`ppgen arena`: what it reads, what it prints, and that bad rows are named by their lines."""

from __future__ import annotations

import json
import random

import matplotlib.image
import numpy as np
import pytest
from cli_runs import assert_one_line, cache, here
from test_ties import simulated

from ppgen.inference import fit_rewards
from ppgen.models.cli import main
from ppgen.models.cli._votes_file import read_votes

NAMES = ["aa", "$b_b$", "cé", "d, d"]
REWARDS = np.array([0.5, 1.0, -1.0, 0.0])


def rows(seed=0, number=400):
    """Cells of votes."""
    won, equal = simulated(REWARDS, 0.7, number, np.random.default_rng(seed))
    named = [[NAMES[i], NAMES[j], NAMES[i]] for i, j in won.tolist()]
    named += [[NAMES[i], NAMES[j], "tie"] for i, j in equal.tolist()]
    turn = random.Random(seed)
    return [[*turn.sample(row[:2], 2), row[2]] for row in turn.sample(named, len(named))]


def write(path, cells):
    lines = [",".join(f'"{cell}"' for cell in row) for row in cells]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def board(capsys, path="votes.csv", *options):
    assert main(["arena", path, "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)["leaderboards"]


def test_the_leaderboard_is_that_of_the_fit(here, capsys):
    write(here / "votes.csv", rows())
    (found,) = board(capsys)
    votes = read_votes(here / "votes.csv")
    fitted = fit_rewards(votes.won, ties=votes.equal)
    order = np.argsort(-fitted.rewards)
    assert votes.names == sorted(NAMES) and fitted.nu > 0
    assert [s["name"] for s in found["systems"]] == [votes.names[i] for i in order]
    assert [s["rank"] for s in found["systems"]] == [1, 2, 3, 4]
    assert [s["ranks"] for s in found["systems"]] == fitted.ranks()[order].tolist()
    for system, item in zip(found["systems"], order, strict=True):
        weights = np.eye(4)[item] - 0.25
        interval = [system[name] for name in ("reward", "low", "high")]
        np.testing.assert_allclose(interval, fitted.interval(weights), rtol=1e-12)
        counts = [np.sum(x == item) for x in (votes.won[:, 0], votes.won[:, 1], votes.equal)]
        assert [system[name] for name in ("wins", "losses", "ties")] == counts
    win, tie = (np.array(found[name]) for name in ("win", "tie"))
    np.testing.assert_allclose(win + win.T + tie, 1.0, rtol=1e-12)
    np.testing.assert_allclose(win, fitted.probabilities()[0][np.ix_(order, order)], rtol=1e-12)
    assert (found["nu"], found["category"]) == (fitted.nu, None)


def test_neither_the_order_of_rows_nor_who_is_named_first_matters(here, capsys):
    cells = rows()
    write(here / "votes.csv", cells)
    shuffled = random.Random(1).sample([[b, a, c] for a, b, c in cells], len(cells))
    write(here / "other.csv", shuffled)
    assert board(capsys) == board(capsys, "other.csv")


def test_a_header_may_name_columns_in_any_order(here, capsys):
    cells = rows()
    write(here / "votes.csv", cells)
    titled = [["Category", "winner", "id", "model_a", "model_b"]]
    for k, (a, b, winner) in enumerate(cells):
        word = {a: "model_a", b: "model_b"}.get(winner, "tie (bothbad)")
        titled.append(["", word, str(k), a, b])
    write(here / "titled.csv", titled)
    write(here / "plain.csv", [["left", "right", "Winner"], *cells])
    (here / "bom.csv").write_text("\ufeff\n" + (here / "plain.csv").read_text() + "\n\n")
    expected = board(capsys)
    for name in ("titled.csv", "plain.csv", "bom.csv"):
        assert board(capsys, name) == expected


def test_categories_have_leaderboards_of_their_own(here, capsys):
    one, other = rows(1), rows(2)
    few = [["aa", "cé", "aa", "zz"], ["aa", "d, d", "tie", "zz"]]
    cells = [[*row, "one"] for row in one] + [[*row, "other"] for row in other] + few + rows(3)
    write(here / "votes.csv", cells)
    whole, first, second, third = board(capsys)
    write(here / "one.csv", one)
    (alone,) = board(capsys, "one.csv")
    assert first | {"category": None} == alone and first["category"] == "one"
    assert second["category"] == "other"
    assert third["category"] == "zz" and "never" in third["error"]
    assert sum(s["wins"] for s in whole["systems"]) > sum(s["wins"] for s in first["systems"])
    assert main(["arena", "votes.csv"]) == 0
    text = capsys.readouterr().out
    assert "one: 400 votes" in text and "zz: the votes do not determine" in text


def test_what_is_printed_and_drawn(here, capsys):
    write(here / "votes.csv", rows())
    for out, start in (("a.png", b"\x89PNG"), ("a.pdf", b"%PDF")):
        assert main(["arena", "votes.csv", "--out", out]) == 0
        assert (here / out).read_bytes().startswith(start)
    assert matplotlib.image.imread(here / "a.png")[..., :3].std() > 0.05
    text = capsys.readouterr().out
    assert "400 votes" in text and "wrote a.pdf" in text
    lines = text.splitlines()
    assert all(any(line.endswith(name) for line in lines) for name in NAMES)
    assert main(["arena", "votes.csv", "--out", "a.png"]) == 2
    assert_one_line(capsys, "a.png exists")


def test_many_systems_are_all_printed(here, capsys):
    names = [f"system {i:02d} with a long name" for i in range(40)]
    circle = [[names[i], names[(i + 1) % 40], names[i]] for i in range(40)]
    write(here / "votes.csv", circle)
    assert main(["arena", "votes.csv", "--out", "a.png", "--robust", "--level", "0.9"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in names) and max(map(len, text.splitlines())) <= 100


def test_a_level_is_that_of_all_intervals(here, capsys):
    write(here / "votes.csv", rows())
    wide, narrow, robust = (
        board(capsys, "votes.csv", *options)[0]["systems"][0]
        for options in (["--level", "0.99"], ["--level", "0.5"], ["--robust"])
    )
    ratio = (wide["high"] - wide["low"]) / (narrow["high"] - narrow["low"])
    np.testing.assert_allclose(ratio, 2.5758293 / 0.6744898, rtol=1e-6)
    assert robust["reward"] == wide["reward"] and robust["low"] != wide["low"]


GOOD = "a,b,a\na,b,b\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "votes.csv has no votes"),
        ("one,other,winner\n", "votes.csv has no votes"),
        (GOOD + "a,b,c\n", "line 3: the winner 'c' is not 'a', 'b' or 'tie'"),
        (GOOD + "\n\na,,a\n", "line 5: a name is missing"),
        (GOOD + "a,a,a\n", "line 3: both systems are 'a'"),
        (GOOD + "a,b\n", "line 3: 3 or 4 cells are expected, not 2"),
        (GOOD + "a,b,\n", "line 3: the winner '' is not"),
        ("a,b,winner\na,b,a,x\n", "line 2: 3 cells are expected, not 4"),
        ("a,b,victor\n" + GOOD, "line 1: the winner 'victor' is not 'a', 'b' or 'tie' (a header"),
        ("a,winner,winner,c\na,b,c,d\n", "line 2: the winner 'c' is not"),
        ("x,winner,y,winner\n", "line 1: two columns are called 'winner'"),
        ("x,winner\n", "line 1: there are no columns of two names"),
        (GOOD + "tie,b,tie\n", "line 3: the winner 'tie' may be more than one thing"),
        ("a,b,winner\nb,a,a\n", "line 2: the winner 'a' may be more than one thing"),
        (GOOD + '"a\nc",b,b\na,b,d\n', "line 5: the winner 'd'"),
        (GOOD + 'a,"b"c,a\n', "line 3: ',' expected after '\"'"),
        (GOOD + "a,b,d\n" * 7, "line 7: the winner 'd' is not 'a', 'b' or 'tie'; and 2 more"),
        ("a,b,a\n" * 3, "items b never won against"),
        ("a,b,a\nb,c,tie\n", "items a never lost to any"),
        ("a,b,a\na,b,tie\n", "no circle of votes has more wins than ties"),
        ("a,b,tie\n", "all votes are ties"),
    ],
)
def test_bad_votes_are_one_line(here, capsys, text, message):
    (here / "votes.csv").write_text(text)
    assert main(["arena", "votes.csv", "--out", "a.png"]) == 2
    assert_one_line(capsys, message)
    assert [path.name for path in here.iterdir()] == ["votes.csv"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--votes"),
        (["missing.csv"], "missing.csv: No such file"),
        (["votes.csv", "--level", "1"], "--level must be between 0 and 1, not 1"),
        (["votes.csv", "--out", "a.npz"], "must end in .png, .pdf or .svg"),
        (["votes.csv", "--out", "no/a.png"], "there is no folder no"),
        (["bytes.csv"], "bytes.csv: line 1: 'utf-8' codec can't decode"),
        (["."], "."),
    ],
)
def test_bad_arguments_are_one_line(here, capsys, options, message):
    (here / "votes.csv").write_text(GOOD)
    (here / "bytes.csv").write_bytes(b"\xff\xfe,b,a\n")
    assert main(["arena", *options]) == 2
    assert_one_line(capsys, message)
    assert not list(here.glob("*.p*"))
