import { readFileSync } from "node:fs";
import { encode, readTable } from "../src/backbones/text-static.ts";
import { probe } from "./probe.ts";
import { draw, textSets } from "./text-sets.ts";
const dir = process.argv[2] ?? "models/text-static-1";
const table = readTable(readFileSync(`${dir}/vocabulary.txt`, "utf8"), readFileSync(`${dir}/table.bin`));
const cache = new Map<string, Float32Array>();
const enc = (t: string) => { let e = cache.get(t); if (!e) { e = encode(table, t); cache.set(t, e); } return e; };
const sets = textSets("../shared/data/tasks", /hwu64|snips full|mr_pol|rasa|askubuntu|webapps|query|bitext|clinc150_full/);
const all: number[] = [];
let line = "";
for (const set of sets) {
  let splits = set.splits;
  const { train, test } = splits[0]!;
  const seeds = [1, 2, 3, 4, 5];
  if (set.name === "hwu64 full") {
    for (const n of [5, 10]) await go(`hwu${n}`, seeds.map((s) => ({ train: draw(train, n, s), test })));
    continue;
  }
  if (set.name.startsWith("hwu64")) { await go(set.name.replaceAll(" ", ""), splits); continue; }
  if (set.name === "clinc150_full") splits = [1,2].map((s) => ({ train: draw(train, 5, s), test }));
  if (set.name === "snips full") splits = seeds.map((s) => ({ train: draw(train, 5, s), test }));
  if (set.name === "bitext_support27") splits = seeds.map((s) => ({ train: draw(train, 5, s), test }));
  if (set.name.startsWith("mr_")) splits = splits.slice(0, 3);
  await go(set.name.slice(0, 6), splits);
}
async function go(name: string, splits: any) {
  const acc: number[] = [];
  for (const s of splits) acc.push(await probe(enc, table.dimensions, s));
  const mean = acc.reduce((a, b) => a + b, 0) / acc.length;
  all.push(mean);
  line += ` ${name} ${mean.toFixed(4)}`;
}
console.log(line, "MEAN", (all.reduce((a, b) => a + b, 0) / all.length).toFixed(4));
