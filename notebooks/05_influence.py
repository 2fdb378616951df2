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
# # What one observation does to the intraclass correlation
#
# 322 rat pups were weighed at birth, in 27 litters of 2 to 18. The intraclass correlation (ICC) says how alike pups of one
# litter are. It is one number from 322, and each of them has its say. There are two ways to ask how much: move a weight
# a little and see how the ICC moves, which is a derivative; or leave the pup out and fit again. This notebook does both,
# and shows when they agree.

# %%
import sys

import jax
import matplotlib
import numpy as np

import jaxre

if "IPython" not in sys.modules:  # run as a script: no display needed
    matplotlib.use("Agg")
import matplotlib.pyplot as plt

pups = jaxre.datasets.load("ratpupweight").columns
weight, (litters, litter) = pups["weight"].astype(float), np.unique(pups["Litter"], return_inverse=True)
n, sizes = len(weight), np.bincount(litter)
fit = jaxre.fit(weight, litter)
print(f"ICC {fit.icc:.4f}, between litters {fit.between:.4f}, within {fit.within:.4f} g^2; {fit.status}")

# %% [markdown]
# ## The derivative
#
# The estimate is where the score is 0, so its derivative follows from the implicit function theorem: `jax.grad` gives all
# 322 numbers at the price of one fit more, and no iteration is differentiated. The pure functions follow JAX's precision,
# which is double inside `jax.enable_x64(True)`.
#
# A positive slope says: heavier, and litters look more alike inside, or more different from each other. Two sums have to
# be 0, because the ICC neither changes when all pups gain a gram nor when they are weighed in ounces.

# %%
with jax.enable_x64(True):
    icc = lambda y: jaxre.reml(jaxre.group_moments(y, litter, num_groups=len(litters))).icc
    found, slopes = map(np.asarray, jax.jit(jax.value_and_grad(icc))(weight))

assert abs(found - fit.icc) < 1e-12
assert abs(slopes.sum()) < 1e-12 * abs(slopes).sum()  # gains: rounding of 322 terms
assert abs(slopes @ weight) < 1e-12 * abs(slopes * weight).sum()  # other units
print(f"slopes from {slopes.min():.4f} to {slopes.max():.4f} per gram")

# %% [markdown]
# ## The same by refits
#
# Four times 322 refits, as columns of one call of `fit_many`. Each weight goes a little up and a little down, for the
# derivative by central differences. Each pup is left out, as a missing value. And each weight is put where the average
# of its litter mates is, with the pup still counted. One pup, the lightest, is sent through all weights from 3 to 9 g
# besides. `fit_many` reaches its estimates by another way than `reml`, and knows nothing of derivatives.

# %%
mates = (np.bincount(litter, weight)[litter] - weight) / (sizes[litter] - 1)  # average of the litter mates
step = 1e-4  # error of the differences: step^2 and rounding / step, both far below 1e-7
moves = (np.full(n, step), np.full(n, -step), np.full(n, np.nan), mates - weight)
lightest, path = weight.argmin(), np.linspace(3, 9, 61)
along = np.where(np.arange(n)[:, None] == lightest, path, weight[:, None])
refits = jaxre.fit_many(
    np.hstack([*(weight[:, None] + np.diag(move) for move in moves), along]),
    litter,
    quantities=("icc", "certified"),
    progress=False,
)
assert refits.certified.all()
(up, down, without, with_mates), on_path = refits.icc[: 4 * n].reshape(4, n), refits.icc[4 * n :]

differences = (up - down) / (2 * step)
error = abs(differences - slopes).max() / abs(slopes).max()
assert error < 1e-7
print(f"largest error of the differences: {error:.0e} of the largest slope")

# %% [markdown]
# ## What a derivative says, and what a deletion says
#
# A derivative is about a small move from where the weight is. A deletion takes the weight away altogether, and that is
# three things at once:
#
# 1. A move of many grams, from the weight to where its litter mates would have it. To first order it changes the ICC by
#    slope times distance.
# 2. The curvature on the way: the slope of an outlier is not its slope half way home.
# 3. One row less: the litter's mean is known less well, even if the weight was just the average of its mates.
#
# So a slope alone says nothing of a deletion. A pup in the middle of an extreme litter may have a large slope, because
# it holds the litter where it is, and hardly any distance. Slope times distance says a good deal.

