"""What is done differently on a GPU gives the same answers; run on the CPU, which can do it too."""

import dataclasses
import sys

import designs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow import slow

import jaxre
from jaxre import batches, by_group, forms, settings

COUNT = 700  # datasets: two widths of blocks, the last block not full


@pytest.fixture
def gpu(monkeypatch):
    """JAX believes that it runs on a GPU, whose blocks are narrow."""
    programs = batches._kernel.cache_clear, forms._of_design.cache_clear, settings._cpu.cache_clear, jax.clear_caches
    for name, module in list(sys.modules.items()):
        if name.startswith("jaxre.") and hasattr(module, "platform"):
            monkeypatch.setattr(module, "platform", lambda: "gpu")
    monkeypatch.setattr(batches, "SENT_BY_ONE", 10_000)
    narrow = {"widths": (64, 256), "searched": 64}
    for name in ("ON_GPU", "RESIDENT"):
        monkeypatch.setattr(batches, name, dataclasses.replace(getattr(batches, name), **narrow))
    for clear in programs:
        clear()
    yield
    for clear in programs:
        clear()


def sample(p, missing):
    rng = np.random.default_rng(p)
    sizes = [1, 3, 2, 2, 5, 4]
    groups = rng.permutation(designs.labels(sizes))
    x = None if p == 1 else rng.normal(size=(len(groups), p - 1))
    spread = np.array([0, 0.3, 1, 3])[np.arange(COUNT) % 4]
    values = rng.normal(size=(len(groups), COUNT)) + rng.normal(size=(len(sizes), COUNT))[groups] * spread
    if missing:
        values[rng.random(values.shape) < 0.02] = np.nan
    values[:, 5], values[3, 6], values[:, 7], values[:, 8] = 1.5, np.inf, np.nan, groups * 1.25
    return values, groups, x


def same(found, expected):
    """The variances to 1e-12 of their sum, as everywhere that the order of additions differs."""
    np.testing.assert_array_equal(found.status, expected.status)
    np.testing.assert_array_equal(found.certified, expected.certified)
    for name in ("between", "within"):
        gap = abs(getattr(found, name) - getattr(expected, name)) / (expected.between + expected.within)
        assert np.nanmax(gap) < 1e-12


@pytest.mark.parametrize(("method", "p", "missing"), [("reml", 1, True), slow("ml", 3, False)])
def test_a_matrix(method, p, missing, request):
    values, groups, x = sample(p, missing)
    expected = jaxre.fit_many(values, groups, x, method=method)
    request.getfixturevalue("gpu")
    same(jaxre.fit_many(values, groups, x, method=method), expected)


@pytest.mark.parametrize(("dtype", "missing"), [("float64", True), slow("float32", False)])
def test_an_array_that_is_on_the_device(dtype, missing, request):
    values, groups, _ = sample(1, missing)
    values = values.astype(dtype)
    with jax.enable_x64(True):
        there = jnp.asarray(values)
    expected = jaxre.fit_many(values, groups)
    request.getfixturevalue("gpu")
    same(jaxre.fit_many(there, groups), expected)
    same(jaxre.fit_many(there, groups, chunk=100), expected)


@pytest.mark.slow
def test_inference_of_an_array_in_single_precision_is_in_double(request):
    values, groups, _ = sample(1, missing=False)
    values = values[:, 20:80].astype("float32")
    expected = jaxre.fit_many(values, groups, quantities=("status", "between", "within", "certified", "f_p_value"))
    request.getfixturevalue("gpu")
    there = jnp.asarray(values)
    found = jaxre.fit_many(there, groups, quantities=("status", "between", "within", "certified", "f_p_value"))
    same(found, expected)
    np.testing.assert_allclose(found.inference["f_p_value"], expected.inference["f_p_value"], rtol=1e-10)


@pytest.mark.slow
def test_the_pure_pipeline(request):
    values, groups, x = sample(2, missing=False)

    def fitted():
        with jax.enable_x64(True):
            fit = jax.vmap(lambda y: jaxre.reml(jaxre.group_moments(y, groups, x)), in_axes=1)
            return jax.jit(fit)(values)

    expected = fitted()
    request.getfixturevalue("gpu")
    same(fitted(), expected)


def test_traced_moments_of_concrete_groups_gather(request):
    """Scattered additions are slow there, and come in no certain order."""
    values, groups, x = sample(3, missing=False)
    request.getfixturevalue("gpu")
    with jax.enable_x64(True):
        program = str(jax.make_jaxpr(lambda y: jaxre.group_moments(y, groups, x))(values[:, 0]))
    assert "gather" in program
    assert "scatter-add" not in program


def test_rows_of_groups():
    codes = np.array([2, 0, 2, 2])
    np.testing.assert_array_equal(by_group.rows_of_groups(codes, 3), [[1, -1, -1], [-1, -1, -1], [0, 2, 3]])
    assert by_group.rows_of_groups(np.repeat(np.arange(30), [200, *[1] * 29]), 30) is None  # 6,000 places for 229 rows


def test_one_dataset_stays_on_the_cpu(request):
    values, groups, _ = sample(1, missing=False)
    expected = jaxre.fit(values[:, 0], groups)
    request.getfixturevalue("gpu")
    found = jaxre.fit(values[:, 0], groups)
    assert abs(found.between - expected.between) <= 1e-12 * (expected.between + expected.within)
    assert settings._cpu() is None  # the default device is the CPU already
