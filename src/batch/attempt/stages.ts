/**
 * The stages of an attempt:
 *
 *   data → embeddings → both candidates, without the held-out rows → their comparison → the winner, on all rows → its bytes
 *
 * Embeddings are a stage of their own where a remote backbone makes them.
 */
import { setImmediate as eventLoop } from "node:timers/promises";
import { decodeHead, encodeHead } from "../../core/codec.ts";
import { notEvaluated } from "../../core/evaluation/evaluation.ts";
import { type Failure, fail, ok, type Result } from "../../core/failure.ts";
import type { Trained, Training } from "../../core/linear/train.ts";
import type { Epoch } from "../../finetune/train.ts";
import type { Artifact, Candidate, Judgement, Manifest } from "../../jobs/protocol.ts";
import { artifactOf, download, upload } from "./artifact.ts";
import { keep, type Progress, type Work } from "./attempt.ts";
import { beyondEndpoint, isSame, type Material, prepare, trainBy } from "./candidates.ts";
import { decodeStages, type Made, nameOf, type Stages } from "./checkpoint.ts";
import { type Answers, compareHeads, notJudged, predictions } from "./comparison.ts";
import { type Examples, readExamples } from "./data.ts";
import { persist } from "../client/worker-client.ts";
import { embedTexts, embedWhenAsked } from "./embed.ts";
import { modelOf, told, trainedBackbone, tune } from "./fine-tune.ts";
import type { Report } from "./report.ts";
import { makeRows } from "./rows.ts";

const names: Readonly<Record<Candidate, string>> = { head: "frozen head", fine_tuned: "fine-tuned candidate" };
/** Steps of the last fit that are told each, and how far apart those after them are. */
const EACH_STEP = 50;
const STEPS_APART = 10;
/** Embeddings from which on they are kept before all are there. */
const FEWEST_KEPT = 10_000;
/** Where rows are held out too few may be left to train on: nothing is judged then. */
const TOO_FEW: ReadonlySet<string> = new Set<Failure["code"]>(["too_few_labels", "too_few_examples"]);

interface Run {
  readonly work: Work;
  readonly report: Report;
  readonly stages: Stages;
  readonly material: Material;
  /** Every row's number. */
  readonly all: readonly number[];
  readonly keep: () => Promise<void>;
  readonly started: number;
}

/** Does the stages that are not done, and tells of them; throws where the attempt is to end. */
export async function runStages(work: Work, report: Report, progress: Progress): Promise<Result<null>> {
  const begun = await begin(work, report, progress);
  if (!begun.ok) return begun;
  const run = begun.value;
  const { stages } = run;
  if (stages.judgement === null) {
    const judged = await judge(run);
    if (!judged.ok) return judged;
    stages.judgement = judged.value;
    await run.keep();
  }
  const stop = work.ending.signals.pause;
  const told = await report.tell({ type: "evaluated", judgement: stages.judgement }, stop);
  stop.throwIfAborted();
  const winner = told?.refit ?? null;
  if (winner === null)
    return fail("internal_error", "The Worker did not say which candidate is trained on all examples.");
  if (stages.fitted?.candidate !== winner) {
    const refitted = await refit(run, winner);
    if (!refitted.ok) return refitted;
  }
  return finish(run);
}

/** Reads the data, and takes up what an earlier attempt has done of it. */
async function begin(work: Work, report: Report, progress: Progress): Promise<Result<Run>> {
  const { submission, backbone, budget } = work;
  const started = performance.now();
  const stop = work.ending.signals.pause;
  const pulled = await pullExamples(work);
  if (!pulled.ok) return pulled;
  const examples = pulled.value;
  const all = [...examples.targets.keys()];
  const heldOut = examples.heldOut.filter(Boolean).length;
  report.progress(`Read ${all.length} examples.`, { examples: all.length, held_out: heldOut });

  progress.of = nameOf(submission, examples.digest);
  const bytes = submission.checkpoint && (await download(work.edge, submission.checkpoint, stop));
  const earlier = bytes && decodeStages(bytes, progress.of, submission.dimensions);
  if (earlier) progress.stages = earlier;
  else progress.kept = null;
  if (earlier) report.progress("Goes on from a checkpoint.", {});

  const { stages } = progress;
  const local = backbone?.cost === "local" ? backbone : null;
  const remote = backbone?.cost === "remote";
  stages.embeddings = remote ? (stages.embeddings ?? makeRows(submission.dimensions)) : null;
  const gathered = stages.embeddings ?? examples.embeddings;
  const ofEmbeddings = local === null ? 4 * submission.dimensions * all.length : 0;
  const taken = ofEmbeddings + examples.texts.reduce((sum, { length }) => sum + 2 * length, 0);
  const material: Material = {
    submission,
    examples,
    embed: local === null ? gathered.at : embedWhenAsked(local, examples.texts),
    embedsLocally: local !== null,
    budget: { bytes: budget.bytes - taken, operations: budget.operations },
    turn: async () => {
      await eventLoop();
      stop.throwIfAborted();
    },
  };
  const beyond = beyondEndpoint(material, all);
  if (beyond !== null) return { ok: false, failure: beyond };
  return ok({ work, report, stages, material, all, started, keep: () => keep(work, report, progress, stop) });
}

