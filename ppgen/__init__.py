"""Unbiased gradient estimators for any objective written as a NumPyro/JAX program."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError as _PackageNotFoundError
from importlib.metadata import version as _version
from pathlib import Path as _Path

# In a source checkout `models` and `inference` lie beside this folder, in a wheel inside it. Either
# way they are imported as `ppgen.models` and `ppgen.inference`.
_checkout = _Path(__file__).resolve().parent.parent
if not (_Path(__file__).parent / "models").is_dir() and (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))

try:
    __version__ = _version("ppgen")
except _PackageNotFoundError:  # a checkout on sys.path that nobody installed
    __version__ = "0+unknown"

from ppgen._analytic_kl import analytic_kl as analytic_kl
from ppgen._baseline_loss import baseline_loss as baseline_loss
from ppgen._black_box import black_box as black_box
from ppgen._check import check as check
from ppgen._choose import draw as draw
from ppgen._curate import curate as curate
from ppgen._distributions import plain as plain
from ppgen._errors import PpgenError as PpgenError
from ppgen._expectation import expectation as expectation
from ppgen._expectation import seed as seed
from ppgen._functional import functional as functional
from ppgen._functional import init_params as init_params
from ppgen._functional import init_state as init_state
from ppgen._implicit import implicit as implicit
from ppgen._importance import Importance as Importance
from ppgen._importance import importance as importance
from ppgen._marginal import marginal as marginal
from ppgen._nonfinite import NonFinite as NonFinite
from ppgen._nonfinite import first_nonfinite as first_nonfinite
from ppgen._normalize import normalize as normalize
from ppgen._programs import Trace as Trace
from ppgen._programs import assess as assess
from ppgen._programs import log_density as log_density
from ppgen._programs import simulate as simulate
from ppgen._state import with_state as with_state
from ppgen._tilt import tilt as tilt
from ppgen._variance import variance as variance
from ppgen._with_estimators import with_estimators as with_estimators
from ppgen.estimators import ARM as ARM
from ppgen.estimators import REBAR as REBAR
from ppgen.estimators import RELAX as RELAX
from ppgen.estimators import AbstractEstimator as AbstractEstimator
from ppgen.estimators import Antithetic as Antithetic
from ppgen.estimators import ControlVariate as ControlVariate
from ppgen.estimators import DisARM as DisARM
from ppgen.estimators import Enumerate as Enumerate
from ppgen.estimators import GumbelSoftmax as GumbelSoftmax
from ppgen.estimators import LeaveOneOut as LeaveOneOut
from ppgen.estimators import MeasureValued as MeasureValued
from ppgen.estimators import MovingAverage as MovingAverage
from ppgen.estimators import Points as Points
from ppgen.estimators import QuasiMonteCarlo as QuasiMonteCarlo
from ppgen.estimators import Reparameterize as Reparameterize
from ppgen.estimators import ScoreFunction as ScoreFunction
from ppgen.estimators import StraightThrough as StraightThrough
from ppgen.estimators import Taylor as Taylor
from ppgen.estimators import UnorderedSet as UnorderedSet
