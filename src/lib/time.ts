/** The ledger counts time in milliseconds; its columns and the contract hold whole Unix seconds. */

export const DAY_SECONDS = 86_400;

export function toSeconds(milliseconds: number): number {
  return Math.floor(milliseconds / 1000);
}

export function toMilliseconds(seconds: number): number {
  return seconds * 1000;
}

/** For a time before which nothing happens. */
export function toSecondsRoundedUp(milliseconds: number): number {
  return Math.ceil(milliseconds / 1000);
}
