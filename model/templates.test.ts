import assert from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../common/errors.ts";
import { checkTemplates, expand, expandContainerSpec, expandPayload, templateContext } from "./templates.ts";

const task = {
  id: "t1",
  name: "web.3.t1",
  slot: 3,
  serviceId: "s1",
  serviceName: "web",
  serviceLabels: { tier: "front", "com.example.x": "y" },
};
const node = {
  id: "n1",
  description: {
    Hostname: "host7",
    Platform: { OS: "linux", Architecture: "x86_64" },
    Resources: { NanoCPUs: 1, MemoryBytes: 1 },
    Engine: { EngineVersion: "1" },
  },
};
const context = templateContext(task, node);

test("expand() knows service, node and task", () => {
  const text =
    '{{.Service.ID}} {{.Service.Name}} {{index .Service.Labels "com.example.x"}} {{.Service.Labels.tier}} {{.Node.ID}} {{.Node.Hostname}} {{.Node.Platform.OS}}/{{.Node.Platform.Architecture}} {{.Task.ID}} {{.Task.Name}} {{.Task.Slot}}';
  assert.equal(expand(text, context, "x"), "s1 web y front n1 host7 linux/x86_64 t1 web.3.t1 3");
});

test("templateContext() gives a global task its node's id as slot", () => {
  assert.equal(templateContext({ ...task, slot: 0 }, node).Task.Slot, "n1");
});

test("expandContainerSpec() expands hostname, environment and mounts, and nothing else", () => {
  const spec = {
    Image: "x",
    Args: ["{{.Task.Slot}}"],
    Hostname: "{{.Service.Name}}-{{.Task.Slot}}",
    Env: ["SLOT={{.Task.Slot}}", "PLAIN=1"],
    Mounts: [
      {
        Type: "volume" as const,
        Source: "data-{{.Task.Slot}}",
        Target: "/data/{{.Node.Hostname}}",
        VolumeOptions: {
          Labels: { slot: "{{.Task.Slot}}" },
          DriverConfig: { Options: { o: "{{.Node.ID}}" } },
        },
      },
    ],
  };
  assert.deepEqual(expandContainerSpec(spec, context), {
    Image: "x",
    Args: ["{{.Task.Slot}}"],
    Hostname: "web-3",
    Env: ["SLOT=3", "PLAIN=1"],
    Mounts: [
      {
        Type: "volume",
        Source: "data-3",
        Target: "/data/host7",
        VolumeOptions: { Labels: { slot: "3" }, DriverConfig: { Options: { o: "n1" } } },
      },
    ],
  });
});

test("checkTemplates() refuses bad syntax, unknown fields and endless output", () => {
  const check = (text: string): void => checkTemplates({ Image: "x", Env: [`A=${text}`] }, { tier: "front" });
  check("{{.Task.Name}}{{.Node.Platform.OS}}{{.Service.Labels.tier}}");
  check('{{index .Service.Labels "none"}}');
  const unknown = ["{{.Node.Nothing}}", "{{.Node.Platform.Nothing}}", "{{.Service.Labels.none}}"];
  for (const bad of [
    ...unknown,
    "{{.Task.Name",
    "{{.Nothing}}",
    "{{range 1000000000}}x{{end}}",
    "{{nope 1}}",
  ]) {
    assert.throws(
      () => check(bad),
      (error) => hasCode(error, "invalid_argument"),
      bad,
    );
  }
});

test("expandPayload() reads environment, secrets and configs by target, and says what is missing", () => {
  const sources = {
    env: ["MODE=prod=1"],
    secret: (name: string) => (name === "key" ? "s3cret" : undefined),
    config: (name: string) => (name === "site" ? "example.org" : undefined),
  };
  const expandText = (text: string): string =>
    new TextDecoder().decode(expandPayload(new TextEncoder().encode(text), context, sources));
  const text = '{{env "MODE"}} {{secret "key"}} {{config "site"}} {{.Service.Name}}{{env "NONE"}}';
  assert.equal(expandText(text), "prod=1 s3cret example.org web");
  assert.throws(() => expandText('{{secret "other"}}'), /secret target other not found/);
});
