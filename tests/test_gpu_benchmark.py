"""The benchmark for accelerators runs on a CPU, whole."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "gpu.py"


@pytest.mark.long
def test_the_small_sizes(tmp_path):
    page = tmp_path / "gpu.md"
    command = [sys.executable, str(BENCHMARK), "--small", "--repetitions", "3", "--out", str(page)]
    subprocess.run(command, check=True, capture_output=True)
    text = page.read_text()
    for task in ("VAE", "cone", "HMM", "mixture", "IWELBO", "bfloat16", "`fit`"):
        assert task in text
    ratios = [float(r) for r in re.findall(r"\*\*(\d+\.\d+)\*\*", text)]
    assert len(ratios) == 14 and all(r > 0 for r in ratios)
    assert "did not begin" not in text


def test_what_takes_too_long_is_left_out_and_said(tmp_path):
    page = tmp_path / "gpu.md"
    command = [sys.executable, str(BENCHMARK), "--small", "--minutes", "0", "--out", str(page)]
    subprocess.run(command, check=True, capture_output=True)
    assert "6 tasks did not begin within 0 minutes" in page.read_text()
