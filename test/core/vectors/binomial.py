"""Reference vectors for the tail of a binomial distribution: exact fractions, held against scipy.stats.binom.cdf (1.17.1).

Regenerate with: python3 test/core/vectors/binomial.py   (writes binomial.json beside itself)
"""
import json
import math
import pathlib
from fractions import Fraction

from scipy.stats import binom


def tail(k, n, p):
    p = Fraction(p)
    exact = float(sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1)))
    assert math.isclose(exact, float(binom.cdf(k, n, float(p))), rel_tol=1e-9, abs_tol=1e-290), (k, n, p)
    return exact


shares = [0.0, 0.001, 0.1, 1 / 3, 0.5, 0.8, 0.95, 0.999, 1.0]
vectors = [
    {"k": k, "n": n, "p": p, "tail": tail(k, n, p)}
    for n in (0, 1, 5, 20, 57, 100)
    for k in sorted({0, n // 4, n // 2, max(0, n - 3), max(0, n - 1), n})
    for p in shares
]
path = pathlib.Path(__file__).parent / "binomial.json"
path.write_text("[\n" + ",\n".join(json.dumps(vector) for vector in vectors) + "\n]\n")
