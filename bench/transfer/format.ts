/** How the page writes its figures. */
import type { Size } from "./run.ts";

export function formatAccuracy(value: number | null): string {
  return value === null ? "–" : value.toFixed(3).replace(/^(-?)0\./, "$1.");
}

/** A difference of accuracies, in points. */
export function formatPoints(value: number): string {
  const points = (100 * value).toFixed(1);
  return value > 0 && points !== "0.0" ? `+${points}` : points.replace("-0.0", "0.0");
}

export function formatSize(size: Size): string {
  return size === "full" ? "all examples" : `${size} a class`;
}

/** A number with two significant digits and a unit of thousands. */
export function formatCount(value: number | null): string {
  if (value === null) return "–";
  const [unit, name] = value >= 1e6 ? [1e6, " million"] : [1, ""];
  const digits = Number((value / unit).toPrecision(2));
  return `${digits.toLocaleString("en")}${name}`;
}
