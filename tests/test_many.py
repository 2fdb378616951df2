"""Many datasets against the same datasets one at a time."""

import dataclasses
import sys

import designs
import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from slow import but_for, slow

import jaxre
from jaxre import Status, batches
from jaxre.many import DEFAULT

METHODS = ("reml", "ml", "anova")
COUNT = 40  # datasets: true ratios of 0, 0.3, 1 and 3, and from the 20th on missing values
BAD = {5: "constant", 6: "infinite", 7: "all missing", 8: "constant in each group"}


def sample(sizes, p, seed=0):
    """A matrix over one design, some of it missing, some datasets without an estimate; its labels and covariates."""
    rng = np.random.default_rng(seed)
    groups = designs.labels(sizes)
    x = None if p == 1 else rng.normal(size=(len(groups), p - 1)) + rng.normal(size=(len(sizes), p - 1))[groups]
    spread = np.array([0, 0.3, 1, 3])[np.arange(COUNT) % 4]
    values = rng.normal(size=(len(groups), COUNT)) + rng.normal(size=(len(sizes), COUNT))[groups] * spread
    missing = rng.random(values.shape) < 0.05
    missing[:, :20] = False
    values[missing] = np.nan
    values[:, 5], values[3, 6], values[:, 7], values[:, 8] = 1.5, np.inf, np.nan, groups * 1.25
    order = rng.permutation(len(groups))
    return values[order], groups[order], None if x is None else x[order]


def one_at_a_time(values, groups, covariates, method):
    """Fits, or the reason of the refusal, of every column."""
    for column in values.T:
        try:
            yield jaxre.fit(column, groups, covariates, method=method)
        except ValueError as error:
            yield str(error)


def assert_same(fits, i, single):
    if isinstance(single, str):
        assert Status(int(fits.status[i])).failed
        assert np.isnan([fits.between[i], fits.within[i], fits.icc[i], fits.log_likelihood[i]]).all()
        assert np.isnan(fits.beta[i]).all()
        assert not fits.certified[i]
        return
    digits = 1e-12  # of between + within: both ways end on the score, from sums in another order
    total = single.between + single.within
    assert abs(fits.between[i] - single.between) <= digits * total
    assert abs(fits.within[i] - single.within) <= digits * total
    assert abs(fits.icc[i] - single.icc) <= digits
    assert (fits.between[i] == 0) == (single.between == 0)
    assert fits.log_likelihood[i] == pytest.approx(single.log_likelihood, rel=digits)
    np.testing.assert_allclose(fits.beta[i], single.beta, atol=digits * max(single.beta_se.max(), 1))
    np.testing.assert_allclose(fits.beta_se[i], single.beta_se, rtol=1e-11)  # a few times more: the inverse of M
    np.testing.assert_allclose(fits.beta_cov[i], single.beta_cov, atol=1e-11 * single.beta_se.max() ** 2)
    assert (fits.status[i], fits.optima[i], fits.certified[i]) == (single.status, single.optima, single.certified)
    assert (fits.rows[i], fits.dropped[i], fits.group_counts[i]) == (single.n, single.dropped, len(single.groups))
    if np.isfinite(single.gap):
        assert fits.gap[i] == pytest.approx(single.gap, abs=1e-9)
    else:
        assert np.isinf(fits.gap[i])


@pytest.mark.parametrize("method", but_for(METHODS, ("ml", "anova")))
@pytest.mark.parametrize(("design", "p"), [slow("one giant", 1), ("unequal", 3), ("balanced", 1)])
def test_a_matrix_is_a_loop(design, p, method):
    values, groups, x = sample(designs.SIZES[design], p)
    fits = jaxre.fit_many(values, groups, x, method=method)
    assert len(fits) == COUNT
    for i, single in enumerate(one_at_a_time(values, groups, x, method)):
        assert_same(fits, i, single)
    assert [Status(code) for code in fits.status[[5, 6, 7]]] == [Status.CONSTANT_OUTCOME] + 2 * [Status.INVALID]
    assert fits.status[8] == Status.UNBOUNDED
    estimated = fits.status < Status.UNBOUNDED
    assert fits.certified[estimated].all()


