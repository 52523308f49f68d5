"""The printer of tables."""

from __future__ import annotations

import subprocess
import sys

from ppgen._reports.table import WIDTH, table


def test_numbers_are_aligned_at_their_ends():
    rows = [["a", "1.5", "nats"], ["longer", "-20.25", "bits"]]
    lines = table(["what", "figure", "unit"], rows, what="figures", right=[1])
    assert lines == [
        "what    figure  unit",
        "────────────────────",
        "a          1.5  nats",
        "longer  -20.25  bits",
    ]


def test_a_last_column_of_numbers():
    lines = table(["", "nats"], [["elbo", "-1.0 ± 0.1"], ["", ""]], what="figures", right=[1])
    assert lines[0].endswith("nats") and len(lines[0]) == len(lines[1]) == len(lines[2])
    assert lines[3] == ""


def test_what_is_wide_or_long_is_shortened():
    rows = [[f"{i}", "name " * 20, "text " * 30] for i in range(40)]
    lines = table(["number", "name", "text"], rows, what="rows", right=[0])
    assert max(map(len, lines)) <= WIDTH
    assert "… 17 more rows …" in lines
    numbers = [line[:6].strip() for line in lines[2:] if line[:6].strip().isdigit()]
    assert numbers == [*map(str, range(20)), "37", "38", "39"]


def test_the_printer_needs_no_jax():
    program = "import sys, ppgen._reports.table; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
