/** What an isolate needs to know of a head to predict by it, which it relies on for the time of a lease. */
import type { Head } from "../../api/heads.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { largestShare } from "../../core/lifecycle/traffic.ts";
import { type Capture, readCapture } from "./capture.ts";
import { readSplit } from "./traffic.ts";

/** The part of a version's record that a prediction needs. The evaluation is large; the labels come with the weights. */
export type ServedHead = Pick<Head, "id" | "version" | "task" | "modality" | "dimensions" | "backbone" | "sha256"> & {
  /** 0 for regression. */
  readonly labelCount: number;
  /** Whether a shift of its inputs is noticed, so that a coverage is not promised. */
  readonly isShifted: boolean;
};

export interface HeadLease {
  /** The version that was asked for, or the active one; with shares that of the largest share. */
  readonly head: ServedHead;
  /** The versions that answer by shares; empty where `head` answers all. */
  readonly shares: readonly { readonly share: number; readonly head: ServedHead }[];
  readonly shadow: readonly ServedHead[];
  /** By what live inputs are captured; null: none are. */
  readonly capture: Capture | null;
}

/** A version whose record has been read. */
export function toServedHead({ id, version, task, modality, labels, dimensions, backbone, sha256 }: Head): ServedHead {
  return { id, version, task, modality, labelCount: labels.length, dimensions, backbone, sha256, isShifted: false };
}

interface ServedRow extends Record<string, SqlStorageValue> {
  version: number;
  sha256: string;
  task: string;
  modality: string;
  dimensions: number;
  backbone: string;
  labels: number;
  shifted: number;
}

function findServed(sql: SqlStorage, id: string, head: number, version: number): ServedHead | null {
  const row = sql
    .exec<ServedRow>(
      `SELECT head_versions.version, sha256, json_extract(record, '$.task') AS task, json_extract(record, '$.modality') AS modality,
         json_extract(record, '$.dimensions') AS dimensions, json_extract(record, '$.backbone') AS backbone,
         json_array_length(record, '$.labels') AS labels, coalesce(json_extract(state, '$.shift'), 'null') <> 'null' AS shifted
       FROM head_versions LEFT JOIN input_shifts USING (head, version) WHERE head = ? AND version = ?`,
      head,
      version,
    )
    .toArray()[0];
  if (row === undefined) return null;
  return {
    id,
    version,
    task: row.task as ServedHead["task"],
    modality: row.modality as ServedHead["modality"],
    dimensions: row.dimensions,
    backbone: JSON.parse(row.backbone) as ServedHead["backbone"],
    sha256: row.sha256,
    labelCount: row.labels,
    isShifted: row.shifted === 1,
  };
}

/** A given version alone, or what answers predictions now. */
export function leaseHead(sql: SqlStorage, name: string, version: number | null): Result<HeadLease> {
  const row = sql
    .exec<{ id: number; active_version: number | null }>("SELECT id, active_version FROM heads WHERE name = ?", name)
    .toArray()[0];
  if (row === undefined) return fail("not_found", `No head '${name}'.`);
  const find = (number: number) => findServed(sql, name, row.id, number);
  if (version !== null) {
    const head = find(version);
    return head
      ? ok({ head, shares: [], shadow: [], capture: null })
      : fail("not_found", `No version ${version} of head '${name}'.`);
  }
  const split = readSplit(sql, row.id);
  const shares = split.versions.flatMap(({ version: number, share }) => {
    const head = find(number);
    return head === null ? [] : [{ share, head }];
  });
  const shadow = split.shadow.map(find).filter((head) => head !== null);
  const head = largestShare(shares)?.head ?? (row.active_version === null ? null : find(row.active_version));
  if (head === null)
    return fail("not_found", `No version of head '${name}' is active yet. Promote one, or name a 'version'.`);
  return ok({ head, shares, shadow, capture: readCapture(sql, row.id) });
}
