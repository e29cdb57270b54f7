import assert from "node:assert/strict";
import { test } from "node:test";
import { must } from "../../common/assert.ts";
import { planBuild, type BuildPlan } from "./build-plan.ts";
import { contextPaths } from "./context-paths.ts";
import { stepNames, stepText } from "./shown-names.ts";
import { neededStages } from "./stage-runs.ts";

const NOTHING = { args: new Map(), labels: new Map(), target: "", platformArgs: new Map() };

function plan(text: string, target = ""): BuildPlan {
  return planBuild(text, { ...NOTHING, target });
}

function namesOf(built: BuildPlan): readonly string[] {
  return built.stages.flatMap((stage) => {
    const { from, prefixes } = stepNames(built, stage);
    const steps = stage.steps.flatMap(({ instruction, number }) => {
      const prefix = prefixes.get(number);
      return prefix === undefined ? [] : [prefix + stepText(instruction, new Map([["SET", "value"]]))];
    });
    return from === undefined ? steps : [from, ...steps];
  });
}

test("stepNames() counts what does something, in each stage, as BuildKit does", () => {
  assert.deepEqual(namesOf(plan("FROM base\nENV A=1\nrun echo $SET $UNSET '$SET'\nWORKDIR /w\n")), [
    "[1/3] FROM docker.io/library/base:latest",
    "[2/3] RUN echo value $UNSET '$SET'",
    "[3/3] WORKDIR /w",
  ]);
  assert.deepEqual(
    namesOf(
      plan("FROM scratch AS one\nCOPY a /\nFROM one\nRUN x\nFROM host:5000/y@sha256:" + "0".repeat(64)),
    ),
    ["[one 1/1] COPY a /", "[stage-1 1/1] RUN x", `[stage-2 1/1] FROM host:5000/y@sha256:${"0".repeat(64)}`],
  );
  const long = plan(`FROM a\n${"RUN x\n".repeat(9)}`);
  assert.equal(namesOf(long)[1], "[ 2/10] RUN x");
  assert.deepEqual(namesOf(plan("FROM a AS one\nFROM b\n", "one")), [
    "[one 1/1] FROM docker.io/library/a:latest",
  ]);
});

test("stepText() shows the body of a heredoc in one line", () => {
  assert.deepEqual(namesOf(plan("FROM a\nRUN <<EOF\necho one\n  echo two\nEOF\n")).slice(1), [
    "[2/2] RUN <<EOF (echo one echo two)",
  ]);
});

test("neededStages() leaves out what the last one does without", () => {
  const text = "FROM a AS one\nFROM b AS two\nFROM one AS three\nFROM c\nCOPY --from=three / /\n";
  assert.deepEqual(neededStages(plan(text)), new Set([0, 2, 3]));
});

const PATHS: readonly (readonly [string, readonly string[] | undefined])[] = [
  ["COPY a b/ /x/", ["a", "b"]],
  ["COPY ../up /abs ./here /x/", ["up", "abs", "here"]],
  ["COPY *.txt /x", ["*.txt"]],
  ["COPY . /x", undefined],
  ["COPY $WHAT /x", undefined],
  ["COPY --parents a/**/b /x", undefined],
  ["COPY --from=other a /x", []],
  ["COPY <<EOF /x\nbody\nEOF", []],
  ["ADD https://example.com/a /x", []],
  ["ADD a.tar https://example.com/a /x", ["a.tar"]],
  ["RUN --mount=type=bind,source=s,target=/t true", ["s"]],
  ["RUN --mount=target=/t true", undefined],
  ["RUN --mount=type=cache,target=/t true", []],
];
for (const [line, paths] of PATHS) {
  test(`contextPaths() of ${JSON.stringify(line)}`, () => {
    assert.deepEqual(contextPaths([must(plan(`FROM a\n${line}\n`).stages[0], "a stage")]), paths);
  });
}
