"""Runs the reference of docs/lexical-features.md, and makes lexical.ts beside it. Run it whenever lexical features change:

    npm run lexical:vectors
"""

import base64
import json
import math
import pathlib
import re
import struct
from collections import Counter

EXAMPLES = [
    "refund",
    "Where is my refund? I want my REFUND!",
    "I can’t log in, don't know why",
    "call me at 5 on 12.05.2024",
    "Le café naïve coûte 12,50 €",
    "ΟΔΟΣ οδός Straße",
    "Верните мои деньги",
    "मेरा पैसा कहाँ है",
    "أَيْنَ أموالي؟",
    "返金はどこですか",
    "\U0001f469\u200d\U0001f4bb\U0001f642 thanks",
    "half \ud800 a pair",
]
UNSEEN = [
    "my re\u00adfund\u200b\u2060s\ufeff",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f or \U0001f468\u200d\U0001f469\ufe0f\u200d\U0001f466",
    "my refund refund refund?",
    "I DON’T KNOW WHERE, why",
    "cafe coute 12",
    "quixnarbled",
    "환불은 어디에",
    "\u0301",
    "\0",
    " \t\n",
]
BUCKETS = 256

HERE = pathlib.Path(__file__).parent
PAGE = (HERE / "../../docs/lexical-features.md").read_text()
reference = {}
exec(re.search("```python\n(.*?)```", PAGE, re.S)[1], reference)

visible = reference["visible"]
having = Counter(bucket for text in map(visible, EXAMPLES) for bucket in reference["buckets_of"](text, BUCKETS))
seen = sorted(having)
idf = [math.log((1 + len(EXAMPLES)) / (1 + having[bucket])) + 1 for bucket in seen]
idf = list(struct.unpack(f"<{len(idf)}f", struct.pack(f"<{len(idf)}f", *idf)))
lexical = {"buckets": BUCKETS, "scale": 0.5, "seen": seen, "idf": idf}


def base64_of(form, numbers):
    return base64.b64encode(struct.pack(f"<{len(numbers)}{form}", *numbers)).decode()


def literal(text):
    surrogate = any(0xD800 <= ord(c) < 0xE000 for c in text)
    return json.dumps(text, ensure_ascii=surrogate)


lines = [
    "/** Made by lexical.py: lexical features of a few texts, fitted on the first of them. Numbers as base64. */",
    f"export const fittedCount = {len(EXAMPLES)};",
    f"export const buckets = {BUCKETS};",
    "/** 16 bits each. */",
    "export const seen =",
    f'  "{base64_of("H", seen)}";',
    "/** 32-bit floats. */",
    "export const idf =",
    f'  "{base64_of("f", idf)}";',
    "/** Columns, ascending, at 16 bits each, and their values as 32-bit floats. */",
    "export const vectors: readonly (readonly [text: string, columns: string, values: string])[] = [",
]
for text in EXAMPLES + UNSEEN:
    values = sorted(reference["features"](lexical, visible(text)).items())
    columns = base64_of("H", [column for column, _ in values])
    parts = [literal(text), f'"{columns}"', f'"{base64_of("f", [value for _, value in values])}"']
    line = f"  [{', '.join(parts)}],"
    lines += [line] if len(line) <= 120 else ["  [", *(f"    {part}," for part in parts), "  ],"]
(HERE / "lexical.ts").write_text("\n".join([*lines, "];", ""]))
