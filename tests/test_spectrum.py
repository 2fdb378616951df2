"""A design in spectral form against dense algebra, and the bounds of its proof against what they bound."""

import dataclasses
import itertools

import dense
import designs
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxre.classes import sums_of_block
from jaxre.passes import missing_of, passes_on_host, sums_on_host
from jaxre.proof import MESH, PARTS, proof_of
from jaxre.search import quick_search
from jaxre.shared import reduce_rows
from jaxre.shared_design import shared_design
from jaxre.spectrum import Coordinates, log_of_product, spectral_curve, spectral_profile

DESIGNS = ("one giant", "unequal", "balanced", "pairs of sizes", "three groups")


def made(name, p, restricted=True):
    _, groups, x = designs.simulate(7, designs.SIZES[name], p=p)
    return groups, x, shared_design(groups, x, restricted)


@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("name", DESIGNS)
def test_eigenvalues_and_log_determinants_are_dense(name, p):
    groups, x, design = made(name, p)
    full, z = dense.design(len(groups), x), dense.indicators(groups)
    projector = np.eye(len(groups)) - full @ np.linalg.solve(full.T @ full, full.T)
    nu = np.linalg.eigvalsh(z.T @ projector @ z)
    spectrum = design.spectrum
    expanded = np.sort(np.repeat(spectrum.values, spectrum.counts.astype(int)))
    np.testing.assert_allclose(expanded, nu[-len(expanded) :], rtol=1e-11)  # pairwise products of 105 rows
    assert np.abs(nu[: -len(expanded)]).max(initial=0) < 1e-9  # the others are 0
    assert design.rank == len(expanded)
    for ratio in (0.0, 0.3, 20.0):
        h = dense.covariance(1.0, ratio, groups)
        determinant = np.linalg.slogdet(h)[1] + np.linalg.slogdet(full.T @ np.linalg.solve(h, full))[1]
        ours = spectrum.log_counts @ np.log1p(ratio * spectrum.of_log_det) - 2 * design.log_volume
        assert ours == pytest.approx(determinant, rel=1e-11)


@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("name", DESIGNS)
def test_covariance_of_the_coefficients_is_dense(name, p):
    groups, x, design = made(name, p)
    full = dense.design(len(groups), x)
    for ratio in (0.0, 0.3, 20.0, 1e6):
        shrunk = ratio / (1 + ratio * design.spectrum.values)
        ours = design.cov + ratio * design.cov_1 + design.cov_2 @ shrunk
        h = dense.covariance(1.0, ratio, groups)
        expected = np.linalg.inv(full.T @ np.linalg.solve(h, full))
        # the dense inverse has the condition of H: 1e6 times the largest group
        np.testing.assert_allclose(ours, expected, atol=1e-13 * (1 + 100 * ratio) * np.abs(expected).max())


@pytest.mark.parametrize("restricted", [False, True])
def test_derivatives_of_the_profile_are_those_of_its_values(restricted, x64):
    """1e-12: some terms of one sign."""
    spectrum = made("unequal", 3, restricted)[2].spectrum
    t = np.random.default_rng(3).chisquare(1, size=len(spectrum.values))
    outcome = Coordinates(squares=t, floor=jnp.float64(2), valid=jnp.array(True))
    at = lambda ratio: spectral_profile(spectrum, outcome, ratio)
    for ratio in (0.0, 0.3, 20.0):
        here, derived = jax.jvp(at, (jnp.float64(ratio),), (jnp.float64(1),))
        for name, order in (("quadratic", 3), ("log_det", 2)):
            names = [name, *(f"{name}_{i}" for i in range(1, order + 1))]
            for lower, higher in itertools.pairwise(names):
                np.testing.assert_allclose(getattr(here, higher), getattr(derived, lower), rtol=1e-12, err_msg=higher)


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("name", DESIGNS)
def test_bounds_of_the_proof_hold(name, p, restricted):
    """phi_i and its weighted slope, by their definitions, between the bounds of each part."""
    _, _, design = made(name, p, restricted)
    spectrum, proof = design.spectrum, design.spectrum.proof
    n, size, nu = float(spectrum.degrees), float(spectrum.size), spectrum.values
    edges = np.linspace(0, MESH, PARTS + 1).astype(int) / MESH
    for part in range(PARTS):
        s = 1 - np.linspace(edges[part], edges[part + 1], 401)[:-1, None]
        ratio = (1 / s - 1) / size
        phi = lambda ratio: (
            1 / (1 + ratio * nu)
            - n
            * nu
            / (1 + ratio * nu) ** 2
            / (spectrum.log_counts * spectrum.of_log_det / (1 + ratio * spectrum.of_log_det)).sum(axis=1, keepdims=True)
        )
        assert (phi(ratio) >= proof.low[part] - 1e-12).all()
        assert (phi(ratio) <= proof.high[part] + 1e-12).all()
        step = 1e-6 * (1 / size + ratio)
        slope = (phi(ratio + step) - phi(np.maximum(ratio - step, 0))) / (step + np.minimum(step, ratio))
        weighted = slope * (1 + size * ratio) ** 2
        # differences lose half the digits, of N
        assert (weighted >= proof.slope[part] - 1e-7 * n * np.abs(weighted).max()).all()


