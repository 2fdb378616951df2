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
# # The one-way random-effects model, step by step
#
# Five samples were taken from each of six batches of an intermediate product, and the yield of dyestuff was measured
# in each of the thirty samples (Davies and Goldsmith, 1972). Batches differ, and so do samples of one batch. How much of the
# variance lies between the batches? Every estimator of `jaxre` answers that on these thirty numbers, and each answer
# is checked here against a closed form or against dense linear algebra.

# %%
import sys

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import jaxre
from jaxre import Components, datasets

if "IPython" not in sys.modules:  # run as a script: no display needed
    matplotlib.use("Agg")
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)  # the pure functions follow the dtype that they are given


def close(a, b, tolerance=1e-12):
    """Equal to a relative tolerance, by default some thousand units in the last place."""
    return np.allclose(a, b, rtol=tolerance, atol=0)


dyestuff = datasets.load("dyestuff")
y, batch = dyestuff.columns["Yield"].astype(float), dyestuff.columns["Batch"]
names, group = np.unique(batch, return_inverse=True)
n, J = len(y), len(names)
for j in range(J):
    print(names[j], *y[group == j].astype(int), f"mean {y[group == j].mean():.0f}", sep="  ")

# %% [markdown]
# ## 1. The model and its covariance
#
# $$y_{ij} = \mu + a_j + e_{ij}, \qquad a_j \sim N(0, \sigma_b^2), \qquad e_{ij} \sim N(0, \sigma_w^2)$$
#
# In vectors $y = X\beta + Za + e$, with a column of ones for $X$ and the indicators of the groups for $Z$. So
# $\operatorname{E} y = X\beta$ and $V = \operatorname{var} y = \sigma_w^2 I + \sigma_b^2 ZZ'$: two observations of one
# group have covariance $\sigma_b^2$, two of different groups have none. The two variances are called `within` and
# `between`.

# %%
X, Z = np.ones((n, 1)), np.eye(J)[group]
components = Components(within=2500.0, between=1600.0)  # a guess, for now
V = jaxre.covariance(components, group)

assert close(jaxre.expectation([1500.0], np.empty((n, 0))), 1500)
assert np.array_equal(V, 2500 * np.eye(n) + 1600 * Z @ Z.T)
assert V[0, 0] == components.total == 4100  # the variance of an observation
assert V[0, 1] == 1600 and V[0, 5] == 0  # two samples of the first batch; samples of two batches
assert components.icc == V[0, 1] / V[0, 0]  # intraclass correlation
print(f"intraclass correlation {components.icc:.4f}, ratio {components.ratio:.4f}")

# %% [markdown]
# ## 2. Group means
#
# The groups are independent, and the mean of group $j$ is unbiased for $\mu$ with variance
# $\sigma_b^2 + \sigma_w^2 / n_j$. The dense way to say so: the means are $Ay$, their covariance is $AVA'$, and that is
# diagonal.
#
# `group_moments` reads the data once. Everything after it costs the same however many rows there were.

# %%
moments = jaxre.group_moments(y, group)
means, sizes = jaxre.group_means(moments), moments.sizes
variances = jaxre.group_mean_variance(components, sizes)

A = Z.T / sizes[:, None]
assert close(means, A @ y)
assert close(A @ V @ A.T, np.diag(variances))
print("means", means, " each with variance", variances[0])

# %% [markdown]
# ## 3. The best linear unbiased estimate of the mean
#
# Among the weighted means $\sum w_j \bar y_j$ with $\sum w_j = 1$, all of them unbiased, which one has the smallest
# variance $\sum w_j^2 v_j$? With a Lagrange multiplier $\kappa$ for the constraint,
#
# $$2 w_j v_j = \kappa \quad\Longrightarrow\quad w_j = \frac{1 / v_j}{\sum_k 1 / v_k}.$$
#
# In a balanced design the weights are equal and the estimate is the grand mean, whatever the variances are. Take rows
# away, and it lies between the mean of all rows (weights $n_j/n$, right when $\sigma_b^2 = 0$) and the mean of the
# group means (weights $1/J$, right when $\sigma_w^2 = 0$).

# %%
best = jaxre.blue(means, variances)
assert close(best.mean, y.mean()) and close(best.mean, 1527.5) and close(best.weights, 1 / J)

kept = np.concatenate([np.flatnonzero(group == j)[: min(J - j, 5)] for j in range(J)])  # 5, 5, 4, 3, 2, 1 rows
unequal = jaxre.group_moments(y[kept], group[kept])
v = jaxre.group_mean_variance(components, unequal.sizes)
best = jaxre.blue(jaxre.group_means(unequal), v)

