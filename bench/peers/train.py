"""scikit-learn's LogisticRegression for bench/train.ts. Reads a JSON command a line, and answers each with a line of JSON.

Objective: sum of cross-entropies + ||W||^2 / (2 C), without a penalty on the intercept, as LogisticRegression defines it.
"""
import json
import sys
import time
import warnings

import numpy as np
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

warnings.filterwarnings("ignore")
data = {}


def objective(weights, bias, c):
    logits = data["x"].astype(np.float64) @ weights.astype(np.float64).T + bias.astype(np.float64)
    rows = np.arange(len(data["y"]))
    losses = logsumexp(logits, axis=1) - logits[rows, data["y"]]
    return float(losses.sum() + (weights.astype(np.float64) ** 2).sum() / (2 * c))


def fit(c, max_iter, tol=1e-12):
    model = LogisticRegression(C=c, max_iter=max_iter, tol=tol)
    start = time.perf_counter()
    model.fit(data["x"], data["y"])
    return model, (time.perf_counter() - start) * 1000


def gap(model, c):
    return objective(model.coef_, model.intercept_, c) / data["optimum"][c] - 1


def load(command):
    rows, dimensions = command["rows"], command["dimensions"]
    data["x"] = np.fromfile(command["x"], np.float32).reshape(rows, dimensions)
    data["y"] = np.fromfile(command["y"], np.int32)
    data["optimum"] = {}
    return {}


def prepare(command):
    """The optimum, and the smallest max_iter whose gap is at most the given one."""
    c, target = command["c"], command["gap"]
    best, _ = fit(c, 5000)
    data["optimum"][c] = objective(best.coef_, best.intercept_, c)
    high = 4
    while gap(fit(c, high)[0], c) > target:
        high *= 2
    low = high // 2 if high > 4 else 0
    while high - low > 1:
        middle = (low + high) // 2
        if gap(fit(c, middle)[0], c) > target:
            low = middle
        else:
            high = middle
    return {"optimum": data["optimum"][c], "iterations": high, "optimum_iterations": int(best.n_iter_[0])}


def timed(command):
    model, milliseconds = fit(command["c"], command["iterations"])
    return {"milliseconds": milliseconds, "gap": gap(model, command["c"])}


def evaluate(command):
    weights = np.fromfile(command["weights"], np.float32).reshape(-1, data["x"].shape[1])
    return {"gap": objective(weights, np.fromfile(command["bias"], np.float32), command["c"]) / data["optimum"][command["c"]] - 1}


commands = {"load": load, "prepare": prepare, "fit": timed, "evaluate": evaluate}
for line in sys.stdin:
    command = json.loads(line)
    print(json.dumps(commands[command["do"]](command)), flush=True)
