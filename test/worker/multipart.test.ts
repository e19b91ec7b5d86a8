/** The reader of forms by itself: whatever comes, it answers, and gives a file's bytes as they are or not at all. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { BodyError } from "../../src/ingest/body.ts";
import { type FileHandler, readForm } from "../../src/ingest/multipart.ts";

const TYPE = "multipart/form-data; boundary=xx";
const disposition = (name: string, suffix = "") => `content-disposition: form-data; name="${name}"${suffix}\r\n\r\n`;
const form = (content: string) =>
  `--xx\r\n${disposition("purpose")}a purpose\r\n--xx\r\n${disposition("file", '; filename="f"')}${content}\r\n--xx--\r\n`;

async function* splitChunks(body: string, size: number) {
  const bytes = Buffer.from(body);
  for (let offset = 0; offset < bytes.length; offset += size) yield bytes.subarray(offset, offset + size);
}

const readWholeFile: FileHandler<string> = async (file) => {
  const read: Uint8Array[] = [];
  for await (const chunk of file) read.push(chunk);
  return Buffer.concat(read).toString();
};

/** The form, or the failure with which it was refused; "hung" where neither ever comes. */
async function parseForm(body: string, size: number, takeFile = readWholeFile) {
  const read = readForm(splitChunks(body, size), TYPE, "file", takeFile).catch((error) => {
    if (error instanceof BodyError) return error.failure.code;
    throw error;
  });
  return Promise.race([read, scheduler.wait(10_000).then(() => "hung" as const)]);
}

const sizes = fc.integer({ min: 1, max: 200 });

test("a file comes out as it went in, however the body falls into chunks", async () => {
  const content = fc.array(fc.constantFrom("a", "\r\n", "\n", "-", "--", "--x", "\r\n--", "\r\n--x", "é\u0000"), {
    maxLength: 50,
  });
  await fc.assert(
    fc.asyncProperty(content, sizes, async (parts, size) => {
      const text = parts.join("");
      fc.pre(!text.includes("\r\n--xx"));
      expect(await parseForm(form(text), size)).toEqual({ fields: new Map([["purpose", "a purpose"]]), file: text });
    }),
    { numRuns: 300 },
  );
});

describe("a form that is none", () => {
  const pieces = [
    "\r\n",
    "--xx",
    "--",
    "\r\n\r\n",
    "\r\n--xx\r\n",
    "\r\n--xx--",
    "--xx--\r\n",
    "\n",
    "\r",
    "-",
    ":",
    "x",
  ];
  const edit = fc.record({ at: fc.nat(300), remove: fc.nat(40), insert: fc.constantFrom("", ...pieces) });

  test("is answered or refused, whatever is wrong with it", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(edit, { minLength: 1, maxLength: 5 }), sizes, async (edits, size) => {
        const text = edits.reduce(
          (body, { at, remove, insert }) => body.slice(0, at) + insert + body.slice(at + remove),
          form("a\r\nb"),
        );
        const result = await parseForm(text, size);
        if (typeof result === "string") expect(["upload_incomplete", "invalid_parameter"]).toContain(result);
        else expect(result.fields).toBeInstanceOf(Map);
      }),
      { numRuns: 2_000 },
    );
  });

  test("closed in the middle of a field's name has ended there", async () => {
    const body = `--xx\r\ncontent-disposition\r\n--xx--: form-data\r\n\r\n${form("a")}`;
    for (const size of [1, 7, 1000]) expect(await parseForm(body, size)).not.toBe("hung");
  });
});

describe("who takes the file", () => {
  test("and fails, early or late, ends the reading with that failure", async () => {
    const failure = new Error("not this file");
    let sentChunks = 0;
    async function* endlessBody() {
      yield Buffer.from(form("a").slice(0, -"\r\n--xx--\r\n".length));
      for (;;) {
        sentChunks += 65_536;
        yield Buffer.alloc(65_536);
      }
    }
    const earlyReader: FileHandler<never> = () => Promise.reject(failure);
    const lateReader: FileHandler<never> = async (file) => {
      let bytes = 0;
      for await (const chunk of file) {
        bytes += chunk.length;
        if (bytes > 1_000_000) throw failure;
      }
      throw new Error("never");
    };
    for (const take of [earlyReader, lateReader]) {
      sentChunks = 0;
      await expect(readForm(endlessBody(), TYPE, "file", take)).rejects.toBe(failure);
      expect(sentChunks).toBeLessThan(2_000_000);
    }
  });

  test("has let go of it before a broken body's failure is told", async () => {
    const cutError = new Error("cut");
    async function* brokenBody() {
      yield Buffer.from(form("a").slice(0, -10));
      throw cutError;
    }
    let ended = false;
    const take: FileHandler<void> = async (file) => {
      try {
        for await (const _ of file);
      } finally {
        await scheduler.wait(20);
        ended = true;
      }
    };
    await expect(readForm(brokenBody(), TYPE, "file", take)).rejects.toBe(cutError);
    expect(ended).toBe(true);
  });
});
