"""NumPyro's effects as equations, made from the messages of a program that is being staged.

The handler that makes them is the outermost one, because handlers run innermost first and
everything the user wrote (plates, masks, conditioning) must come before it.
"""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro import primitives as numpyro_primitives
from numpyro.distributions import Distribution
from numpyro.distributions.distribution import Unit
from numpyro.primitives import Messenger

from ppgen._distributions.edges import is_real_array, mixes_point_masses
from ppgen._distributions.noninvertible import split_one_way
from ppgen._distributions.own_classes import has_own_density
from ppgen._distributions.rebuild import flatten
from ppgen._distributions.supports import range_of, support_of
from ppgen._distributions.wrappers import (
    in_single_precision,
    is_masked,
    split_event,
    split_mask,
)
from ppgen._settings import current
from ppgen._staging.choice import describe_choice, estimator_for, fresh_key
from ppgen._staging.choose import choose
from ppgen._staging.numpyro_control_flow import bind_control_flow, condition_plate, inside
from ppgen._staging.primitives import ChoiceSpec, Plate, SiteSpec, site_p
from ppgen._staging.subsample import Exogenous, GivenIndices, SubsampleIndices
from ppgen._staging.transformed import before
from ppgen._user_lines import user_line
from ppgen.errors import EstimatorError, SiteError


@contextlib.contextmanager
def binding(params: str):
    """Bind every NumPyro effect, also of sites that `handlers.block` hides from outer handlers."""
    binder = _Bind(params)
    default = numpyro_primitives.default_process_message

    def process(msg: dict) -> None:
        binder.process_message(msg, hidden=True)
        default(msg)

    # A blocked message never reaches the outermost handler; NumPyro's default would then ask the
    # distribution for a sample without a key.
    numpyro_primitives.default_process_message = process
    try:
        with binder:
            yield
    finally:
        numpyro_primitives.default_process_message = default


class _Bind(Messenger):
    """Turn each NumPyro message into its primitive."""

    def __init__(self, params: str) -> None:
        super().__init__(None)
        self.params = params
        self.plate_scales: dict[str, float] = {}

    def process_message(self, msg: dict, hidden: bool = False) -> None:
        if msg.get("ppgen"):
            return
        kind = msg["type"]
        if kind == "sample":
            msg["value"] = _bind_hidden(msg) if hidden else _bind_site(msg, self.plate_scales)
        elif kind == "prng_key" and msg["value"] is None:
            msg["value"] = fresh_key()
        elif kind == "plate":
            self.process_plate(msg, hidden)
        elif kind == "control_flow":
            msg["value"] = bind_control_flow(msg, self)
        elif kind == "param" and msg["value"] is None and (self.params == "error" or inside(msg)):
            raise SiteError(
                "numpyro.param has no value here, and would silently keep its initial one",
                site=msg["name"],
                where=user_line(),
                instead="ppgen.functional(program), which takes the parameters as an argument"
                if self.params == "error"
                else "the numpyro.param outside of the scan or cond",
            )
        elif kind == "mutable" and not msg.get("ppgen_state"):
            raise SiteError(
                "numpyro.primitives.mutable has no state here, and its updates would be lost",
                site=msg["name"],
                where=user_line(),
                instead="ppgen.functional(program), which takes the state as an argument, within "
                "ppgen.with_state, which returns the new state; not inside of a scan",
            )
        # The transformation is closed: handlers further out would see values of an inner staging.
        msg["ppgen"] = msg["stop"] = True

    def process_plate(self, msg: dict, hidden: bool) -> None:
        """Draw the indices of a plate, unless they are given or the plate is not subsampled."""
        size, subsample_size = msg["args"]
        if not inside(msg):
            condition_plate(msg, self, hidden)
        given = msg["value"]
        drawn = size if subsample_size is None else subsample_size
        count = drawn if given is None else len(given)
        self.plate_scales[msg["name"]] = size / count if count else 1.0
        if given is None or count != size:
            msg["value"] = _bind_subsample(msg, hidden)


def _bind_site(msg: dict, plate_scales: dict[str, float]) -> Array:
    name, where, infer = msg["name"], user_line(), msg["infer"]
    dist, given = in_single_precision(msg["fn"]), msg["value"]
    if (shape := msg["kwargs"].get("sample_shape", ())) and given is None:
        dist = dist.expand(shape + dist.batch_shape)
    plates = tuple(
        Plate(frame.name, frame.dim, frame.size, plate_scales.get(frame.name, 1.0))
        for frame in reversed(msg["cond_indep_stack"])
    )
    if given is None and mixes_point_masses(dist):
        if not current().densities_asked:
            return _chosen(dist, msg, where)
        _check_density(dist, name, where)
    common = {"where": where, "scale": msg["scale"], "plates": plates}
    asked, auxiliary = infer.get("grad"), bool(infer.get("is_auxiliary", False))
    if given is None and (split := split_one_way(split_mask(dist)[0])) is not None:
        base, finish = split
        _, mask = split_mask(dist)
        masked = (lambda d: d) if mask is None else (lambda d: d.mask(mask))
        x = bind_site(
            masked(base), None, name=f"{name}_base", asked=asked, auxiliary=True, **common
        )
        dist, asked = masked(finish(x)), None
    substituted = given is not None and not msg["is_observed"]
    return bind_site(
        dist,
        given,
        name=name,
        asked=asked,
        auxiliary=auxiliary,
        substituted=substituted,
        **common,
    )


