/** Stack files: variables, errors with their places, merging, canonical form, and specs. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { parse } from "yaml";
import { canonicalStack, printStack } from "./canonical.ts";
import { networkSpec, serviceSpec } from "./convert.ts";
import { specChanges } from "./deploy.ts";
import { interpolate, parseEnvFile } from "./interpolate.ts";
import { loadStack } from "./load.ts";
import type { ComposeStack } from "./types.ts";

const folder = mkdtempSync(path.join(tmpdir(), "shoal-compose-"));
after(() => rmSync(folder, { recursive: true, force: true }));

function write(name: string, content: string): string {
  const file = path.join(folder, name);
  writeFileSync(file, content);
  return file;
}

function load(content: string, env: Record<string, string> = {}): ReturnType<typeof loadStack> {
  return loadStack({ files: ["-"], stdin: content, env, cwd: folder });
}

const noIds = { secretIds: new Map<string, string>(), configIds: new Map<string, string>() };
const specOf = (stack: ComposeStack, name: string): ReturnType<typeof serviceSpec> =>
  serviceSpec("shop", name, { stack, lookup: noIds });

test("interpolate() knows every form", () => {
  const variables = new Map([
    ["A", "1"],
    ["EMPTY", ""],
  ]);
  const cases: readonly (readonly [string, string])[] = [
    ["$A/${A}", "1/1"],
    ["${B:-x}${B-y}${EMPTY:-z}${EMPTY-w}", "xyz"],
    ["${A:+yes}${B:+no}${EMPTY+set}${EMPTY:+no}", "yesset"],
    ["$$A $${B}", "$A ${B}"],
    ["${B:-${C:-deep$A}}", "deep1"],
    ["${A:?never}", "1"],
  ];
  for (const [source, expected] of cases) assert.equal(interpolate(source, variables), expected, source);
  assert.throws(
    () => interpolate("${B:?give B}", variables),
    /required variable B is missing a value: give B/,
  );
  for (const source of ["${", "${}", "${A", "$", "${A!x}", "${1}"])
    assert.throws(() => interpolate(source, variables), /invalid variable/, source);
});

test("parseEnvFile() reads quotes, comments, export and references", () => {
  const parsed = parseEnvFile(
    "# c\nA=1\nexport B=\"two $A\\n\"\nC='$A'\nD=x # note\nE=\nHOME\n",
    new Map([["HOME", "/h"]]),
  );
  assert.deepEqual(Object.fromEntries(parsed), { A: "1", B: "two 1\n", C: "$A", D: "x", E: "", HOME: "/h" });
  assert.throws(() => parseEnvFile("ok=1\n=bad\n", new Map()), /line 2/);
});

test("loadStack() tells all problems with file, line and column", () => {
  const content = `services:
  web:
    image: nginx
    prots: ["80:80"]
    deploy: {replicas: many}
    ports: ["80:99999"]
    mem_limit: 5m
    healthcheck: {interval: 5}
foo: 1
`;
  assert.throws(
    () => load(content),
    (caught: Error) => {
      for (const expected of [
        'stdin:4:5: unknown key "prots" in services.web; did you mean "ports"?',
        "stdin:5:24: services.web.deploy.replicas must be a whole number",
        "stdin:6:13: services.web.ports[0]: ",
        "stdin:7:5: services.web.mem_limit is not supported: use deploy.resources.limits.memory",
        "stdin:8:29: services.web.healthcheck.interval must be a duration",
        'stdin:9:1: unknown key "foo"',
      ]) {
        assert.ok(caught.message.includes(expected), `${expected}\nin\n${caught.message}`);
      }
      return true;
    },
  );
});

test("loadStack() refuses broken YAML, empty files, unknown anchors and undefined references", () => {
  assert.throws(() => load("services:\n  a: [\n"), /stdin:\d+:\d+/);
  assert.throws(() => load(""), /stdin:1:1: the file is empty/);
  assert.throws(() => load("services: {a: *nope}"), /stdin:1:/);
  assert.throws(
    () => load("services: {a: {image: x, volumes: ['data:/d']}}"),
    /stdin:\d+:\d+: service "\w+" names volume "data", which is not defined/,
  );
  assert.throws(
    () => load("services: {a: {image: x, secrets: [s]}}"),
    /stdin:1:36: service "a" names secret "s", which is not defined/,
  );
  assert.throws(() => load("services: {a: {}}"), /stdin:1:12: service "a" has no image/);
  assert.throws(() => load("services: {a: {image: x, image: y}}"), /stdin:1:/);
});

test("loadStack() says in which of several files an undefined reference stands", () => {
  const base = write("base.yml", "services:\n  a:\n    image: x\n    networks: [front]\n");
  const more = write("more.yml", "services:\n  a:\n    configs:\n      - source: page\n        target: /p\n");
  assert.throws(
    () => loadStack({ files: [base, more], env: {}, cwd: folder }),
    (error: Error) =>
      error.message.includes(`${base}:4:16: service "a" names network "front"`) &&
      error.message.includes(`${more}:4:9: service "a" names config "page"`),
  );
});

test("loadStack() bounds alias expansion", () => {
  const levels = Array.from(
    { length: 7 },
    (_, level) =>
      `x-${level + 1}: &a${level + 1} [${Array.from({ length: 10 }, () => `*a${level}`).join(",")}]`,
  );
  assert.throws(
    () => load(`x-0: &a0 [1]\n${levels.join("\n")}\nservices: {a: {image: x}}\n`),
    /more than 100000 values|alias/i,
  );
});

test("loadStack() refuses anchors that hold themselves, values too deep in each other, and a key that would be lost", () => {
  for (const [content, why] of [
    [
      "services: &s\n  a:\n    image: x\n    labels: *s\n",
      /stdin:4:13: "\*s" is a part of what it stands for/,
    ],
    ["x-a: &a\n  <<: *a\n  image: x\nservices: {a: *a}\n", /"\*a" is a part of what it stands for/],
    [`x-a: ${"[".repeat(200)}${"]".repeat(200)}\n`, /more than 100 deep in each other/],
    [`x-a: ${"[".repeat(20_000)}${"]".repeat(20_000)}\n`, /more than 100 deep in each other/],
    ["services: {__proto__: {image: x}}\n", /"__proto__" can't be a key/],
    ["services: {a: {image: x, environment: [__proto__=1]}}\n", /"__proto__" can't be a name/],
  ] as const) {
    assert.throws(() => load(content), why, content.slice(0, 60));
  }
});

test("loadStack() warns of what it ignores and puts variables and types in", () => {
  const { stack, warnings } = load(
    "services: {a: {image: 'x:${TAG:-1}', privileged: true, deploy: {replicas: '${N}'}}}",
    { N: "4" },
  );
  assert.equal(stack.services["a"]?.image, "x:1");
  assert.equal(stack.services["a"]?.deploy?.replicas, 4);
  assert.deepEqual(warnings.length, 1);
  assert.match(warnings[0] ?? "", /privileged is ignored/);
});

test("loadStack() reads .env beside the file, under the environment", () => {
  write(".env", "FROM_FILE=file\nBOTH=file\n");
  const { stack } = load("services: {a: {image: x, environment: {A: $FROM_FILE, B: $BOTH}}}", {
    BOTH: "env",
  });
  assert.deepEqual(stack.services["a"]?.environment, { A: "file", B: "env" });
});

const FIRST = `version: "3.13"
x-common: &common
  labels: {a: b}
services:
  web:
    image: nginx:\${TAG:-1}
    command: echo "a b" c
    entrypoint: [sh, -c]
    environment: [A=1, ONLY_NAME]
    env_file: extra.env
    ports: ["8080:80", "9000-9001:90-91/udp", {target: 1, published: 2, mode: host}]
    volumes: ["data:/d:ro", "./x:/y", "/anon", {type: tmpfs, target: /t, tmpfs: {size: 100000}}]
    networks: {front: {aliases: [x]}, back: }
    secrets: [s1, {source: s2, target: t, uid: "1", mode: 0440}]
    configs: [c1]
    healthcheck: {test: curl x, interval: 1m30s, timeout: 5s, retries: 3}
    deploy:
      replicas: 3
      resources: {limits: {cpus: "0.5", memory: 64M, pids: 10}, reservations: {memory: 1gb}}
      update_config: {parallelism: 2, delay: 10s, order: start-first}
      restart_policy: {condition: on-failure, window: 1m}
      placement: {constraints: [node.role==worker], preferences: [{spread: node.labels.z}]}
    logging: {driver: json-file, options: {max-size: 10m}}
    ulimits: {nofile: {soft: 1, hard: 2}, nproc: 5}
    extra_hosts: ["a:1.2.3.4"]
    dns: 8.8.8.8
    tmpfs: /run
    sysctls: [a.b=1]
    cap_add: [NET_ADMIN]
    <<: *common
  db: {image: db, deploy: {mode: global}}
networks: {front: {driver: overlay, ipam: {config: [{subnet: 10.1.0.0/24}]}}, back: {external: true}}
volumes: {data: {driver: local}}
secrets: {s1: {file: ./secret.txt}, s2: {external: true, name: real}}
configs: {c1: {file: ./secret.txt, labels: {q: r}}}
`;
const SECOND = `version: "3.13"
services:
  web:
    image: nginx:2
    command: [run]
    environment: {A: "2"}
    ports: ["8080:81"]
    volumes: ["other:/d"]
    dns: [1.1.1.1]
    healthcheck: {interval: 5s}
    deploy: {replicas: 0, placement: {constraints: [node.labels.z==a]}}
    ulimits: {nofile: 9}
volumes: {other: }
`;

test("stack config is docker's, for one file and for two", (context) => {
  write("secret.txt", "hush");
  write("extra.env", "EXTRA=yes\n");
  const files = [write("first.yml", FIRST), write("second.yml", SECOND)];
  const { stack } = loadStack({ files, env: {}, cwd: folder });
  const web = canonicalStack(stack)["services"] as Record<string, Record<string, unknown>>;
  assert.deepEqual(web["web"]?.["command"], ["run"]);
  assert.deepEqual(web["web"]?.["dns"], ["8.8.8.8", "1.1.1.1"]);
  assert.deepEqual(web["web"]?.["environment"], { EXTRA: "yes", A: "2", ONLY_NAME: null });
  // An older one shows the help of `docker stack` instead, and is content.
  if (
    !/^Usage: +docker stack config/m.test(String(spawnSync("docker", ["stack", "config", "--help"]).stdout))
  ) {
    context.diagnostic("no docker here that knows `stack config` (23.0 and newer): not compared with it");
    return;
  }
  for (const chosen of [files.slice(0, 1), files]) {
    const oracle = spawnSync("docker", ["stack", "config", ...chosen.flatMap((file) => ["-c", file])], {
      encoding: "utf8",
      env: { PATH: process.env["PATH"] },
      cwd: folder,
    });
    assert.equal(oracle.status, 0, oracle.stderr);
    const ours = printStack(loadStack({ files: chosen, env: {}, cwd: folder }).stack);
    assert.deepEqual(
      sortedPorts(parse(ours, { version: "1.1" })),
      sortedPorts(parse(oracle.stdout, { version: "1.1" })),
    );
  }
});

/** docker orders ports and volumes by their key when it merges; the order means nothing. */
function sortedPorts(config: unknown): unknown {
  const { services } = config as { services: Record<string, Record<string, unknown>> };
  for (const service of Object.values(services)) {
    for (const key of ["ports", "volumes"]) {
      if (Array.isArray(service[key]))
        service[key] = service[key]
          .map((each: object) =>
            JSON.stringify(Object.entries(each).toSorted(([left], [right]) => (left < right ? -1 : 1))),
          )
          .sort();
    }
  }
  return config;
}

