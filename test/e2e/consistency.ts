import { expect } from "vitest";
import type { Client } from "../../src/sdk/client.ts";

/**
 * Expects that everything a tenant can see is whole: counts agree, versions have no gaps, every version's bytes are
 * there. Answers the hashes of all versions.
 */
export async function expectConsistent({ datasets, heads }: Client): Promise<Set<string>> {
  const hashes = new Set<string>();
  for (const { name } of (await datasets.list({ limit: 100 })).data) {
    const { dataset, lines } = await exportAtOneRevision(datasets, name);
    expect(lines).toHaveLength(dataset.examples);
    expect(Object.values(dataset.labels ?? {}).reduce((a, b) => a + b, 0)).toBe(dataset.examples);
    for (const line of lines) expect(Object.keys(JSON.parse(line)).sort()).toEqual(["id", "label", "text"]);
  }
  for (const head of (await heads.list({ limit: 100 })).data) {
    const versions = (await heads.versions(head.id)).data;
    const numbers = versions.map(({ version }) => version);
    expect(numbers).toEqual(Array.from(numbers, (_, i) => numbers.length - i));
    expect(numbers).toContain(head.active_version);
    for (const { version, sha256 } of versions) {
      const predicted = await heads.predict(head.id, { input: "refund", version });
      expect(predicted.model).toBe(`${head.id}@${version}`);
      hashes.add(sha256);
    }
  }
  return hashes;
}

/** A dataset and its exported lines, read again where a merge that goes on after a restart came between. */
async function exportAtOneRevision(datasets: Client["datasets"], name: string) {
  for (;;) {
    const dataset = await datasets.get(name);
    const lines = (await new Response(await datasets.export(name)).text()).split("\n").filter(Boolean);
    if ((await datasets.get(name)).revision === dataset.revision) return { dataset, lines };
  }
}