def test_several_optima_are_among_them():
    values, groups, _ = sample(designs.SIZES["one giant"], 1)
    assert (jaxre.fit_many(values, groups, method="ml").optima > 1).sum() >= 3


def test_group_effects_come_when_asked_for():
    for p in (1, 3):
        values, groups, x = sample(designs.SIZES["unequal"], p)
        fits = jaxre.fit_many(values, groups, x, quantities=("between", "blup", "blup_se", "status"))
        assert fits.within is None
        for i in [*range(5), 25]:
            single = jaxre.fit(values[:, i], groups, x)
            assert fits.groups.tolist() == jaxre.fit(values[:, 0], groups, x).groups.tolist()
            order = [single.groups.tolist().index(label) for label in fits.groups]
            scale = np.abs(single.blup).max() + single.blup_se.max()
            np.testing.assert_allclose(fits.blup[i], single.blup[order], atol=1e-12 * scale)
            np.testing.assert_allclose(fits.blup_se[i], single.blup_se[order], atol=1e-12 * scale)


@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("form", ["iterator", "long table"])
def test_designs_of_their_own(form, p):
    data = [designs.simulate(seed, designs.SIZES[name], ratio=seed % 4, p=p) for seed, name in enumerate(NAMES)]
    if form == "iterator":
        fits = jaxre.fit_many(iter(data if p > 1 else [item[:2] for item in data]))
    else:
        rng = np.random.default_rng(1)
        y = np.concatenate([y for y, _, _ in data])
        order = rng.permutation(len(y))
        labels = np.repeat([f"d{i}" for i in range(len(data))], [len(y) for y, _, _ in data])
        x = None if p == 1 else np.concatenate([x for _, _, x in data])[order]
        groups = np.concatenate([g for _, g, _ in data])
        fits = jaxre.fit_many(y[order], groups[order], x, datasets=labels[order])
        place = np.argsort([int(name[1:]) for name in fits.names])
        assert sorted(fits.names) == sorted({*labels.tolist()})
        data = [data[i] for i in np.argsort(place)]
    for i, (y, groups, x) in enumerate(data):
        assert_same(fits, i, jaxre.fit(y, groups, x))


@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("form", ["iterator", "long table"])
def test_group_effects_of_designs_of_their_own(form, p):
    """Of every group of every dataset, one after the other, none for those of a dataset without an estimate."""
    data = [designs.simulate(seed, designs.SIZES["unequal"], ratio=seed % 4, p=p) for seed in range(5)]
    data = [(y + 1e6, np.array(list("ecabfd"))[g], x) for y, g, x in data]  # far from 0: nothing is to be lost
    data[3][0][:] = 1.0
    data[2][0][data[2][1] == "a"] = np.nan
    names = ("blup", "blup_se", "icc", *(("between",) if p == 1 else ()))
    if form == "iterator":
        fits = jaxre.fit_many([item[: 2 + (p > 1)] for item in data], quantities=names)
    else:
        y, g, x = (
            (np.concatenate(parts) for parts in zip(*data, strict=True))
            if p > 1
            else (*(np.concatenate([item[i] for item in data]) for i in (0, 1)), None)
        )
        fits = jaxre.fit_many(
            y, g, x, datasets=np.repeat(list("vwxyz"), [len(y) for y, _, _ in data]), quantities=names
        )
    assert (fits.within is None, fits.between is None, fits.ratio is None) == (True, p > 1, True)
    assert fits.group_counts.tolist() == [6, 6, 5, 6, 6]
    table = fits.tidy_groups()
    assert table["dataset"].tolist()[:7] == ([0] * 6 + [1] if form == "iterator" else ["v"] * 6 + ["w"])
    ends = np.cumsum(fits.group_counts)
    for i, (y, g, x) in enumerate(data):
        there = slice(ends[i] - fits.group_counts[i], ends[i])
        if i == 3:
            assert np.isnan(fits.blup[there]).all()
            assert np.isnan(fits.blup_se[there]).all()
            continue
        single = jaxre.fit(y, g, x)
        order = [single.groups.tolist().index(label) for label in table["group"][there]]
        scale = np.abs(single.blup).max() + single.blup_se.max()
        np.testing.assert_allclose(table["blup"][there], single.blup[order], atol=1e-11 * scale)  # 1e6 rounded
        np.testing.assert_allclose(table["blup_se"][there], single.blup_se[order], rtol=1e-11)


