/** Which versions of a head answer its inputs, by which shares, and which shadow them. */
import type { HeadTraffic, NewHeadTraffic } from "../../api/traffic.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Share } from "../../core/lifecycle/traffic.ts";
import { toSeconds } from "../../lib/time.ts";

export interface Split {
  /** Empty where the active version answers all. */
  readonly versions: readonly Share[];
  readonly shadow: readonly number[];
  /** The newest version that a training, a job or a policy would have promoted, were there no shares. */
  readonly waiting: number | null;
  /** When it was last set, in Unix seconds. */
  readonly updatedAt: number | null;
}

const noSplit: Split = { versions: [], shadow: [], waiting: null, updatedAt: null };

export function readSplit(sql: SqlStorage, head: number): Split {
  const row = sql.exec<{ split: string }>("SELECT split FROM head_traffic WHERE head = ?", head).toArray()[0];
  return row === undefined ? noSplit : { ...noSplit, ...(JSON.parse(row.split) as Partial<Split>) };
}

function saveSplit(sql: SqlStorage, head: number, split: Split): void {
  if (split.versions.length === 0 && split.shadow.length === 0)
    sql.exec("DELETE FROM head_traffic WHERE head = ?", head);
  else sql.exec("INSERT OR REPLACE INTO head_traffic (head, split) VALUES (?, ?)", head, JSON.stringify(split));
}

/**
 * Whether a version may become the active one without being asked for by its number. While shares are set it waits: clearing
 * them promotes the newest version that waits, and promoting another ends the wait.
 */
export function mayPromote(sql: SqlStorage, head: number, version: number): boolean {
  const split = readSplit(sql, head);
  if (split.versions.length === 0) return true;
  saveSplit(sql, head, { ...split, waiting: version });
  return false;
}

/** Ends the shares of a head whose version is promoted. Other versions go on shadowing. */
export function clearShares(sql: SqlStorage, head: number, promoted: number): void {
  const split = readSplit(sql, head);
  saveSplit(sql, head, {
    ...split,
    versions: [],
    waiting: null,
    shadow: split.shadow.filter((version) => version !== promoted),
  });
}

interface HeadRow extends Record<string, SqlStorageValue> {
  id: number;
  active_version: number | null;
}

function findRow(sql: SqlStorage, name: string): Result<HeadRow> {
  const row = sql.exec<HeadRow>("SELECT id, active_version FROM heads WHERE name = ?", name).toArray()[0];
  return row ? ok(row) : fail("not_found", `No head '${name}'.`);
}

export function getTraffic(sql: SqlStorage, name: string): Result<HeadTraffic> {
  const row = findRow(sql, name);
  if (!row.ok) return row;
  const { id, active_version: active } = row.value;
  const { versions, shadow, waiting, updatedAt } = readSplit(sql, id);
  return ok({
    object: "head.traffic",
    id: name,
    active_version: active,
    versions: versions.length > 0 ? versions : active === null ? [] : [{ version: active, share: 1 }],
    shadow,
    waiting_version: waiting,
    updated_at: updatedAt,
  });
}

/**
 * Sets the shares and the shadow versions of a head. Answers the version that has waited for the end of the shares and is to
 * be promoted now, or null. Call it in a transaction.
 */
export function setTraffic(
  sql: SqlStorage,
  name: string,
  { versions, shadow }: NewHeadTraffic,
  now: number,
): Result<{ readonly promote: number | null }> {
  const row = findRow(sql, name);
  if (!row.ok) return row;
  const { id, active_version: active } = row.value;
  const onlyActive = versions.length === 1 && versions[0]?.version === active;
  const shares = onlyActive ? [] : versions;
  const check = checkVersions(sql, { id, name, active }, shares, shadow);
  if (!check.ok) return check;
  const before = readSplit(sql, id);
  const waiting = shares.length === 0 ? null : before.waiting;
  saveSplit(sql, id, { versions: shares, shadow, waiting, updatedAt: toSeconds(now) });
  // Who names the active version for all inputs wants that one.
  return ok({ promote: versions.length === 0 ? before.waiting : null });
}

interface VersionRow extends Record<string, SqlStorageValue> {
  modality: string;
  dimensions: number;
}

/** Every version exists and takes the same inputs, and none shadows what it answers itself. */
function checkVersions(
  sql: SqlStorage,
  { id, name, active }: { readonly id: number; readonly name: string; readonly active: number | null },
  shares: readonly Share[],
  shadow: readonly number[],
): Result<null> {
  const answering = shares.length > 0 ? shares.map(({ version }) => version) : active === null ? [] : [active];
  const named = [
    ...shares.map(({ version }, index) => ({ version, param: `versions[${index}].version` })),
    ...shadow.map((version, index) => ({ version, param: `shadow[${index}]` })),
  ];
  let first: VersionRow | null = null;
  for (const { version, param } of [...answering.map((each) => ({ version: each, param: "versions" })), ...named]) {
    const versionRow: VersionRow | undefined = sql
      .exec<VersionRow>(
        "SELECT json_extract(record, '$.modality') AS modality, json_extract(record, '$.dimensions') AS dimensions FROM head_versions WHERE head = ? AND version = ?",
        id,
        version,
      )
      .toArray()[0];
    if (versionRow === undefined)
      return fail("not_found", `No version ${version} of head '${name}'.`, { param: paramOf(named, version, param) });
    first ??= versionRow;
    const isAlike =
      versionRow.modality === first.modality &&
      (versionRow.modality === "text" || versionRow.dimensions === first.dimensions);
    if (!isAlike)
      return fail(
        "modality_mismatch",
        `Version ${version} of head '${name}' takes other inputs than the versions beside it.`,
        {
          param,
        },
      );
  }
  for (const [index, version] of shadow.entries())
    if (answering.includes(version))
      return fail("invalid_parameter", `Version ${version} answers inputs itself, so it cannot shadow them.`, {
        param: `shadow[${index}]`,
      });
  return ok(null);
}

function paramOf(
  named: readonly { readonly version: number; readonly param: string }[],
  version: number,
  otherwise: string,
): string {
  return named.find((each) => each.version === version)?.param ?? otherwise;
}
