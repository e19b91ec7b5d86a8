/** Line charts as SVG. */

export interface Series {
  readonly name: string;
  /** One for each place on the x axis; null: nothing is drawn there. */
  readonly points: readonly (number | null)[];
}

export interface Chart {
  readonly title: string;
  readonly unit?: string;
  readonly xTitle: string;
  readonly xLabels: readonly string[];
  readonly series: readonly Series[];
  readonly logarithmic?: boolean;
}

const WIDTH = 640;
const HEIGHT = 360;
const [LEFT, RIGHT, TOP, BOTTOM] = [64, 170, 36, 44];
const TICKS = 5;
const PALETTE = [
  "#1f77b4",
  "#ff7f0e",
  "#2ca02c",
  "#d62728",
  "#9467bd",
  "#8c564b",
  "#e377c2",
  "#7f7f7f",
  "#bcbd22",
  "#17becf",
  "#393b79",
  "#637939",
];

export function lineChart({ title, unit = "", xTitle, xLabels, series, logarithmic = false }: Chart): string {
  const transform = (value: number) => (logarithmic ? Math.log10(value) : value);
  const values = series.flatMap(({ points }) => points.filter((value) => value !== null).map(transform));
  const margin = (Math.max(...values) - Math.min(...values)) * 0.05 || 0.1;
  const [low, high] = [Math.min(...values) - margin, Math.max(...values) + margin];
  const x = (i: number) => LEFT + (i * (WIDTH - LEFT - RIGHT)) / Math.max(1, xLabels.length - 1);
  const y = (value: number) => TOP + ((high - transform(value)) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const gridLines = Array.from({ length: TICKS }, (_, i) => low + ((high - low) * i) / (TICKS - 1))
    .map((tick) => (logarithmic ? 10 ** tick : tick))
    .map((tick) => {
      const height = y(tick).toFixed(1);
      const line = `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${height}" y2="${height}" stroke="#ddd"/>`;
      const labelY = (y(tick) + 4).toFixed(1);
      return `${line}<text x="${LEFT - 6}" y="${labelY}" text-anchor="end">${shorten(tick)}${unit}</text>`;
    });
  const labels = xLabels.map(
    (text, i) => `<text x="${x(i).toFixed(1)}" y="${HEIGHT - BOTTOM + 18}" text-anchor="middle">${text}</text>`,
  );
  const lines = series.map(({ name, points }, n) => {
    const colour = PALETTE[n % PALETTE.length];
    const places = points.flatMap((value, i) => (value === null ? [] : [[x(i).toFixed(1), y(value).toFixed(1)]]));
    const dots = places.map(([cx, cy]) => `<circle cx="${cx}" cy="${cy}" r="3" fill="${colour}"/>`);
    const legendY = TOP + 16 * n;
    const polyline = places.map((place) => place.join(",")).join(" ");
    return [
      `<polyline points="${polyline}" fill="none" stroke="${colour}" stroke-width="2"/>`,
      ...dots,
      `<rect x="${WIDTH - RIGHT + 14}" y="${legendY}" width="10" height="10" fill="${colour}"/>`,
      `<text x="${WIDTH - RIGHT + 30}" y="${legendY + 9}">${name}</text>`,
    ].join("");
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">`,
    `<title>${title}</title><rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>`,
    `<text x="${LEFT}" y="20" font-size="14">${title}</text>`,
    ...gridLines,
    ...labels,
    `<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 6}" text-anchor="middle">${xTitle}</text>`,
    ...lines,
    "</svg>\n",
  ].join("");
}

function shorten(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e12) return `${(value / 1e12).toFixed(1)}T`;
  if (size >= 1e9) return `${(value / 1e9).toFixed(1)}G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (size >= 1e3) return `${(value / 1e3).toFixed(1)}k`;
  return value.toFixed(size < 10 ? 2 : 0);
}
