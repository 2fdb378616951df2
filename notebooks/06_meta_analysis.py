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
# # Thirteen trials of a vaccine
#
# Thirteen trials compared the risk of tuberculosis with and without the vaccine BCG. Each gives a log risk ratio and its
# sampling variance, so the variance within a trial is known and only the variance between trials is to be estimated:
# the one-way random-effects model with one row a group. The data are those of Colditz and others (1994), Journal of the
# American Medical Association 271, 698-702.

# %%
import sys

import matplotlib
import numpy as np

import jaxre

if "IPython" not in sys.modules:  # run as a script: no display needed
    matplotlib.use("Agg")
import matplotlib.pyplot as plt

TRIALS = """Aronson 1948, 4 119 11 128 44; Ferguson 1949, 6 300 29 274 55; Rosenthal 1960, 3 228 11 209 42;
Hart 1977, 62 13536 248 12619 52; Frimodt-Moller 1973, 33 5036 47 5761 13; Stein 1953, 180 1361 372 1079 44;
Vandiviere 1973, 8 2537 10 619 19; TPT Madras 1980, 505 87886 499 87892 13; Coetzee 1968, 29 7470 45 7232 27;
Rosenthal 1961, 17 1699 65 1600 42; Comstock 1974, 186 50448 141 27197 18; Comstock 1969, 5 2493 3 2338 33;
Comstock 1976, 27 16886 29 17825 33"""
names, rows = zip(*(trial.strip().split(", ") for trial in TRIALS.split(";")), strict=True)
ill, well, ill_0, well_0, latitude = np.array([row.split() for row in rows], float).T
effects = np.log(ill / (ill + well)) - np.log(ill_0 / (ill_0 + well_0))
variances = 1 / ill - 1 / (ill + well) + 1 / ill_0 - 1 / (ill_0 + well_0)

# %% [markdown]
# ## The mean effect, and how far it carries
#
# The trials differ by far more than their sampling errors: most of the variance is between them. The interval for the
# mean says where the average of such trials lies; the prediction interval, where the next trial may.

# %%
fit = jaxre.fit_meta(effects, variances, test="knapp-hartung")
print(fit)

# %% [markdown]
# ## By other methods
#
# DerSimonian and Laird's estimate of the variance between trials is the analysis of variance of the model, Paule and
# Mandel's makes the weighted residual sum of squares equal to its expectation.

# %%
for method in ("reml", "dl", "pm"):
    found = fit if method == "reml" else jaxre.fit_meta(effects, variances, method=method, test="knapp-hartung")
    print(f"{method:5} tau2 {found.tau2:.4f}, I2 {found.i2:.1%}, mean {found.beta[0]:.4f} ({found.beta_se[0]:.4f})")

# %% [markdown]
# ## Why they differ
#
# The vaccine protected best far from the equator. The latitude of a trial explains three quarters of the variance
# between trials.

# %%
moderated = jaxre.fit_meta(effects, variances, latitude[:, None] - 40, test="knapp-hartung")
print(moderated)
explained = 1 - moderated.tau2 / fit.tau2
print(f"\nexplained by the latitude: {explained:.0%} of the variance between trials")

# %% [markdown]
# ## The picture
#
# Each trial with its 95 % interval, its weight as the size of its square, and below them the mean with its interval and
# the prediction interval of a new trial.

# %%
order = np.argsort(latitude)
half = 1.96 * np.sqrt(variances)
figure, axis = plt.subplots(figsize=(7, 5), layout="constrained")
places = np.arange(len(names), 0, -1)
weights = 1 / (variances + fit.tau2)
axis.errorbar(effects[order], places, xerr=half[order], fmt="none", color="0.4", linewidth=1)
axis.scatter(effects[order], places, s=120 * (weights / weights.max())[order], marker="s", color="0.2")
axis.plot([fit.prediction_low, fit.prediction_high], [-0.2, -0.2], color="C0", linewidth=1)
axis.plot([fit.beta_low[0], fit.beta_high[0]], [-0.2, -0.2], color="C0", linewidth=5, solid_capstyle="butt")
axis.axvline(0, color="0.8", linewidth=1, zorder=0)
labels = [f"{names[i]} ({latitude[i]:.0f}°)" for i in order]
axis.set_yticks([*places, -0.2], [*labels, "mean, and a new trial"])
ticks = np.array([0.1, 0.25, 0.5, 1, 2, 4])
axis.set_xticks(np.log(ticks), [f"{tick:g}" for tick in ticks])
axis.set_xlabel("risk ratio, vaccinated to not vaccinated (logarithmic scale)")
for side in ("top", "right", "left"):
    axis.spines[side].set_visible(False)
axis.tick_params(left=False)
figure.savefig("bcg.png", dpi=120)

# %%
assert abs(fit.tau2 - 0.313243258) < 5e-10
assert fit.certified
assert moderated.certified
assert 0.7 < explained < 0.8
