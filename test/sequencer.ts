/** The order of the test files. Vitest starts the largest first; this starts those first that are small and take long. */
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Started last, each would run alone at the end. */
const longFiles = ["chaos.slow.test.ts", "demo.slow.test.ts"];

export default class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files);
    const projects = [...new Set(sorted.map(({ project }) => project.name))];
    const rank = ({ project, moduleId }: TestSpecification) =>
      2 * projects.indexOf(project.name) + (longFiles.some((name) => moduleId.endsWith(`/${name}`)) ? 0 : 1);
    return sorted.sort((a, b) => rank(a) - rank(b));
  }
}
