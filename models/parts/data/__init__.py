"""Data: images with a fixed held-out part; mixtures, energies, molecules and scenes."""

from typing import TYPE_CHECKING

from ppgen._lazy import export_lazily as _export_lazily

if TYPE_CHECKING:
    from ppgen.inference import DataError as DataError
    from ppgen.models.parts.data.choice import images_or_digits as images_or_digits
    from ppgen.models.parts.data.digits import load_digits as load_digits
    from ppgen.models.parts.data.files import load_images as load_images
    from ppgen.models.parts.data.fingerprints import fingerprint as fingerprint
    from ppgen.models.parts.data.images import Images as Images
    from ppgen.models.parts.data.images import centred as centred
    from ppgen.models.parts.data.images import split as split
    from ppgen.models.parts.data.ising import Ising as Ising
    from ppgen.models.parts.data.ising import sample_ising as sample_ising
    from ppgen.models.parts.data.labels import Labelled as Labelled
    from ppgen.models.parts.data.labels import LabelledImages as LabelledImages
    from ppgen.models.parts.data.labels import datum_and_label as datum_and_label
    from ppgen.models.parts.data.labels import labelled as labelled
    from ppgen.models.parts.data.labels import labels_of_samples as labels_of_samples
    from ppgen.models.parts.data.labels import with_label as with_label
    from ppgen.models.parts.data.labels import within_labels as within_labels
    from ppgen.models.parts.data.mixtures import GaussianMixture as GaussianMixture
    from ppgen.models.parts.data.mnist import load_mnist5k as load_mnist5k
    from ppgen.models.parts.data.molecules import Molecules as Molecules
    from ppgen.models.parts.data.molecules import all_strings as all_strings
    from ppgen.models.parts.data.molecules import molecule_string as molecule_string
    from ppgen.models.parts.data.scenes import Scenes as Scenes
    from ppgen.models.parts.data.scenes import SplitScenes as SplitScenes
    from ppgen.models.parts.data.scenes import draw_scenes as draw_scenes
    from ppgen.models.parts.data.scenes import load_scenes as load_scenes

_export_lazily(__name__)
