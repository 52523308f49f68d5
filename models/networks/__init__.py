"""Networks that the models are parameterised by, as equinox modules."""

from ppgen.models.networks.convolutional import ConvolutionalDecoder as ConvolutionalDecoder
from ppgen.models.networks.convolutional import ConvolutionalEncoder as ConvolutionalEncoder
from ppgen.models.networks.deeponet import DeepONet as DeepONet
from ppgen.models.networks.denoising_mlp import DenoisingMLP as DenoisingMLP
from ppgen.models.networks.denoising_unet import DenoisingUNet as DenoisingUNet
from ppgen.models.networks.dual import DualMLP as DualMLP
from ppgen.models.networks.dual import Paired as Paired
from ppgen.models.networks.dual_torus import DualTorus as DualTorus
from ppgen.models.networks.dual_transformer import DualTransformer as DualTransformer
from ppgen.models.networks.fourier import fourier_features as fourier_features
from ppgen.models.networks.gicnet import GICNet as GICNet
from ppgen.models.networks.glimpse import attend as attend
from ppgen.models.networks.glimpse import paint as paint
from ppgen.models.networks.kernel_interpolation import KernelInterpolation as KernelInterpolation
from ppgen.models.networks.mlp import DiagonalGaussianMLP as DiagonalGaussianMLP
from ppgen.models.networks.mlp import PixelMLP as PixelMLP
from ppgen.models.networks.mlp import VectorMLP as VectorMLP
from ppgen.models.networks.residual_mlp import ResidualMLP as ResidualMLP
from ppgen.models.networks.time_features import sinusoidal_features as sinusoidal_features
from ppgen.models.networks.transformer import Transformer as Transformer
