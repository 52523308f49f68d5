"""Fitting: `fit`, its data, its steps, its checkpoints."""

from ppgen.inference.fitting._checkpoint_store import Checkpoints as Checkpoints
from ppgen.inference.fitting._early_stopping import EarlyStopping as EarlyStopping
from ppgen.inference.fitting._fit import Fitted as Fitted
from ppgen.inference.fitting._fit import Progress as Progress
from ppgen.inference.fitting._fit import fit as fit
from ppgen.inference.fitting._load_fitted import load_fitted as load_fitted
from ppgen.inference.fitting._loggers import AbstractLogger as AbstractLogger
from ppgen.inference.fitting._loggers import CSVLogger as CSVLogger
from ppgen.inference.fitting._loggers import TensorBoardLogger as TensorBoardLogger
from ppgen.inference.fitting._loggers import WandbLogger as WandbLogger
from ppgen.inference.fitting._loop import FitError as FitError
from ppgen.inference.fitting._saved_trees import CheckpointError as CheckpointError
from ppgen.inference.fitting._saved_trees import load_checkpoint as load_checkpoint
from ppgen.inference.fitting._saved_trees import save_checkpoint as save_checkpoint
from ppgen.inference.fitting._streams import DataError as DataError
