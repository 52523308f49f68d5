"""Generative flow networks: policies over finite graphs that make objects as programs."""

from ppgen.inference.gflownets._adapt import adapt as adapt
from ppgen.inference.gflownets._balance import balance as balance
from ppgen.inference.gflownets._balance import imbalance as imbalance
from ppgen.inference.gflownets._dags import AbstractDag as AbstractDag
from ppgen.inference.gflownets._dags import AbstractListedDag as AbstractListedDag
from ppgen.inference.gflownets._errors import DagError as DagError
from ppgen.inference.gflownets._exact import optimal_log_flows as optimal_log_flows
from ppgen.inference.gflownets._exact import target_law as target_law
from ppgen.inference.gflownets._exact import terminal_law as terminal_law
from ppgen.inference.gflownets._grids import Hypergrid as Hypergrid
from ppgen.inference.gflownets._grids import Point as Point
from ppgen.inference.gflownets._order import nondominated as nondominated
from ppgen.inference.gflownets._order import order_loss as order_loss
from ppgen.inference.gflownets._policies import Policy as Policy
from ppgen.inference.gflownets._policies import epsilon_uniform as epsilon_uniform
from ppgen.inference.gflownets._policies import forward_looking as forward_looking
from ppgen.inference.gflownets._strings import Strings as Strings
from ppgen.inference.gflownets._strings import Text as Text
from ppgen.inference.gflownets._subsets import Subsets as Subsets
from ppgen.inference.gflownets._tables import TableDag as TableDag
from ppgen.inference.gflownets._walks import Route as Route
from ppgen.inference.gflownets._walks import Walk as Walk
from ppgen.inference.gflownets._walks import backward_walk as backward_walk
from ppgen.inference.gflownets._walks import walk as walk
