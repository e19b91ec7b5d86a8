/** A sentence encoder with a head in double precision, written as its formulas are (src/finetune/encoder). */
import type { EncoderShape } from "../../src/backbones/sentence-encoder/layout.ts";

type Numbers = ArrayLike<number>;
type Rows = number[][];

const dot = (a: Numbers, b: Numbers, offset = 0) => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[offset + i] as number);
  return sum;
};

export function encoderLogits(
  { widths, heads, maxTokens }: EncoderShape,
  tensors: ReadonlyMap<string, Numbers>,
  head: { readonly weights: Numbers; readonly bias: Numbers },
  inputs: readonly { readonly tokens: readonly number[]; readonly besides: Numbers }[],
  outputs: number,
): Rows {
  const tensor = (name: string): Numbers => tensors.get(name) ?? [];
  const linear = (name: string, x: Rows): Rows => {
    const weights = tensor(`${name}.weights`);
    return x.map((row) => Array.from(tensor(`${name}.bias`), (bias, o) => bias + dot(row, weights, o * row.length)));
  };
  const normalise = (name: string, x: Rows): Rows =>
    x.map((row) => {
      const mean = row.reduce((sum, value) => sum + value, 0) / row.length;
      const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / row.length;
      const [scale, bias] = [tensor(`${name}.scale`), tensor(`${name}.bias`)];
      return row.map(
        (value, j) => ((value - mean) / Math.sqrt(variance + 1e-6)) * (scale[j] as number) + (bias[j] as number),
      );
    });
  const add = (a: Rows, b: Rows): Rows => a.map((row, i) => row.map((value, j) => value + (b[i]?.[j] ?? 0)));
  const attend = (projections: Rows, width: number): Rows => {
    const size = width / heads;
    const part = (row: number[], n: number, h: number) => row.slice(n * width + h * size, n * width + (h + 1) * size);
    return projections.map((row) =>
      Array.from({ length: heads }, (_, h) => {
        const scores = projections.map((other) => dot(part(row, 0, h), part(other, 1, h)) / Math.sqrt(size));
        const exps = scores.map((score) => Math.exp(score - Math.max(...scores)));
        const total = exps.reduce((sum, value) => sum + value, 0);
        return Array.from({ length: size }, (_, j) =>
          projections.reduce((sum, other, s) => sum + ((exps[s] ?? 0) / total) * (part(other, 2, h)[j] ?? 0), 0),
        );
      }).flat(),
    );
  };
  const layer = (n: number, x: Rows): Rows => {
    const name = `layers.${n}`;
    const [input = 0, width = 0] = widths.slice(n);
    const residual = input === width ? x : linear(`${name}.residual`, x);
    const projections = linear(`${name}.attention.projections`, normalise(`${name}.attention.norm`, x));
    const middle = add(residual, linear(`${name}.attention.output`, attend(projections, input)));
    const hidden = linear(`${name}.feedforward.hidden`, normalise(`${name}.feedforward.norm`, middle));
    const active = hidden.map((row) => row.map((value) => Math.max(0, value)));
    return add(middle, linear(`${name}.feedforward.output`, active));
  };
  const embed = (tokens: readonly number[]): number[] => {
    const width = widths[0] ?? 0;
    let x: Rows = tokens.slice(0, maxTokens).map((id, t) =>
      Array.from({ length: width }, (_, j) => {
        const [row, signal] = [tensor("table.weights")[id * width + j], tensor("timing")[t * width + j]];
        return 2 * (row ?? 0) + (signal ?? 0);
      }),
    );
    for (let n = 0; n + 1 < widths.length; n++) x = layer(n, x);
    const mean = Array.from({ length: widths.at(-1) ?? 0 }, (_, j) =>
      x.reduce((sum, row) => sum + (row[j] ?? 0) / x.length, 0),
    );
    const [y = []] = linear("tanh", [mean]).map((row) => row.map(Math.tanh));
    const norm = Math.sqrt(dot(y, y));
    return y.map((value) => (tokens.length === 0 ? 0 : value / norm));
  };
  return inputs.map(({ tokens, besides }) => {
    const embedding = [...Array.from(besides), ...embed(tokens)].map((value) => value * Math.SQRT1_2);
    return Array.from(
      { length: outputs },
      (_, k) => (head.bias[k] as number) + dot(embedding, head.weights, k * embedding.length),
    );
  });
}
