/**
 * What heads refuse: CLINC150's queries that belong to no intent, with and without such examples, and texts that are no
 * support tickets (bench/data/off-topic.csv), by a head on examples/support-tickets.csv.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "csv-parse/sync";
import { mean } from "../../src/core/evaluation/metrics.ts";
import { areaUnderCurve } from "../../src/core/evaluation/scope-fit.ts";
import { seededRandom, shuffle } from "../../src/core/random.ts";
import { makeRow, type Row } from "../shared/report.ts";
import { quantile, spreadOf } from "../shared/statistics.ts";
import { type LabelledText, readTexts, sampleByLabel } from "../shared/text-datasets.ts";
import { makeCase, resultsOf, storedResults, type Topic } from "./case.ts";
import { accuracyOf, countLabels, type Judgement, judge, trainHead, trainingSeconds } from "./head.ts";
import { type EvaluationSet, readOutOfScope } from "./sets.ts";

const CLINC = "CLINC150 out of scope";
const KEPT = 0.95;
const MIN_RECALL = 0.87;
const MIN_AUROC = 0.975;
const MIN_ACCURACY = 0.92;
const FEW = 10;
/** Each has a seed of its own. */
const DRAWS = [0, 1, 2];

interface ScopeFigures {
  /** Of what is out of scope, at the threshold that keeps 95 % of what is in scope. */
  readonly recall: number;
  readonly auroc: number;
  /** In scope, whatever is refused; and right and kept at that threshold. */
  readonly accuracy: number;
  readonly rightAndKept: number;
  /** At the default threshold. */
  readonly atDefault: { readonly recall: number; readonly kept: number; readonly rightAndKept: number };
}

function scopeFigures(inScope: readonly Judgement[], outOfScope: readonly Judgement[]): ScopeFigures {
  const share = (judgements: readonly Judgement[], isCounted: (judgement: Judgement) => boolean) =>
    mean(judgements.map((judgement) => Number(isCounted(judgement))));
  const scores = (judgements: readonly Judgement[]) => judgements.map(({ scopeScore }) => scopeScore);
  const threshold = quantile(scores(inScope), 1 - KEPT);
  const isKept = ({ inScope }: Judgement) => inScope !== false;
  return {
    recall: share(outOfScope, ({ scopeScore }) => scopeScore <= threshold),
    auroc: areaUnderCurve(scores(inScope), scores(outOfScope)),
    accuracy: accuracyOf(inScope),
    rightAndKept: share(inScope, ({ isCorrect, scopeScore }) => isCorrect && scopeScore > threshold),
    atDefault: {
      recall: share(outOfScope, (judgement) => !isKept(judgement)),
      kept: share(inScope, isKept),
      rightAndKept: share(inScope, (judgement) => judgement.isCorrect && isKept(judgement)),
    },
  };
}

export function clincTopic(sets: readonly EvaluationSet[], folder: string): Topic {
  const set = sets.find(({ name }) => name === "clinc150_full");
  if (set === undefined) return { cases: [], rows: () => [] };
  const { train, test } = set;
  const others = readOutOfScope(folder);
  const makeScopeCase = (
    name: string,
    rows: readonly LabelledText[],
    examples: readonly LabelledText[],
    seed: number,
  ) => {
    const files = [train, test, others.train, others.test];
    const seconds = trainingSeconds(rows.length, countLabels(rows));
    return makeCase({ name: `${CLINC}, ${name}, draw ${seed}`, files, seconds }, (encoder) => {
      const { head } = trainHead(encoder, rows, { outOfScope: examples, seed });
      return scopeFigures(judge(encoder, head, test.rows), judge(encoder, head, others.test.rows));
    });
  };
  const without = DRAWS.map((seed) => makeScopeCase("no such examples", train.rows, [], seed));
  const withExamples = DRAWS.map((seed) => makeScopeCase("with 250 examples", train.rows, others.train.rows, seed));
  const few = DRAWS.map((seed) =>
    makeScopeCase(`no such examples, ${FEW} a class`, sampleByLabel(train.rows, FEW, seed), [], seed),
  );
  return {
    cases: [...without, ...withExamples, ...few],
    rows: () => {
      const base = resultsOf(without);
      const [baseRecall, baseAuroc] = [mean(base.map(({ recall }) => recall)), mean(base.map(({ auroc }) => auroc))];
      return [
        ...clincRows("no such examples", base, { recall: MIN_RECALL, auroc: MIN_AUROC }),
        ...clincRows("with 250 examples", resultsOf(withExamples), {
          recall: baseRecall,
          auroc: baseAuroc,
          rightAndKept: MIN_ACCURACY,
        }),
        ...clincRows(`no such examples, ${FEW} a class`, resultsOf(few), {}),
      ];
    },
  };
}