def test_missing_labels_of_a_column_with_a_dictionary():
    """In a long table, with effects and without, like those of a list."""
    labels, datasets = ["b", None, "a", "b", "c", "a", "c", "b", None, "a", "c", "b"] * 2, list("uvuuuvuvvvuv") * 2
    datasets[3] = None
    y = np.random.default_rng(0).normal(size=24)
    expected = jaxre.fit_many(y, labels, datasets=datasets)
    assert expected.unassigned == 1
    assert "1 row without a dataset left out" in str(expected)
    for names in (DEFAULT, (*DEFAULT, "blup")):
        fits = jaxre.fit_many(y, pa.array(labels), datasets=pa.array(datasets), quantities=names)
        assert fits.names.tolist() == ["u", "v"]
        for name in ("rows", "dropped", "group_counts", "between"):
            np.testing.assert_array_equal(getattr(fits, name), getattr(expected, name), err_msg=name)


def test_a_bad_dataset_with_the_largest_group_changes_no_bit():
    """Nor the way in which the others are fitted, which depends on the largest group."""
    data = [designs.simulate(i, [1, 2, 3, 4, 4, 2], 1.0)[:2] for i in range(5)]
    data.insert(3, designs.simulate(9, [30, 4, 4], 1.0)[:2])
    bad = [(y, g) if i != 3 else (np.full_like(y, np.nan), g) for i, (y, g) in enumerate(data)]
    long = lambda data: (
        *(np.concatenate(part) for part in zip(*data, strict=True)),
        np.repeat(range(6), list(map(len, [y for y, _ in data]))),
    )
    for form in (
        lambda data: jaxre.fit_many(data),
        lambda data: jaxre.fit_many(*long(data)[:2], datasets=long(data)[2]),
    ):
        before, after = form(data), form(bad)
        assert after.status[3] == Status.INVALID
        for name in ("between", "within", "beta", "log_likelihood"):
            ours, theirs = (np.delete(getattr(fits, name), 3, axis=0) for fits in (before, after))
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


@pytest.mark.parametrize("p", [1, slow(2)])
def test_effects_and_inference_together(p):
    values, groups, x = sample(designs.SIZES["unequal"], p)
    names = ("f_statistic", "blup_se", "icc", "blup")
    for part in (values[:, :4], values[:, 18:22]):
        fits = jaxre.fit_many(part, groups, x, quantities=names)
        for i, single in enumerate(one_at_a_time(part, groups, x, "reml")):
            order = [single.groups.tolist().index(label) for label in fits.groups]
            # a few times the 1e-12 of the variances that they are computed from
            np.testing.assert_allclose(fits.blup[i], single.blup[order], atol=1e-11)
            np.testing.assert_allclose(fits.blup_se[i], single.blup_se[order], rtol=1e-11)
            assert fits.inference["f_statistic"][i] == pytest.approx(single.f_test().statistic, rel=1e-11)


def test_nullable_integers_of_a_data_frame_are_not_rounded():
    frame = pd.DataFrame({"y": pd.array([2**53 + 1, None, 3, 4, 5, 7], dtype="Int64")})
    with pytest.raises(ValueError, match="column 'y' of values has integers beyond 2"):
        jaxre.fit_many(frame, list("aabbcc"))


def test_a_table_of_group_effects():
    values, groups, _ = sample(designs.SIZES["unequal"], 1)
    fits = jaxre.fit_many(values[:, :3], groups, quantities=("blup",))
    table = fits.tidy_groups()
    assert list(table) == ["dataset", "group", "blup"]
    assert table["dataset"].tolist() == [0] * 6 + [1] * 6 + [2] * 6
    np.testing.assert_array_equal(table["group"], np.tile(fits.groups, 3))
    np.testing.assert_array_equal(table["blup"].reshape(3, 6), fits.blup)


