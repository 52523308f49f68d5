# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # How ppgen works
#
# `ppgen.expectation(f)` turns a program that draws into a plain JAX function whose value and whose
# derivatives, of any order, are unbiased estimates of those of the expectation. This page rebuilds
# the mechanism in about 120 lines of JAX. Each step repairs a failure of the one before, and at the
# end the copy is compared with exact answers and with ppgen itself.
#
# ## 1. What fails: differentiating a sample
#
# You toss a coin that comes up with probability `theta`, and pay $\theta^2$ if it does, else
# $3 - \theta$. The expected cost is a polynomial, so every derivative of it is known.

# %%
import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
from jax.extend.core import Literal, Primitive, jaxprs_in_params

import ppgen
from ppgen.testing import exact

theta = 0.4


def exact_coin(theta):
    return theta * theta**2 + (1 - theta) * (3 - theta)


def sampled_coin(key, theta):
    b = jax.random.bernoulli(key, theta)
    return jnp.where(b, theta**2, 3 - theta)


def averages(g, theta, draws=50_000, seed=0):
    """Mean and standard error of the value of g, of its gradient and of its second derivative."""

    def one(key):
        both = jax.value_and_grad(functools.partial(g, key))
        (value, first), (_, second) = jax.jvp(both, (theta,), (1.0,))
        return jnp.stack([value, first, second])

    each = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), draws))
    each = np.asarray(each, np.float64)
    return each.mean(0), each.std(0) / draws**0.5


def truth(f, theta):
    return np.array([float(d(theta)) for d in (f, jax.grad(f), jax.grad(jax.grad(f)))])


def show(name, found, right):
    mean, error = found
    columns = [f"{m:+.3f} ± {e:.3f}" for m, e in zip(mean, error, strict=True)]
    print(f"{name:30s}" + "".join(f"{c:>18s}" for c in columns))
    # Five standard errors, and what single precision leaves of a second derivative.
    return np.abs(mean - right) <= 5 * error + 2e-3


right_coin = truth(exact_coin, theta)
print(f"{'':30s}{'value':>18s}{'gradient':>18s}{'second':>18s}")
print(f"{'exact':30s}" + "".join(f"{x:>+18.3f}" for x in right_coin))
agrees = show("jax.grad through the sample", averages(sampled_coin, theta), right_coin)
assert list(agrees) == [True, False, False]

# %% [markdown]
# The value is right. The derivatives are not even close, and there was no warning: the probability
# of the coin depends on `theta` too, but `jax.random.bernoulli` compares a uniform number with
# `theta`, and the derivative of a comparison is zero.
#
# The sampler discarded the distribution, which the derivative needs. So let us not sample yet.
#
# ## 2. A random choice is a primitive
#
# `draw` leaves an equation in the program, with the distribution's parameters as its operands. The
# function that rebuilds the distribution and the gradient estimator are static parameters.
# (`jax.make_jaxpr` needs only a shape and a dtype.)

# %%
choice_p = Primitive("choice")


def draw(d, how):
    leaves, family = jax.tree.flatten(d)
    return choice_p.bind(*map(jnp.asarray, leaves), family=family, how=how)


@choice_p.def_abstract_eval
def _(*leaves, family, how):
    def sample(*leaves):
        return jax.tree.unflatten(family, leaves).sample(jax.random.key(0))

    out = jax.eval_shape(sample, *leaves)
    return jax.core.ShapedArray(out.shape, out.dtype)


def coin(how):
    def cost(theta):
        b = draw(dist.Bernoulli(theta), how)
        return jnp.where(b == 1, theta**2, 3 - theta)

    return cost


print(jax.make_jaxpr(coin(None))(theta))

