/** Chooses rows of a dataset that a head is not trained on, so that its predictions of them can be shown. */

export interface HeldOutRow {
  readonly id: string;
  readonly text: string;
  readonly label: string;
}

const MAX_ROWS = 5;

/**
 * Up to five rows, each of another label, of which at least two other rows remain. Their texts occur only once. `lines` is
 * the export of a dataset.
 */
export async function chooseHeldOutRows(lines: AsyncIterable<string>): Promise<HeldOutRow[]> {
  const labels = new Map<string, number>();
  const texts = new Map<string, number>();
  const candidates: HeldOutRow[] = [];
  let rows = 0;
  for await (const line of lines) {
    const { id, text, label } = JSON.parse(line) as HeldOutRow;
    rows++;
    const normalised = normalise(text);
    texts.set(normalised, (texts.get(normalised) ?? 0) + 1);
    const count = (labels.get(label) ?? 0) + 1;
    labels.set(label, count);
    if (count === 3) candidates.push({ id, text, label });
  }
  const unique = candidates.filter(({ text }) => texts.get(normalise(text)) === 1);
  const count = Math.min(MAX_ROWS, Math.max(1, Math.floor(rows / 10)), unique.length);
  return Array.from({ length: count }, (_, i) => unique[Math.floor((i * unique.length) / count)] as HeldOutRow);
}

function normalise(text: string): string {
  return text.trim().toLowerCase();
}
