import { measureDraw } from "./advice/tasks.ts";
import { readDraws } from "./transfer/draws.ts";

const draws = readDraws("/work/shared/data/tasks").sort((a, b) => a.split.train.length - b.split.train.length);
for (const d of draws) {
  if (d.model.backbone.id !== process.argv[2]) continue;
  const t = await measureDraw(d);
  console.log(
    d.name,
    t.sample,
    t.seconds.toFixed(2),
    t.evaluation.accuracy_estimate?.value,
    t.similarity?.knn_accuracy,
    t.similarity?.logme,
    t.similarity?.class_overlap,
  );
}
