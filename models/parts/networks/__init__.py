"""Networks that the models are parameterised by, as equinox modules."""

from ppgen.models.parts.networks.convolutional import ConvolutionalDecoder as ConvolutionalDecoder
from ppgen.models.parts.networks.convolutional import ConvolutionalEncoder as ConvolutionalEncoder
from ppgen.models.parts.networks.deeponet import DeepONet as DeepONet
from ppgen.models.parts.networks.denoising_mlp import DenoisingMLP as DenoisingMLP
from ppgen.models.parts.networks.denoising_unet import DenoisingUNet as DenoisingUNet
from ppgen.models.parts.networks.dual import DualMLP as DualMLP
from ppgen.models.parts.networks.dual import Paired as Paired
from ppgen.models.parts.networks.dual_torus import DualTorus as DualTorus
from ppgen.models.parts.networks.dual_transformer import DualTransformer as DualTransformer
from ppgen.models.parts.networks.fourier import fourier_features as fourier_features
from ppgen.models.parts.networks.gicnet import GICNet as GICNet
from ppgen.models.parts.networks.glimpse import attend as attend
from ppgen.models.parts.networks.glimpse import paint as paint
from ppgen.models.parts.networks.joint_transformer import JointTransformer as JointTransformer
from ppgen.models.parts.networks.kernel_interpolation import (
    KernelInterpolation as KernelInterpolation,
)
from ppgen.models.parts.networks.mlp import DiagonalGaussianMLP as DiagonalGaussianMLP
from ppgen.models.parts.networks.mlp import PixelMLP as PixelMLP
from ppgen.models.parts.networks.mlp import VectorMLP as VectorMLP
from ppgen.models.parts.networks.residual_mlp import ResidualMLP as ResidualMLP
from ppgen.models.parts.networks.time_features import sinusoidal_features as sinusoidal_features
from ppgen.models.parts.networks.transformer import Transformer as Transformer
