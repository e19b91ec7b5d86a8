"""scikit-learn's HashingVectorizer for bench/encode.ts. Reads texts and milliseconds as JSON; prints texts a second."""
import json
import sys
import time

from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.pipeline import make_union

texts, milliseconds = json.load(sys.stdin)
encoder = make_union(
    HashingVectorizer(n_features=384, ngram_range=(1, 2)),
    HashingVectorizer(n_features=384, analyzer="char_wb", ngram_range=(2, 4)),
)
encoder.transform(texts)
start = time.perf_counter()
done = 0
while time.perf_counter() - start < milliseconds / 1000:
    encoder.transform(texts)
    done += len(texts)
print(done / (time.perf_counter() - start))
