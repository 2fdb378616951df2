# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A network with random effects
#
# Rows come in groups: patients of a clinic, ratings of a film, sales of a shop. There may be thousands of groups with a
# few rows each, and a network has to do something with the name of the group. It can ignore it, or spend weights on every
# group, as one-hot encoding and embeddings do. Or the group is a random effect: the network learns the mean $f(x)$ and
# two variances, with the likelihood of the mixed model
#
# $$y_{ij} = f(x_{ij}) + a_j + e_{ij}, \qquad a_j \sim N(0, \sigma_b^2), \qquad e_{ij} \sim N(0, \sigma_w^2)$$
#
# as its loss, and the effect $a_j$ of a known group is then predicted from the residuals of its rows. The comparison
# follows Simchoni and Rosset (2021), *Using random effects to account for high-cardinality categorical features and
# repeated measures in deep neural networks*, NeurIPS 34.

# %%
import itertools
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

import jaxre

if "IPython" not in sys.modules:  # run as a script: no display needed
    matplotlib.use("Agg")
import matplotlib.pyplot as plt

# %% [markdown]
# ## The settings
#
# Those of the paper: ten features, uniform on (-1, 1), with the mean
# $f(x) = (x_1 + \dots + x_{10}) \cos(x_1 + \dots + x_{10}) + 2 x_1 x_2$; a variance of 1 within groups, and of 0.1, 1 or
# 10 between them; 100, 1,000 or 10,000 groups of unequal sizes, in proportion to 1 plus a Poisson number of mean 3.
#
# Not those of the paper, so that all of it takes less than a minute on one core: 20,000 rows to learn from instead of 80,000
# of 100,000, so that 10,000 groups have two rows each and not eight; two hidden layers; three seeds; and a cross through
# the grid: each variance with 1,000 groups, each number of groups with variance 1. The rows to test on are 5,000 more of
# groups that were seen, and 5,000 of new groups, each of a group of its own.

# %%
ROWS, HELD_OUT, TESTED, FEATURES = 20_000, 2_000, 5_000, 10
LEARNED = ROWS - HELD_OUT  # the others say when to stop
SETTINGS = [(1_000, 0.1), (1_000, 1.0), (1_000, 10.0), (100, 1.0), (10_000, 1.0)]  # groups, variance between them
MOST = max(groups for groups, _ in SETTINGS)
SEEDS = (0, 1, 2)