# %% [markdown]
# (The first equations are NumPyro's: it checks the probability.) The program is now data, and its
# interpreter decides what happens at a choice.
#
# ## 3. Points with weights
#
# All estimators of ppgen follow one idea: put a few *points* $x_s$ with *weights* $w_s(\theta)$ in
# place of the distribution, such that
#
# $$\mathbb E\Bigl[\sum_s w_s(\theta)\, f(x_s)\Bigr] = \mathbb E_{p_\theta}[f(x)]
#   \quad\text{for every } f \text{, and the same for the derivatives in } \theta.$$
#
# Three ways, three functions of a key and a distribution:
#
# - *Enumeration*: all values, each with its probability. There is nothing random left.
# - *Pathwise*: one point that moves with the parameters, of weight one.
# - *Score function*: one point that does not move. Its weight has the value one and the derivative
#   of the log density; $\nabla p = p\, \nabla \log p$ says why that is right.
#
# The weight of the score function is a function with the value one whose every derivative is
# right, $\exp(\ell - \bar\ell)$ where the bar stops differentiation: the *magic box* of DiCE
# (Foerster et al., 2018).


# %%
def enumerate_(key, d):
    points = d.enumerate_support()
    return points, jnp.exp(d.log_prob(points))


def pathwise(key, d):
    if not d.has_rsample:
        raise TypeError(f"{type(d).__name__} has no pathwise derivative")
    return d.rsample(key)[None], jnp.ones(1)


def score_function(key, d):
    point = jax.lax.stop_gradient(d.sample(key))
    log_p = d.log_prob(point)
    return point[None], jnp.exp(log_p - jax.lax.stop_gradient(log_p))[None]


# %% [markdown]
# ## 4. The rest of the program runs at all points
#
# A value that depends on a choice has one entry for each point of it: an axis that belongs to the
# choice. A function of two such values has both axes. `lift` applies a function of arrays to
# values, by one `vmap` for each axis.


# %%
class Value(NamedTuple):
    array: jax.Array
    axes: tuple = ()  # the choices that its leading axes belong to, ascending
    moves: bool = False  # whether it moves with a pathwise choice: for step 6


def lift(fn, values):
    axes = sorted({axis for v in values for axis in v.axes})
    for axis in reversed(axes):
        fn = jax.vmap(fn, [0 if axis in v.axes else None for v in values])
    moves = any(v.moves for v in values)
    return [Value(out, tuple(axes), moves) for out in fn(*(v.array for v in values))]


def bind(eqn, *arrays):
    out = eqn.primitive.bind(*arrays, **eqn.primitive.get_bind_params(eqn.params))
    return out if eqn.primitive.multiple_results else [out]


def apply(eqn, inputs):
    return lift(functools.partial(bind, eqn), inputs)


# %% [markdown]
# The interpreter evaluates a variable when it is needed. (Step 5 explains why not all of them in
# order.) At a choice it evaluates the parameters, and then points and weights. Where the parameters
# depend on earlier choices, they have axes already, and the points have one more.


# %%
class Run:
    def __init__(self, key, closed, args):
        inputs = zip(closed.jaxpr.invars, args, strict=True)
        consts = zip(closed.jaxpr.constvars, closed.consts, strict=True)
        self.env = {v: Value(jnp.asarray(x)) for v, x in (*inputs, *consts)}
        self.maker = {v: (i, e) for i, e in enumerate(closed.jaxpr.eqns) for v in e.outvars}
        self.key, self.weights = key, {}

    def value(self, v):
        if isinstance(v, Literal):
            return Value(jnp.asarray(v.val))
        if v not in self.env:
            i, eqn = self.maker[v]
            inputs = [self.value(u) for u in eqn.invars]
            outs = self.choose(i, eqn, inputs) if eqn.primitive is choice_p else apply(eqn, inputs)
            self.env.update(zip(eqn.outvars, outs, strict=True))
        return self.env[v]

    def choose(self, i, eqn, leaves):
        how, family = eqn.params["how"], eqn.params["family"]
        key = jax.random.fold_in(self.key, i)
        points, weights = lift(lambda *x: how(key, jax.tree.unflatten(family, x)), leaves)
        self.weights[i] = weights._replace(axes=(*weights.axes, i))
        return [Value(points.array, (*points.axes, i), how is pathwise or points.moves)]

    def expected(self, term):
        """Sum a value over the points of the choices behind it, by their weights."""
        factors = [term, *(self.weights[i] for i in term.axes)]
        (product,) = lift(lambda *xs: [functools.reduce(operator.mul, xs)], factors)
        return jnp.sum(product.array)