# %%
deletion = fit.icc - without  # what the pup adds to the ICC
linear = slopes * (weight - mates)
moved = fit.icc - with_mates
print("correlation with the deletion")
agreement = {}
for name, numbers in (("slope", slopes), ("slope x distance", linear), ("moved to its mates", moved)):
    agreement[name] = np.corrcoef(numbers, deletion)[0, 1]
    print(f"  {name:<18} {agreement[name]:6.3f}")

print("\nlitter  size  weight  mates   slope  slope x distance    moved  deleted")
largest = np.argsort(-abs(deletion))[:6]
for i in largest:
    print(
        f"{pups['Litter'][i]:>6} {sizes[litter[i]]:5d} {weight[i]:7.2f} {mates[i]:6.2f} {slopes[i]:7.4f} "
        f"{linear[i]:17.4f} {moved[i]:8.4f} {deletion[i]:8.4f}"
    )

assert agreement["slope x distance"] > 0.95 > 0.5 > agreement["slope"]
assert largest[0] == lightest
assert linear[lightest] < 1.5 * deletion[lightest] < 0  # curvature: the straight line goes half as far again, and more
assert abs(moved - deletion)[lightest] < 0.1 * abs(deletion[lightest])  # and one row less is a small part of it

# %% [markdown]
# ## The picture
#
# On the left the lightest pup on its way. Its mates average 7.4 g. The straight line is what its derivative says, and it
# is right near 3.68 g; at 7.4 g it promises an ICC of 0.74, and the curve reaches 0.69, next to what is found without the
# pup. On the right all pups: most lie on the diagonal, and those that do not are the outliers, for which a refit is
# what one wants.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
axes[0].plot(path, on_path, color="#1f3b57", label="refit at each weight")
tangent = fit.icc + slopes[lightest] * (path - weight[lightest])
axes[0].plot(path, tangent, color="#b5452c", linewidth=1, linestyle="--", label="derivative at 3.68 g")
axes[0].axhline(without[lightest], color="0.6", linewidth=1, label="without the pup")
axes[0].axvline(mates[lightest], color="0.85", linewidth=1, zorder=0)
axes[0].plot(weight[lightest], fit.icc, "o", color="#1f3b57")
axes[0].set(xlabel="weight of the lightest pup (g)", ylabel="intraclass correlation", ylim=(0.55, 0.8))
axes[0].legend(frameon=False, loc="upper left")
ends = np.array([linear.min(), linear.max()])
axes[1].plot(ends, ends, color="0.8", linewidth=1)
axes[1].plot(linear, deletion, ".", color="#1f3b57", markersize=4)
axes[1].annotate("3.68 g", (linear[lightest], deletion[lightest]), (6, 4), textcoords="offset points")
axes[1].set(xlabel="slope times distance from the mates", ylabel="ICC with the pup less ICC without it")
for axis in axes:
    axis.spines[["top", "right"]].set_visible(False)

assert abs(on_path - tangent)[abs(path - weight[lightest]) < 0.1].max() < 1e-3  # the tangent touches the curve

# %% [markdown]
# ## Whole litters
#
# `fit.influence()` leaves out each litter in turn, by exact refits. The slopes of its pups add up to that of a move of the
# whole litter, and this times the litter's distance from the mean of all knows of its place only. A litter has a spread
# as well: without litter 6, that of the lightest pup, the ICC goes up, although the litter is heavier than most and its
# place speaks for a higher ICC. The deletions of single pups know of the spread, and come nearer. Neither replaces the
# refit.

# %%
litter_deletion = fit.icc - np.asarray(fit.influence().estimate.icc)
place = np.bincount(litter, slopes) * (np.bincount(litter, weight) / sizes - fit.beta[0])
one_by_one = np.bincount(litter, deletion)
print("litter  pups  place  pups one by one  litter deleted")
for j in np.argsort(-abs(litter_deletion))[:6]:
    print(f"{litters[j]:>6} {sizes[j]:5d} {place[j]:6.3f} {one_by_one[j]:16.3f} {litter_deletion[j]:15.3f}")
by_place, by_pups = (np.corrcoef(numbers, litter_deletion)[0, 1] for numbers in (place, one_by_one))
print(f"correlation with the deletion of the litter: place {by_place:.2f}, pups one by one {by_pups:.2f}")

assert np.array_equal(fit.groups, np.arange(len(litters)))  # in the order of the codes
assert by_place < 0.6 < 0.8 < by_pups < 0.95
assert place[litter[lightest]] > 0 > litter_deletion[litter[lightest]]