def _bind_hidden(msg: dict) -> Array:
    """A site behind `handlers.block`: its value, and no density."""
    if msg["value"] is not None:
        return jnp.asarray(msg["value"])
    dist = in_single_precision(msg["fn"])
    if shape := msg["kwargs"].get("sample_shape", ()):
        dist = dist.expand(shape + dist.batch_shape)
    if msg.get("ppgen_given_by_name") and current().densities_asked:
        name, where, asked = msg["name"], user_line(), msg["infer"].get("grad")
        return bind_site(dist, None, name=name, where=where, asked=asked, hidden=True)
    return _chosen(dist, msg, user_line())


def _check_density(dist: Distribution, name: str, where: str) -> None:
    """Refuse a mixture with a point mass whose density is not enough."""
    if mixes_point_masses(dist, lambda x: is_real_array(x) and isinstance(x, jax.core.Tracer)):
        raise EstimatorError(
            "a mixture with a point mass has no density with respect to one measure, and that of "
            "points does not show how they move",
            site=name,
            where=where,
            instead="the component as a site of its own, z = numpyro.sample('z', "
            "dist.Categorical(probs)), a site x for what has a density, and "
            "jnp.where(z == 0, point, x)",
        )


def _chosen(dist: Distribution, msg: dict, where: str) -> Array:
    dist, _ = split_mask(dist)
    name, asked = msg["name"], msg["infer"].get("grad")
    estimator = estimator_for(split_event(dist)[0], asked, name=name, where=where)
    return choose(dist, estimator, name=name, where=where)


def bind_site(
    dist: Distribution,
    given: Any,
    *,
    name: str,
    where: str,
    scale: Any = None,
    asked: Any = None,
    auxiliary: bool = False,
    has_density: bool = True,
    fixed: bool = False,
    hidden: bool = False,
    plates: tuple[Plate, ...] = (),
    substituted: bool = False,
) -> Array:
    """Bind one site: its random choice, its density, its observed value, its mask and scale."""
    dist, mask = split_mask(dist)
    has_density = has_density and not hidden
    mask = None if hidden or mask is True else mask  # a mask of True hides nothing
    leaves, density = flatten(dist)
    if given is None:
        estimator = estimator_for(split_event(dist)[0], asked, name=name, where=where)
        choice, inner, rest = describe_choice(dist, estimator, name=name, where=where)
        position = {id(leaf): i for i, leaf in enumerate(leaves)}
        order = tuple(position[id(leaf)] for leaf in inner)
        first = before(dist, estimator, choice, position) if has_density else None
    else:
        value = jnp.asarray(given)
        choice = ChoiceSpec(
            name,
            where,
            density,
            0,
            lambda _: None,
            None,
            value.shape,
            value.dtype,
            dist.batch_shape,
            own_density=has_own_density(dist),
        )
        rest, order, first = [], (), None
    spec = SiteSpec(
        choice=choice,
        order=order,
        density=density if has_density else None,
        num_leaves=len(leaves),
        num_estimator=len(rest),
        observed=given is not None,
        has_mask=mask is not None,
        has_scale=scale is not None,
        masked=mask is not None or is_masked(dist),
        auxiliary=auxiliary and not isinstance(dist, Unit),
        support=support_of(dist),
        within=range_of(dist),
        plates=plates,
        fixed=fixed,
        hidden=hidden,
        before=first,
        substituted=substituted,
    )
    operands = [*leaves, *rest]
    operands += [jnp.asarray(x) for x in (given, mask, scale) if x is not None]
    return site_p.bind(*operands, spec=spec, lanes=(), mapped=((),) * len(operands))


def _bind_subsample(msg: dict, hidden: bool) -> Array:
    """The indices of a subsampled plate: drawn, or a minibatch that is given."""
    size, subsample_size = msg["args"]
    given = msg["value"] is not None
    indices = (
        GivenIndices(jnp.asarray(msg["value"])) if given else SubsampleIndices(size, subsample_size)
    )
    if hidden:
        return choose(indices, Exogenous(), name=msg["name"], where=user_line())
    return bind_site(
        indices,
        None,
        name=msg["name"],
        where=user_line(),
        asked=Exogenous(),
        has_density=False,
        fixed=given,
    )