# the Lagrange conditions as one linear system: 2 v_j w_j - kappa = 0 for each j, sum w_j = 1
system = np.block([[2 * np.diag(v), -np.ones((J, 1))], [np.ones((1, J)), np.zeros((1, 1))]])
assert close(np.linalg.solve(system, np.append(np.zeros(J), 1.0))[:J], best.weights)

# the same by generalised least squares on the rows
ones, inverse = np.ones(len(kept)), np.linalg.inv(jaxre.covariance(components, group[kept]))
assert close(best.mean, ones @ inverse @ y[kept] / (ones @ inverse @ ones))
assert close(best.variance, 1 / (ones @ inverse @ ones))

# no other unbiased weights do better: add any direction that sums to zero
directions = np.random.default_rng(0).normal(size=(1000, J))
others = best.weights + 0.1 * (directions - directions.mean(axis=1, keepdims=True))
assert (others**2 @ v > best.variance).all()
print("sizes  ", unequal.sizes.astype(int))
print("weights", best.weights.round(3), f"-> {best.mean:.2f} with variance {best.variance:.1f}")

# %% [markdown]
# ## 4. Analysis of variance
#
# The variances are unknown. Two sums of squares, within and between the groups, have expectations that are linear in
# them. With $\operatorname{E} y'By = \operatorname{tr}(BV) + \mu^2\, 1'B1$:
#
# $$\operatorname{E}\,\mathrm{SSW} = (n - J)\,\sigma_w^2, \qquad
#   \operatorname{E}\,\mathrm{SSB} = (J - 1)\,\sigma_w^2 + \Bigl(n - \tfrac{1}{n}\sum n_j^2\Bigr)\,\sigma_b^2$$
#
# Equate the sums of squares with their expectations and solve. Since $n^2 \ge \sum n_j^2$, the second equation can be
# solved unless there is one group only.

# %%
SSW = ((y - means[group]) ** 2).sum()
SSB = (sizes * (means - y.mean()) ** 2).sum()
within_groups = np.eye(n) - Z @ A
between_groups = Z @ A - np.ones((n, n)) / n
assert close(np.trace(within_groups @ V), (n - J) * components.within)
assert close(
    np.trace(between_groups @ V), (J - 1) * components.within + (n - (sizes**2).sum() / n) * components.between
)

anova = jaxre.anova(moments)
assert close(anova.within, SSW / (n - J)) and close(anova.within, 2451.25)
assert close(anova.between, n * (SSB - (J - 1) * anova.within) / (n**2 - (sizes**2).sum()))
assert close(anova.between, 1764.05)

# the mean at these variances, and its standard error
plug_in = jaxre.blue(means, jaxre.group_mean_variance(anova, sizes))
assert close(plug_in.mean, 1527.5) and close(anova.beta[0], 1527.5)
assert close(plug_in.variance, anova.between / J + anova.within / n) and close(plug_in.variance, anova.beta_se[0] ** 2)
print(f"SSW {SSW:.2f}, SSB {SSB:.2f}: within {anova.within:.2f}, between {anova.between:.2f}, mean {anova.beta[0]:.1f}")

# %% [markdown]
# Unbiased means that the estimate can be negative. It then says that rows of one group differ *more* than rows of
# different groups, so that the model does not suit the data. Dyestuff2 was made up to show it (Box and Tiao, 1973).
# Both numbers are kept: the unbiased one and the one that is a variance.

# %%
dyestuff2 = datasets.load("dyestuff2")
negative = jaxre.anova(jaxre.group_moments(dyestuff2.columns["Yield"], dyestuff2.columns["Batch"]))
assert negative.between_untruncated < 0 and negative.between == 0
print(f"Dyestuff2: {negative.between_untruncated:.4f} truncated to {negative.between}")
print(jaxre.Status(int(negative.status)))

# %% [markdown]
# ## 5. The likelihood
#
# $$-2\,\ell(\beta, \sigma_w^2, \sigma_b^2) = n \log 2\pi + \log\det V + (y - X\beta)'\,V^{-1}(y - X\beta)$$
#
# Densely that costs $n^3$. Group by group the inverse of a block $\sigma_w^2 I + \sigma_b^2 11'$ is known (Sherman and
# Morrison), and with $\lambda = \sigma_b^2/\sigma_w^2$ the determinant is $\sigma_w^{2n} \prod_j (1 + \lambda n_j)$. What
# remains are sums over the *distinct* group sizes: for Dyestuff, one.


