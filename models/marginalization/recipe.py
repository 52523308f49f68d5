"""`ppgen fit marginalization`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from ppgen.models.parts.bounds import Bounds, Count, Number, Weight
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.recipe import AbstractRecipe, Report, Split, Stage
from ppgen.models.parts.training import Training

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Array, Key

    from ppgen.inference import Estimate
    from ppgen.models.marginalization.model import MaM
    from ppgen.models.marginalization.training import Chained, EnergyFit
    from ppgen.models.parts.data import Ising, Molecules

LENGTH = 5
"""Tokens of a molecule."""

HEADS = 4
"""Of the attention of a transformer."""

MARGINALS = 100
"""Parts of vectors whose probabilities are compared."""


@dataclasses.dataclass(frozen=True)
class MarginalizationRecipe(AbstractRecipe):
    """Train a marginalization model, which says how likely any part of a vector is in one pass.

    Digits take two stages: first the conditionals, then the marginals that agree with them.
    """

    task: Literal["digits", "ising", "molecules"] = "digits"
    """Binary digits of 8x8 pixels, by maximum likelihood; an Ising model on a torus, or molecules
    of up to five atoms, by their energy."""
    side: int = 4
    """Height and width of the torus, from 3 to 12: so far the exact answers are known."""
    objective: Literal["published", "importance", "corrected"] = "published"
    """Of an energy: the published heuristic, on what persistent chains draw; its unbiased
    counterpart, with importance weights, on ancestral draws; or the former on chains that are
    corrected to follow the target, which is best for many sites."""
    draws: Annotated[int, Bounds(2)] = 128
    """Draws in a step of an energy, each from a chain of its own unless they are ancestral. Digits
    have --batch-size."""
    erased: Count = 3
    """Sites that a move of a chain draws anew."""
    penalty: Weight | None = None
    """Weight of the consistency penalty of an energy. None stands for the number of sites."""
    joined: Number = 5000
    """Draws of the conditionals that join the digits in the second stage."""
    network: Literal["mlp", "transformer"] = "mlp"
    """A perceptron of the whole vector, or attention among its sites."""
    hidden: Count = 256
    """Width of the network; of a transformer, of each site."""
    depth: Count = 1
    """Residual blocks of the network."""
    weight_decay: Weight = 0.4
    """Decoupled weight decay of the conditionals of digits, against fitting the training images
    only."""

    training: ClassVar[Training] = Training(
        steps=1500, batch_size=128, learning_rate=2e-3, chunk=50, checkpoint_every=500
    )
    evaluation_particles: ClassVar[int] = 500
    tiny: ClassVar[Mapping[str, Any]] = {"task": "ising", "side": 3, "hidden": 8, "draws": 8}

    @property
    def stages(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Two for digits, one for an energy."""
        return ("conditionals", "marginals") if self.task == "digits" else ("",)

    def check(self) -> None:
        """Refuse a torus without known answers, and options that do not go together."""
        if self.task == "ising" and not 3 <= self.side <= 12:
            raise CommandError(f"--side must be from 3 to 12, not {self.side}")
        if self.network == "transformer" and self.hidden % HEADS:
            raise CommandError(f"--hidden must be a multiple of {HEADS} heads, not {self.hidden}")
        sites = {"digits": 64, "ising": self.side**2, "molecules": LENGTH}[self.task]
        if self.erased > sites:
            raise CommandError(f"--erased must be at most the {sites} sites, not {self.erased}")

    def load(self) -> dict[str, np.ndarray]:
        """Binary digits; of an energy nothing is known but the energy."""
        from ppgen.models.marginalization.scores import binary_digits

        if self.task != "digits":
            return {}
        train, held_out = binary_digits()
        return {"train": train, "held-out": held_out}

    def facts(self, data: dict[str, np.ndarray]) -> dict[str, Any]:
        """The number of sites, and of their values."""
        from ppgen.models.parts.data.kinds import fingerprint

        if self.task == "digits":
            return {"sites": data["train"].shape[1], "values": 2, "sha256": fingerprint(data)}
        target = self._target()
        return {"sites": target.sites, "values": target.values}

    def params(self, stage: str, facts: dict[str, Any], key: Key[Array, ""]) -> MaM | Chained:
        """Fresh weights, and the chains that follow them where there are some."""
        import optax

        from ppgen.models.marginalization.model import MaM
        from ppgen.models.parts.networks import DualMLP, DualTransformer

        sites, values = facts["sites"], facts["values"]
        size = (sites, values, self.hidden, self.depth)
        if self.network == "transformer":
            mam = MaM(DualTransformer(*size, heads=HEADS, key=key), sites, values)
        else:
            mam = MaM(DualMLP(*size, key=key), sites, values)
        return mam if self.task == "digits" else self._energy(mam, optax.identity(), key).params

    def stage(
        self,
        name: str,
        training: Training,
        params: MaM | Chained,
        data: dict[str, np.ndarray],
        fitted: Mapping[str, Any],
    ) -> Stage:
        """The bound, the disagreement or the divergence, by Adam with a rate along a cosine."""
        import jax
        import optax

        from ppgen.models.marginalization.training import disagreement, joined, mean_bound

        schedule = optax.cosine_decay_schedule(training.learning_rate, training.steps)
        key = jax.random.key(training.seed)
        if self.task != "digits":
            energy = self._energy(_mam(params), optax.adam(schedule), key)
            return Stage(
                objective=energy.objective,
                params=params,
                optimizer=energy.optimizer,
                label="divergence and inconsistency",
            )
        if name == "conditionals":
            return Stage(
                objective=mean_bound,
                params=params,
                optimizer=optax.adamw(schedule, weight_decay=self.weight_decay),
                data=data["train"],
                maximize=True,
                label="any-order bound",
                unit="nats per image",
            )
        first = fitted["conditionals"]
        return Stage(
            objective=disagreement(first),
            params=first,
            optimizer=optax.adam(schedule),
            data=joined(data["train"], first, self.joined, key=key),
            label="inconsistency of an order",
            unit="nats²",
        )

    def evaluate(
        self,
        data: dict[str, np.ndarray],
        fitted: Mapping[str, Any],
        *,
        particles: int,
        split: Split,
        key: Key[Array, ""],
    ) -> Report:
        """Divergences from what is known exactly, or likelihoods, and how consistent they are.

        An energy has no data: its figures are the same for either split.
        """
        mam = self._fitted(fitted)
        if self.task == "digits":
            return _of_images(mam, data["train"], data[split], particles, split, key)
        return self._of_draws(mam, particles, key)

    def sample(
        self,
        path: Path,
        facts: dict[str, Any],
        fitted: Mapping[str, Any],
        *,
        count: int,
        key: Key[Array, ""],
    ) -> None:
        """Draws vectors from the conditionals, in random orders."""
        import numpy as np

        from ppgen.models.marginalization.scores import ancestral
        from ppgen.models.parts.data import molecule_string
        from ppgen.models.parts.pictures import draw_samples, draw_strings

        x = np.asarray(ancestral(self._fitted(fitted), count, key=key).x)
        title = f"Samples: {self.task}, drawn from the conditionals in random orders"
        if self.task == "molecules":
            draw_strings(path, [molecule_string(row) or "–" for row in x], title=title)
            return
        side = round(facts["sites"] ** 0.5)
        images = x.reshape(count, side, side).astype(np.float32)
        draw_samples(path, images, top=1, title=title)

    def pictures(
        self,
        folder: Path,
        data: dict[str, np.ndarray],
        fitted: Mapping[str, Any],
        key: Key[Array, ""],
    ) -> None:
        """The marginals of random parts of vectors, against what they should be."""
        import jax
        import numpy as np

        from ppgen.models.marginalization.scores import (
            ancestral,
            log_conditionals,
            log_marginals,
            subsets,
        )
        from ppgen.models.parts.pictures import draw_agreement

        mam, keys = self._fitted(fitted), jax.random.split(key, 3)
        if self.task == "digits":
            x, what = data["held-out"][:MARGINALS], "conditionals in a random order"
        else:
            x, what = np.asarray(ancestral(mam, MARGINALS, key=keys[0]).x), "exact"
        known = subsets(len(x), mam.sites, key=keys[1])
        if self.task == "digits":
            truth = np.asarray(log_conditionals(mam, x, known, key=keys[2]))
        else:
            truth = np.array(list(map(self._target().log_marginal, x, known)))
        draw_agreement(
            folder / "marginals.png",
            truth,
            np.asarray(log_marginals(mam, x, known)),
            labels=(f"log probability, {what} (nats)", "log marginal, in one pass (nats)"),
            title=f"The values of random sites: {self.task}",
        )

    def _fitted(self, fitted: Mapping[str, Any]) -> MaM:
        from ppgen.models.marginalization.training import paired

        if self.task == "digits":
            return paired(fitted["marginals"], fitted["conditionals"])
        return _mam(fitted[""])

    def _target(self) -> Ising | Molecules:
        from ppgen.models.parts.data import Ising, Molecules

        return Ising(self.side) if self.task == "ising" else Molecules(LENGTH)

    def _energy(self, mam: MaM, optimizer: Any, key: Key[Array, ""]) -> EnergyFit:
        from ppgen.models.marginalization.training import energy_fit

        return energy_fit(
            mam,
            self._target().log_weight,
            optimizer,
            key=key,
            objective=self.objective,
            draws=self.draws,
            erased=None if self.objective == "importance" else self.erased,
            penalty=self.penalty,
        )

    def _of_draws(self, mam: MaM, draws: int, key: Key[Array, ""]) -> Report:
        """Figures of an energy."""
        import jax
        import numpy as np

        from ppgen.inference import mean_over_data
        from ppgen.models.marginalization.scores import (
            ancestral,
            independent_sites,
            log_marginals,
            step_errors,
            subsets,
        )

        target, keys = self._target(), jax.random.split(key, 4)
        log_z, draws = target.log_normalizer(), max(draws, 2)
        log_weight = jax.vmap(target.log_weight)

        def of(log_q: Any, x: Any) -> Estimate:
            return mean_over_data(np.asarray(log_q - log_weight(x)) + log_z)

        sites = independent_sites(target)
        naive = jax.random.categorical(keys[0], sites, shape=(draws, target.sites))
        x, log_q = ancestral(mam, draws, key=keys[1])
        some = np.asarray(x[:MARGINALS])
        known = subsets(len(some), target.sites, key=keys[2])
        exact = np.array(list(map(target.log_marginal, some, known)))
        each = np.take_along_axis(sites[None], some[:, :, None], 2)[:, :, 0]
        errors = {
            "naive": (each * known).sum(1) - exact,
            "marginals": np.asarray(log_marginals(mam, some, known)) - exact,
            "step": np.asarray(step_errors(mam, x, key=keys[3])),
        }
        sizes = {name: mean_over_data(np.abs(error)) for name, error in errors.items()}
        naive_log_q = np.take_along_axis(sites[None], np.asarray(naive)[:, :, None], 2).sum((1, 2))
        return Report(
            title=f"held out: all but the energy; {draws} draws, log Z = {log_z:.4f} exactly",
            columns=(("nats of divergence", 4), ("nats of error", 4)),
            rows=[
                ("independent sites", (of(naive_log_q, naive), sizes["naive"])),
                ("conditionals, with their order", (of(log_q, x), None)),
                (f"marginals of {len(some)} random parts", (None, sizes["marginals"])),
                ("inconsistency of a step", (None, sizes["step"])),
            ],
            references={},
        )


