"""Reference vectors for McNemar's exact test: in whole numbers, and held against scipy.stats.binomtest (python3-scipy 1.10.1).

Regenerate with: python3 test/core/vectors/mcnemar.py   (writes mcnemar.json beside itself)
"""
import json
import math
import pathlib

from scipy.stats import binomtest


def p_value(first, second):
    n = first + second
    tail = term = 1
    for i in range(1, min(first, second) + 1):
        term = term * (n - i + 1) // i
        tail += term
    # The quotient of two integers is rounded once, and is 0 where it is less than the least double.
    exact = min(1.0, 2 * tail / 2**n)
    scipy = float(binomtest(first, n, 0.5).pvalue)
    # In its far tail scipy rounds to 0 earlier.
    assert math.isclose(exact, scipy, rel_tol=1e-9) if exact > 1e-290 else scipy < 1e-290, (first, second)
    return exact


# All small splits, then those of ever more examples, from as uneven as can be to even.
splits = [(first, second) for first in range(9) for second in range(9) if first + second > 0]
for n in [20, 57, 100, 999, 1000, 1075, 1076, 2000, 9999, 10_000, 49_999, 50_000]:
    near = (round(n / 2 - z * n**0.5 / 2) for z in (0.1, 1, 1.6, 1.7, 2, 3, 6, 12, 30))
    splits += [(first, n - first) for first in sorted({0, 1, n // 100, n // 10, n // 4, n // 2, *near}) if first >= 0]

vectors = [{"only_first": a, "only_second": b, "p_value": p_value(a, b)} for a, b in splits]
path = pathlib.Path(__file__).parent / "mcnemar.json"
path.write_text("[\n" + ",\n".join(json.dumps(vector) for vector in vectors) + "\n]\n")