def test_nothing_is_searched_for_where_nothing_varies_within_groups(x64):
    """It would never converge, and a whole batch would wait for it."""
    _, _, design = made("unequal", 1)
    squares = jnp.arange(1.0, 1 + len(design.spectrum.values))
    for floor, valid in ((1.0, True), (0.0, False)):
        outcome = Coordinates(squares=squares, floor=jnp.asarray(floor), valid=jnp.asarray(valid))
        found = quick_search(spectral_curve((design.spectrum, outcome)))
        assert bool(found.settled)
        assert bool(found.certified) == valid
        assert 0 <= found.steps <= (5 if valid else 0)  # Newton's steps square the error


def test_a_finer_mesh_bounds_no_worse(monkeypatch):
    _, _, design = made("unequal", 1)
    spectrum = design.spectrum
    arguments = spectrum.values, spectrum.of_log_det, spectrum.log_counts, float(spectrum.degrees), float(spectrum.size)
    monkeypatch.setattr("jaxre.proof.MESH", MESH // 8)
    coarse = proof_of(*arguments)
    assert (coarse.slope <= spectrum.proof.slope + 1e-9).all()
    assert (coarse.low <= spectrum.proof.low + 1e-9).all()
    assert (coarse.high >= spectrum.proof.high - 1e-9).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tile", [1, 1 << 19])
@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("name", DESIGNS)
def test_passes_on_the_host_are_those_on_the_device(name, p, tile, monkeypatch):
    monkeypatch.setattr("jaxre.passes.TILE", tile)  # tiles of 64 datasets and 36, or one of all
    monkeypatch.setattr("jaxre.passes.SLAB", max(500, tile))  # slabs of few rows, or of all
    groups, _, design = made(name, p)
    rng = np.random.default_rng(3)
    size = 10.0 ** rng.choice([-180, -3, 0, 2, 180], 100)
    y = size * (rng.normal(size=(len(groups), 100)) + 5 * rng.normal(size=(groups.max() + 1, 100))[groups] + 1)
    host, device = passes_on_host(design.inner, design.sizes, y), reduce_rows(design, jnp.asarray(y), np.float64)
    np.testing.assert_array_equal(host.pilot, device.pilot)
    np.testing.assert_array_equal(host.scale, device.scale)
    for field in dataclasses.fields(host):
        ours, theirs = getattr(host, field.name), np.asarray(getattr(device, field.name))
        # sums of up to 105 scaled numbers of about 1, in another order
        np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-13 * (1 if field.name != "pilot" else 0))


