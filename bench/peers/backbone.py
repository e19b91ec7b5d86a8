"""scikit-learn for bench/backbone.ts and finetune.ts. Reads a JSON command a line, and answers each with a line of JSON.

svm: sublinear TF-IDF of words, word pairs and the character 2- to 4-grams of words, with LinearSVC at its defaults.
logistic: LogisticRegression on embeddings with max_iter = 100, as in MTEB's classification tasks.
"""
import json
import sys
import warnings

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from sklearn.svm import LinearSVC

warnings.filterwarnings("ignore")


def svm(command):
    model = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b|[^\w\s]"),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True),
        ),
        LinearSVC(random_state=0),
    )
    model.fit(command["texts"], command["labels"])
    return model.predict(command["test"]).tolist()


def logistic(command):
    x, test = (np.fromfile(command[name], np.float32).reshape(-1, command["dimensions"]) for name in ("x", "test"))
    rows = command["rows"]
    model = LogisticRegression(max_iter=100).fit(x[rows], np.array(command["labels"])[rows])
    return model.predict(test).tolist()


for line in sys.stdin:
    command = json.loads(line)
    print(json.dumps({"svm": svm, "logistic": logistic}[command["do"]](command)), flush=True)