def test_a_long_table_is_taken_in_stretches(monkeypatch, capsys):
    """Where its datasets come one after the other, with the progress of each; the answers are the same."""
    data = [designs.simulate(seed, designs.SIZES[name], ratio=seed % 4) for seed, name in enumerate(NAMES)]
    y, g = (np.concatenate([item[i] for item in data]) for i in (0, 1))
    labels = np.repeat([f"d{i}" for i in range(len(data))], [len(item[0]) for item in data])
    names = (*DEFAULT, "blup", "f_p_value")
    whole = jaxre.fit_many(y, g, datasets=labels, quantities=names)
    monkeypatch.setattr("jaxre.separate.ROWS_AT_A_TIME", 150)
    parts = jaxre.fit_many(y, g, datasets=labels, quantities=names, progress=True)
    shown = capsys.readouterr().err
    assert shown.count(f"of {len(data)} datasets") >= 2
    assert f"{len(data)} of {len(data)} datasets" in shown
    assert parts.groups.tolist() == whole.groups.tolist()
    assert parts.names.tolist() == whole.names.tolist()
    for name in ("rows", "dropped", "group_counts", "status", "certified", "optima"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name), err_msg=name)
    for name in ("between", "icc", "beta", "blup"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12, atol=1e-12, err_msg=name)
    # the relative error of a tail is that of F times log p: 1e-12 times a few dozen
    np.testing.assert_allclose(parts.inference["f_p_value"], whole.inference["f_p_value"], rtol=1e-10)


NAMES = [name for name in designs.SIZES if name not in ("a continent and islands", "three groups")] * 3


def test_a_long_table_knows_its_missing_rows():
    y = np.array([1.0, 2, 4, 5, np.nan, 9, 1, 2, 3.5])
    fits = jaxre.fit_many(y, list("aabbbcabb"), datasets=[1, 1, 1, 1, 1, 1, 2, 2, 2])
    assert fits.rows.tolist() == [5, 3]
    assert_same(fits, 0, jaxre.fit(y[:6], list("aabbbc")))
    assert_same(fits, 1, jaxre.fit(y[6:], list("abb")))


@pytest.mark.usefixtures("as_shipped")
def test_layout_chunks_order_and_company_do_not_matter():
    values, groups, _ = sample(designs.SIZES["unequal"], 1)
    values = np.tile(values, (1, 20))  # 800 datasets: four lanes
    whole = jaxre.fit_many(values, groups)

    def assert_equal(other, order=slice(None)):
        for name in ("between", "within", "log_likelihood", "status", "certified", "beta"):
            np.testing.assert_allclose(getattr(other, name), getattr(whole, name)[order], rtol=1e-13, err_msg=name)

    assert_equal(jaxre.fit_many(np.asfortranarray(values), groups))
    assert_equal(jaxre.fit_many(np.repeat(values, 2, axis=1)[:, ::2], groups))  # a strided view
    assert_equal(jaxre.fit_many(values, groups, chunk=37))
    assert_equal(jaxre.fit_many(values[:, :COUNT], groups), slice(COUNT))  # few, which another program fits
    backwards = np.arange(values.shape[1])[::-1]
    assert_equal(jaxre.fit_many(values[:, backwards], groups), backwards)
    # in a call of the same shape, a dataset changes no bit of another's answer
    spoiled = values.copy()
    spoiled[:, ::2] = np.nan
    spoiled[0, ::4] = np.inf
    other = jaxre.fit_many(spoiled, groups)
    for name in ("between", "within", "beta", "log_likelihood"):
        np.testing.assert_array_equal(getattr(other, name)[1::2], getattr(whole, name)[1::2], err_msg=name)


def test_values_need_not_fit_in_memory(tmp_path):
    values, groups, _ = sample(designs.SIZES["unequal"], 1)
    np.save(tmp_path / "values.npy", values)
    mapped = np.load(tmp_path / "values.npy", mmap_mode="r")

    class Sliceable:
        """What a store of arrays on disk looks like: a shape, and slices that are read when asked for."""

        shape, asked = values.shape, []

        def __getitem__(self, key):
            self.asked.append(key[1])
            return values[key]

    whole, store = jaxre.fit_many(values, groups), Sliceable()
    with jax.enable_x64(True):
        in_jax = jax.device_put(values)
    np.testing.assert_array_equal(jaxre.fit_many(in_jax, groups).within, whole.within)
    for other in (mapped, store, jax.device_put(values.astype(np.float32))):
        fits = jaxre.fit_many(other, groups, chunk=16)
        rounding = 1e-13 if not isinstance(other, jax.Array) else 1e-4  # JAX holds single precision by default
        np.testing.assert_allclose(fits.within, whole.within, rtol=rounding)
    assert [(part.start, part.stop) for part in store.asked] == [(0, 16), (16, 32), (32, 40)]


