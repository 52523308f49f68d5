"""Weighted particles: sequential Monte Carlo, annealing, importance sampling."""

from ppgen.inference.particles._annealing import AnnealedSamples as AnnealedSamples
from ppgen.inference.particles._annealing import ais as ais
from ppgen.inference.particles._filtering import conditional_smc as conditional_smc
from ppgen.inference.particles._filtering import fivo as fivo
from ppgen.inference.particles._filtering import smc as smc
from ppgen.inference.particles._kernels import AbstractKernel as AbstractKernel
from ppgen.inference.particles._kernels import HamiltonianMonteCarlo as HamiltonianMonteCarlo
from ppgen.inference.particles._kernels import RandomWalk as RandomWalk
from ppgen.inference.particles._particle_filter import ParticleFilter as ParticleFilter
from ppgen.inference.particles._particle_filter import Trajectory as Trajectory
from ppgen.inference.particles._resampling import MultinomialResampling as MultinomialResampling
from ppgen.inference.particles._resampling import ResidualResampling as ResidualResampling
from ppgen.inference.particles._resampling import SystematicResampling as SystematicResampling
from ppgen.inference.particles._resampling import WithoutScore as WithoutScore
from ppgen.inference.particles._resampling import draw_ancestors as draw_ancestors
from ppgen.inference.particles._weighting import ImportanceSamples as ImportanceSamples
from ppgen.inference.particles._weighting import importance_sampling as importance_sampling
from ppgen.inference.particles._weighting import sir as sir
