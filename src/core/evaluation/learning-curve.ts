/** What a learning curve says: of the head itself, and of heads with more examples. */
import type { Evaluation, MoreExamples } from "./evaluation.ts";
import { type ClassMetrics, mean, wilsonInterval } from "./metrics.ts";
import { type CurvePoint, fitPowerLaw } from "./power-law.ts";

/**
 * The evaluation with what the curve says of the head; in full detail also the curve, and what it says of more examples.
 *
 * @param points ascending; the last is that of the evaluated models
 * @param trained how many examples the head is trained on
 */
export function withLearningCurve(
  evaluation: Evaluation,
  points: readonly CurvePoint[],
  trained: number,
  detail: Evaluation["detail"],
): Evaluation {
  const { accuracy, examples: heldOut } = evaluation;
  const accuracyAt = accuracy === undefined ? null : fitPowerLaw(points, { accuracy, heldOut });
  if (accuracyAt === null) return { ...evaluation, detail };
  const corrected = { ...evaluation, detail, accuracy_estimate: accuracyAt(trained) };
  if (detail === "summary") return corrected;
  return {
    ...corrected,
    learning_curve: points.map(({ examples, correct }) => {
      const accuracy = mean(Array.from(correct));
      return { examples: Math.round(examples), accuracy, interval: wilsonInterval(accuracy, correct.length) };
    }),
    expected_accuracy: { "2x": accuracyAt(2 * trained), "5x": accuracyAt(5 * trained) },
    more_examples: moreExamples(evaluation.per_class ?? [], trained),
  };
}

/** Of the power law, in the middle of what is measured of learning curves. */
const EXPONENT = 1 / 2;
/** A class's error counts as if so many of its examples more had the error of all: chance decides that of a few. */
const PRIOR_EXAMPLES = 2;

/**
 * How to divide as many examples more as there are so that most inputs more are predicted correctly. If the error e of each
 * class falls by the power law with the number m of its own examples, Σ w e (n / m)^c is least where all classes that
 * get examples have m = K n e^(1 / (1 + c)), with n their present examples, in proportion to w. The others keep theirs.
 */
function moreExamples(perClass: readonly ClassMetrics[], trained: number): MoreExamples[] {
  const total = perClass.reduce((sum, { support }) => sum + support, 0);
  const missed = perClass.reduce((sum, { recall, support }) => sum + support * (1 - (recall ?? 1)), 0);
  if (missed === 0) return [];
  const classes = perClass.flatMap(({ label, recall, support }) => {
    if (recall === null) return [];
    const error = (support * (1 - recall) + PRIOR_EXAMPLES * (missed / total)) / (support + PRIOR_EXAMPLES);
    return [{ label, present: (support / total) * trained, need: error ** (1 / (1 + EXPONENT)) }];
  });
  classes.sort((a, b) => b.need - a.need);
  let [present, needed, scale] = [0, 0, 0];
  for (const own of classes) {
    // It gets none if those of greater need, with all that is given, stay below what would be its share.
    if (needed > 0 && scale * own.need <= 1) break;
    present += own.present;
    needed += own.present * own.need;
    scale = (present + trained) / needed;
  }
  return classes
    .map(({ label, present, need }) => ({ label, examples: Math.round(present * Math.max(0, scale * need - 1)) }))
    .filter(({ examples }) => examples > 0)
    .sort((a, b) => b.examples - a.examples);
}