def test_integers_and_masked_arrays():
    rng = np.random.default_rng(0)
    counts, groups = rng.poisson(20, size=(30, 4)), designs.labels([5] * 6)
    expected = jaxre.fit_many(counts.astype(float), groups)
    np.testing.assert_array_equal(jaxre.fit_many(counts, groups).within, expected.within)
    masked = np.ma.array(counts, mask=np.zeros(counts.shape, bool))
    masked[2, 1] = np.ma.masked
    fits = jaxre.fit_many(masked, groups)
    assert fits.rows.tolist() == [30, 29, 30, 30]
    assert_same(fits, 1, jaxre.fit(masked[:, 1], groups))


def test_not_one_dataset_is_complete():
    values, groups, _ = sample(designs.SIZES["unequal"], 1)
    values = values[:, 9:20]
    values[np.arange(11), np.arange(11)] = np.nan
    fits = jaxre.fit_many(values, groups)
    assert (fits.rows == len(groups) - 1).all()
    for i, single in enumerate(one_at_a_time(values, groups, None, "reml")):
        assert_same(fits, i, single)


def test_rows_without_a_label_or_a_covariate_are_left_out():
    values, groups, x = sample(designs.SIZES["unequal"], 3)
    x[4, 1] = np.nan
    labels = [None if i == 9 else f"g{g}" for i, g in enumerate(groups)]
    fits = jaxre.fit_many(values[:, :4], labels, x)
    assert fits.rows.tolist() == [len(groups) - 2] * 4
    assert_same(fits, 0, jaxre.fit(values[:, 0], labels, x))


@pytest.mark.parametrize("p", [1, 2])
def test_rows_out_of_all_proportion_are_fitted_like_the_others(p, rng):
    """The scale of an outcome comes from a sample of its rows, 0, 4, 8, ... of 64; here the others are far off it."""
    groups = np.repeat(np.arange(16), 4)
    values = rng.normal(size=(64, 5))
    values[1, 0] = 1e200
    values[:, 1] *= np.where(np.arange(64) % 4 == 0, 0, 1e-200)
    values[:, 2:4] = [1e-200, 0]
    values[1::4, 2], values[2::4, 2] = 3e-200, -1e-200
    values[1, 3] = 1e-300
    covariates = None if p == 1 else rng.normal(size=(64, 1))
    fits = jaxre.fit_many(values, groups, covariates)
    for i, single in enumerate(one_at_a_time(values, groups, covariates, "reml")):
        assert_same(fits, i, single)
    assert fits.status[4] < Status.UNBOUNDED


@pytest.mark.parametrize("power", [-498, 498, 30])
def test_scale_and_location_only_scale_and_move(power):
    rng = np.random.default_rng(3)
    groups = designs.labels(designs.SIZES["unequal"])
    values = np.round(rng.normal(size=(len(groups), 4)) * 64 + rng.normal(size=(6, 4))[groups] * 128) / 64
    plain = jaxre.fit_many(values, groups)
    if power == 30:
        moved = jaxre.fit_many(values + 2.0**30, groups)
        np.testing.assert_allclose(moved.between, plain.between, rtol=1e-14)
        np.testing.assert_allclose(moved.beta_se, plain.beta_se, rtol=1e-14)
    else:
        scaled = jaxre.fit_many(values * 2.0**power, groups)
        np.testing.assert_allclose(scaled.between, plain.between * 2.0 ** (2 * power), rtol=1e-14)
        np.testing.assert_allclose(scaled.icc, plain.icc, rtol=1e-14)


