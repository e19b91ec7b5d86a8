/**
 * Every KV and R2 key. A tenant's id is the first argument and the first part of each, so no key of one tenant can
 * name another's value. Values are immutable: a key holds a hash of what is stored under it or of what it was made of, or
 * an id that is never given out twice.
 */

/** R2 and KV: the bytes of a head. */
export function headKey(tenant: string, sha256: string): string {
  return `tenants/${tenant}/heads/${sha256}`;
}

/** R2 and KV: the bytes of what fine-tuning has trained of a backbone. */
export function backboneKey(tenant: string, sha256: string): string {
  return `tenants/${tenant}/backbones/${sha256}`;
}

/** R2: the bytes of an uploaded file. */
export function fileKey(tenant: string, id: string): string {
  return `tenants/${tenant}/files/${id}`;
}

/** KV: a block of a data set's embeddings; `digest` is of the bytes. */
export function blockKey(tenant: string, dataset: number, backbone: string, block: number, digest: string): string {
  return `${blocksPrefix(tenant, dataset)}${backbone}/${block}-${digest}`;
}

/** KV: all blocks of a tenant, or of one data set. */
export function blocksPrefix(tenant: string, dataset?: number): string {
  return `tenants/${tenant}/blocks/${dataset === undefined ? "" : `${dataset}/`}`;
}

/** KV: the embedding of one input by a backbone that is dear. */
export function inputKey(tenant: string, backbone: string, inputHash: string): string {
  return `tenants/${tenant}/inputs/${backbone}/${inputHash}`;
}

/** R2: what the attempts at a job have uploaded, named by its SHA-256; all of a job's, or of all jobs. */
export function artifactKey(tenant: string, job: string, sha256: string): string {
  return `${artifactsPrefix(tenant, job)}${sha256}`;
}

export function artifactsPrefix(tenant: string, job?: string): string {
  return `tenants/${tenant}/jobs/${job === undefined ? "" : `${job}/`}`;
}

/** R2 and KV: everything of a tenant. */
export function tenantPrefix(tenant: string): string {
  return `tenants/${tenant}/`;
}
