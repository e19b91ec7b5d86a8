"""A second implementation of text-static-1, written from its formula. Run it whenever the files in models/ have changed:

    npm run backbone:vectors

It names the files by their hash, which is the revision in config.json, and makes text-static-1.ts beside it.
"""

import base64
import hashlib
import json
import math
import pathlib
import re
import struct
import unicodedata

TEXTS = [
    "refund",
    "Where is my refund? I want my REFUND!",
    "I can’t log in, don't know why",
    "call me at 5 on 12.05.2024",
    "flurbish the quixnarbled gromblewit",
    "Le café naïve coûte 12,50 €",
    "ΟΔΟΣ οδός Straße",
    "Верните мои деньги",
    "मेरा पैसा कहाँ है",
    "أَيْنَ أموالي؟",
    "返金はどこですか",
    "환불은 어디에",
    "\U0001f469\u200d\U0001f4bb\U0001f642 thanks",
    "half \ud800 a pair",
    "\u0301",
    "\0",
    " \t\n",
]

HERE = pathlib.Path(__file__).parent
MODEL = HERE / "../../models/text-static-1"
CONFIG = MODEL / "config.json"
VOCABULARY = (MODEL / "vocabulary.txt").read_bytes()
TABLE = (MODEL / "table.bin").read_bytes()

magic, DIMENSIONS, WORDS, BUCKETS = struct.unpack_from("<4s3I", TABLE)
ROWS = WORDS + BUCKETS
assert magic == b"GST1" and len(TABLE) == 16 + ROWS * (2 + DIMENSIONS // 2)
ROW_OF = {word: row for row, word in enumerate(VOCABULARY.decode().rstrip().split("\n"))}
assert len(ROW_OF) == WORDS

SPACE = "[\t-\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]"
# Unicode's script Inherited, as far as Python must be told: it has no table of scripts.
INHERITED = (
    "[\u0300-\u036f\u0485\u0486\u064b-\u0655\u0670\u0951-\u0954\u1ab0-\u1ace\u1cd0-\u1cd2\u1cd4-\u1ce0\u1ce2-\u1ce8\u1ced"
    "\u1cf4\u1cf8\u1cf9\u1dc0-\u1dff\u200c\u200d\u20d0-\u20f0\u302a-\u302d\u3099\u309a\ufe00-\ufe0f\ufe20-\ufe2d]"
)


def words(text):
    folded = re.sub(INHERITED, "", unicodedata.normalize("NFKD", text)).upper().lower()
    kinds = ""
    for character in folded:
        kind = unicodedata.category(character)[0]
        if re.match(SPACE, character):
            kinds += " "
        elif character in "'’":
            kinds += "'"
        else:
            kinds += {"L": "a", "M": "a", "N": "1"}.get(kind, ".")
    found = [folded[m.start() : m.end()] for m in re.finditer("a+('a+)*|1+|[^ ]", kinds)]
    rest = re.sub(f"^{SPACE}+|{SPACE}+$", "", text)
    return [word.replace("’", "'") for word in found] or ([rest] if rest else [])


def utf16(text):
    data = text.encode("utf-16-le", "surrogatepass")
    return [data[i] | data[i + 1] << 8 for i in range(0, len(data), 2)]


def grams(text, rows):
    units = utf16(f"<{text}>")
    for start in range(len(units)):
        for n in (3, 4, 5):
            if start + n <= len(units):
                hashed = 0x811C9DC5
                for unit in units[start : start + n]:
                    hashed = ((hashed ^ unit) * 0x01000193) & 0xFFFFFFFF
                yield hashed % rows


def numbers(row):
    start = 16 + 2 * ROWS + row * DIMENSIONS // 2
    for byte in TABLE[start : start + DIMENSIONS // 2]:
        yield (byte & 15) - 8
        yield (byte >> 4) - 8


def embed(text):
    weighted = []
    for word in words(text):
        if all(unicodedata.category(c)[0] == "N" for c in word):
            word = f"<n{len(utf16(word))}>"
        if word in ROW_OF:
            weighted.append((ROW_OF[word], 1))
        else:
            rows = [WORDS + row for row in grams(word, BUCKETS)]
            weighted += [(row, 1 / math.sqrt(len(rows))) for row in rows]
    assert len(weighted) <= 128, "Longer texts are summed in parts, whose rounding this does not follow."
    total = [0.0] * DIMENSIONS
    for row, factor in weighted:
        (scale,) = struct.unpack_from("<e", TABLE, 16 + 2 * row)
        for j, number in enumerate(numbers(row)):
            total[j] += factor * scale * number
    if weighted and not any(total):
        for j in grams(text, DIMENSIONS):
            total[j] = 1.0
    squares = 0.0
    for value in total:
        squares += value * value
    norm = 1 / (math.sqrt(squares) or 1)
    return base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *(value * norm for value in total))).decode()


def literal(text):
    surrogate = any(0xD800 <= ord(c) < 0xE000 for c in text)
    return json.dumps(text, ensure_ascii=surrogate)


revision = hashlib.sha256(VOCABULARY + TABLE).hexdigest()[:12]
config = CONFIG.read_text()
CONFIG.write_text(re.sub('("revision": )"[^"]*"', rf'\1"{revision}"', config))

lines = [
    "/** Made by text-static-1.py: a text and its embedding, as base64 of 32-bit floats. */",
    f'export const revision = "{revision}";',
    "export const vectors: readonly (readonly [text: string, embedding: string])[] = [",
]
for text in TEXTS:
    lines += ["  [", f"    {literal(text)},", f'    "{embed(text)}",', "  ],"]
(HERE / "text-static-1.ts").write_text("\n".join([*lines, "];", ""]))
