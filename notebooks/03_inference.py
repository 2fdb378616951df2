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
# # How sure are we? Every interval side by side
#
# 322 rat pups were weighed at birth, in 27 litters of 2 to 18. Litters got one of three doses of a compound; sex and litter
# size matter as well. Pups of one litter are alike: the variance between litters is the question here, and what it does
# to the comparison of the doses.

# %%
import sys

import matplotlib
import numpy as np

import jaxre

if "IPython" not in sys.modules:  # run as a script: no display needed
    matplotlib.use("Agg")
import matplotlib.pyplot as plt

data = jaxre.datasets.load("ratpupweight")
pups = data.columns
x = np.column_stack(
    [
        pups["sex"] == "Male",
        pups["Treatment"] == "Low",
        pups["Treatment"] == "High",
        pups["Lsize"] - 12,
    ]
).astype(float)
names = ["male", "low dose", "high dose", "litter size - 12"]
fit = jaxre.fit(pups["weight"], pups["Litter"], x)
print(fit)

# %% [markdown]
# ## The intraclass correlation, six ways
#
# How alike are pups of one litter? The estimate is one number; each method below asks another question of the data.
#
# * **Wald**: the curvature of the restricted likelihood at its top, on the logit scale. It sees nothing but the top.
# * **Profile likelihood**: all values that a likelihood-ratio test does not reject. It follows the shape of the
#   likelihood, and still compares it with an asymptotic distribution.
# * **Exact**: all values that Wald's pivot, an F statistic, does not reject. Its level is exact, at any group sizes.
# * **Bootstrap**: what REML gives on datasets drawn from the fitted model; as percentiles, reflected (basic), or corrected
#   for bias and skewness (BCa).

# %%
level = 0.95
wald, profile = fit.wald_interval("icc", level), fit.profile_interval("icc", level)
exact = fit.exact_interval(level)
icc = lambda estimate: estimate.icc  # one function, or each kind would compile its own
intervals = {
    "Wald": (wald.low, wald.high),
    "profile": (profile.low, profile.high),
    "exact": (exact.icc_low, exact.icc_high),
}
for kind in ("percentile", "basic", "bca"):
    found = fit.bootstrap(icc, replicates=5_000, level=level, kind=kind)
    intervals[f"bootstrap, {kind}"] = (found.low, found.high)
for name, (low, high) in intervals.items():
    print(f"{name:<22} {low:.4f} to {high:.4f}")

# %%
_, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for i, (low, high) in enumerate(intervals.values()):
    axis.plot([low, high], [i, i], color="#1f3b57", linewidth=2, solid_capstyle="butt")
axis.axvline(fit.icc, color="#b5452c", linewidth=1)
axis.set_yticks(range(len(intervals)), list(intervals))
axis.invert_yaxis()
axis.set_xlabel("intraclass correlation")
for side in ("top", "right"):
    axis.spines[side].set_visible(False)

# %% [markdown]
# With 27 litters they agree to about 0.05. They differ where they should: the percentile bootstrap sits too low, because
# the estimate is biased downwards and percentiles repeat the bias; the basic one reflects it upwards. The exact interval
# is the one to report; the others are what is left when a question has no exact answer, as for the variances themselves:

# %%
for name in ("sd_between", "sd_within"):
    wald, profile = fit.wald_interval(name), fit.profile_interval(name)
    print(f"{name:<11} Wald {wald.low:.4f} to {wald.high:.4f}, profile {profile.low:.4f} to {profile.high:.4f}")

axis = jaxre.plots.profile_likelihood(fit, "sd_between")

# %% [markdown]
# ## The doses
#
# Doses vary between litters, so what counts is 27 litters and not 322 pups. The degrees of freedom say so: about 20 for the
# doses, about 300 for the sex of a pup, which varies within litters. The normal quantile (Wald) knows nothing of that.

# %%
for df in ("satterthwaite", "kenward-roger"):
    tests = fit.coefficient_tests(df=df)
    print(df)
    for i, name in enumerate(["intercept", *names]):
        print(
            f"  {name:<17} {tests.estimate[i]:8.4f} +- {tests.standard_error[i]:.4f}, df {tests.df[i]:6.1f}, ", end=""
        )
        print(f"{tests.low[i]:8.4f} to {tests.high[i]:8.4f}")

doses = fit.contrast_test([[0, 0, 1, 0, 0], [0, 0, 0, 1, 0]])
print(f"both doses together: F = {doses.statistic:.2f} on {doses.df1:.0f} and {doses.df2:.1f}, p = {doses.p_value:.4f}")
tests = {df: fit.coefficient_tests(df=df) for df in ("satterthwaite", "kenward-roger")}
assert tests["kenward-roger"].df[2] < 40 < 200 < tests["kenward-roger"].df[1]

# %% [markdown]
# ## Litters, known and new
#
# A female pup of the next litter of 12 without the compound: how heavy? The mean of a known litter is known well; a new
# litter brings its own effect, and a single pup its own residual.

# %%
reference = np.zeros((1, 4))
for label, kind in ((fit.groups[0], "a known litter"), ("the next one", "a new litter")):
    found = fit.predict([label], reference, allow_new=True)
    mean, pup = (found.mean_low[0], found.mean_high[0]), (found.low[0], found.high[0])
    print(
        f"{kind:<15} {found.value[0]:.2f} g; mean {mean[0]:.2f} to {mean[1]:.2f}, one pup {pup[0]:.2f} to {pup[1]:.2f}"
    )

axis = jaxre.plots.caterpillar(fit)

# %% [markdown]
# ## Does the model hold?
#
# Residuals, their quantiles, and what leaving out each litter does to the coefficients: exact refits, all in one batch.

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
jaxre.plots.residuals(fit, axes[0])
jaxre.plots.quantiles(fit, "residuals", axes[1])
jaxre.plots.influence(fit, axes[2])
spread, normal = fit.homogeneity_check(), fit.normality_check()
print(f"equal variances in all litters: p = {spread.p_value:.2g}; normal residuals: p = {normal.p_value:.2g}")

without = fit.influence()
most = int(np.nanargmax(without.cook))
assert np.nanmax(abs(without.beta_change_standardised)) < 1.2
assert min(pups["weight"]) == 3.68
print(
    f"leaving out litter {fit.groups[most]} moves the coefficients by",
    without.beta_change_standardised[most].round(2),
    "standard errors",
)

# %% [markdown]
# One pup of 3.68 g among heavier brothers and sisters is behind both small p-values. The variances lean on normality, the
# coefficients much less: no single litter moves any of them by more than about one standard error.