class Rows(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    group: np.ndarray


def of_groups(rng, group, effects):
    """Rows of the groups that are given."""
    x = rng.uniform(-1, 1, size=(len(group), FEATURES))
    total = x.sum(axis=1)
    y = total * np.cos(total) + 2 * x[:, 0] * x[:, 1] + effects[group] + rng.normal(size=len(group))
    return Rows(x.astype(np.float32), y.astype(np.float32), group.astype(np.int32))


def simulated(seed, groups, between):
    """Rows to learn from, rows held out, test rows of groups that were seen and of new ones; and the effects drawn."""
    rng = np.random.default_rng([seed, groups, round(10 * between)])
    shares = rng.poisson(3, size=groups) + 1.0
    effects, of_new = (np.sqrt(between) * rng.normal(size=count) for count in (groups, TESTED))
    seen = rng.choice(groups, size=ROWS, p=shares / shares.sum())
    learned, held_out = (of_groups(rng, part, effects) for part in np.split(seen, [LEARNED]))
    known = of_groups(rng, rng.choice(learned.group, size=TESTED), effects)
    return learned, held_out, known, of_groups(rng, np.arange(TESTED), of_new), effects


# %% [markdown]
# ## Four ways to treat the group
#
# One network for all, of 64 and 32 rectified units. One-hot encoding gives each group a weight for every unit of the
# first layer; an embedding gives it ten more features, which are learned. A new group has neither, and gets the average
# of the others.
#
# The loss of the mixed model is `jaxre.negative_log_likelihood`, that of the other three the mean squared error. The two
# log-variances are parameters like the weights, and each starts from half of the variance of the outcome.

# %%
METHODS = ("group ignored", "one-hot", "embedding", "mixed model")
UNITS, EMBEDDED = (64, 32), 10


def initial(method, seed, groups, y):
    """Parameters to start from."""
    widths = (FEATURES + EMBEDDED * (method == "embedding"), *UNITS, 1)
    rng = np.random.default_rng(seed)
    drawn = lambda scale, *shape: jnp.asarray(scale * rng.normal(size=shape), jnp.float32)
    weights = [drawn(np.sqrt(2 / wide), wide, narrow) for wide, narrow in itertools.pairwise(widths)]
    parameters = {"weights": weights, "biases": [jnp.zeros(width) for width in widths[1:]]}
    if method in ("one-hot", "embedding"):
        columns = UNITS[0] if method == "one-hot" else EMBEDDED
        parameters["groups"] = drawn(0.05, groups, columns)
    if method == "mixed model":
        parameters["log_within"] = parameters["log_between"] = jnp.log(y.var() / 2)
    return parameters


def mean(parameters, x, group=None):
    """The network's output for rows of known groups, or of new ones."""
    table, weights, biases = parameters.get("groups", jnp.zeros((1, 0))), parameters["weights"], parameters["biases"]
    own = jnp.broadcast_to(table.mean(axis=0), (len(x), table.shape[1])) if group is None else table[group]
    one_hot = table.shape[1] == UNITS[0]
    layer = (x if one_hot else jnp.concatenate([x, own], axis=1)) @ weights[0] + biases[0] + (own if one_hot else 0)
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        layer = jax.nn.relu(layer) @ weight + bias
    return layer[:, 0]


def loss(parameters, rows, batch, groups, total):
    """Loss of a minibatch: of whole groups, at most `groups` out of `total`, where the variances are parameters."""
    x, y, group = (column[batch.rows] for column in rows)
    residuals = y - mean(parameters, x, group)
    if "log_within" not in parameters:
        return (residuals**2).mean()
    logs = parameters["log_within"], parameters["log_between"]
    options = {"mask": batch.mask, "num_groups": groups, "total_groups": total}
    return jaxre.negative_log_likelihood(residuals, batch.groups, *logs, **options) / LEARNED


# %% [markdown]
# ## Training
#
# Adam, 60 passes of 25 minibatches. The mixed model's loss is a sum over groups, so its minibatches are whole groups, as
# `jaxre.group_batches` deals them; those of the other methods are rows. Both are dealt ten times and used in turn. After
# each pass every method's own loss is computed on the rows held out; the parameters with the lowest are kept, and
# training ends when eight passes brought no lower one. Without that, one-hot encoding overfits.

# %%
PASSES, PATIENCE, DEALT, STEPS = 60, 8, 10, 25


def optimiser():
    """Adam; the two log-variances, which have far to go, take steps ten times as long as the weights."""
    rate = lambda first: optax.adam(optax.cosine_decay_schedule(first, PASSES * STEPS))
    kinds = lambda parameters: {name: "variance" if name.startswith("log") else "weight" for name in parameters}
    return optax.partition({"weight": rate(0.005), "variance": rate(0.05)}, kinds)


def minibatches(method, seed, group):
    """Minibatches of all passes, (dealt, steps, rows)."""
    if method != "mixed model":
        rng = np.random.default_rng(seed)
        rows = np.stack([rng.permutation(LEARNED).reshape(STEPS, -1) for _ in range(DEALT)])
        return jaxre.GroupBatch(rows=rows, groups=np.zeros_like(rows), mask=np.ones(rows.shape, bool))
    size, key = -(-len(np.unique(group)) // STEPS), jax.random.key(seed)
    dealt = [batch for i in range(DEALT) for batch in jaxre.group_batches(jax.random.fold_in(key, i), group, size)]
    room = max(int(batch.mask.sum()) for batch in dealt)
    room += -room % 512  # so that few shapes compile; rows come first and padding last
    fit = lambda column: np.pad(column, (0, max(0, room - len(column))))[:room]
    return jax.tree.map(lambda *columns: np.stack([fit(column) for column in columns]).reshape(DEALT, -1, room), *dealt)


@jax.jit
def trained(parameters, learned, held_out, batches, total):
    """The parameters that had the lowest loss of the rows held out."""
    of_held_out = jaxre.GroupBatch(rows=np.arange(HELD_OUT), groups=held_out.group, mask=np.ones(HELD_OUT, bool))
    adam = optimiser()

    def step(state, batch):
        parameters, memory = state
        slopes = jax.grad(loss)(parameters, learned, batch, MOST // STEPS, total)
        updates, memory = adam.update(slopes, memory)
        return (optax.apply_updates(parameters, updates), memory), None

    def one_pass(carry):
        state, best, lowest, since, passes = carry
        state, _ = jax.lax.scan(step, state, jax.tree.map(lambda column: column[passes % DEALT], batches))
        found = loss(state[0], held_out, of_held_out, MOST, None)
        best = jax.tree.map(lambda new, old: jnp.where(found < lowest, new, old), state[0], best)
        return state, best, jnp.minimum(found, lowest), jnp.where(found < lowest, 0, since + 1), passes + 1

    more = lambda carry: (carry[3] < PATIENCE) & (carry[4] < PASSES)
    return jax.lax.while_loop(more, one_pass, ((parameters, adam.init(parameters)), parameters, jnp.inf, 0, 0))[1]


# %% [markdown]
# ## Predictions
#
# In a new group the mixed model predicts the mean $f(x)$. In a known one it adds the BLUP of the group's effect: the
# mean residual of the group's rows, shrunk to 0 by as much as the learned variances say. The residuals are of the rows
# that the network learned from, so no method has seen more than another.
#
# No method can do better than to know $f$ and both variances. Then the expected squared error is
# $\sigma_w^2 + \sigma_b^2 \sigma_w^2 / (\sigma_w^2 + n_j \sigma_b^2)$ in a known group with $n_j$ rows, and
# $\sigma_w^2 + \sigma_b^2$ in a new one.


# %%
@jax.jit
def predicted_effects(residuals, group, components):
    return jaxre.blup(jaxre.group_moments(residuals, group, num_groups=MOST), components).effect


known, new, learned_variances, of_effects = {}, {}, {}, {}
for groups, between in SETTINGS:
    errors = {(method, kind): [] for method in (*METHODS, "best possible") for kind in ("known", "new")}
    variances = []
    for seed in SEEDS:
        learned, held_out, of_known, of_new, effects = simulated(seed, groups, between)
        total = len(np.unique(learned.group))
        for method in METHODS:
            start = initial(method, seed, groups, learned.y)
            found = trained(start, learned, held_out, minibatches(method, seed, learned.group), total)
            at_known, at_new = mean(found, of_known.x, of_known.group), mean(found, of_new.x)
            if method == "mixed model":
                components = jaxre.Components(
                    within=jnp.exp(found["log_within"]), between=jnp.exp(found["log_between"])
                )
                residuals = learned.y - mean(found, learned.x, learned.group)
                at_known += predicted_effects(residuals, learned.group, components)[of_known.group]
                variances.append([float(components.within), float(components.between), (effects**2).mean()])
            errors[method, "known"].append(float(((of_known.y - at_known) ** 2).mean()))
            errors[method, "new"].append(float(((of_new.y - at_new) ** 2).mean()))
        sizes = np.bincount(learned.group, minlength=groups)[of_known.group]
        errors["best possible", "known"].append(1 + (between / (1 + sizes * between)).mean())
        errors["best possible", "new"].append(1 + between)
    known[groups, between] = {method: np.array(errors[method, "known"]) for method in (*METHODS, "best possible")}
    new[groups, between] = {method: np.array(errors[method, "new"]) for method in (*METHODS, "best possible")}
    learned_variances[groups, between] = np.array(variances)

# %% [markdown]
# ## Errors
#
# Squared error on the test rows, mean over the seeds and standard deviation between them; each seed draws its own data
# and its own first weights.


# %%
def table(found):
    names = (*METHODS, "best possible")
    print("groups  between  " + "  ".join(f"{name:>15}" for name in names))
    for (groups, between), errors in found.items():
        cells = (f"{errors[name].mean():6.2f} ({errors[name].std(ddof=1):.2f})" for name in names)
        print(f"{groups:6,}  {between:7g}  " + "  ".join(f"{cell:>15}" for cell in cells))


print("Known groups")
table(known)
print("\nNew groups")
table(new)

# %% [markdown]
# In known groups the mixed model has the lowest error in every setting, and comes near the best possible; the gap is what
# 18,000 rows do not teach the network about $f$. One-hot encoding and embeddings do well where groups are few, and pay
# for every group otherwise: with little variance between 1,000 groups, or two rows in each of 10,000, they are worse than
# not to know the group.
#
# In new groups no method knows the effect. The mixed model still has the better mean: its loss knows that the rows of a
# group err together, and gives less weight to what they share. One-hot encoding and embeddings fit the noise of the
# groups, and their mean suffers.

# %%
for (groups, between), errors in known.items():
    ours, ignored = errors["mixed model"], errors["group ignored"]
    best_other = np.minimum(errors["one-hot"], errors["embedding"])
    assert (ours < ignored).all()  # seed by seed
    if between >= 1:
        assert (ours < 0.75 * ignored).all()  # most of the variance between groups is explained
    if groups >= 1_000:
        assert (ours < 0.8 * best_other).all()  # weights for each group cost more than two variances
    assert (ours > errors["best possible"] - 0.07).all()  # three standard errors of a mean of 5,000 squares
    assert ours.mean() < errors["best possible"].mean() + 0.3  # what the network does not know of f
for (groups, _), errors in new.items():
    assert errors["mixed model"].mean() < errors["group ignored"].mean()
    if groups >= 1_000:
        assert errors["mixed model"].mean() < min(errors["one-hot"].mean(), errors["embedding"].mean())

# %% [markdown]
# ## The variances
#
# `within` is 1 in truth. What the network does not know of $f$ adds to it, and what it learned by heart takes away.
# `between` is to be compared with the mean square of the effects that were drawn: with 100 groups that itself is off from
# its expectation by 14 % (one standard deviation).

# %%
print("groups  seed  within (truth 1)  between (truth)  of the effects drawn")
for (groups, between), rows in learned_variances.items():
    for seed, (within, learned_between, of_drawn) in zip(SEEDS, rows, strict=True):
        print(f"{groups:6,}  {seed:4d}  {within:16.3f}  {learned_between:7.3f}  ({between:4g})  {of_drawn:20.3f}")
        assert abs(within - 1) < 0.15  # unlearned parts of f have a variance of about 0.1
        spread = np.sqrt(2 / groups) * (1 / (LEARNED / groups) + between) + 0.05 * between
        assert abs(learned_between - of_drawn) < 2 * spread  # errors of group means, and 5 % for Adam's last steps

# %% [markdown]
# ## The picture

# %%
COLOURS = ("0.6", "#c98b2b", "#4f8a5b", "#b5452c")
panels = (
    (
        known,
        [setting for setting in SETTINGS if setting[0] == 1_000],
        1,
        "variance between 1,000 groups",
        "known groups",
    ),
    (new, [setting for setting in SETTINGS if setting[0] == 1_000], 1, "variance between 1,000 groups", "new groups"),
    (known, sorted(setting for setting in SETTINGS if setting[1] == 1), 0, "groups, variance 1", "known groups"),
)
figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
for axis, (found, settings, place, label, title) in zip(axes, panels, strict=True):
    at = [setting[place] for setting in settings]
    floor = [found[setting]["best possible"].mean() for setting in settings]
    axis.plot(at, floor, color="0.2", linestyle=":", label="best possible")
    for method, colour in zip(METHODS, COLOURS, strict=True):
        errors = np.array([found[setting][method] for setting in settings])
        axis.errorbar(
            at,
            errors.mean(axis=1),
            errors.std(axis=1, ddof=1),
            color=colour,
            marker="o",
            markersize=4,
            capsize=2,
            label=method,
        )
    axis.set(xscale="log", yscale="log", xlabel=label, title=title)
    axis.set_xticks(at, [f"{value:,g}" for value in at])
    axis.minorticks_off()
    ticks = [tick for tick in (1, 1.5, 2, 3, 5, 10) if axis.get_ylim()[0] < tick < axis.get_ylim()[1]]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("squared error on the test rows")
axes[0].legend(frameon=False)
