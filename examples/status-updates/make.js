/**
 * Writes train.csv and test.csv: updates on a problem, each labelled `solved` or `unsolved`. Every sentence has a twin of
 * the other label with the same words in another order, or one word exchanged: words alone cannot tell them apart. The
 * test has other sentence patterns than the training texts.
 *
 *   node examples/status-updates/make.js
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";

/** What works or does not: [thing, it works: open, opens, opened, it does not: crash, crashes, crashed]. */
const things = [
  ["the app", "open", "opens", "opened", "crash", "crashes", "crashed"],
  ["the export", "finish", "finishes", "finished", "hang", "hangs", "hung"],
  ["our printer", "print", "prints", "printed", "jam", "jams", "jammed"],
  ["the login page", "load", "loads", "loaded", "time out", "times out", "timed out"],
  ["my headset", "connect", "connects", "connected", "drop out", "drops out", "dropped out"],
  ["the backup", "run", "runs", "ran", "stop", "stops", "stopped"],
  ["the search", "answer", "answers", "answered", "stall", "stalls", "stalled"],
  ["the camera", "work", "works", "worked", "fail", "fails", "failed"],
  ["the newsletter", "arrive", "arrives", "arrived", "bounce", "bounces", "bounced"],
  ["the upload", "succeed", "succeeds", "succeeded", "break off", "breaks off", "broke off"],
  ["the calendar", "sync", "syncs", "synced", "freeze", "freezes", "froze"],
  ["the heating", "start", "starts", "started", "break down", "breaks down", "broke down"],
  ["the map", "appear", "appears", "appeared", "vanish", "vanishes", "vanished"],
  ["the video call", "hold", "holds", "held", "collapse", "collapses", "collapsed"],
];
const causes = ["the update", "the restart", "your patch", "the new version", "the reset", "the repair"];
const times = ["yesterday", "on Monday", "last week", "this morning", "all month"];

/**
 * Patterns of a solved problem. {good} stands for a verb of what works and {bad} for one of what does not, in its base
 * form ("open"), or as {good:s} ("opens") or {good:ed} ("opened"). The twin, of an unsolved one, has the two exchanged.
 */
const patterns = {
  train: [
    "{x} used to {bad}, now it {good:s}",
    "{x} does not {bad} any more",
    "{x} {good:s} again, it {bad:ed} {t}",
    "{t} {x} {bad:ed}, today it {good:s}",
    "I can no longer say that {x} {bad:s}",
    "{x} {bad:ed} until {c}",
    "since {c} {x} {good:s}, before that it {bad:ed}",
    "no, {x} no longer {bad:s}",
    "{x} never {bad:s} since {c}",
    "first {x} {bad:ed}, then came {c}, and now it {good:s}",
    "{c} made {x} {good} where it used to {bad}",
    "not once did {x} {bad} since {c}",
    "{x} {good:s} and does not {bad}",
    "I thought {x} would {bad}, but it {good:s}",
    "there was a time when {x} {bad:ed}, but that is over and it {good:s}",
    "{x} {good:s} now and {bad:ed} before",
    "{x} {bad:ed}, we tried {c}, it {good:s}",
    "it is not true any more that {x} {bad:s}",
    "{x}, which {bad:ed} {t}, {good:s}",
    "{x} will not {bad} today as it did {t}",
    "without {c} {x} {bad:ed}, with it {x} {good:s}",
    "{x} hardly ever {bad:s} now",
    "nobody has seen {x} {bad} since {c}",
    "{c} was all that {x} needed: it {bad:ed} and {good:s} now",
  ],
  test: [
    "before {c} {x} {bad:ed}, after it {x} {good:s}",
    "you said that {x} would {good} and not {bad}, and you were right",
    "I was wrong: {x} does not {bad}, it {good:s}",
    "instead of {c} making {x} {bad}, it made it {good}",
    "what {bad:ed} {t} was {x}, and by now it {good:s}",
    "we expected {x} to {bad} after {c}, yet it {good:s}",
    "none of us saw {x} {bad} again",
    "whoever told you that {x} still {bad:s} is mistaken",
    "{x} {good:s} for everybody and {bad:s} for nobody",
    "only until {c} {x} {bad:ed}",
    "that is over, {x} no longer {bad:s}",
    "{x} doesn't {bad}, instead it {good:s}",
  ],
};
/** So many texts of each label are written with each pattern. */
const copies = { train: 5, test: 9 };

/** Mulberry32, by Tommy Ettinger. */
function makeRandom(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

function write(pattern, [x, ...verbs], cause, time, isSolved) {
  const forms = ["", ":s", ":ed"];
  const verb = (isGood, form) => verbs[forms.indexOf(form) + (isGood === isSolved ? 0 : 3)];
  return pattern
    .replace(/\{(good|bad)(:\w+)?\}/g, (_, kind, form = "") => verb(kind === "good", form))
    .replaceAll("{x}", x)
    .replaceAll("{c}", cause)
    .replaceAll("{t}", time);
}

function makeRows(part, random) {
  const pick = (list) => list[Math.floor(random() * list.length)];
  const openings = ["", "", "", "Update: ", "Just so you know: ", "Hi, ", "Hello team, "];
  const endings = [".", ".", "", "!", ". Thanks.", ". Please note it in the ticket."];
  const rows = new Map();
  for (const pattern of patterns[part]) {
    for (const label of ["solved", "unsolved"]) {
      for (let written = 0; written < copies[part]; ) {
        const text = write(pattern, pick(things), pick(causes), pick(times), label === "solved");
        const line = pick(openings) + text + pick(endings);
        const row = line[0].toUpperCase() + line.slice(1);
        if (rows.has(row)) continue;
        rows.set(row, label);
        written++;
      }
    }
  }
  const list = [...rows];
  for (let i = list.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [list[i], list[j]] = [list[j], list[i]];
  }
  return list;
}

const random = makeRandom(18);
for (const part of ["train", "test"]) {
  const lines = makeRows(part, random).map(([text, label]) => `"${text}",${label}`);
  writeFileSync(join(import.meta.dirname, `${part}.csv`), `text,label\n${lines.join("\n")}\n`);
}