test("serviceSpec() names, labels and attaches as docker does", () => {
  const { stack } = load(`services:
  web:
    image: nginx
    command: run it
    environment: {B: "2", A: "1", NONE: }
    volumes: ["data:/d", "out:/o", {type: image, source: "tools:2", target: /t, image: {subpath: bin}}]
    networks: [default, back]
    ports: ["8080:80"]
    deploy: {labels: {x: y}, update_config: {order: start-first}}
  plain: {image: p}
networks: {back: {name: literal}}
volumes: {data: {labels: {v: w}}, out: {external: true}}
`);
  const spec = specOf(stack, "web");
  assert.equal(spec.Name, "shop_web");
  assert.deepEqual(spec.Labels, {
    x: "y",
    "com.docker.stack.namespace": "shop",
    "com.docker.stack.image": "nginx",
  });
  const container = spec.TaskTemplate.ContainerSpec;
  assert.deepEqual(container.Labels, { "com.docker.stack.namespace": "shop" });
  assert.deepEqual(container.Args, ["run", "it"]);
  assert.deepEqual(container.Env, ["A=1", "B=2"]);
  assert.deepEqual(container.Mounts, [
    {
      Type: "volume",
      Target: "/d",
      Source: "shop_data",
      VolumeOptions: { Labels: { v: "w", "com.docker.stack.namespace": "shop" } },
    },
    { Type: "volume", Target: "/o", Source: "out" },
    { Type: "image", Target: "/t", Source: "tools:2", ImageOptions: { Subpath: "bin" } },
  ]);
  assert.deepEqual(spec.TaskTemplate.Networks, [
    { Target: "literal", Aliases: ["web"] },
    { Target: "shop_default", Aliases: ["web"] },
  ]);
  assert.deepEqual(spec.Mode, { Replicated: {} });
  assert.deepEqual(spec.EndpointSpec, {
    Ports: [{ Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, PublishMode: "ingress" }],
  });
  assert.deepEqual(spec.UpdateConfig, { Parallelism: 1, Order: "start-first" });
  assert.deepEqual(specOf(stack, "plain").TaskTemplate.Networks, [
    { Target: "shop_default", Aliases: ["plain"] },
  ]);
  assert.equal(networkSpec("shop", "back", stack.networks["back"] ?? {}).Name, "literal");
});

