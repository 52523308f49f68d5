"""Every error that ppgen raises on purpose, to catch by kind: subclasses of `PpgenError`."""

from ppgen._errors import BiasedEstimatorError as BiasedEstimatorError
from ppgen._errors import ChoiceMismatchError as ChoiceMismatchError
from ppgen._errors import ControlFlowError as ControlFlowError
from ppgen._errors import CostError as CostError
from ppgen._errors import DensityError as DensityError
from ppgen._errors import DerivativeError as DerivativeError
from ppgen._errors import DiscontinuityError as DiscontinuityError
from ppgen._errors import EstimatorError as EstimatorError
from ppgen._errors import PpgenError as PpgenError
from ppgen._errors import SiteError as SiteError
