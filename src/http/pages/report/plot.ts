/**
 * Plots as SVG with their figures in a table beside them. They have no texts but ours, so that none has to be fitted into
 * a picture.
 */
import { html } from "hono/html";
import { count, type Html } from "./format.ts";

/** Units of the picture. Its letters are 12 high, so that they can be read where it is as narrow as a telephone. */
const WIDTH = 360;
const HEIGHT = 270;
const LEFT = 52;
const RIGHT = 22;
const TOP = 10;
const BOTTOM = 44;

export interface Axis {
  readonly name: string;
  readonly min: number;
  readonly max: number;
  readonly ticks: readonly number[];
  readonly isLogarithmic?: boolean;
  readonly format: (value: number) => string;
}

export interface Point {
  readonly x: number;
  readonly y: number;
  /** A range of y. */
  readonly interval?: readonly [number, number];
  /** By default 4. */
  readonly radius?: number;
}

export interface Series {
  readonly style: "measured" | "expected" | "reference";
  readonly points: readonly Point[];
}

export interface Plot {
  readonly id: string;
  readonly title: string;
  /** What can be seen in it. */
  readonly description: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly Series[];
}

const quarters = [0, 0.25, 0.5, 0.75, 1];
const tenths = Array.from({ length: 11 }, (_, i) => i / 10);

/** An axis of shares, with finer ticks where it is short. */
export function shareAxis(name: string, min = 0): Axis {
  const ticks = min < 0.5 ? quarters : tenths;
  return {
    name,
    min,
    max: 1,
    ticks: ticks.filter((tick) => tick >= min),
    format: (value) => `${Math.round(100 * value)} %`,
  };
}

/** A logarithmic axis of numbers from 1 up, with ticks at 1, 2 and 5 times powers of ten; fewer where it is long. */
export function countAxis(name: string, min: number, max: number): Axis {
  const powers = Array.from({ length: 9 }, (_, power) => 10 ** power);
  const all = powers.flatMap((power) => [power, 2 * power, 5 * power]);
  const fine = all.filter((tick) => tick >= min && tick <= max);
  const ticks = fine.length <= 6 ? fine : fine.filter((tick) => powers.includes(tick));
  return { name, min, max, ticks, isLogarithmic: true, format: count };
}

export function plot({ id, title, description, x, y, series }: Plot): Html {
  const toX = scale(x, LEFT, WIDTH - RIGHT);
  const toY = scale(y, HEIGHT - BOTTOM, TOP);
  return html`<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-labelledby="${id}-title ${id}-description">
<title id="${id}-title">${title}</title><desc id="${id}-description">${description}</desc>
${y.ticks.map(
  (tick) => html`<path class="grid" d="M${LEFT} ${toY(tick)}H${WIDTH - RIGHT}"/>
<text class="tick" text-anchor="end" x="${LEFT - 6}" y="${toY(tick) + 4}">${y.format(tick)}</text>
`,
)}${x.ticks.map(
  (tick) => html`<path class="grid" d="M${toX(tick)} ${TOP}V${HEIGHT - BOTTOM}"/>
<text class="tick" text-anchor="middle" x="${toX(tick)}" y="${HEIGHT - BOTTOM + 16}">${x.format(tick)}</text>
`,
)}<text text-anchor="middle" x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 6}">${x.name}</text>
<text text-anchor="middle" transform="translate(12 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)">${y.name}</text>
${series.map((each) => each.points.length > 0 && drawSeries(each, toX, toY))}</svg>`;
}

/** From values to units of the picture, with one decimal. */
function scale({ min, max, isLogarithmic }: Axis, from: number, to: number): (value: number) => number {
  const transform = isLogarithmic ? Math.log : (value: number) => value;
  const span = transform(max) - transform(min) || 1;
  return (value) => {
    const share = Math.min(1, Math.max(0, (transform(value) - transform(min)) / span));
    return Math.round(10 * (from + share * (to - from))) / 10;
  };
}

function drawSeries({ style, points }: Series, toX: (value: number) => number, toY: (value: number) => number): Html {
  const line = points.map(({ x, y }) => `${toX(x)} ${toY(y)}`).join("L");
  return html`<g class="${style}"><path class="line" d="M${line}"/>${points.map(
    ({ x, y, interval, radius = 4 }) => html`${
      interval && html`<path class="interval" d="M${toX(x)} ${toY(interval[0])}V${toY(interval[1])}"/>`
    }${style !== "reference" && html`<circle cx="${toX(x)}" cy="${toY(y)}" r="${radius}"/>`}
`,
  )}</g>`;
}