def expectation(f):
    def g(key, *args):
        closed = jax.make_jaxpr(f)(*args)
        run = Run(key, closed, args)
        return run.expected(run.value(closed.jaxpr.outvars[0]))

    return g


for how in (enumerate_, score_function):
    assert all(show(how.__name__, averages(expectation(coin(how)), theta), right_coin))

# %% [markdown]
# The value, the gradient and the second derivative, by `jax.grad` alone: there is no second API for
# derivatives. Two similar constructions that are wrong serve as controls. The classical surrogate
# of the score function, a weight of $1 + \ell - \bar\ell$, has the right gradient and the wrong
# second derivative: a product with itself is missing. And a frozen point that keeps the weight one
# is what `jax.grad` made of the sample in the beginning.


# %%
def linearised(key, d):
    point = jax.lax.stop_gradient(d.sample(key))
    log_p = d.log_prob(point)
    return point[None], (1 + log_p - jax.lax.stop_gradient(log_p))[None]


def forgetful(key, d):
    return jax.lax.stop_gradient(d.sample(key))[None], jnp.ones(1)


agrees = show("control: linearised", averages(expectation(coin(linearised)), theta), right_coin)
assert list(agrees) == [True, True, False]
agrees = show("control: forgetful", averages(expectation(coin(forgetful)), theta), right_coin)
assert list(agrees) == [True, False, False]

# %% [markdown]
# Choices compose, whatever their estimators. Here the second coin's bias is enumerated over the
# first coin, whose own point is one that was drawn.


# %%
def two_coins(theta, first, second):
    a = draw(dist.Bernoulli(theta), first)
    b = draw(dist.Bernoulli(jnp.where(a == 1, 0.9 * theta, 0.2)), second)
    return jnp.where(a == b, jnp.sin(3 * theta), theta * b)


def exact_two_coins(theta):
    total = 0.0
    for a in (0, 1):
        p = 0.9 * theta if a else 0.2
        p_a = theta if a else 1 - theta
        for b in (0, 1):
            cost = jnp.sin(3 * theta) if a == b else theta * b
            total += p_a * (p if b else 1 - p) * cost
    return total


right = truth(exact_two_coins, theta)
for first, second in [(enumerate_, score_function), (score_function, enumerate_)]:
    f = functools.partial(two_coins, first=first, second=second)
    name = f"{first.__name__}, then {second.__name__}"
    assert all(show(name, averages(expectation(f), theta), right))

# %% [markdown]
# ## 5. Only what a choice influences
#
# Ten coins, a cost for each. The costs are added up before they are weighted, so the sum has an
# axis for each coin: enumeration needs all $2^{10}$ combinations, and each score multiplies all
# ten costs, nine of which it has nothing to do with.


# %%
def many_coins(how, number=10):
    def cost(theta):
        return sum(coin(how)(theta * (0.5 + i / number)) for i in range(number))

    return cost


def largest(g, theta):
    """The largest array that g computes."""
    equations = jax.make_jaxpr(g)(jax.random.key(0), theta).eqns
    return max(v.aval.size for e in equations for v in e.outvars)


def spread(f):
    """Standard deviation of a single gradient."""
    return averages(expectation(f), theta, draws=4000)[1][1] * 4000**0.5


print("largest array, enumerated:", largest(expectation(many_coins(enumerate_)), theta))
before = spread(many_coins(score_function))
print(f"deviation of the gradient, score function: {before:.2f}")
assert largest(expectation(many_coins(enumerate_)), theta) == 2**10