async function pullExamples({ submission, edge, ending, budget }: Work): Promise<Result<Examples>> {
  const outcome = await persist(edge.pace, ending.signals.pause, () =>
    edge.pull("data", (chunks) => readExamples(chunks, submission, budget.bytes), ending.signals.pause),
  );
  if (outcome.type === "answer") return outcome.value;
  if (outcome.type === "over") ending.ask("end");
  ending.signals.pause.throwIfAborted();
  return fail("storage_unavailable", "The examples could not be read from the Worker.");
}

/** Sees to it that every row has its embedding of a remote backbone; they are kept each time that there are half as many again. */
async function embed({ work, report, material, stages, keep }: Run): Promise<Result<null>> {
  const { texts } = material.examples;
  const rows = stages.embeddings;
  if (work.backbone === null || rows === null || rows.count() === texts.length) return ok(null);
  let next = Math.max(FEWEST_KEPT, 1.5 * rows.count());
  const grown = async () => {
    if (rows.count() < next || rows.count() === texts.length) return;
    next = 1.5 * rows.count();
    await keep();
  };
  const manner = { pace: work.edge.pace, signal: work.ending.signals.pause, turn: material.turn, grown };
  const done = await embedTexts(work.backbone, texts, rows, manner);
  if (!done.ok) return done;
  report.progress(`Embedded ${texts.length} texts.`, { examples: texts.length });
  await keep();
  return done;
}

/** Trains both candidates without the held-out rows, and compares them on those. */
async function judge(run: Run): Promise<Result<Judgement>> {
  const { work, material, all, stages } = run;
  const { heldOut } = material.examples;
  const rest = all.filter((row) => !heldOut[row]);
  if (rest.length === all.length || rest.length < 2) return ok(notJudged);
  const embedded = await embed(run);
  if (!embedded.ok) return embedded;
  const layers = trainedBackbone(work);
  const ofHead = await prepare("head", material, rest);
  const ofFineTuned = layers === null ? await prepare("fine_tuned", material, rest) : null;
  if (ofFineTuned?.ok === false) return ofFineTuned;
  const same = ofFineTuned !== null && ofHead.ok && isSame(ofHead.value, ofFineTuned.value);
  const trainHead = async (candidate: Candidate, recipe: typeof ofHead): Promise<Result<Made | null>> => {
    // No part of the rows that is within the edge's budget: there is no frozen head to compare with.
    if (!recipe.ok) return ok(null);
    const fitted = await trainBy(work.tensors, material, recipe.value, { judge: true });
    if (!fitted.ok) return fitted;
    tellTrained(run, candidate, fitted.value);
    return ok({ head: encodeHead(fitted.value.head), delta: null, plan: null });
  };
  const make = async (
    candidate: Candidate,
    train: () => Promise<Result<Made | null>>,
  ): Promise<Result<Made | null>> => {
    const done = stages.made[candidate];
    if (done !== undefined) return ok(done);
    const made = await train();
    if (!made.ok && !TOO_FEW.has(made.failure.code)) return made;
    stages.made[candidate] = made.ok ? made.value : null;
    await run.keep();
    return ok(stages.made[candidate] ?? null);
  };
  const head = await make("head", () => trainHead("head", ofHead));
  if (!head.ok) return head;
  const fineTuned = same
    ? head
    : await make("fine_tuned", () =>
        ofFineTuned === null ? tuneLayers(run, rest) : trainHead("fine_tuned", ofFineTuned),
      );
  if (!fineTuned.ok) return fineTuned;
  const judged = all.filter((row) => heldOut[row]);
  const answers = async (made: Made | null): Promise<Answers | null> => {
    const decoded = made && decodeHead(made.head);
    if (!decoded) return null;
    const model = modelOf(material, layers?.base ?? null, decoded, made.delta);
    return { head: decoded, outputs: await predictions(material, judged, model) };
  };
  const a = await answers(head.value);
  const b = same ? a : await answers(fineTuned.value);
  const plan = fineTuned.value?.plan ?? null;
  if (b && plan !== null) stages.told = await told(material, judged, b, plan);
  if (!a || !b) return ok(notJudged);
  return ok(compareHeads(material, judged, a, b));
}

