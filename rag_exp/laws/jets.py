"""Second-order jets: values that carry their gradient and Hessian through ordinary expressions.

A curve of a form is written once, with these functions. Over arrays it gives values; over jets it gives
values and the exact first and second derivatives in the shape parameters, sparse in those that do not meet.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Pair = tuple[str, str]


class Jet:
    """A value [R, n] (or what broadcasts to it) and its derivatives in named parameters.

    Attributes:
        value: the value.
        first: parameter to derivative; an absent one is 0.
        second: pair of parameters in sorted order to second derivative; an absent one is 0.
    """

    __slots__ = ("first", "second", "value")
    __array_ufunc__ = None  # numpy leaves ``array * jet`` to the jet

    def __init__(self, value: Any, first: dict[str, Any] | None = None, second: dict[Pair, Any] | None = None):
        self.value = value
        self.first = first or {}
        self.second = second or {}

    @classmethod
    def of(cls, name: str, value: Any) -> Jet:
        """The parameter ``name`` itself."""
        return cls(value, {name: 1.0})

    def map(self, value: Any, slope: Any, bend: Any) -> Jet:
        """f(self), given f's value, first and second derivative at ``self.value``."""
        first = {i: slope * d for i, d in self.first.items()}
        second = {pair: slope * d for pair, d in self.second.items()}
        names = sorted(self.first)
        for a, i in enumerate(names):
            for j in names[a:]:
                _add(second, (i, j), bend * (self.first[i] * self.first[j]))
        return Jet(value, first, second)

    def __neg__(self) -> Jet:
        return self * -1.0

    def __add__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            return Jet(self.value + other, self.first, self.second)
        first, second = dict(self.first), dict(self.second)
        for i, d in other.first.items():
            _add(first, i, d)
        for pair, d in other.second.items():
            _add(second, pair, d)
        return Jet(self.value + other.value, first, second)

    def __sub__(self, other: Any) -> Jet:
        return self + (-other)

    def __rsub__(self, other: Any) -> Jet:
        return -self + other

    def __mul__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            return Jet(
                self.value * other,
                {i: d * other for i, d in self.first.items()},
                {pair: d * other for pair, d in self.second.items()},
            )
        first, second = {}, {}
        for one, two in ((self, other), (other, self)):
            for i, d in one.first.items():
                _add(first, i, d * two.value)
            for pair, d in one.second.items():
                _add(second, pair, d * two.value)
        for i, d in self.first.items():
            for j, e in other.first.items():
                _add(second, (min(i, j), max(i, j)), d * e * (2.0 if i == j else 1.0))
        return Jet(self.value * other.value, first, second)

    def __truediv__(self, other: Any) -> Jet:
        return self * (1.0 / other)

    def __rtruediv__(self, other: Any) -> Jet:
        inverse = 1.0 / self.value
        return self.map(inverse, -(inverse**2), 2.0 * inverse**3) * other

    __radd__ = __add__
    __rmul__ = __mul__


def _add(into: dict[Any, Any], key: Any, value: Any) -> None:
    into[key] = into[key] + value if key in into else value


def exp(x: Any) -> Any:
    if not isinstance(x, Jet):
        return np.exp(x)
    value = np.exp(x.value)
    return x.map(value, value, value)


def log(x: Any) -> Any:
    if not isinstance(x, Jet):
        return np.log(x)
    inverse = 1.0 / x.value
    return x.map(np.log(x.value), inverse, -(inverse**2))


def log1p(x: Any) -> Any:
    if not isinstance(x, Jet):
        return np.log1p(x)
    inverse = 1.0 / (1.0 + x.value)
    return x.map(np.log1p(x.value), inverse, -(inverse**2))


def expm1(x: Any) -> Any:
    """exp(x) - 1 without the cancellation that would make a tiny x vanish."""
    if not isinstance(x, Jet):
        return np.expm1(x)
    slope = np.exp(x.value)
    return x.map(np.expm1(x.value), slope, slope)


def softplus(x: Any) -> Any:
    """ln(1 + exp(x))."""
    if not isinstance(x, Jet):
        return np.logaddexp(0.0, x)
    value = np.logaddexp(0.0, x.value)
    slope = np.exp(x.value - value)
    return x.map(value, slope, slope * np.exp(-value))


def logaddexp(a: Any, b: Any) -> Any:
    """ln(exp(a) + exp(b))."""
    return a + softplus(b - a)