def test_an_intraclass_correlation_next_to_one():
    rng = np.random.default_rng(4)
    for p in (1, 3):
        groups = designs.labels(designs.SIZES["unequal"])
        x = None if p == 1 else rng.normal(size=(len(groups), 2))
        values = rng.normal(size=(6, 4))[groups] + 1e-6 * rng.normal(size=(len(groups), 4))
        fits = jaxre.fit_many(values, groups, x)
        for i in range(4):
            single = jaxre.fit(values[:, i], groups, x)
            assert single.ratio > 1e10
            # the rounding of the covariates' products with the group effects, 1e6 times the variation within groups
            assert fits.within[i] == pytest.approx(single.within, rel=1e-9)
            assert fits.between[i] == pytest.approx(single.between, rel=1e-12)
            np.testing.assert_allclose(fits.beta_se[i], single.beta_se, rtol=1e-9)


def test_single_precision():
    values, groups, x = sample(designs.SIZES["unequal"], 3)
    shifted = values + 1e6  # centred in double: nothing is lost
    single, double = jaxre.fit_many(shifted, groups, x, precision="single"), jaxre.fit_many(values, groups, x)
    np.testing.assert_array_equal(single.status[:20], double.status[:20])
    good = np.flatnonzero(double.status[:20] < Status.UNBOUNDED)
    total = (double.between + double.within)[good]
    assert (np.abs(single.between - double.between)[good] <= 2e-5 * total).all()  # 1e-7 times a few hundred roundings
    assert (np.abs(single.within - double.within)[good] <= 2e-5 * total).all()
    np.testing.assert_allclose(single.beta[good, 1:], double.beta[good, 1:], atol=2e-5)


def test_a_summary_in_words():
    values, groups, _ = sample(designs.SIZES["unequal"], 1)
    text = str(jaxre.fit_many(values, groups))
    assert text.startswith("Linear mixed models fit by REML: 40 datasets")
    assert f"each of 0 to {len(groups)} rows in 0 to 6 groups; " in text
    assert "           1  constant outcome" in text
    assert "           2  invalid data" in text
    assert "36 of 36 estimates are proven to be the global optimum" in text


def test_columns_of_a_table():
    values, groups, x = sample(designs.SIZES["unequal"], 3)
    columns = jaxre.fit_many(values, groups, x).to_dict()
    assert {
        "rows",
        "dropped",
        "groups",
        "between",
        "icc",
        "beta[x2]",
        "beta_se[(Intercept)]",
        "status",
        "certified",
    } <= set(columns)
    assert {len(column) for column in columns.values()} == {COUNT}
    assert columns["status"][5] == "constant_outcome"


def test_progress_is_shown_when_asked_for(capsys):
    values, groups, _ = sample(designs.SIZES["unequal"], 1)
    jaxre.fit_many(values, groups, progress=True, chunk=20)
    shown = capsys.readouterr().err
    assert "40 of 40 datasets" in shown
    assert "a second" in shown
    jaxre.fit_many(values, groups)
    assert capsys.readouterr().err == "" or sys.stderr.isatty()


def test_more_groups_than_a_spectrum_is_worth(monkeypatch):
    values, groups, x = sample(designs.SIZES["unequal"], 3)
    expected = jaxre.fit_many(values, groups, x)
    monkeypatch.setattr("jaxre.matrices.MOST_GROUPS", 5)
    np.testing.assert_allclose(jaxre.fit_many(values, groups, x).within, expected.within, rtol=1e-12)


