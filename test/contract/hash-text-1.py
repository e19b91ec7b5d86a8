"""A second implementation of hash-text-1, written from its formula, that makes hash-text-1.ts beside it.

    python3 test/contract/hash-text-1.py > test/contract/hash-text-1.ts
"""

import json
import math
import re
import unicodedata
from collections import Counter

TEXTS = [
    "refund",
    "Where is my refund? I want my REFUND!",
    "Le café naïve coûte 12,50 €",
    "ΟΔΟΣ οδός Straße",
    "banana bandana",
    "返金はどこ",
    "\U0001f642 thanks",
]


def fnv(units, seed):
    for unit in units:
        seed = ((seed ^ unit) * 0x01000193) & 0xFFFFFFFF
    return seed


def utf16(text):
    data = text.encode("utf-16-le", "surrogatepass")
    return [data[i] | data[i + 1] << 8 for i in range(0, len(data), 2)]


def phi(h):
    h = ((h ^ h >> 16) * 0x85EBCA6B) & 0xFFFFFFFF
    h = ((h ^ h >> 13) * 0xC2B2AE35) & 0xFFFFFFFF
    h ^= h >> 16
    return (h >> 1) % 384, 1 if h & 1 else -1


def embed(text):
    folded = "".join(c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c) != "Mn")
    words = re.findall(r"[^\W_]+|\S", folded.upper().lower())
    vector = [0.0] * 384

    def add(units, seed, weight):
        dimension, sign = phi(fnv(units, seed))
        vector[dimension] += sign * weight

    for word, tf in Counter(words).items():
        add(utf16(word), 0x811C9DC5, 1 + math.log(tf))
        units = utf16(f"<{word}>")
        grams = [units[i : i + n] for n in (2, 3, 4) for i in range(len(units) - n + 1)]
        for gram in grams:
            add(gram, 0x01234567, (1 + math.log(tf)) * 2 * len(grams) ** -0.25)
    for (a, b), tf in Counter(zip(words, words[1:])).items():
        add(utf16(f"{a} {b}"), 0x9DC5811C, 0.3 * (1 + math.log(tf)))
    norm = math.sqrt(sum(x * x for x in vector))
    return " ".join(f"{i}:{x / norm:.7f}" for i, x in enumerate(vector) if x)


print("/** Made by hash-text-1.py: a text and its embedding's numbers other than zero, as index:value. */")
print("export const vectors: readonly (readonly [text: string, embedding: string])[] = [")
for text in TEXTS:
    print("  [")
    for line in (text, embed(text)):
        print(f"    {json.dumps(line, ensure_ascii=False)},")
    print("  ],")
print("];")