# %%
def dense_log_likelihood(components, beta):
    V = jaxre.covariance(components, group)
    residual = y - beta[0]
    return -(n * jnp.log(2 * jnp.pi) + jnp.linalg.slogdet(V)[1] + residual @ jnp.linalg.solve(V, residual)) / 2


beta = jnp.array([1500.0])
assert close(jaxre.log_likelihood(components, moments, beta), dense_log_likelihood(components, beta))

# the first-order condition in beta is generalised least squares, here the grand mean
slope = jax.grad(jaxre.log_likelihood, argnums=2)
assert abs(slope(components, moments, jnp.array([1527.5]))[0]) < 1e-12 < slope(components, moments, beta)[0]

# so beta can be left out, and is then at its optimum
profiled = jaxre.log_likelihood(components, moments)
assert close(profiled, jaxre.log_likelihood(components, moments, jnp.array([1527.5])))
print(f"log-likelihood at the guess {profiled:.4f}; distinct group sizes {jaxre.stratify(moments).sizes}")

# %% [markdown]
# ## 6. Maximum likelihood
#
# In a balanced design with $k$ rows a group the maximum has a closed form when it is in the interior:
# $\sigma_w^2 = \mathrm{SSW}/(n-J)$ and $\sigma_w^2 + k\,\sigma_b^2 = \mathrm{SSB}/J$. The divisor $J$ in the place of
# $J - 1$ is the price of having estimated $\mu$: the variance between is biased downwards.

# %%
ml = jaxre.ml(moments)
k = n // J
assert close(ml.within, 2451.25)
assert close(ml.between, (SSB / J - SSW / (n - J)) / k) and close(ml.between, 1388 + 1 / 3)
assert ml.certified and ml.optima == 1
score = jaxre.log_variance_derivatives(ml, moments, restricted=False).gradient
assert abs(score).max() < 1e-12 * n  # it ends on the score, not on the change of the criterion
print(f"within {ml.within:.4f}, between {ml.between:.4f}, log-likelihood {ml.log_likelihood:.6f}, score {score}")

# %% [markdown]
# ## 7. The alternating algorithm
#
# Without a closed form: fix the variances and take $\beta$ by generalised least squares; fix $\beta$ and update the
# variances; repeat. With $H = V/\sigma_w^2$ and residuals $r$ the update is
#
# $$\sigma_w^2 \leftarrow \frac{Q}{n}, \quad Q = r'H^{-1}r, \qquad
#   \sigma_b^2 \leftarrow \sigma_w^2\, \lambda \sqrt{\frac{r'H^{-1}ZZ'H^{-1}r}{\sigma_w^2 \operatorname{tr} Z'H^{-1}Z}}.$$
#
# The second one minimises a function that lies above $-2\ell$ and touches it at the current ratio, so the likelihood
# never falls (Zhou, Hu, Zhou and Lange, 2019). It is sure and slow: each step closes a fixed share of the distance.


# %%
def one_step(within, between):
    """A step by dense algebra."""
    H = np.eye(n) + between / within * Z @ Z.T
    weighted = np.linalg.solve(H, X)
    r = y - X @ np.linalg.solve(X.T @ weighted, weighted.T @ y)
    u = Z.T @ np.linalg.solve(H, r)
    within_new = r @ np.linalg.solve(H, r) / n
    return within_new, between / within * np.sqrt(within_new * (u @ u) / np.trace(Z.T @ np.linalg.solve(H, Z)))


path = jaxre.alternating(moments, Components(within=2000.0, between=2000.0), steps=60, restricted=False)
assert close((path.within[1], path.between[1]), one_step(2000.0, 2000.0))
assert close((path.within[2], path.between[2]), one_step(path.within[1], path.between[1]))
assert (np.diff(path.log_likelihood) > -1e-12).all()
assert close(path.between[-1], ml.between, 1e-6)
print("step    within   between  log-likelihood   distance from the maximum")
for step in (0, 1, 2, 3, 5, 10, 20, 40):
    distance = ml.log_likelihood - path.log_likelihood[step]
    print(
        f"{step:4d} {path.within[step]:9.3f} {path.between[step]:9.3f} {path.log_likelihood[step]:15.9f} {distance:12.1e}"
    )

# %% [markdown]
# ## 8. Restricted maximum likelihood
#
# Take any $n - p$ combinations $K'y$ whose expectation does not involve $\beta$, such as an orthonormal basis of what is
# orthogonal to $X$, and maximise *their* likelihood. It is the same for every $K$ up to a constant; that of lme4 and
# nlme leaves out $\tfrac12 \log\det X'X$. In a balanced design the estimate is the unbiased one of the analysis of
# variance, whenever that is positive.