test("serviceSpec() refuses a secret that is nowhere and replicas of a global service", () => {
  const { stack } = load(
    "services: {a: {image: x, secrets: [s]}, g: {image: x, deploy: {mode: global, replicas: 2}}}\nsecrets: {s: {external: true}}",
  );
  assert.throws(() => specOf(stack, "a"), /service a: secret not found: s/);
  assert.throws(() => specOf(stack, "g"), /service g: deploy.replicas/);
});

test("specChanges() sees no change in what the API fills in, and every other one", () => {
  const specIn = (deploy: string): ReturnType<typeof serviceSpec> =>
    specOf(load(`services: {web: {image: "web:1"${deploy}}}`).stack, "web");
  const written = specIn("");
  const told = {
    ...written,
    Mode: { Replicated: { Replicas: 1 } },
    EndpointSpec: { ...written.EndpointSpec, Mode: "vip" as const },
    TaskTemplate: { ...written.TaskTemplate, Runtime: "container" as const, ForceUpdate: 0 },
  };
  const names = new Map<string, string>();
  assert.deepEqual(specChanges(told, written, names), []);
  const changed = (deploy: string): readonly string[] =>
    specChanges(told, specIn(deploy), names).map(
      ({ path: where, before, after: next }) => `${where} ${before} ${next}`,
    );
  assert.deepEqual(changed(", deploy: {replicas: 3}"), ["Mode.Replicated.Replicas 1 3"]);
  assert.deepEqual(changed(", deploy: {mode: global}"), ["Mode.Replicated.Replicas 1 "]);
  assert.deepEqual(changed(", deploy: {endpoint_mode: dnsrr}"), ['EndpointSpec.Mode "vip" "dnsrr"']);
});
