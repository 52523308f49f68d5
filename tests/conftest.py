"""Settings that have to be there before JAX is, and what makes many small programs cheap."""

import gc
import os

import memory
import pytest
from tiers import MARKERS, NEVER_QUICK, never_quick, sort_into_tiers
from type_checks import check_types

# Small programs, many of them: the tests spend most of their time on machine code that runs once.
# So LLVM does not optimise; there is no MLIR context for each fused loop (an option of jaxlib 0.10,
# ignored where it is gone); and one module instead of 32 with copies of what they share. FLOPs do
# not change, nor does what is staged; which operations are fused does.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
).strip()

# One thread for what XLA computes: a worker of pytest-xdist has one core. With as many threads as
# there are calls of LAPACK at once, in jaxlib 0.10, they wait for each other, for ever.
os.environ["NPROC"] = "1"

check_types("ppgen", but=["ppgen.inference", "ppgen.models"])


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    # Before pytest leaves out what `-m` does not choose.
    sort_into_tiers(items)
    config.stash[NEVER_QUICK] = never_quick(items)


def pytest_collection_finish():
    # The modules of JAX and its kin stay: without this, the collector looks through all of them
    # again and again while programs are traced.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    result = yield
    memory.keep_below(2.0)
    return result
