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
# # Twenty thousand genes at once
#
# Forty donors gave two to six samples each, and the expression of 20,000 genes was measured in every sample. Which genes
# differ between people, and which only from one sample to the next? For each gene the share of the variance that lies
# between the donors, its intraclass correlation (ICC), answers that. The data are simulated, so the answer is known.

# %%
import sys

import matplotlib
import numpy as np

import jaxre

if "IPython" not in sys.modules:  # run as a script: no display needed
    matplotlib.use("Agg")
import matplotlib.pyplot as plt

# %% [markdown]
# ## The matrix
#
# Rows are samples, columns are genes. In three genes of ten nothing differs between the donors; in the others the ICC
# follows a beta distribution with mean 0.3. One value in a thousand is missing.

# %%
rng = np.random.default_rng(7)
genes = np.array([f"gene_{i:05d}" for i in range(20_000)])
donor = np.repeat(np.arange(40), rng.integers(2, 7, size=40))
true_icc = rng.beta(1.5, 3.5, size=genes.size) * (rng.random(genes.size) > 0.3)
level, spread = rng.normal(7, 2, size=genes.size), np.exp(rng.normal(-0.5, 0.4, size=genes.size))
donor_effect = np.sqrt(true_icc) * rng.normal(size=(40, genes.size))
noise = np.sqrt(1 - true_icc) * rng.normal(size=(donor.size, genes.size))
expression = level + spread * (donor_effect[donor] + noise)
expression[rng.random(expression.shape) < 0.001] = np.nan
print(f"{donor.size} samples x {genes.size} genes, {np.isnan(expression).sum()} values missing")

# %% [markdown]
# ## All fits
#
# One call. A missing value costs its gene one sample. Each fit has a status, and a certificate that its optimum is the
# global one.

# %%
fits = jaxre.fit_many(expression, donor)
print(fits)

assert fits.certified.all()
assert np.array_equal(fits.rows, (~np.isnan(expression)).sum(axis=0))
single = jaxre.fit(expression[:, 0], donor)  # a column on its own
assert abs(fits.icc[0] - single.icc) < 1e-12 and fits.status[0] == single.status

# %% [markdown]
# ## Estimates and truth
#
# An estimate of 0 means that samples of one donor are no more alike than samples of two. Where the donors do differ,
# the estimates scatter around the truth.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
bins = np.linspace(0, 1, 51)
axes[0].hist(fits.icc, bins, color="tab:blue", label="estimated")
axes[0].hist(true_icc, bins, histtype="step", color="0.2", label="true")
axes[0].set(xlabel="intraclass correlation", ylabel="genes", xlim=(0, 1))
axes[0].legend(frameon=False)
shown = rng.choice(genes.size, 3000, replace=False)
axes[1].plot([0, 1], [0, 1], color="0.6", linewidth=1)
axes[1].plot(true_icc[shown], fits.icc[shown], ".", markersize=2, color="tab:blue", alpha=0.5)
axes[1].set(xlabel="true intraclass correlation", ylabel="estimated", xlim=(0, 1), ylim=(0, 1), aspect="equal")
for axis in axes:
    axis.spines[["top", "right"]].set_visible(False)

# %%
differ = true_icc > 0
assert np.corrcoef(true_icc[differ], fits.icc[differ])[0, 1] > 0.8
assert abs((fits.icc - true_icc)[true_icc > 0.2].mean()) < 0.02  # nearly unbiased away from 0
at_zero = fits.icc == 0
assert np.array_equal(at_zero, fits.status == jaxre.Status.BOUNDARY)
assert 0.5 < at_zero[~differ].mean() < 0.65  # a little more than half, because 40 donors are not many
print(
    f"exactly 0: {at_zero[~differ].mean():.1%} of the genes without donor variance, {at_zero[differ].mean():.1%} of others"
)

# %% [markdown]
# The level and the total variance of each gene come with it. Two standard errors to either side of the level hold the
# truth in about 95 % of the genes.

# %%
inside = abs(fits.beta[:, 0] - level) < 2 * fits.beta_se[:, 0]
assert 0.93 < inside.mean() < 0.96
total = fits.between + fits.within
assert abs(np.median(total / spread**2) - 1) < 0.02
print(
    f"level within two standard errors: {inside.mean():.1%}; total variance off by {np.median(total / spread**2) - 1:+.1%}"
)

# %% [markdown]
# ## The ten highest
#
# A list of the highest estimates flatters: they are high because the truth is and because chance helped.

# %%
highest = np.argsort(fits.icc)[::-1][:10]
print("gene         ICC   true   samples")
for i in highest:
    print(f"{genes[i]}  {fits.icc[i]:.3f}  {true_icc[i]:.3f}  {fits.rows[i]:5d}")
assert (true_icc[highest] > np.quantile(true_icc, 0.99)).all()
assert fits.icc[highest].mean() > true_icc[highest].mean()

# %% [markdown]
# `fits.to_dict()` is the whole table. From the command line, `jaxre fit-many expression.csv --group donor
# --outcomes 'gene_*' --out fits.parquet` does the same from a file.

# %%
table = fits.to_dict()
assert {len(column) for column in table.values()} == {genes.size}
print(list(table))
