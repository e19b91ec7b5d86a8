/** Explains predictions by a backbone and a head: which words add what (core/explanation.ts), exactly or by occlusions. */
import {
  divideIntoSpans,
  type ExplainedInput,
  type Explanation,
  explain,
  explainedOutputs,
  occlude,
  type Span,
} from "../core/explanation.ts";
import { type Failure, ok, type Result } from "../core/failure.ts";
import { type Head, logitsOf } from "../core/head.ts";
import { limits } from "../core/limits.ts";
import { createLexicalVectorizer } from "../core/text/lexical.ts";
import { type LocatedWord, locateWords } from "../core/text/words.ts";
import type { Backbone } from "./backbone.ts";
import { embedInChunks, maxCharacters, missingRowFailure, runsEncoder, type YieldToEventLoop } from "./chunks.ts";

/** Occlusions of an input at most. Each is an embedding. */
const MAX_OCCLUSIONS = 12;
const MAX_TERMS = 32;
/** Characters of explained texts between two chances for other requests. */
const CHARACTERS_PER_YIELD = 10_000;

/** An input of a prediction. An embedding of the caller's own has an empty text. */
export interface EmbeddedInput {
  readonly text: string;
  readonly embedding: Float32Array;
}

/** An explanation of the outputs with these indices. */
export interface InputExplanation extends Explanation {
  readonly outputs: readonly number[];
}

/** One explanation per input, in their order. Fails if the occluded texts have too many characters, or cannot be embedded. */
export async function explainInputs(
  head: Head,
  backbone: Backbone | null,
  inputs: readonly EmbeddedInput[],
  yieldToEventLoop: YieldToEventLoop,
): Promise<Result<InputExplanation[]>> {
  const located = inputs.map(({ text }) => ({ text, words: locateWords(text) }));
  const plans = located.map((input) => planOcclusions(backbone, input));
  const occluded = await embedOccluded(backbone, plans, yieldToEventLoop);
  if (!occluded.ok) return occluded;
  const readFeatures = head.lexical === null ? null : createLexicalVectorizer(head.lexical);
  const explanations: InputExplanation[] = [];
  let characters = 0;
  for (const [i, input] of located.entries()) {
    characters += input.text.length;
    if (characters > CHARACTERS_PER_YIELD) {
      const failure = await yieldToEventLoop();
      if (failure !== null) return { ok: false, failure };
      characters = input.text.length;
    }
    const embedding = inputs[i]?.embedding ?? new Float32Array(head.dimensions);
    const features = readFeatures?.(input.text) ?? null;
    const outputs = explainedOutputs(head, logitsOf(head, embedding, features));
    const explained: ExplainedInput = {
      ...input,
      embedding,
      features,
      ...multiplyWords(head, backbone, outputs, input),
      occlusions: occluded.value[i] ?? [],
    };
    explanations.push({ outputs, ...explain(head, outputs, explained, MAX_TERMS) });
  }
  return ok(explanations);
}

interface LocatedText {
  readonly text: string;
  readonly words: readonly LocatedWord[];
}

/** The text as a backbone reads it, if that has the same words in the same order; otherwise null. */
function readText(backbone: Backbone, { text, words }: LocatedText): LocatedText | null {
  const read = backbone.wordSum?.read(text) ?? text;
  if (read === text) return { text, words };
  const readWords = locateWords(read);
  return readWords.length === words.length ? { text: read, words: readWords } : null;
}

/** What each word adds to W x by those numbers of x that are a sum over the words. */
function multiplyWords(
  { weights, dimensions }: Head,
  backbone: Backbone | null,
  outputs: readonly number[],
  input: LocatedText,
): Pick<ExplainedInput, "summedDimensions" | "wordProducts"> {
  if (backbone?.wordSum === undefined) return { summedDimensions: 0, wordProducts: null };
  const { dimensions: summedDimensions, multiply } = backbone.wordSum;
  const directions = outputs.map((k) => weights.subarray(k * dimensions, k * dimensions + summedDimensions));
  const words = readText(backbone, input)?.words.map(({ word }) => word);
  return { summedDimensions, wordProducts: words === undefined ? null : multiply(words, directions) };
}

interface OcclusionPlan {
  readonly spans: readonly Span[];
  readonly texts: readonly string[];
}

/** The occlusions of a text, for what is no sum over its words. None of a remote backbone, which would be called for each. */
function planOcclusions(backbone: Backbone | null, input: LocatedText): OcclusionPlan {
  if (backbone === null || backbone.cost === "remote" || backbone.wordSum?.dimensions === backbone.dimensions)
    return { spans: [], texts: [] };
  const { text, words } = readText(backbone, input) ?? input;
  const end = Math.min(text.length, maxCharacters(backbone));
  const spans = divideIntoSpans(words, MAX_OCCLUSIONS, end);
  return { spans, texts: spans.map((span) => occlude(text.slice(0, end), words, span)) };
}

/** Embeds the occluded texts of all inputs. */
async function embedOccluded(
  backbone: Backbone | null,
  plans: readonly OcclusionPlan[],
  yieldToEventLoop: YieldToEventLoop,
): Promise<Result<readonly ExplainedInput["occlusions"][]>> {
  if (backbone === null) return ok([]);
  const texts = plans.flatMap((plan) => plan.texts);
  const tooLong = checkLength(backbone, texts);
  if (tooLong !== null) return { ok: false, failure: tooLong };
  const { rows, failure } = await embedInChunks(backbone, texts, yieldToEventLoop);
  if (failure !== null) return { ok: false, failure };
  const remaining = rows.values();
  const occlusions = plans.map(({ spans }) =>
    spans.flatMap((span) => {
      const embedding = remaining.next().value;
      return embedding === undefined ? [] : [{ span, embedding }];
    }),
  );
  const isComplete = occlusions.every((own, i) => own.length === plans[i]?.spans.length);
  return isComplete ? ok(occlusions) : { ok: false, failure: missingRowFailure };
}

function checkLength(backbone: Backbone, texts: readonly string[]): Failure | null {
  const limit = runsEncoder(backbone) ? limits.encoder_characters_per_request : limits.characters_per_request;
  const actual = texts.reduce((sum, { length }) => sum + length, 0);
  if (actual <= limit) return null;
  const message = `Explanations by this backbone read each text up to ${MAX_OCCLUSIONS} times, and at most ${limit} characters in a request; of these ${actual}. Send fewer inputs in a request.`;
  return { code: "limit_exceeded", message, param: "input", details: { limit, actual } };
}