def _mam(params: MaM | Chained) -> MaM:
    """The model, without the chains that followed it."""
    from ppgen.models.marginalization.training import Chained

    return params.mam if isinstance(params, Chained) else params


def _of_images(
    mam: MaM,
    train: np.ndarray,
    images: np.ndarray,
    draws: int,
    split: Split,
    key: Key[Array, ""],
) -> Report:
    """Figures of digits."""
    import jax
    import numpy as np

    from ppgen.inference import mean_over_data, per_datum
    from ppgen.models.marginalization.model import any_order_bound
    from ppgen.models.marginalization.scores import log_marginals, step_errors
    from ppgen.models.parts.metrics.baselines import pixel_marginal_log_likelihood

    keys = jax.random.split(key)
    bound = per_datum(any_order_bound, mam, images, key=keys[0], draws=draws)
    whole = np.asarray(log_marginals(mam, images))
    steps = np.abs(np.asarray(step_errors(mam, images, key=keys[1])))
    nats = {
        "per-pixel histograms": pixel_marginal_log_likelihood(train, images, values=2),
        "conditionals, any-order bound": bound,
        "marginals (not normalised)": whole,
    }
    rows = [
        *((label, (mean_over_data(each), None)) for label, each in nats.items()),
        ("marginals against conditionals", (None, mean_over_data(np.abs(whole - bound)))),
        ("inconsistency of a step", (None, mean_over_data(steps))),
    ]
    where = "held out" if split == "held-out" else "trained on"
    references = [(f"held-out {label}", float(each.mean())) for label, each in nats.items()]
    return Report(
        title=f"{where}: {len(images)} images, {mam.sites} pixels of 2 values",
        columns=(("nats per image", 2), ("nats of error", 3)),
        rows=rows,
        references={"conditionals": references[:2]},
    )
