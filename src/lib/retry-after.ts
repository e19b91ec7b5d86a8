/** Seconds or a date (RFC 9110, section 10.2.3) as milliseconds from `now`; null where there is neither. */
export function parseRetryAfter(header: string | null, now: number): number | null {
  if (header === null) return null;
  if (/^\d{1,9}$/.test(header.trim())) return Number(header) * 1000;
  // Date.parse reads even "-5" as a year, long gone by; an HTTP date begins with the day's name.
  const time = /^[A-Za-z]/.test(header) ? Date.parse(header) : Number.NaN;
  return Number.isNaN(time) ? null : Math.max(0, time - now);
}
