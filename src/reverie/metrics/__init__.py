"""Measures of generated data against real data: pure functions of arrays and features.

Distances, coverage, memorisation, table marginals, modes, mixing of chains, and the real-vs-real floor each of them is read against.
"""

from reverie.metrics.arrays import nearest
from reverie.metrics.chains import autocorrelation, effective_draws, r_hat
from reverie.metrics.floors import Floor, real_floor, verdict, z_score
from reverie.metrics.frechet import frechet_distance, frechet_floor, frechet_from_moments, moments
from reverie.metrics.intervals import mean_error, median_error, wilson
from reverie.metrics.kernel import Estimate, cubic_kernel, gaussian_kernel, kid, mmd2
from reverie.metrics.marginals import (
    Column,
    association_error,
    association_pairs,
    associations,
    ks_statistic,
    marginal_distance,
    total_variation,
)
from reverie.metrics.memorisation import NearerShare, Pairs, closest_pairs, duplicate_rate, nearer_to_train
from reverie.metrics.modes import Modes, count_modes, expected_high_quality
from reverie.metrics.neighbours import Neighbourhood, expected_coverage, neighbourhood
from reverie.metrics.sliced import sliced_wasserstein

__all__ = [
    "Column",
    "Estimate",
    "Floor",
    "Modes",
    "NearerShare",
    "Neighbourhood",
    "Pairs",
    "association_error",
    "association_pairs",
    "associations",
    "autocorrelation",
    "closest_pairs",
    "count_modes",
    "cubic_kernel",
    "duplicate_rate",
    "effective_draws",
    "expected_coverage",
    "expected_high_quality",
    "frechet_distance",
    "frechet_floor",
    "frechet_from_moments",
    "gaussian_kernel",
    "kid",
    "ks_statistic",
    "marginal_distance",
    "mean_error",
    "median_error",
    "mmd2",
    "moments",
    "nearer_to_train",
    "nearest",
    "neighbourhood",
    "r_hat",
    "real_floor",
    "sliced_wasserstein",
    "total_variation",
    "verdict",
    "wilson",
    "z_score",
]