# %%
K = np.linalg.svd(X, full_matrices=True)[0][:, 1:]  # (n, n - p), orthonormal, K'X = 0
contrasts, covariance = K.T @ y, K.T @ V @ K
log_density = (
    -(
        (n - 1) * np.log(2 * np.pi)
        + np.linalg.slogdet(covariance)[1]
        + contrasts @ np.linalg.solve(covariance, contrasts)
    )
    / 2
)
assert close(jaxre.restricted_log_likelihood(components, moments), log_density - np.log(n) / 2)

reml = jaxre.reml(moments)
assert close(reml.between, 1764.05) and close(reml.within, 2451.25) and close(reml.beta[0], 1527.5)
assert close(reml.between, anova.between) and reml.between > ml.between
assert close(reml.beta_se[0], np.sqrt(1764.05 / 6 + 2451.25 / 30))
assert reml.certified
print(f"within {reml.within:.2f}, between {reml.between:.2f}, REML criterion {-2 * reml.log_likelihood:.4f}")

# %% [markdown]
# ## 9. The group effects
#
# The best linear unbiased prediction of $a_j$ is its expectation given the data, with $\hat\mu$ for $\mu$:
#
# $$\hat a_j = s_j\,(\bar y_j - \hat\mu), \qquad s_j = \frac{n_j \sigma_b^2}{\sigma_w^2 + n_j \sigma_b^2}.$$
#
# A group mean is pulled towards the grand mean, by more when the group is small or the variance between is. How far off
# the prediction may be has two parts: $\sigma_b^2 (1 - s_j)$ if $\mu$ were known, and
# $s_j^2 \operatorname{var}\hat\mu$ because it is not.

# %%
effects = jaxre.blup(moments, reml)
V = jaxre.covariance(reml, group)
assert close(effects.shrinkage, 5 * 1764.05 / (2451.25 + 5 * 1764.05))
assert close(effects.effect, 1764.05 * Z.T @ np.linalg.solve(V, y - 1527.5), 1e-10)
assert close(effects.variance, reml.between * (1 - effects.shrinkage) + (effects.shrinkage * reml.beta_se[0]) ** 2)
assert abs(effects.effect.sum()) < 1e-9  # balanced: the predictions cancel

# Henderson's mixed-model equations give the same, with no V to invert
W = np.column_stack([X, Z])
left = W.T @ W / reml.within + np.diag([0.0] + [1 / reml.between] * J)
assert close(np.linalg.solve(left, W.T @ y / reml.within), np.append(reml.beta, effects.effect), 1e-10)
assert close(np.diag(np.linalg.inv(left))[1:], effects.variance, 1e-10)

# with unequal groups the small ones are pulled harder
unequal_reml = jaxre.reml(unequal)
uneven = jaxre.blup(unequal, unequal_reml)
assert (np.diff(uneven.shrinkage) <= 0).all()

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
panels = {"five rows in each batch": (moments, reml), "5, 5, 4, 3, 2 and 1 rows": (unequal, unequal_reml)}
for axis, (title, (data, at)) in zip(axes, panels.items(), strict=True):
    predicted = at.beta[0] + jaxre.blup(data, at).effect
    axis.axvline(at.beta[0], color="0.75", linewidth=1)
    axis.hlines(names, jaxre.group_means(data), predicted, color="0.75", linewidth=1)
    axis.plot(jaxre.group_means(data), names, "o", color="white", markeredgecolor="0.3", label="group mean")
    axis.plot(predicted, names, "o", color="tab:blue", label=r"$\hat\mu + \hat a_j$")
    axis.set(title=title, xlabel="yield")
    axis.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("batch")
axes[0].invert_yaxis()
axes[0].legend(frameon=False, loc="upper right")

# %% [markdown]
# ## 10. All of it at once
#
# `fit` checks the input, forms the moments, estimates, predicts, and proves that the optimum is the global one.

# %%
fit = jaxre.fit(y, batch)
assert close((fit.between, fit.within, fit.beta[0]), (1764.05, 2451.25, 1527.5))
assert fit.certified and list(fit.groups) == list(names) and close(fit.blup, effects.effect, 1e-10)
print(fit)

# %% [markdown]
# ## 11. Two maxima
#
# Why a proof? Eight groups of forty rows agree, four single rows do not. The large groups speak for a small variance
# between, the single rows for a large one, and the likelihood has a maximum for each story. An algorithm that climbs
# ends on one or the other, depending on where it starts, and both times reports success.