# %% [markdown]
# Expectations are linear. So the cost is taken apart into its additive *terms*, from the end of the
# program backwards, and each of them is weighted by the choices that influence it: by its own axes.
# The sum itself is never evaluated, which is why the interpreter works on demand.


# %%
def terms(run, v, sign=1):
    _, eqn = run.maker.get(v, (0, None)) if not isinstance(v, Literal) else (0, None)
    name = eqn.primitive.name if eqn else ""
    if name in ("add", "sub"):
        a, b = eqn.invars
        return terms(run, a, sign) + terms(run, b, -sign if name == "sub" else sign)
    return lift(lambda x: [sign * x], [run.value(v)])


def expectation(f):
    def g(key, *args):
        closed = jax.make_jaxpr(f)(*args)
        run = Run(key, closed, args)
        return sum(run.expected(term) for term in terms(run, closed.jaxpr.outvars[0]))

    return g


print("largest array, enumerated:", largest(expectation(many_coins(enumerate_)), theta))
after = spread(many_coins(score_function))
print(f"deviation of the gradient, score function: {after:.2f}")
assert largest(expectation(many_coins(enumerate_)), theta) == 2
assert after < before / 3

# %% [markdown]
# That is Rao-Blackwellization. It needed no notion of time, of plates or of a particular bound:
# only the program.
#
# ## 6. Never silently biased
#
# A pathwise point moves with the parameters. Where it meets a comparison, the derivative is lost,
# just as in step 1, and just as silently:


# %%
def above_one(how):
    def cost(theta):
        x = draw(dist.Normal(theta, 1.0), how)
        return jnp.where(x > 1.0, 2.0, 0.0)

    return cost


def exact_above_one(theta):
    return 2.0 * jax.scipy.stats.norm.cdf(theta - 1.0)


right = truth(exact_above_one, theta)
print(f"{'exact':30s}" + "".join(f"{x:>+18.3f}" for x in right))
assert all(show("score_function", averages(expectation(above_one(score_function)), theta), right))
agrees = show("pathwise", averages(expectation(above_one(pathwise)), theta), right)
assert list(agrees) == [True, False, False]

# %% [markdown]
# The interpreter sees every equation, so it can refuse this. A value *moves* if it depends on a
# pathwise choice; an equation whose result cannot move smoothly with it (a boolean, an integer, a
# step) is an error.

# %%
STEPS = {"floor", "ceil", "round", "sign"}
evaluate = apply


def apply(eqn, inputs):
    name = eqn.primitive.name
    smooth = all(jnp.issubdtype(v.aval.dtype, jnp.floating) for v in eqn.outvars)
    if any(v.moves for v in inputs) and (name in STEPS or not smooth):
        raise TypeError(f"`{name}` of a pathwise choice has no derivative: use score_function")
    return evaluate(eqn, inputs)


try:
    expectation(above_one(pathwise))(jax.random.key(0), theta)
except TypeError as error:
    print(error)
else:
    raise RuntimeError("the discontinuity was not refused")

# %% [markdown]
# ## 7. Loops and calls
#
# JAX programs have structure: `jit`, `scan`, `cond`. An equation that contains a choice has to be
# taken apart before the interpreter gets it. Calls are inlined and scans unrolled, which is a
# second small interpreter, run under `make_jaxpr`: its output is again a program. It refuses
# operations that it does not know.


# %%
def draws(eqn):
    inner = jaxprs_in_params(eqn.params)
    return eqn.primitive is choice_p or any(draws(e) for jaxpr in inner for e in jaxpr.eqns)


def flat(closed, args):
    env = dict(zip(closed.jaxpr.invars, args, strict=True))
    env.update(zip(closed.jaxpr.constvars, closed.consts, strict=True))

    def read(v):
        return v.val if isinstance(v, Literal) else env[v]

    for eqn in closed.jaxpr.eqns:
        inputs, name = [read(v) for v in eqn.invars], eqn.primitive.name
        if eqn.primitive is choice_p or not draws(eqn):
            outs = bind(eqn, *inputs)
        elif name in ("jit", "pjit"):
            outs = flat(eqn.params["jaxpr"], inputs)
        elif name == "scan":
            outs = unrolled(eqn.params, inputs)
        else:
            raise NotImplementedError(f"a random choice inside of `{name}`")
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in closed.jaxpr.outvars]


