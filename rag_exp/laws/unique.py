"""The parameters that unique tokens deserve, which the data-constrained law asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def unique_parameters(params: Mapping[str, float], U: Any) -> np.ndarray:
    """The parameters for which ``U`` tokens are compute-optimal under a Chinchilla law.

    Muennighoff et al. 2023, appendix A: with G = (alpha A / (beta B))^(1 / (alpha + beta)) the optimum of a budget C
    has N = G (C/6)^(beta / (alpha + beta)) and D = (C/6)^(alpha / (alpha + beta)) / G; so N = G (G D)^(beta / alpha).

    Args:
        params: A, B, alpha and beta, from data without repeats.
        U: unique tokens.

    Returns:
        the column U_N of form ``data_constrained``, in the shape of ``U`` (at least one dimension).
    """
    A, B, alpha, beta = (params[p] for p in ("A", "B", "alpha", "beta"))
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    return G * (G * np.atleast_1d(np.asarray(U, dtype=float))) ** (beta / alpha)
