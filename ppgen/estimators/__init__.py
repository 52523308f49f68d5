"""Gradient estimators: one class, one file."""

from ppgen.estimators._base import AbstractEstimator as AbstractEstimator
from ppgen.estimators._base import Points as Points
from ppgen.estimators._enumerate import Enumerate as Enumerate
from ppgen.estimators._measure_valued import MeasureValued as MeasureValued
from ppgen.estimators._reparameterize import Reparameterize as Reparameterize
from ppgen.estimators._score_function import LeaveOneOut as LeaveOneOut
from ppgen.estimators._score_function import MovingAverage as MovingAverage
from ppgen.estimators._score_function import ScoreFunction as ScoreFunction