function clincRows(
  name: string,
  results: readonly ScopeFigures[],
  targets: { readonly recall?: number; readonly auroc?: number; readonly rightAndKept?: number },
): Row[] {
  if (results.length === 0) return [];
  const row = (measure: string, figureOf: (figures: ScopeFigures) => number, minimum?: number) => {
    const values = results.map(figureOf);
    const value = mean(values);
    return makeRow({
      case: `${CLINC}, ${name}`,
      measure,
      value,
      spread: values.length > 1 ? spreadOf(values) : null,
      target: minimum === undefined ? null : `≥ ${minimum.toFixed(4)}`,
      met: minimum === undefined ? null : value >= minimum,
    });
  };
  return [
    row("refused, where 95 % in scope are kept", ({ recall }) => recall, targets.recall),
    row("AUROC", ({ auroc }) => auroc, targets.auroc),
    row("in scope: right and kept there", ({ rightAndKept }) => rightAndKept),
    row("in scope: right", ({ accuracy }) => accuracy),
    row(
      "in scope: right and kept at the default threshold",
      ({ atDefault }) => atDefault.rightAndKept,
      targets.rightAndKept,
    ),
    row("in scope: kept at the default threshold", ({ atDefault }) => atDefault.kept),
    row("refused at the default threshold", ({ atDefault }) => atDefault.recall),
  ];
}

const UNLIKE_KINDS = ["noise", "function word", "language", "domain"] as const;
const FOLDS = 5;

interface OffTopic {
  /** The share refused of each kind, and of all that are unlike tickets. */
  readonly refused: Partial<Record<"noise" | "function word" | "language" | "domain" | "near", number>>;
  readonly unlikeRefused: number;
  /** Of held-out tickets: by heads of four fifths of them, and by the evaluation of the head itself. */
  readonly ticketsRefused: number;
  readonly expectedRefused: number;
}

export function offTopicTopic(): Topic {
  const root = join(import.meta.dirname, "../..");
  const tickets = { name: "tickets", rows: readTexts(join(root, "examples/support-tickets.csv")) };
  const parsed: { text: string; kind: string }[] = parse(readFileSync(join(root, "bench/data/off-topic.csv")), {
    columns: true,
  });
  const offTopic = { name: "off-topic", rows: parsed.map(({ text, kind }) => ({ text, label: kind })) };
  const files = [tickets, offTopic];
  const seconds = (1 + FOLDS) * trainingSeconds(tickets.rows.length, countLabels(tickets.rows));
  const name = "off-topic texts against the example tickets";
  const only = makeCase({ name, files, seconds }, (encoder): OffTopic => {
    const refusedOf = (judgements: readonly Judgement[]) => mean(judgements.map((j) => Number(j.inScope === false)));
    const { head, evaluation } = trainHead(encoder, tickets.rows);
    const judgements = judge(encoder, head, offTopic.rows);
    const shuffled = shuffle([...tickets.rows], seededRandom(1));
    const heldOut = Array.from({ length: FOLDS }, (_, fold) => {
      const fit = trainHead(
        encoder,
        shuffled.filter((_, i) => i % FOLDS !== fold),
      );
      return judge(
        encoder,
        fit.head,
        shuffled.filter((_, i) => i % FOLDS === fold),
      );
    }).flat();
    return {
      refused: Object.fromEntries(
        [...Map.groupBy(judgements, ({ label }) => label)].map(([kind, own]) => [kind, refusedOf(own)]),
      ),
      unlikeRefused: refusedOf(judgements.filter(({ label }) => label !== "near")),
      ticketsRefused: refusedOf(heldOut),
      expectedRefused: 1 - (evaluation.out_of_scope?.in_scope_kept ?? 1),
    };
  });
  return { cases: [only], rows: () => storedResults([only]).flatMap(({ result }) => offTopicRows(name, result)) };
}

function offTopicRows(name: string, { refused, unlikeRefused, ticketsRefused, expectedRefused }: OffTopic): Row[] {
  const row = (measure: string, value: number, target: string | null = null, met: boolean | null = null) =>
    makeRow({ case: name, measure, value, target, met });
  const near = refused.near ?? 0;
  return [
    row("refused: noise, function words, other languages and domains", unlikeRefused, "≥ 0.95", unlikeRefused >= 0.95),
    ...UNLIKE_KINDS.map((kind) => row(`refused: ${kind}`, refused[kind] ?? 0)),
    row("refused: near", near, "≥ 0.7", near >= 0.7),
    row("held-out tickets refused, heads of four fifths", ticketsRefused, "≤ 0.05", ticketsRefused <= 0.05),
    row("held-out tickets refused, by the evaluation", expectedRefused, "≤ 0.05", expectedRefused <= 0.05),
  ];
}
