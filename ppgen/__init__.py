"""Unbiased gradient estimators for any objective written as a NumPyro/JAX program."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError as _PackageNotFoundError
from importlib.metadata import version as _version
from pathlib import Path as _Path
from typing import TYPE_CHECKING

# In a source checkout `models` and `inference` lie beside this folder, in a wheel inside it. Either
# way they are imported as `ppgen.models` and `ppgen.inference`.
_checkout = _Path(__file__).resolve().parent.parent
if not (_Path(__file__).parent / "models").is_dir() and (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))

try:
    __version__ = _version("ppgen")
except _PackageNotFoundError:  # a checkout on sys.path that nobody installed
    __version__ = "0+unknown"

from ppgen._lazy import export_lazily as _export_lazily
from ppgen._xla_flags import without_wrong_fusions as _without_wrong_fusions

_without_wrong_fusions()

if TYPE_CHECKING:
    from ppgen._distributions.wrappers import plain as plain
    from ppgen._expectation import expectation as expectation
    from ppgen._programs.analytic_kl import analytic_kl as analytic_kl
    from ppgen._programs.baseline_loss import baseline_loss as baseline_loss
    from ppgen._programs.black_box import black_box as black_box
    from ppgen._programs.curate import curate as curate
    from ppgen._programs.debias import Debiased as Debiased
    from ppgen._programs.debias import debias as debias
    from ppgen._programs.functional import functional as functional
    from ppgen._programs.functional import init_params as init_params
    from ppgen._programs.functional import init_state as init_state
    from ppgen._programs.importance import Importance as Importance
    from ppgen._programs.importance import importance as importance
    from ppgen._programs.marginal import marginal as marginal
    from ppgen._programs.normalize import normalize as normalize
    from ppgen._programs.seed import seed as seed
    from ppgen._programs.simulate import Trace as Trace
    from ppgen._programs.simulate import assess as assess
    from ppgen._programs.simulate import log_density as log_density
    from ppgen._programs.simulate import simulate as simulate
    from ppgen._programs.tilt import tilt as tilt
    from ppgen._programs.with_estimators import with_estimators as with_estimators
    from ppgen._reports.audit import audit as audit
    from ppgen._reports.audit_report import AuditReport as AuditReport
    from ppgen._reports.check import check as check
    from ppgen._reports.decay import Decay as Decay
    from ppgen._reports.decay import decay as decay
    from ppgen._reports.first_nonfinite import NonFinite as NonFinite
    from ppgen._reports.first_nonfinite import first_nonfinite as first_nonfinite
    from ppgen._reports.tune import tune as tune
    from ppgen._reports.tune_report import Tuned as Tuned
    from ppgen._reports.variance import variance as variance
    from ppgen._sampling.implicit import implicit as implicit
    from ppgen._staging.assume_continuous import assume_continuous as assume_continuous
    from ppgen._staging.draw import draw as draw
    from ppgen._staging.mutable_state import with_state as with_state
    from ppgen.errors import PpgenError as PpgenError
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

_export_lazily(__name__, star=True)