# %%
agreeing = np.linspace(-0.3, 0.3, 8)[:, None] + np.linspace(-1.6, 1.6, 40)
outcome = np.concatenate([agreeing.ravel(), [-3.2, -2.6, 2.9, 3.5]])
label = np.concatenate([np.repeat(np.arange(8), 40), [8, 9, 10, 11]])
fit = jaxre.fit(outcome, label)
assert fit.optima == 2 and fit.certified and fit.status is jaxre.Status.INTERIOR_SEVERAL
print(f"optima at ratio {fit.optima_ratio}, the estimate is {fit.ratio:.4f}, the other is worse by {fit.gap:.4f}")
print(fit.status)

moments = jaxre.group_moments(outcome, label)
for ratio in (0.01, 10.0):
    path = jaxre.alternating(moments, Components(within=1.0, between=ratio), steps=2000)
    end = path.between[-1] / path.within[-1]
    assert close(end, fit.optima_ratio[0 if ratio < 0.1 else 1], 1e-6)
    print(f"alternating from ratio {ratio:5.2f} ends at {end:.4f}")

# %% [markdown]
# With $Q$ and $\log\det$ as functions of $\lambda$ alone, and `within` at its optimum $Q/(n-p)$, the likelihood is a curve.
# The certificate covers all of $\lambda \ge 0$ with intervals. From the values of $Q$, $\log\det$ and their derivatives at
# the two ends it bounds the slope inside: where the bounds exclude zero there is no optimum, and where the slope can
# be shown to change its sign once there is exactly one. What it cannot decide it halves. The shaded bands are the
# intervals left at the end.

# %%
from jaxre.certificate import find_basins
from jaxre.curve import curve as curve_of
from jaxre.effects import normal_equations
from jaxre.profile import profile

equations = normal_equations(jaxre.stratify(moments))
degrees = fit.n - fit.p


@jax.jit
@jax.vmap
def profile_log_likelihood(ratio):
    within = profile(equations, ratio, True).quadratic / degrees / moments.frame.scale**2
    return jaxre.restricted_log_likelihood(Components(within=within, between=ratio * within), moments)


basins = find_basins(curve_of(equations, restricted=True))
bands = [(float(basins.low[i]), float(basins.high[i])) for i in range(int(basins.count))]
assert basins.complete and not basins.zero_is_optimum
assert all(low < optimum < high for optimum, (low, high) in zip(fit.optima_ratio, sorted(bands), strict=True))

ratios = np.geomspace(2e-3, 20, 2001)
curve = 2 * (profile_log_likelihood(ratios) - fit.log_likelihood)
heights = 2 * (profile_log_likelihood(fit.optima_ratio) - fit.log_likelihood)
best, other = int(np.argmax(heights)), int(np.argmin(heights))
assert close(heights[best] - heights[other], fit.gap, 1e-9)
assert curve.max() < 1e-9  # no point of the grid is above the estimate

# %%
colours = {best: "#0b5394", other: "#b45f06"}
says = {
    best: f"estimate\n$\\lambda$ = {fit.ratio:.3f}",
    other: f"local maximum\n$\\lambda$ = {fit.optima_ratio[other]:.3f}",
}
figure, axis = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
for i, (low, high) in enumerate(sorted(bands)):
    axis.axvspan(low, high, color=colours[i], alpha=0.12, linewidth=0)
    axis.axhline(heights[i], color="0.6", linewidth=0.8, linestyle=(0, (5, 4)), zorder=0)
axis.plot(ratios, curve, color="0.15", linewidth=1.8)
for i, colour in colours.items():
    face = colour if i == best else "white"
    axis.plot(fit.optima_ratio[i], heights[i], "o", ms=8, color=face, markeredgecolor=colour, markeredgewidth=1.8)
    axis.text(fit.optima_ratio[i], 0.17, says[i], ha="center", color=colour)
middle = np.sqrt(fit.optima_ratio.prod())
axis.annotate(
    "", (middle, heights[best]), (middle, heights[other]), arrowprops={"arrowstyle": "<->", "shrinkA": 0, "shrinkB": 0}
)
axis.text(middle * 1.1, heights.mean(), f"gap {fit.gap:.3f}", va="center")
axis.text(0.02, 0.04, "shaded: exactly one maximum, proven; elsewhere none", transform=axis.transAxes, color="0.35")
axis.set(
    xscale="log",
    xlim=(ratios[0], ratios[-1]),
    ylim=(-3.2, 0.8),
    xlabel=r"ratio $\lambda$ = between / within",
    ylabel=r"$2\,\ell_{\mathrm{REML}}(\lambda)$ less its maximum",
)
axis.spines[["top", "right"]].set_visible(False)
