"""`ppgen fit marginalization`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Literal

from ppgen.models import marginalization
from ppgen.models.parts import data as datasets
from ppgen.models.parts.bounds import Bounds, Count, Number, Weight
from ppgen.models.parts.errors import CommandError
from ppgen.models.parts.options import ImageSource
from ppgen.models.parts.recipe import Recipe, Stage
from ppgen.models.parts.training import Training

LENGTH = 5
"""Tokens of a molecule."""


@dataclasses.dataclass(frozen=True)
class MarginalizationRecipe(Recipe):
    """Train a marginalization model: probabilities of any part of a vector in one pass.

    Digits take two stages: first the conditionals, then the marginals that agree with them.
    """

    task: Literal["digits", "ising", "molecules"] = "digits"
    """Binary images, the digits or those of --data, by maximum likelihood; an Ising model on a
    torus, or molecules of up to five atoms, by their energy."""
    side: Annotated[int, Bounds(3, 12)] = 4
    """Height and width of the torus, from 3 to 12, for which exact answers are known."""
    objective: Literal["published", "importance", "corrected"] = "published"
    """Objective for an energy: the published heuristic, on draws of persistent chains; its unbiased
    counterpart, with importance weights, on ancestral draws; or the former on chains that are
    corrected to follow the target, which is best for many sites."""
    draws: Annotated[int, Bounds(2)] = 128
    """Draws in a step for an energy, each from its own chain unless they are ancestral. For digits,
    see --batch-size."""
    erased: Count | None = 3
    """Sites that a move of a chain draws anew. None means ancestral draws in place of chains, which
    is possible with the published objective."""
    penalty: Weight | None = None
    """Weight of the consistency penalty for an energy. None means the number of sites."""
    joined: Number = 5000
    """Draws of the conditionals that join the digits in the second stage."""
    network: Literal["mlp", "transformer", "torus"] = "mlp"
    """A perceptron of the whole vector, attention among its sites, or convolutions of a torus."""
    hidden: Count = 256
    """Width of the network; of a transformer or of convolutions, of each site."""
    depth: Count = 1
    """Residual blocks of the network, or convolutions."""
    weight_decay: Weight = 0.4
    """Decoupled weight decay of the conditionals of digits, against fitting the training images
    only."""
    data: ImageSource = None

    training: ClassVar[Training] = Training(
        steps=1500, batch_size=128, learning_rate=2e-3, chunk=50, checkpoint_every=500
    )
    evaluation_particles: ClassVar[int] = 500
    settings: ClassVar = {"mnist5k": {"hidden": 1024, "steps": 4000, "learning_rate": 1e-3}}
    tiny: ClassVar = {"task": "ising", "side": 3, "hidden": 8, "draws": 8}

    @property
    def stages(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Two for digits, one for an energy."""
        return ("conditionals", "marginals") if self.task == "digits" else ("",)

    def check(self):
        if self.network == "transformer" and self.hidden % 4:
            raise CommandError(f"--hidden must be a multiple of 4 heads, not {self.hidden}")
        if self.network == "torus" and self.task != "ising":
            raise CommandError(f"--network torus needs --task ising, not {self.task}")
        if self.objective == "corrected" and self.erased is None:
            raise CommandError("--objective corrected needs --erased: it corrects moves of chains")
        if self.data is not None and self.task != "digits":
            raise CommandError(f"--data needs --task digits, not {self.task}")
        sites = {"digits": 64, "ising": self.side**2, "molecules": LENGTH}[self.task]
        if self.erased is not None and self.erased > sites:
            raise CommandError(f"--erased must be at most the {sites} sites, not {self.erased}")

    def load(self):
        if self.task == "digits":
            return marginalization.binary_images(self.data)
        target = datasets.Ising(self.side) if self.task == "ising" else datasets.Molecules(LENGTH)
        return marginalization.Energy(target)

    def model(self, facts, keys):
        import optax

        fresh = {name: self.fresh(facts, keys[name]) for name in self.stages}
        if self.task == "digits":
            return marginalization.TwoStages(**fresh)
        return self.energy(fresh[""], optax.identity(), keys[""]).params

    def fresh(self, facts, key):
        """A model without training."""
        layers = {"hidden": self.hidden, "depth": self.depth, "key": key}
        return marginalization.untrained(self.network, facts["sites"], facts["values"], **layers)

    def energy(self, model, optimizer, key):
        """The fit to an energy, with the persistent chains if there are any."""
        erased = None if self.objective == "importance" else self.erased
        options = {"objective": self.objective, "draws": self.draws, "penalty": self.penalty}
        options |= {"erased": erased, "key": key}
        weight = self.load().target.log_weight
        return marginalization.energy_fit(model, weight, optimizer, **options)

    def stage(self, name, training):
        import jax
        import optax

        key = jax.random.key(training.seed)
        if name == "conditionals":
            return Stage(
                lambda model, x: marginalization.any_order_bound(model.conditionals, x),
                training.optimizer(optax.adamw, weight_decay=self.weight_decay),
                part=lambda model: model.conditionals,
                maximize=True,
                label="any-order bound",
                unit="nats per image",
            )
        if name == "marginals":
            join = marginalization.joined
            return Stage(
                lambda model, x: model.mam.sites * marginalization.consistency(model.mam, x),
                training.optimizer(optax.adam),
                lambda data, model: join(data.train, model.conditionals, self.joined, key=key),
                part=lambda model: model.marginals,
                begin=lambda model: type(model)(model.conditionals, model.conditionals),
                label="inconsistency of an order",
                unit="nats²",
            )
        optimizer = training.optimizer(optax.adam)
        fit = self.energy(self.fresh(self.load().facts(), key), optimizer, key)
        rows, label = lambda data, model: None, "divergence and inconsistency"
        return Stage(fit.objective, fit.optimizer, rows, each=False, label=label)

    def figures(self, run, rows, particles, key):
        from ppgen.models.parts.figures import Figures

        mam = marginalization.fitted(run.model)
        if self.task != "digits":
            target, draws = run.data.target, max(particles, 2)
            found = marginalization.energy_scores(mam, target, draws, key=key)
            exact = f"log Z = {target.log_normalizer():.4f} exactly"
            what = f"all but the energy; {draws} draws, {exact}"
            return Figures(what, {"nats of divergence": 4, "nats of error": 4}, found)
        found = marginalization.image_scores(mam, run.data.train, rows, particles, key=key)
        levels = {f"held-out {label}": x for label, row in found.items() for x in row.values()}
        title = f"{len(rows)} images, {mam.sites} pixels of 2 values"
        units, references = {"nats per image": 2, "nats of error": 3}, dict([*levels.items()][:2])
        return Figures(title, units, found, {"conditionals": references})

    def sample(self, run, key):
        title = f"Samples: {self.task}, drawn from the conditionals in random orders"
        mam, shape = marginalization.fitted(run.model), run.facts.get("shape")
        return marginalization.samples(title, mam, shape)

    def pictures(self, run):
        title, mam = f"The values of random sites: {self.task}", marginalization.fitted(run.model)
        target = None if self.task == "digits" else run.data.target
        return {"marginals": marginalization.agreement(title, mam, target)}
