/** Whether the operations that a recommendation expects of a head's training are those that it takes. */
import { expectedOperations } from "../../src/core/advice/cost.ts";
import { seededRandom, shuffle } from "../../src/core/random.ts";
import { encoderOf } from "../evaluation/embeddings.ts";
import { trainHead } from "../evaluation/head.ts";
import { readSets } from "../evaluation/sets.ts";
import { cached, readStored } from "../shared/cached.ts";
import { makeRow, type Row } from "../shared/report.ts";
import { measureRows, sampleOf } from "./tasks.ts";

const BENCH = "advice";
const SETS = /^(clinc150_full|hwu64 full|snips full|bitext_support27|mr_polarity 10-fold)$/;
const SIZES = [600, 2_000, 6_000];
const MAX_FACTOR = 1.5;

interface TrainingCost {
  readonly expected: number;
  readonly measured: number;
}

/** Measures what is not stored yet, unless `stored`, and answers the rows. */
export async function costRows(data: string, stored: boolean): Promise<Row[]> {
  const rows: Row[] = [];
  for (const { name: set, train } of readSets(data).filter(({ name }) => SETS.test(name)))
    for (const size of SIZES) {
      const name = `${set}, training of ${size} rows`;
      const measure = async (): Promise<TrainingCost> => {
        const encoder = await encoderOf([train]);
        const examples = shuffle([...train.rows], seededRandom(1)).slice(0, size);
        const { operations, sample } = measureRows(encoder, sampleOf(examples, 0), 0);
        return {
          expected: expectedOperations({ operations, examples: sample }, examples.length),
          measured: trainHead(encoder, examples).training.operations,
        };
      };
      const cost = stored ? readStored<TrainingCost>(BENCH, name) : await cached(BENCH, name, measure);
      if (cost === null) continue;
      const ratio = cost.expected / cost.measured;
      rows.push(
        makeRow({
          case: name,
          measure: "operations expected of a head's training",
          value: cost.expected,
          peer: "measured",
          peer_value: cost.measured,
          ratio,
          target: `within a factor of ${MAX_FACTOR}`,
          met: Math.max(ratio, 1 / ratio) <= MAX_FACTOR,
        }),
      );
    }
  return rows;
}
