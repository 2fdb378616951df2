"""Samples compared by their distribution functions."""

import numpy as np


def distance(a, b):
    """Kolmogorov and Smirnov's largest distance between two empirical distributions."""
    a, b = np.sort(a), np.sort(b)
    every = np.concatenate([a, b])
    return abs(np.searchsorted(a, every, "right") / len(a) - np.searchsorted(b, every, "right") / len(b)).max()


def distance_from(a, cdf):
    a = np.sort(a)
    at, step = np.asarray(cdf(a)), np.arange(len(a) + 1) / len(a)
    return max(abs(at - step[1:]).max(), abs(at - step[:-1]).max())


LIMIT = 2.23  # of the distance times sqrt(n), passed with probability 2 exp(-2 LIMIT^2) = 1e-4 by chance