Y, G = np.zeros((4, 3)), ["a", "a", "b", "b"]
REFUSED = {
    "unknown method": (lambda: jaxre.fit_many(Y, G, method="bayes"), ValueError, "method must be one of"),
    "unknown precision": (
        lambda: jaxre.fit_many(Y, G, precision="half"),
        ValueError,
        "'double' or 'single', got 'half'",
    ),
    "unknown quantity": (lambda: jaxre.fit_many(Y, G, quantities=["sigma"]), ValueError, r"unknown names \['sigma'\]"),
    "one dimension": (lambda: jaxre.fit_many(Y[:, 0], G), ValueError, r"\(observations, datasets\), got \(4,\)"),
    "transposed": (lambda: jaxre.fit_many(Y.T, G), ValueError, r"\(3, 4\).* 4; transpose"),
    "lengths": (lambda: jaxre.fit_many(Y, ["a"] * 5), ValueError, r"\(4, 3\) must have as many rows as .* 5"),
    "covariates": (lambda: jaxre.fit_many(Y, G, np.ones((3, 1))), ValueError, r"\(4, p - 1\).*got \(3, 1\)"),
    "more coefficients than rows": (lambda: jaxre.fit_many(Y, G, np.ones((4, 3))), ValueError, "for 4 complete rows"),
    "infinite covariate": (lambda: jaxre.fit_many(Y, G, np.full((4, 1), np.inf)), ValueError, "4 infinite"),
    "text": (lambda: jaxre.fit_many(np.full((4, 3), "x"), G), TypeError, "real numbers"),
    "complex": (lambda: jaxre.fit_many(Y + 1j, G), TypeError, "real numbers, got complex128"),
    "no labels": (lambda: jaxre.fit_many(Y), ValueError, "groups is missing"),
    "no row left": (lambda: jaxre.fit_many(Y, [None] * 4), ValueError, "no rows are left: all 4"),
    "chunk": (lambda: jaxre.fit_many(Y, G, chunk=0), ValueError, "chunk must be a positive number"),
    "memory": (lambda: jaxre.fit_many(Y, G, chunk=10**13), ValueError, "GB are free; pass a smaller chunk"),
    "no datasets": (lambda: jaxre.fit_many(iter([])), ValueError, "no datasets"),
    "a number": (lambda: jaxre.fit_many(3), TypeError, "got int"),
    "not a dataset": (lambda: jaxre.fit_many([(Y[:, 0], G), 7]), ValueError, "dataset 1 must be"),
    "values alone": (lambda: jaxre.fit_many([(Y[:, 0],)]), ValueError, "dataset 0 must be .* got tuple of 1"),
    "one covariate": (lambda: jaxre.fit_many([(Y[:, 0], G, Y[:, 1])]), ValueError, r"pass x.reshape\(-1, 1\)"),
    "no matrix": (lambda: jaxre.fit_many(None, G), ValueError, r"\(observations, datasets\), got NoneType"),
    "a ragged dataset": (lambda: jaxre.fit_many([(Y[:, 0], G[:3])]), ValueError, r"dataset 0 .*\(4,\), 3 labels"),
    "covariates differ": (
        lambda: jaxre.fit_many([(Y[:, 0], G), (Y[:, 0], G, np.ones((4, 1)))]),
        ValueError,
        r"same number of covariates, got \[0, 1\]",
    ),
    "effects that were not asked for": (
        lambda: jaxre.fit_many(np.arange(12.0).reshape(4, 3), G).tidy_groups(),
        ValueError,
        "no effects of groups; ask fit_many for quantities",
    ),
    "traced values": (
        lambda: jax.jit(lambda y: jaxre.fit_many(y, G).between)(Y),
        TypeError,
        "jit, vmap or grad traces; there use jax.vmap",
    ),
    "long lengths": (lambda: jaxre.fit_many(Y[:, 0], G, datasets=[1]), ValueError, r"\(4,\), \(4,\) and \(1,\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        call()


def test_a_dataset_with_too_few_rows_left_is_a_status():
    values, groups, x = sample(designs.SIZES["unequal"], 3)
    values = values[:, :4].copy()
    values[3:, 1] = np.nan  # three rows for three coefficients
    values[1:, 2] = np.nan
    fits = jaxre.fit_many(values, groups, x)
    assert fits.status[[1, 2]].tolist() == [Status.NOT_IDENTIFIED] * 2
    assert fits.rows.tolist() == [len(groups), 3, 1, len(groups)]
    assert_same(fits, 3, jaxre.fit(values[:, 3], groups, x))


def test_a_design_without_estimates_is_a_status():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 3))
    assert (jaxre.fit_many(values, np.arange(6)).status == Status.NOT_IDENTIFIED).all()
    assert (jaxre.fit_many(values, np.zeros(6)).status == Status.NOT_IDENTIFIED).all()
    x, groups = np.ones((6, 1)), [0, 0, 1, 1, 2, 2]
    values[0, 0], values[:, 1], values[:2, 2] = np.nan, np.nan, np.nan
    values = np.column_stack([values, np.full(6, 3.0), [np.inf, 1, 2, 3, 4, 5]])
    fits = jaxre.fit_many(values, groups, x, quantities=(*DEFAULT, "blup", "inference"))
    assert not fits.inference.pop("profile_settled").any()
    assert all(np.isnan(table).all() for table in fits.inference.values())
    expected = ["RANK_DEFICIENT", "INVALID", "RANK_DEFICIENT", "CONSTANT_OUTCOME", "INVALID"]
    assert [Status(code).name for code in fits.status] == expected
    assert fits.rows.tolist() == [5, 0, 4, 6, 6]
    assert fits.dropped.tolist() == [1, 6, 2, 0, 0]
    assert fits.group_counts.tolist() == [3, 0, 2, 3, 3]
    assert np.isnan(fits.blup).all()
    assert not fits.certified.any()


