"""Image data sets with a fixed held-out part, and mixtures of which everything is known."""

from ppgen.models.datasets.digits import load_digits as load_digits
from ppgen.models.datasets.files import load_images as load_images
from ppgen.models.datasets.images import DataError as DataError
from ppgen.models.datasets.images import Images as Images
from ppgen.models.datasets.images import split as split
from ppgen.models.datasets.mixtures import GaussianMixture as GaussianMixture
from ppgen.models.datasets.scenes import Scenes as Scenes
from ppgen.models.datasets.scenes import draw_scenes as draw_scenes
from ppgen.models.datasets.scenes import load_scenes as load_scenes