def unrolled(params, inputs):
    if "num_carry" in params:
        num_consts, num_carry = params["num_consts"], params["num_carry"]
    else:  # newer versions of JAX
        num_consts, num_carry = map(len, params["ft_in"].unpack()[:2])
    consts, carry = inputs[:num_consts], inputs[num_consts : num_consts + num_carry]
    xs, ys = inputs[num_consts + num_carry :], [None] * params["length"]
    steps = range(len(ys))
    for t in reversed(steps) if params["reverse"] else steps:
        out = flat(params["jaxpr"], [*consts, *carry, *(x[t] for x in xs)])
        carry, ys[t] = out[:num_carry], out[num_carry:]
    return [*carry, *map(jnp.stack, zip(*ys, strict=True))]


def expectation(f):
    def g(key, *args):
        staged = jax.make_jaxpr(f)(*args)
        closed = jax.make_jaxpr(lambda *args: flat(staged, args))(*args)
        run = Run(key, closed, args)
        return sum(run.expected(term) for term in terms(run, closed.jaxpr.outvars[0]))

    return g


# %% [markdown]
# A chain of five coins, each of which remembers the one before, in a jitted `scan` that adds up
# the cost in its carry. The exact answer is a recursion over the probability that the last coin
# came up.

# %%
LENGTH = 5


def chain(how):
    def step(theta, carry, t):
        before, cost = carry
        b = draw(dist.Bernoulli(jax.nn.sigmoid(theta + before - 0.5)), how)
        return (b, cost + jnp.where(b == 1, theta * t, jnp.cos(theta))), None

    @jax.jit
    def cost(theta):
        start = jnp.zeros((), int), 0.0
        (_, total), _ = jax.lax.scan(functools.partial(step, theta), start, jnp.arange(1.0, 6.0))
        return total

    return cost


def exact_chain(theta):
    up, total = 0.0, 0.0
    for t in range(1, LENGTH + 1):
        up = up * jax.nn.sigmoid(theta + 0.5) + (1 - up) * jax.nn.sigmoid(theta - 0.5)
        total += up * theta * t + (1 - up) * jnp.cos(theta)
    return total


right = truth(exact_chain, theta)
print(f"{'exact':30s}" + "".join(f"{x:>+18.3f}" for x in right))
for how in (enumerate_, score_function):
    assert all(show(how.__name__, averages(expectation(chain(how)), theta), right))


def branching(theta):
    return jax.lax.cond(theta > 0, lambda: draw(dist.Normal(theta, 1.0), pathwise), lambda: 0.0)


try:
    expectation(branching)(jax.random.key(0), theta)
except NotImplementedError as error:
    print(error)
else:
    raise RuntimeError("the choice in a branch was not refused")

# %% [markdown]
# ## 8. The test
#
# Everything at once: a discrete choice, a continuous one that depends on it, a discrete one that
# depends on that, with every combination of estimators that makes sense, value, gradient and second
# derivative. The exact answer comes from `ppgen.testing.exact`, which sums and integrates in double
# precision and shares nothing with the copy. ppgen estimates the same program next to it.


# %%
def mixed(draw, a, x, b):
    def cost(theta):
        first = draw(dist.Bernoulli(jax.nn.sigmoid(theta)), a)
        y = draw(dist.Normal(theta * first, 1.0), x)
        last = draw(dist.Bernoulli(jax.nn.sigmoid(y)), b)
        return jnp.cos(y - theta) + last * (theta + 0.5 * first) + theta * first

    return cost


def ppgen_draw(d, how):
    return ppgen.draw(d, grad=how)


