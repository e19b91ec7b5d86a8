/**
 * Every KV and R2 key. The tenant's id is the first argument of each function and the first part of each key, so that a
 * tenant's key cannot name another tenant's value. Values are immutable: a key contains a hash of the value or of its
 * input, or an id that is used only once. No key holds a text, a label or a name that a tenant chose.
 */

/** R2 and KV: the bytes of a head. */
export function headKey(tenant: string, sha256: string): string {
  return `tenants/${tenant}/heads/${sha256}`;
}

/** R2 and KV: the bytes of a fine-tuned backbone's delta. */
export function backboneKey(tenant: string, sha256: string): string {
  return `tenants/${tenant}/backbones/${sha256}`;
}

/** R2: the bytes of an uploaded file. */
export function fileKey(tenant: string, id: string): string {
  return `tenants/${tenant}/files/${id}`;
}

/** KV: a block of a dataset's embeddings. `digest` is the hash of its bytes. */
export function blockKey(tenant: string, dataset: number, backbone: string, block: number, digest: string): string {
  return `${blocksPrefix(tenant, dataset)}${backbone}/${block}-${digest}`;
}

/** KV: all blocks of a tenant, or of one dataset. */
export function blocksPrefix(tenant: string, dataset?: number): string {
  return `tenants/${tenant}/blocks/${dataset === undefined ? "" : `${dataset}/`}`;
}

/** KV: the embedding of one input by a remote backbone. */
export function inputKey(tenant: string, backbone: string, inputHash: string): string {
  return `tenants/${tenant}/inputs/${backbone}/${inputHash}`;
}

/** R2: an upload of a job's attempt, named by its SHA-256. */
export function artifactKey(tenant: string, job: string, sha256: string): string {
  return `${artifactsPrefix(tenant, job)}${sha256}`;
}

/** R2: all uploads of a job, or of all jobs. */
export function artifactsPrefix(tenant: string, job?: string): string {
  return `tenants/${tenant}/jobs/${job === undefined ? "" : `${job}/`}`;
}

/** R2 and KV: all values of a tenant. */
export function tenantPrefix(tenant: string): string {
  return `tenants/${tenant}/`;
}
