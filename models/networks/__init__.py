"""Networks that the models are parameterised by, as equinox modules."""

from ppgen.models.networks.denoising_mlp import DenoisingMLP as DenoisingMLP
from ppgen.models.networks.denoising_unet import DenoisingUNet as DenoisingUNet
from ppgen.models.networks.glimpse import attend as attend
from ppgen.models.networks.glimpse import paint as paint
from ppgen.models.networks.mlp import DiagonalGaussianMLP as DiagonalGaussianMLP
from ppgen.models.networks.mlp import PixelMLP as PixelMLP
from ppgen.models.networks.time_features import sinusoidal_features as sinusoidal_features