def test_every_combination_of_quantities_has_its_shape():
    values, groups, x = sample(designs.SIZES["unequal"], 3)
    shapes = {"blup_se": (6,), "beta_cov": (3, 3), "optima_ratio": (17,)}
    names = ("status", "optima_ratio", "blup_se", "beta_cov", "certified")
    fits = jaxre.fit_many(values[:, :3], groups, x, quantities=names)
    for name in names:
        assert getattr(fits, name).shape == (3, *shapes.get(name, ()))
    assert fits.certified.dtype == bool


def test_columns_of_very_many_rows_are_read_a_few_at_a_time():
    """As an array that records what is asked of it: 128 MB at a time at most."""
    asked = []

    class Recording:
        shape = (1_000_000, 40)

        def __getitem__(self, key):
            asked.append(key[1])
            raise InterruptedError

    with pytest.raises(InterruptedError):
        jaxre.fit_many(Recording(), np.arange(1_000_000) // 1000)
    assert asked == [slice(0, 16)]


@pytest.mark.parametrize("missing", [False, True])
def test_blocks_narrower_than_a_lane_give_the_same(missing, monkeypatch):
    values, groups, _ = sample([3, 1, 4, 6, 2], 1)
    values = values[:, 20:] if missing else values[:, :20]
    expected = jaxre.fit_many(values, groups)
    monkeypatch.setattr("jaxre.batches.ON_CPU", dataclasses.replace(batches.ON_CPU, numbers=16 * 8))
    found = jaxre.fit_many(values, groups)
    np.testing.assert_array_equal(found.status, expected.status)
    np.testing.assert_allclose(found.between, expected.between, rtol=0, atol=1e-12 * np.nanmax(expected.within))


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.slow
@pytest.mark.parametrize("p", [1, 2])
def test_few_complete_datasets_among_many_incomplete_ones_keep_their_bits(p, monkeypatch):
    values, groups, x = sample([3, 1, 4, 6, 2], p)
    rng = np.random.default_rng(8)
    if p == 1:
        monkeypatch.setattr("jaxre.batches.ON_CPU", dataclasses.replace(batches.ON_CPU, widths=(256, 1024)))
    count = 200 if p == 2 else 2148
    many = values[:, rng.integers(10, 20, count)] + rng.normal(size=(len(values), count))
    expected = jaxre.fit_many(many, groups, x)
    complete = np.zeros(count, bool)
    complete[rng.integers(50, count // 2, 3)] = True  # in the first block, or blocks, alone
    many[1, ~complete] = np.nan
    found = jaxre.fit_many(many, groups, x)
    np.testing.assert_array_equal(found.rows, len(groups) - ~complete)
    for name in ("between", "within", "log_likelihood", "certified", "status"):
        np.testing.assert_array_equal(getattr(found, name)[complete], getattr(expected, name)[complete])
    rest = jaxre.fit_many(
        np.delete(many, 1, axis=0), np.delete(groups, 1), None if x is None else np.delete(x, 1, axis=0)
    )
    scale = (rest.between + rest.within)[~complete]
    assert (abs(found.between - rest.between)[~complete] / scale).max() < 1e-12
