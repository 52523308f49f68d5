"""Data: images with a fixed held-out part; mixtures, energies and equations with references."""

from ppgen.models.datasets.burgers import solve_burgers as solve_burgers
from ppgen.models.datasets.cavity import Flow as Flow
from ppgen.models.datasets.cavity import solve_cavity as solve_cavity
from ppgen.models.datasets.digits import load_digits as load_digits
from ppgen.models.datasets.files import load_images as load_images
from ppgen.models.datasets.images import DataError as DataError
from ppgen.models.datasets.images import Images as Images
from ppgen.models.datasets.images import split as split
from ppgen.models.datasets.ising import Ising as Ising
from ppgen.models.datasets.ising import sample_ising as sample_ising
from ppgen.models.datasets.mixtures import GaussianMixture as GaussianMixture
from ppgen.models.datasets.molecules import Molecules as Molecules
from ppgen.models.datasets.molecules import all_strings as all_strings
from ppgen.models.datasets.molecules import molecule_string as molecule_string
from ppgen.models.datasets.poisson import solve_poisson as solve_poisson
from ppgen.models.datasets.scenes import Scenes as Scenes
from ppgen.models.datasets.scenes import draw_scenes as draw_scenes
from ppgen.models.datasets.scenes import load_scenes as load_scenes
