import { describe, expect, it } from "vitest";
import { decodeHead, encodeHead } from "../../src/core/codec.ts";
import type { Head } from "../../src/core/head.ts";
import type { Section } from "../../src/core/sections.ts";

const head: Head = {
  task: "single_label",
  labels: ["a", "é 😀"],
  dimensions: 2,
  weights: Float32Array.of(1, 2, 3, 4),
  bias: Float32Array.of(5, 6),
  lexical: null,
  offset: 0,
  temperature: 0.5,
  outOfScopeThreshold: null,
  scope: null,
  thresholds: [],
  valueRange: null,
  visibleText: true,
  sections: [],
  conformal: Float32Array.of(0.25),
};

it("reads what it wrote", () => {
  expect(decodeHead(encodeHead(head))).toEqual(head);
  const extremeHead: Head = {
    ...head,
    task: "regression",
    labels: [],
    weights: Float32Array.of(1, 2),
    bias: Float32Array.of(5),
    lexical: null,
    offset: 1.7e9,
    valueRange: [-1.5, 1e15],
  };
  expect(decodeHead(encodeHead(extremeHead))).toEqual(extremeHead);
  const multiLabelHead: Head = { ...head, task: "multi_label", thresholds: [0.37, 0.5] };
  expect(decodeHead(encodeHead(multiLabelHead))).toEqual(multiLabelHead);
});

it("reads no head whose thresholds or range are of another form", () => {
  for (const wrong of [{ thresholds: [0.5] }, { thresholds: ["a", "b"] }, { thresholds: {} }, { valueRange: [1] }])
    expect(decodeHead(encodeHead({ ...head, ...wrong } as Head))).toBeNull();
});

it("reads heads of version 1, which have no offset", () => {
  const bytes = encodeHead(head);
  const text = new TextDecoder("latin1").decode(bytes);
  // Spaces replace the field. The header is padded with spaces anyway.
  const field = '"offset":0,';
  const offset = text.indexOf(field);
  bytes.fill(0x20, offset, offset + field.length);
  bytes[3] = "1".charCodeAt(0);
  expect(new TextDecoder().decode(bytes.subarray(0, 4))).toBe("GHD1");
  expect(decodeHead(bytes)).toEqual(head);
});

describe("a head with sections", () => {
  const sections = [
    { name: "sketch", bytes: Uint8Array.of(1, 2, 3), required: false },
    { name: "empty", bytes: Uint8Array.of(), required: false },
  ];
  const lexical = {
    buckets: 256,
    scale: 0.5,
    seenBuckets: Uint16Array.of(3, 500, 501),
    idf: Float32Array.of(1, 2, 3),
    scales: Float32Array.of(0.5, 0.25),
    weights: Int8Array.of(1, -2, 3, -4, 5, -6),
  };

  it.each([null, lexical])("is of version 4, and comes back with them", (lexical) => {
    const sectioned = { ...head, lexical, sections };
    const bytes = encodeHead(sectioned);
    expect(new TextDecoder().decode(bytes.subarray(0, 4))).toBe("GHD4");
    expect(bytes.length % 4).toBe(0);
    expect(decodeHead(bytes)).toEqual(sectioned);
    // At an odd place of a larger buffer as well.
    const shifted = new Uint8Array([0, ...bytes]).subarray(1);
    expect(decodeHead(shifted)).toEqual(sectioned);
  });

  it("is refused where a required one is not known, a part is missing or has another length, or bytes are missing", () => {
    const bytes = encodeHead({ ...head, sections });
    expect(decodeHead(bytes.subarray(0, bytes.length - 4))).toBeNull();
    expect(decodeHead(new Uint8Array([...bytes, 0, 0, 0, 0]))).toBeNull();
    expect(decodeHead(encodeHead({ ...head, sections: [{ ...sections[0], required: true } as Section] }))).toBeNull();
    const replaced = (from: string, to: string) => {
      const text = new TextDecoder("latin1").decode(bytes).replace(from, to);
      return Uint8Array.from(text, (character) => character.charCodeAt(0));
    };
    expect(decodeHead(replaced('"weights"', '"weighty"'))).toBeNull();
    expect(decodeHead(replaced('"dimensions":2', '"dimensions":3'))).toBeNull();
    expect(decodeHead(replaced('"dimensions":2', '"dimensions":1'))).toBeNull();
    expect(decodeHead(replaced('"sections":[', '"sections":{'))).toBeNull();
  });
});

it("says of a head whether it reads invisible characters, in a field that older readers pass over", () => {
  const old = encodeHead({ ...head, visibleText: false });
  expect(new TextDecoder("latin1").decode(old)).not.toContain("visible_text");
  expect(decodeHead(old)?.visibleText).toBe(false);
  const bytes = encodeHead(head);
  expect(new TextDecoder().decode(bytes.subarray(0, 4))).toBe("GHD2");
  expect(decodeHead(bytes)?.visibleText).toBe(true);
});

it("returns null unless the bytes are a complete head of a known version", () => {
  const bytes = encodeHead(head);
  expect(decodeHead(bytes.subarray(0, bytes.length - 4))).toBeNull();
  expect(decodeHead(bytes.subarray(0, 6))).toBeNull();
  const later = bytes.slice();
  later[3] = "9".charCodeAt(0);
  expect(decodeHead(later)).toBeNull();
  const other = bytes.slice();
  other.fill(0x20, 8, 8 + new DataView(bytes.buffer).getUint32(4, true));
  other.set(new TextEncoder().encode('{"x":1}'), 8);
  expect(decodeHead(other)).toBeNull();
  // As long as it says, in all.
  const { labels, dimensions, task } = head;
  const encodedHead = encodeHead({ ...head, lexical: null, conformal: new Float32Array(10) });
  const change = new TextEncoder().encode(
    JSON.stringify({
      task,
      labels,
      dimensions: dimensions + 11 / labels.length,
      offset: 0,
      temperature: 1,
      conformal: -1,
    }),
  );
  encodedHead.fill(0x20, 8, 8 + new DataView(encodedHead.buffer).getUint32(4, true));
  encodedHead.set(change, 8);
  expect(decodeHead(encodedHead)).toBeNull();
});
