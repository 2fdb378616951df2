"""Columns of many datasets that are computed once their variances are known: of groups, predictions and checks."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from jaxre.checks import HomogeneityCheck, NormalityCheck
from jaxre.group_effects import GroupEffects, expected_ranks
from jaxre.influence import Influence
from jaxre.prediction import Predictions
from jaxre.rows import Array

OF_EFFECTS = {  # of each group, and what it is in `GroupEffects`; the last by `expected_ranks`
    "blup_conditional_variance": "conditional_variance",
    "blup_mse": "effect_mse",
    "blup_low": "effect_low",
    "blup_high": "effect_high",
    "group_mean": "mean",
    "group_mean_mse": "mean_mse",
    "group_mean_low": "mean_low",
    "group_mean_high": "mean_high",
    "group_rank": "rank",
    "group_expected_rank": "expected_ranks",
}
OF_BETA = "group_beta_change"  # of each group and coefficient
OF_DELETIONS = {  # of each group, and what it is in `Influence`
    "group_cook": "cook",
    OF_BETA: "beta_change",
    "group_log_within_change": "log_within_change",
    "group_log_between_change": "log_between_change",
}
OF_GROUPS = (*OF_EFFECTS, *OF_DELETIONS)
OF_PREDICTIONS = {  # of each prediction, and what it is in `Predictions`
    "prediction": "value",
    "prediction_mean_mse": "mean_mse",
    "prediction_mean_low": "mean_low",
    "prediction_mean_high": "mean_high",
    "prediction_mse": "observation_mse",
    "prediction_low": "low",
    "prediction_high": "high",
}
CHECKS = {  # of each dataset: of what, and what it is in `HomogeneityCheck` or `NormalityCheck`
    "homogeneity_statistic": ("spread", "statistic"),
    "homogeneity_df1": ("spread", "df1"),
    "homogeneity_df2": ("spread", "df2"),
    "homogeneity_p_value": ("spread", "p_value"),
    "residual_normality_statistic": ("residuals", "statistic"),
    "residual_normality_p_value": ("residuals", "p_value"),
    "residual_skewness": ("residuals", "skewness"),
    "residual_excess_kurtosis": ("residuals", "excess_kurtosis"),
    "effect_normality_statistic": ("effects", "statistic"),
    "effect_normality_p_value": ("effects", "p_value"),
}
AFTERWARDS = (*OF_GROUPS, *OF_PREDICTIONS, *CHECKS)

Columns = dict[str, Array]


def columns_of_effects(effects: GroupEffects, asked: Collection[str]) -> Columns:
    """Those of the effects of the groups that are asked for."""
    fields = {name: field for name, field in OF_EFFECTS.items() if name in asked}
    return {
        name: expected_ranks(effects) if field == "expected_ranks" else getattr(effects, field)
        for name, field in fields.items()
    }


def columns_of_deletions(found: Influence, asked: Collection[str]) -> Columns:
    """Those of what leaving each group out does."""
    return {name: getattr(found, field) for name, field in OF_DELETIONS.items() if name in asked}


def columns_of_predictions(found: Predictions, asked: Collection[str]) -> Columns:
    """Those of the predictions."""
    return {name: getattr(found, field) for name, field in OF_PREDICTIONS.items() if name in asked}


def columns_of_checks(checks: Mapping[str, HomogeneityCheck | NormalityCheck], asked: Collection[str]) -> Columns:
    """Those of the checks of the "spread" within groups, and of the normality of "residuals" and of "effects"."""
    return {name: getattr(checks[of], field) for name, (of, field) in CHECKS.items() if name in asked}
