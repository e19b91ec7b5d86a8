"""Reference vectors for the head's mathematics, from scikit-learn (made with Debian's python3-sklearn 1.2.1).

Regenerate with: python3 test/core/vectors/make.py   (writes fits.json and metrics.json beside itself)
"""
import json
import pathlib
import warnings

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_fscore_support,
    r2_score,
)

# newton-cg warns when rounding, not max_iter, ends it.
warnings.filterwarnings("ignore")

here = pathlib.Path(__file__).parent
random = np.random.default_rng(20)
# lbfgs stops at a relative decrease of 2e-9 whatever its tol, some 1e-2 away in probability where features are badly scaled.
exact = {"solver": "newton-cg", "tol": 1e-10, "max_iter": 10000}


def rounded(array, digits=8):
    return [round(float(value), digits) for value in np.asarray(array).ravel()]


def blobs(rows, dimensions, classes, shift=0.0, scale=1.0):
    centres = random.normal(size=(classes, dimensions))
    y = np.concatenate([np.arange(classes), random.choice(classes, rows - classes, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2))])
    x = (centres[y] * 0.6 + random.normal(size=(rows, dimensions)) + shift) * scale
    return x.astype(np.float32), y


def logistic(name, x, y, c, balanced=False, repeat=None):
    weights = None if repeat is None else 1.0 + np.isin(np.arange(len(y)), repeat)
    # Centring changes nothing but the free intercept, and lets newton-cg reach the optimum.
    centred = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    # Two classes are fitted as one sigmoid: half of the softmax's penalty is the same model.
    penalty = c if y.max() > 1 else 2 * c
    model = LogisticRegression(C=penalty, class_weight="balanced" if balanced else None, **exact)
    p = model.fit(centred, y, sample_weight=weights).predict_proba(centred)
    return {
        "name": name, "kind": "single", "rows": len(y), "dimensions": x.shape[1], "outputs": int(y.max()) + 1,
        "l2": 1 / c, "balanced": balanced, "repeat": repeat or [], "x": rounded(x, 9), "y": y.tolist(), "expected": rounded(p),
    }


def sigmoids(name, x, y, c):
    columns = [LogisticRegression(C=c, **exact).fit(x.astype(np.float64), y[:, k]).predict_proba(x.astype(np.float64))[:, 1] for k in range(y.shape[1])]
    return {
        "name": name, "kind": "multi", "rows": len(y), "dimensions": x.shape[1], "outputs": y.shape[1], "l2": 1 / c, "balanced": False, "repeat": [],
        "x": rounded(x, 9), "y": [np.flatnonzero(row).tolist() for row in y], "expected": rounded(np.stack(columns, axis=1)),
    }


def ridge(name, x, y, alpha):
    model = Ridge(alpha=alpha, solver="cholesky").fit(x.astype(np.float64), y)
    return {
        "name": name, "kind": "value", "rows": len(y), "dimensions": x.shape[1], "outputs": 1, "l2": alpha, "balanced": False, "repeat": [],
        "x": rounded(x, 9), "y": rounded(y), "expected": rounded(model.predict(x.astype(np.float64))),
    }


fits = []
x, y = blobs(60, 8, 5)
fits.append(logistic("five classes", x, y, 1.0))
fits.append(logistic("five classes, weak penalty", x, y, 100.0))
fits.append(logistic("five classes, balanced", x, y, 1.0, balanced=True))
fits.append(logistic("five classes, some rows twice", x, y, 1.0, repeat=[0, 3, 7, 31]))
x, y = blobs(40, 6, 2)
fits.append(logistic("two classes", x, y, 3.0))
x, y = blobs(20, 40, 4)
fits.append(logistic("more dimensions than rows", x, y, 10.0))
x, y = blobs(50, 5, 3, shift=20.0)
fits.append(logistic("features far from zero", x, y, 0.3))
x, y = blobs(50, 5, 3, scale=1e-3)
fits.append(logistic("small features", x, y, 1e6))
x, _ = blobs(60, 7, 2)
logits = x.astype(np.float64) @ random.normal(size=(7, 4)) + random.normal(size=4)
fits.append(sigmoids("four labels", x, (logits + random.logistic(size=logits.shape) > 0).astype(int), 2.0))
x, _ = blobs(50, 6, 2)
target = x.astype(np.float64) @ random.normal(size=6) + 3 + random.normal(size=50) * 0.3
fits.append(ridge("ridge", x, target, 0.5))
fits.append(ridge("ridge, strong penalty", x, target, 100.0))
# Where the preconditioner is a factorised matrix (more than a few dimensions), badly conditioned, or a diagonal.
random = np.random.default_rng(21)
x, y = blobs(40, 90, 4)
fits.append(logistic("ninety dimensions, few rows, weak penalty", x.round(3), y, 1000.0))
x, y = blobs(120, 64, 5)
fits.append(logistic("more rows than dimensions, weak penalty", x.round(3), y, 100.0))
x, y = blobs(80, 3, 4)
x = (x.astype(np.float64) @ random.normal(size=(3, 60))).astype(np.float32)
fits.append(logistic("sixty dimensions of rank three", x.round(3), y, 10.0))
target = x.round(3).astype(np.float64) @ random.normal(size=60) + random.normal(size=80)
fits.append(ridge("ridge, sixty dimensions of rank three", x.round(3), target, 1.0))
x, y = blobs(24, 660, 3)
fits.append(logistic("beyond six hundred dimensions", x.round(3), y, 1.0))
(here / "fits.json").write_text("[\n" + ",\n".join(json.dumps(each) for each in fits) + "\n]\n")

random = np.random.default_rng(22)
truth = random.integers(0, 4, 80)
scores = random.normal(size=(80, 4)) + 1.5 * np.eye(4)[truth]
p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
predicted = p.argmax(axis=1)
precision, recall, f1, support = precision_recall_fscore_support(truth, predicted)
many_truth = random.random((40, 3)) < 0.4
many_predicted = many_truth ^ (random.random((40, 3)) < 0.2)
values = random.normal(size=30)
guesses = values + random.normal(size=30) * 0.4
bins = np.clip(np.ceil(p.max(axis=1) * 15).astype(int) - 1, 0, 14)
ece = sum((bins == b).mean() * abs(p.max(axis=1)[bins == b].mean() - (predicted == truth)[bins == b].mean()) for b in set(bins))
metrics = {
    "logits": rounded(scores), "outputs": 4, "truth": truth.tolist(), "predicted": predicted.tolist(),
    "accuracy": accuracy_score(truth, predicted), "macro_f1": f1_score(truth, predicted, average="macro"),
    "log_loss": log_loss(truth, p), "ece": ece, "confusion": confusion_matrix(truth, predicted).tolist(),
    "precision": precision.tolist(), "recall": recall.tolist(), "f1": f1.tolist(), "support": support.tolist(),
    "multi": {
        "truth": [np.flatnonzero(row).tolist() for row in many_truth], "predicted": [np.flatnonzero(row).tolist() for row in many_predicted],
        "micro_f1": f1_score(many_truth, many_predicted, average="micro"), "macro_f1": f1_score(many_truth, many_predicted, average="macro"),
        "accuracy": accuracy_score(many_truth, many_predicted),
    },
    "regression": {
        "truth": rounded(values), "predicted": rounded(guesses), "r2": r2_score(values, guesses),
        "mae": mean_absolute_error(values, guesses), "rmse": float(np.sqrt(mean_squared_error(values, guesses))),
    },
}
(here / "metrics.json").write_text(json.dumps(metrics) + "\n")
