"""Tests of objectives and estimators: an exact oracle, unbiasedness, random programs."""

from __future__ import annotations

import importlib.util as _util

if _util.find_spec("hypothesis") is None:
    raise ImportError(
        "ppgen.testing needs Hypothesis, which is not installed. "
        "Write instead: pip install 'ppgen[testing]'"
    )

from ppgen.testing._families import DISTRIBUTIONS as DISTRIBUTIONS
from ppgen.testing._oracle import exact as exact
from ppgen.testing._pairs import Pair as Pair
from ppgen.testing._pairs import pair as pair
from ppgen.testing._planted import PLANTED as PLANTED
from ppgen.testing._planted import planted as planted
from ppgen.testing._random_programs import RandomProgram as RandomProgram
from ppgen.testing._random_programs import programs as programs
from ppgen.testing._registry import CASES as CASES
from ppgen.testing._registry import Case as Case
from ppgen.testing._registry import Variant as Variant
from ppgen.testing._strategies import ESTIMATORS as ESTIMATORS
from ppgen.testing._strategies import distributions as distributions
from ppgen.testing._strategies import estimators as estimators
from ppgen.testing._strategies import sound_estimators as sound_estimators
from ppgen.testing._unbiased import Entry as Entry
from ppgen.testing._unbiased import UnderpoweredError as UnderpoweredError
from ppgen.testing._unbiased import assert_unbiased as assert_unbiased