def test_what_covariates_leave_over_keeps_its_digits_whatever_they_explain(monkeypatch):
    """From next to nothing to all but 1e-12 of the squares within groups; and alone as among others that leave less."""
    monkeypatch.setattr("jaxre.passes.STRIP", 16)
    groups, _, design = made("unequal", 3)
    rng = np.random.default_rng(6)
    leaves = np.repeat([1.0, 0.5, 0.2, 0.1, 1e-4, 1e-12], 10)
    along = rng.normal(size=(design.inner.shape[1], 60))
    noise = rng.normal(size=(len(groups), 60))
    y = noise + np.sqrt((1 / leaves - 1) * (noise**2).sum(axis=0) / (along**2).sum(axis=0)) * (design.inner @ along)
    found = passes_on_host(design.inner, design.sizes, y)
    wide, basis = y.astype(np.longdouble), design.inner.astype(np.longdouble)
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    wide -= (np.add.reduceat(wide, starts) / design.sizes[:, None])[groups]
    for _ in range(2):  # the basis is orthonormal up to the last digit of a double
        wide -= basis @ (basis.T @ wide)
    exact = (wide * wide).sum(axis=0) * found.scale**2
    # a digit of a sum, and in each of its terms what the last digit of the values is worth
    assert (abs(found.floor / exact - 1) < 5e-15 + 1e-15 / np.sqrt(leaves)).all()
    steady = np.where(leaves < 0.05, noise, y)
    np.testing.assert_array_equal(passes_on_host(design.inner, design.sizes, steady).floor[:40], found.floor[:40])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tile", [1, 1 << 19])
@pytest.mark.parametrize("name", DESIGNS)
def test_sums_with_missing_values_on_the_host_are_those_on_the_device(name, tile, monkeypatch):
    monkeypatch.setattr("jaxre.passes.TILE", tile)
    monkeypatch.setattr("jaxre.passes.SLAB", max(500, tile))
    groups, _, _ = made(name, 1)
    rng, count = np.random.default_rng(5), groups.max() + 1
    size = 10.0 ** rng.choice([-180, -3, 0, 2, 180], 100)
    y = size * (rng.normal(size=(len(groups), 100)) + 5 * rng.normal(size=(count, 100))[groups] + 1)
    y[rng.random(y.shape) < np.linspace(0, 1, 100)] = np.nan  # from none to all of them
    host = sums_on_host(np.bincount(groups), y)
    device = sums_of_block(groups, None, count, jnp.asarray(y), np.float64)
    some = ~np.isnan(y).all(axis=0)
    for field in dataclasses.fields(host):
        ours, theirs = (np.asarray(getattr(sums, field.name))[..., some] for sums in (host, device))
        exact = field.name in ("low", "high", "scale", "sizes")
        np.testing.assert_allclose(ours, theirs, rtol=0 if exact else 1e-13, atol=0 if exact else 1e-13)
    whole = sum(np.isnan(y[groups == group]).all(axis=0) for group in range(count))
    np.testing.assert_array_equal(missing_of(np.bincount(groups), y), [np.isnan(y).sum(axis=0), whole])


def test_missing_values_in_very_many_rows_are_counted():
    y = np.zeros((1000, 3))
    y[:700, 1], y[:, 2] = np.nan, np.nan
    np.testing.assert_array_equal(missing_of(np.array([600, 100, 300]), y), [[0, 700, 1000], [0, 2, 3]])


def test_passes_on_the_host_say_what_is_missing_infinite_or_beyond_the_sample():
    groups, _, design = made("one giant", 1)
    y = np.random.default_rng(4).normal(size=(len(groups), 5))
    y[3, 1], y[4, 2], y[5, 3] = np.nan, np.inf, 1e300
    floor = passes_on_host(design.inner, design.sizes, y).floor
    alone = passes_on_host(design.inner, design.sizes, y[:, [0, 4]]).floor
    assert not np.isfinite(floor[1:4]).any()
    np.testing.assert_array_equal(floor[[0, 4]], alone)


@pytest.mark.parametrize(("dtype", "digits"), [(np.float64, 1e-15), (np.float32, 1e-6)])
@pytest.mark.parametrize("largest", [1.0, 1e5, 1e11])
@pytest.mark.parametrize("ratio", [0.0, 1e-9, 1.0, 1e9])
def test_the_logarithm_of_a_product(x64, dtype, digits, largest, ratio):
    """Off by a few units in the last place of 1 for each of 20 factors, and of the sum."""
    values = np.append(np.linspace(1, 5, 19), largest)
    expected = np.log1p(ratio * np.sort(values)).sum()
    found = log_of_product(jnp.asarray(np.sort(values), dtype), jnp.asarray(ratio, dtype))
    assert found.dtype == dtype
    assert float(found) == pytest.approx(expected, abs=20 * digits, rel=4 * digits)