N, S, P = enumerate_, score_function, pathwise
theirs = {N: ppgen.Enumerate(), S: ppgen.ScoreFunction(), P: ppgen.Reparameterize()}
reference = mixed(ppgen_draw, theirs[N], theirs[P], theirs[N])
right = np.array(
    [float(d(jnp.asarray(theta))) for d in (exact(reference), jax.grad(exact(reference)))]
    + [float(jax.grad(jax.grad(exact(reference)))(jnp.asarray(theta)))]
)
print(f"{'a, x, b':30s}" + "".join(f"{x:>18s}" for x in ("value", "gradient", "second")))
print(f"{'exact':30s}" + "".join(f"{x:>+18.4f}" for x in right))

short = {N: "enumerate", S: "score", P: "path", linearised: "linearised", forgetful: "forgetful"}
rows, verdicts = {}, {}
for hows in [(N, P, N), (N, S, N), (S, P, S), (S, S, S)]:
    name = ", ".join(short[how] for how in hows)
    for label, g in {
        name: expectation(mixed(draw, *hows)),
        f"ppgen: {name}": ppgen.expectation(mixed(ppgen_draw, *(theirs[how] for how in hows))),
    }.items():
        rows[label] = averages(g, theta)
        verdicts[label] = show(label, rows[label], right)
        assert all(verdicts[label])
for control in (linearised, forgetful):
    label = f"control: {short[control]}"
    rows[label] = averages(expectation(mixed(draw, control, P, control)), theta)
    verdicts[label] = show(label, rows[label], right)
    assert not all(verdicts[label])

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 5), sharey=True)
labels = list(rows)[::-1]
for k, (axis, title) in enumerate(zip(axes, ["value", "gradient", "second"], strict=True)):
    axis.axvline(right[k], color="black", lw=0.8)
    for i, label in enumerate(labels):
        color = "tab:orange" if label.startswith("ppgen") else "tab:blue"
        color = "tab:red" if label.startswith("control") else color
        mean, error = rows[label]
        axis.errorbar(mean[k], i, xerr=2 * error[k], fmt="o", ms=4, color=color)
    axis.set_title({"second": "second derivative"}.get(title, title))
axes[0].set_yticks(range(len(labels)), labels, fontsize=8)
figure.suptitle("50,000 draws, two standard errors; the line is exact", fontsize=10)
figure.tight_layout()
plt.show()

# %% [markdown]
# The copy and ppgen agree with the exact answer in all three columns. Both controls have the right
# value; one of them fails from the gradient on, the other from the second derivative on. A test
# that looks at values sees neither.
#
# ## What the real one does besides
#
# The stages are the same: stage the program, lower its structure, put points in place of choices,
# weight the terms of the cost. The other files contain:
#
# - NumPyro's sites. A handler makes each unobserved `numpyro.sample` bind the primitive; `simulate`
#   and `log_density` are programs on top of it.
# - A single point has no axis, and a pathwise choice is sampled in place, as any other equation.
#   So such programs cost what hand-written JAX costs.
# - An analysis of the program comes before its evaluation: the influences of choices on values,
#   element by element. Enumeration in a plate is linear in its size, and a score multiplies the
#   terms of its own element. It also finds the discontinuities, before anything runs, and reports
#   the site and the line of your file.
# - Under `vmap` each lane has its own draw. The copy has no batching rule, and JAX raises an error.
# - Measure-valued derivatives and DisARM have weights of value zero, right to first order only;
#   their points add up over the choices where those of enumeration multiply. A second derivative of
#   them is an error.
# - Terms are found through some twenty linear operations, sums over plates among them, not two.
# - Scans are unrolled only where they must be: an enumerated Markov chain is eliminated step by
#   step. Branches and `while` loops are evaluated too.
# - With `draws=K`, the other draws are a baseline for each score; an estimator may bring its own.
#
# An estimator is still a function from a key and a distribution to points and weights. The tutorial
# *Writing your own estimator* adds one.