/** Trains the layers without the held-out rows. */
async function tuneLayers({ work, report, material }: Run, rows: readonly number[]): Promise<Result<Made>> {
  const layers = trainedBackbone(work);
  if (layers === null) throw new Error("No layers are to be trained.");
  const tuned = await tune(work, layers, material, rows, null, tellEpoch(report));
  if (!tuned.ok) return tuned;
  const { head, delta, plan } = tuned.value;
  return ok({ head: encodeHead(head), delta, plan });
}

function tellEpoch(report: Report) {
  return ({ epoch, of, trainLoss, validLoss, validAccuracy }: Epoch) =>
    report.progress(`Epoch ${epoch} of ${of}.`, {
      epoch,
      train_loss: trainLoss,
      ...(validLoss === undefined ? {} : { valid_loss: validLoss }),
      ...(validAccuracy === undefined ? {} : { valid_accuracy: validAccuracy }),
    });
}

/** Trains the winner on all rows. */
async function refit(run: Run, candidate: Candidate): Promise<Result<null>> {
  const { work, report, material, stages, started } = run;
  const embedded = await embed(run);
  if (!embedded.ok) return embedded;
  const layers = candidate === "fine_tuned" ? trainedBackbone(work) : null;
  if (layers !== null) {
    const tuned = await tune(work, layers, material, run.all, stages.told?.plan ?? null, tellEpoch(report));
    if (!tuned.ok) return tuned;
    const { head, delta, parameters, training } = tuned.value;
    const { evaluation, ...calibration } = stages.told?.assessment ?? notEvaluated;
    const conformal = Float32Array.from(calibration.conformal);
    const temperature = head.task === "regression" ? 1 : calibration.temperature;
    stages.fitted = {
      candidate,
      training: shown(training, temperature, started),
      evaluation: { ...evaluation },
      parameters,
      head: encodeHead({ ...head, ...calibration, temperature, conformal }),
      delta,
    };
    await run.keep();
    return ok(null);
  }
  const recipe = await prepare(candidate, material, run.all);
  if (!recipe.ok) return recipe;
  const rows = recipe.value.rows.length;
  let steps = 0;
  const onStep = (objective: number, operations: number) => {
    if (++steps > EACH_STEP && steps % STEPS_APART !== 0) return;
    const metrics = { train_loss: objective / rows, examples: rows, operations };
    report.progress(`Step ${steps} of training the ${names[candidate]} on all examples.`, metrics);
  };
  const fitted = await trainBy(work.tensors, material, recipe.value, { judge: false, onStep });
  if (!fitted.ok) return fitted;
  tellTrained(run, candidate, fitted.value);
  const { training, evaluation, head } = fitted.value;
  stages.fitted = {
    candidate,
    training: shown(training, training.temperature, started),
    evaluation: { ...evaluation },
    parameters: 0,
    head: encodeHead(head),
    delta: null,
  };
  await run.keep();
  return ok(null);
}

function shown(training: Training, temperature: number, started: number): Manifest["training"] {
  const { examples, iterations, converged, objective, l2, lexical } = training;
  const milliseconds = Math.round(performance.now() - started);
  return { examples, iterations, converged, objective, l2, temperature, lexical, milliseconds };
}

function tellTrained({ report }: Run, candidate: Candidate, { training, evaluation }: Trained): void {
  const { examples, iterations, operations, objective } = training;
  const accuracy = evaluation.accuracy ?? evaluation.r2;
  report.progress(`Trained the ${names[candidate]} on ${examples} examples.`, {
    train_loss: objective / examples,
    examples,
    iterations,
    operations,
    ...(accuracy === undefined ? {} : { valid_accuracy: accuracy }),
  });
}

/** Uploads the trained layers, if there are any, and the head, and says that they are there. */
async function finish({ work, report, stages, material, all }: Run): Promise<Result<null>> {
  const { ending } = work;
  const stop = ending.signals.pause;
  if (stages.fitted === null) throw new Error("Nothing was trained.");
  const { head, delta, parameters, ...fitted } = stages.fitted;
  const artifacts: Artifact[] = [];
  const refused = fail("storage_unavailable", "What was trained could not be stored by the Worker.");
  for (const bytes of delta === null ? [head] : [head, delta]) {
    const artifact = artifactOf([bytes]);
    const uploaded = await upload(work.edge, [bytes], artifact, work.largestSingle, stop);
    if (uploaded.type === "over") ending.ask("end");
    stop.throwIfAborted();
    if (uploaded.type !== "answer") return refused;
    artifacts.push(artifact);
  }
  const [artifact, ofDelta] = artifacts as [Artifact, Artifact?];
  const dimensions = decodeHead(head)?.dimensions ?? 0;
  const backbone = ofDelta === undefined ? null : { artifact: ofDelta, parameters, dimensions };
  const dataset = { revision: material.examples.revision, examples: all.length };
  const manifest = { ...fitted, artifact, backbone, dataset };
  const told = await report.tell({ type: "finished", manifest }, ending.signals.end);
  return told === null ? refused : ok(null);
}
