/** The pure parts of containers: names, options, filters, limits, policies, wording. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { hasCode } from "../../common/errors.ts";
import { parseNanoseconds, rfc3339OfNanoseconds, ZERO_TIME } from "../../common/time.ts";
import { humanDuration } from "../../model/units.ts";
import { goFileMode } from "./archives.ts";
import { ALL_CAPABILITIES, boundingSet, capabilityMask, capabilityNames } from "./capabilities.ts";
import { Cgroups, parseHierarchies, sharesToWeight } from "./cgroups.ts";
import { mergeConfig } from "./config-merge.ts";
import { checkListFilters } from "./container-filters.ts";
import { committedName } from "./commit.ts";
import { checkedConfig, withNetworkNames } from "./container-create.ts";
import { commandText } from "./container-inspect.ts";
import { compileDeviceProgram } from "./device-program.ts";
import { healthPlan, nextHealth } from "./health.ts";
import { NO_HEALTH } from "./live-container.ts";
import { parseByteSize } from "../../model/log-drivers.ts";
import { validateLogOptions } from "./log-options.ts";
import { parseStoredLine } from "./log-formats.ts";
import { parseBind } from "./mount-points.ts";
import { resourceLimits, validateResources } from "./resource-limits.ts";
import { nextRestartDelayMs, shouldRestart } from "./restart-policy.ts";
import { resourceLimit } from "./rlimits.ts";
import { parseSecurityOptions } from "./security-options.ts";
import { parseSignal } from "./signals.ts";
import { startError } from "./start-errors.ts";
import { parseNetDev } from "./stats.ts";
import { parsePs } from "./top.ts";

describe("capabilityMask()", () => {
  const base = { add: [], drop: [], isPrivileged: false, available: ALL_CAPABILITIES };
  test("has Docker's fourteen by default", () => {
    assert.equal(capabilityMask(base).toString(16), "a80425fb");
    assert.equal(capabilityNames(capabilityMask(base)).length, 14);
  });
  test("adds, drops, and keeps what is added by name when ALL is dropped", () => {
    assert.deepEqual(capabilityNames(capabilityMask({ ...base, drop: ["ALL"], add: ["cap_net_admin"] })), [
      "CAP_NET_ADMIN",
    ]);
    assert.equal(capabilityMask({ ...base, add: ["ALL"], drop: ["CHOWN"] }), ALL_CAPABILITIES & ~1n);
    assert.throws(() => capabilityMask({ ...base, add: ["NOSUCH"] }), /invalid CapAdd.*CAP_NOSUCH/);
  });
  test("gives at most what the daemon has, and refuses what is asked for by name beyond it", () => {
    const available = boundingSet("Name:\tx\nCapBnd:\t000001fffeffffff\nCapAmb:\t0\n");
    const limited = { ...base, available };
    assert.equal(ALL_CAPABILITIES & ~available, 1n << 24n);
    assert.equal(capabilityMask({ ...limited, isPrivileged: true }), available);
    assert.equal(capabilityMask({ ...limited, add: ["ALL"] }), available);
    assert.throws(
      () => capabilityMask({ ...limited, add: ["SYS_RESOURCE"] }),
      /not available.*CAP_SYS_RESOURCE/,
    );
  });
});

test("withNetworkNames() knows the default bridge by one name", () => {
  const default_ = { Aliases: ["web"] };
  const request = {
    config: {},
    hostConfig: { NetworkMode: "default" },
    networkingConfig: { EndpointsConfig: { default: default_ } },
  };
  const { hostConfig, networkingConfig } = withNetworkNames(request);
  assert.equal(hostConfig.NetworkMode, "bridge");
  assert.deepEqual(networkingConfig, { EndpointsConfig: { bridge: default_ } });
  assert.deepEqual(withNetworkNames({ config: {}, hostConfig: {} }).hostConfig, {});
});

test("checkedConfig() refuses what would only look as if it were there, and another platform as a missing image", () => {
  const image = {
    imageId: "sha256:1",
    architecture: "amd64",
    os: "linux",
    created: "",
    config: { Cmd: ["sh"] },
    diffIds: [],
  };
  const refused = (
    more: object,
    text: RegExp,
    code: "invalid_argument" | "not_found" = "invalid_argument",
  ): void => {
    const request = { config: { Image: "web:1" }, hostConfig: {}, ...more };
    assert.throws(
      () => checkedConfig(request, image),
      (error) => hasCode(error, code) && text.test(error.message),
    );
  };
  const gpu = { Driver: "", Count: -1, Capabilities: [["gpu"]] };
  refused(
    { hostConfig: { DeviceRequests: [gpu] } },
    /could not select device driver "" with capabilities: \[\[gpu\]\]/,
  );
  refused({ hostConfig: { StorageOpt: { size: "1G" } } }, /--storage-opt size is not supported/);
  refused({ hostConfig: { StorageOpt: { foo: "1G" } } }, /unknown option foo in StorageOpt/);
  const EndpointsConfig = { none: { IPAMConfig: { IPv4Address: "10.0.0.9" } } };
  const none = { hostConfig: { NetworkMode: "none" }, networkingConfig: { EndpointsConfig } };
  refused(none, /IP address is supported on user defined networks only/);
  const links = { Links: ["db:db"] };
  refused({ hostConfig: { NetworkMode: "host", ...links } }, /host type networking can't be used with links/);
  const shared = (more: object): object => ({ hostConfig: { NetworkMode: "container:db", ...more } });
  refused(shared(links), /container type network can't be used with links/);
  refused(shared({ Dns: ["1.1.1.1"] }), /dns and the network mode/);
  refused(shared({ ExtraHosts: ["a:1.1.1.1"] }), /custom host-to-IP mapping and the network mode/);
  refused(shared({ PublishAllPorts: true }), /port publishing and the container type network mode/);
  refused(
    { config: { Image: "web:1", ExposedPorts: { "80/tcp": {} } }, ...shared({}) },
    /port exposing and the container type network mode/,
  );
  refused({ hostConfig: { NetworkMode: "container:" } }, /invalid container format container:<name\|id>/);
  const exposing = { ...image, config: { ...image.config, ExposedPorts: { "80/tcp": {} } } };
  checkedConfig({ config: { Image: "web:1" }, hostConfig: { NetworkMode: "container:db" } }, exposing);
  refused(
    { platform: "linux/arm64" },
    /web:1 was found but its platform \(linux\/amd64\) does not match/,
    "not_found",
  );
  for (const platform of ["linux/amd64", "linux/x86_64", "linux", "", undefined]) {
    const request = { config: { Image: "web:1" }, hostConfig: { DeviceRequests: [], StorageOpt: {} } };
    assert.deepEqual(checkedConfig(platform === undefined ? request : { ...request, platform }, image).Cmd, [
      "sh",
    ]);
  }
  const unnamed = { ...image, architecture: "", os: "" };
  checkedConfig({ config: {}, hostConfig: {}, platform: "linux/arm64" }, unnamed);
});

test("mergeConfig() follows Docker's rules for entrypoint, command, environment and health", () => {
  const image = {
    Entrypoint: ["/e"],
    Cmd: ["c"],
    Env: ["A=1", "B=2"],
    User: "web",
    Labels: { a: "1", b: "2" },
  };
  assert.deepEqual(mergeConfig({}, image).Cmd, ["c"]);
  assert.deepEqual(mergeConfig({ Entrypoint: ["/x"] }, image).Cmd, null);
  assert.equal(mergeConfig({ Entrypoint: [""], Cmd: ["y"] }, image).Entrypoint, null);
  assert.deepEqual(mergeConfig({ Env: ["B=3", "C"] }, image).Env, ["B=3", "C", "A=1"]);
  assert.deepEqual(mergeConfig({ Labels: { b: "3" } }, image).Labels, { a: "1", b: "3" });
  const health = mergeConfig(
    { Healthcheck: { Retries: 5 } },
    { Healthcheck: { Test: ["CMD", "x"], Interval: 7e9 } },
  ).Healthcheck;
  assert.deepEqual(health, { Test: ["CMD", "x"], Interval: 7e9, Retries: 5 });
});

describe("cgroups", () => {
  const hybrid = parseHierarchies(
    "30 29 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n31 29 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n32 29 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n33 29 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
    () => "hugetlb\n",
  );
  test("parseHierarchies() finds co-mounted controllers and the v2 tree", () => {
    assert.equal(hybrid.v1.get("cpuacct"), "/sys/fs/cgroup/cpu,cpuacct");
    assert.equal(hybrid.v2, "/sys/fs/cgroup/unified");
    assert.equal(new Cgroups(hybrid, "/p").isV2, false);
  });
  test("Cgroups.groups() has each mount point once, v2 last", () => {
    const folders = new Cgroups(hybrid, "/p").groups("id", { cpuset: false });
    assert.deepEqual(
      folders.map((each) => `${each.version} ${each.folder}`),
      ["1 /sys/fs/cgroup/memory/p/id", "1 /sys/fs/cgroup/cpu,cpuacct/p/id", "2 /sys/fs/cgroup/unified/p/id"],
    );
  });
  test("Cgroups.limitWrites() sets memory before memory with swap", () => {
    const writes = new Cgroups(hybrid, "/p").limitWrites(
      "id",
      resourceLimits({ Memory: 64 << 20, NanoCpus: 5e8, PidsLimit: 7 }),
    );
    assert.deepEqual(
      writes.map((each) => `${each.file.split("/").at(-1)} ${each.value}`),
      [
        "memory.limit_in_bytes 67108864",
        "memory.memsw.limit_in_bytes 134217728",
        "cpu.cfs_period_us 100000",
        "cpu.cfs_quota_us 50000",
      ],
    );
  });
  test("on v2 swap is told without memory, and shares become a weight", () => {
    const v2 = parseHierarchies(
      "33 29 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
      () => "cpu memory pids",
    );
    const writes = new Cgroups(v2, "/p").limitWrites(
      "id",
      resourceLimits({ Memory: 100 << 20, MemorySwap: 150 << 20, CpuShares: 1024 }),
    );
    assert.deepEqual(
      writes.map((each) => `${each.file.split("/").at(-1)} ${each.value}`),
      ["memory.max 104857600", "memory.swap.max 52428800", "cpu.weight 100"],
    );
    assert.deepEqual([sharesToWeight(2), sharesToWeight(262144)], [1, 10000]);
  });
  test("compileDeviceProgram() is whole instructions and ends in a denial", () => {
    const program = Buffer.from(compileDeviceProgram(["c 1:3 rwm", "b *:* m"]));
    assert.equal(program.length % 8, 0);
    assert.deepEqual(
      [program.readUInt8(program.length - 16), program.readInt32LE(program.length - 12)],
      [0xb7, 0],
    );
  });
});

test("validateResources() refuses what makes no sense, in Docker's words", () => {
  assert.throws(() => validateResources({ Memory: 1024 }, () => 2), /Minimum memory limit allowed is 6MB/);
  assert.throws(() => validateResources({ MemorySwap: 1 << 30 }, () => 2), /always set the Memory limit/);
  assert.throws(() => validateResources({ NanoCpus: 3e9 }, () => 2), /range of CPUs is from 0.01 to 2.00/);
  assert.throws(() => validateResources({ CpusetCpus: "0-7" }, () => 2), /Requested CPUs are not available/);
  assert.doesNotThrow(() => validateResources({ Memory: 64 << 20, MemorySwap: -1, NanoCpus: 2e9 }, () => 2));
});

test("parseSignal() takes names, numbers and real-time signals", () => {
  assert.deepEqual(["SIGTERM", "kill", "15", "RTMIN+3", "SIGRTMAX-1"].map(parseSignal), [15, 9, 15, 37, 63]);
  assert.throws(() => parseSignal("nope"), /invalid signal: nope/);
  assert.throws(() => parseSignal("99"), /invalid signal/);
});

test("startError() keeps the words by which clients tell 126 and 127", () => {
  assert.equal(startError('exec: "x": executable file not found in $PATH').exitCode, 127);
  assert.equal(startError('exec: "/x": permission denied').exitCode, 126);
  assert.equal(startError('exec: "/x": is a directory: permission denied').exitCode, 126);
  assert.equal(startError("unable to find user x: no matching entries in passwd file").exitCode, 128);
  const kind = startError('error mounting "/a" to rootfs at "/b": not a directory');
  assert.deepEqual([kind.exitCode, kind.error.code], [127, "invalid_argument"]);
  assert.match(
    kind.error.message,
    /: not a directory: unknown: Are you trying to mount a directory onto a file/,
  );
  const other = startError('error mounting "/a" to rootfs at "/b": bind source path does not exist');
  assert.equal(other.exitCode, 128);
  assert.doesNotMatch(other.error.message, /no such file or directory|permission denied/);
});

test("shouldRestart() and nextRestartDelayMs() follow Docker's policies", () => {
  const record = (Name: string, more = {}): Parameters<typeof shouldRestart>[0] => ({
    hostConfig: { RestartPolicy: { Name, MaximumRetryCount: 2 } },
    restartCount: 0,
    isStoppedByUser: false,
    ...more,
  });
  const end = (exitCode: number, isStopping = false): Parameters<typeof shouldRestart>[1] => ({
    isStopping,
    exit: { exitCode },
  });
  assert.equal(shouldRestart(record("always"), end(0)), true);
  assert.equal(shouldRestart(record("always"), end(0, true)), false);
  assert.equal(shouldRestart(record("on-failure"), end(0)), false);
  assert.equal(shouldRestart(record("on-failure", { restartCount: 2 }), end(1)), false);
  assert.equal(shouldRestart(record("unless-stopped", { isStoppedByUser: true }), end(1)), false);
  assert.deepEqual(
    [
      nextRestartDelayMs(0, 0),
      nextRestartDelayMs(100, 0),
      nextRestartDelayMs(60_000, 0),
      nextRestartDelayMs(800, 20_000),
    ],
    [100, 200, 60_000, 100],
  );
});

test("nextHealth() needs its count of failures in a row, and none of them in the start period", () => {
  const result = (exitCode: number): Parameters<typeof nextHealth>[1] => ({
    exitCode,
    output: "",
    startedAt: "",
    endedAt: "",
  });
  const starting = { ...NO_HEALTH, status: "starting" as const };
  const counted = { retries: 2, isInStartPeriod: false };
  const once = nextHealth(starting, result(1), counted);
  assert.deepEqual([once.status, once.failingStreak], ["starting", 1]);
  assert.equal(nextHealth(once, result(1), counted).status, "unhealthy");
  assert.equal(nextHealth(once, result(0), counted).status, "healthy");
  assert.equal(nextHealth(starting, result(1), { retries: 1, isInStartPeriod: true }).status, "starting");
  assert.equal(healthPlan({ Test: ["NONE"] }, undefined), undefined);
  assert.deepEqual(healthPlan({ Test: ["CMD-SHELL", "a b"] }, undefined)?.command, ["/bin/sh", "-c", "a b"]);
});

test("log options: sizes, unknown options, files without a size", () => {
  assert.deepEqual(
    ["10m", "1.5k", "-1", "7"].map((each) => parseByteSize(each, "max-size")),
    [10 << 20, 1536, 0, 7],
  );
  assert.throws(
    () => validateLogOptions({ LogConfig: { Type: "syslogg" } }),
    /error looking up logging plugin syslogg: plugin "syslogg" not found/,
  );
  assert.throws(
    () => validateLogOptions({ LogConfig: { Config: { x: "y" } } }),
    /unknown log opt 'x' for json-file/,
  );
  assert.throws(() => validateLogOptions({ LogConfig: { Config: { "max-file": "3" } } }), /max-size/);
});

test("parseStoredLine() skips what a crash has torn", () => {
  const line = parseStoredLine('{"log":"a\\n","stream":"stderr","time":"2026-01-01T00:00:00.000000001Z"}');
  assert.deepEqual([line?.stream, Buffer.from(line?.data ?? []).toString()], ["stderr", "a\n"]);
  assert.equal(parseStoredLine('{"log":"a'), undefined);
  assert.equal(parseStoredLine(""), undefined);
});

test("parseBind() takes options and refuses nonsense", () => {
  const bind = parseBind("/a:/b/:ro,rslave");
  assert.deepEqual([bind.Source, bind.Destination, bind.RW, bind.Propagation], ["/a", "/b", false, "rslave"]);
  assert.equal(parseBind("vol:/b:nocopy").isCopied, false);
  const nameless = parseBind("/data/");
  assert.deepEqual([nameless.Type, nameless.Name, nameless.Destination], ["volume", undefined, "/data"]);
  for (const [text, words] of [
    ["a", /invalid volume specification/],
    ["", /invalid volume specification/],
    ["/", /destination can't be '\/'/],
    ["/a:b", /must be absolute/],
    ["/a:/b:xx", /invalid mode/],
    ["/a:/", /destination can't be '\/'/],
    ["a b:/c", /invalid characters/],
  ] as const) {
    assert.throws(() => parseBind(text), words);
  }
});

test("times keep nine digits both ways", () => {
  const text = "2026-11-20T23:40:26.530109934Z";
  assert.equal(rfc3339OfNanoseconds(parseNanoseconds(text)), text);
  assert.equal(parseNanoseconds(ZERO_TIME), 0n);
  assert.equal(rfc3339OfNanoseconds(0n), ZERO_TIME);
});

test("wording, filters, limits and small formats", () => {
  assert.deepEqual(
    [0, 1, 59, 60, 3600, 200_000].map((seconds) => humanDuration(seconds * 1000)),
    ["Less than a second", "1 second", "59 seconds", "About a minute", "About an hour", "2 days"],
  );
  assert.equal(goFileMode(0o041777), 2 ** 31 + 2 ** 20 + 0o777);
  assert.deepEqual(resourceLimit({ Name: "nofile", Soft: 10, Hard: -1 }), {
    resource: 7,
    soft: 10n,
    hard: 0xffff_ffff_ffff_ffffn,
  });
  assert.throws(() => resourceLimit({ Name: "nofile", Soft: 20, Hard: 10 }), /soft limit must be less/);
  assert.equal(parseSecurityOptions({ Privileged: true }).seccomp, "unconfined");
  assert.equal(parseSecurityOptions({ SecurityOpt: ["no-new-privileges"] }).hasNoNewPrivileges, true);
  assert.throws(() => parseSecurityOptions({ SecurityOpt: ["what=ever"] }), /invalid --security-opt/);
  const net = parseNetDev(
    "Inter-|\n face |\n lo: 1 2 3 4 5 6 7 8 9 10 11 12\n eth0: 10 2 0 0 0 0 0 0 20 4 0 0\n",
  );
  assert.deepEqual(Object.keys(net), ["eth0"]);
  assert.deepEqual(parsePs("PID CMD\n 1 a b\n 2 c\n", new Set([1])).Processes, [["1", "a b"]]);
});

test("commandText() quotes arguments with spaces, as Docker lists them", () => {
  assert.equal(commandText(["sh", "-c", "echo $A; exit"]), "sh -c 'echo $A; exit'");
  assert.equal(commandText(["my program"]), "my program");
});

test("committedName() is the familiar name with its tag", () => {
  assert.equal(committedName({ repo: "docker.io/library/web" }), "web:latest");
  assert.equal(committedName({ repo: "web", tag: "2" }), "web:2");
  assert.equal(committedName({ repo: "reg.example:5000/a/b", tag: "x" }), "reg.example:5000/a/b:x");
  assert.equal(committedName({}), "");
});

test("checkListFilters() refuses flags, ports and patterns that are none", () => {
  const good = {
    "is-task": ["true", "0"],
    publish: ["80", "80-90/udp"],
    expose: ["53/udp"],
    name: ["^a.*b$"],
  };
  checkListFilters(new Map(Object.entries(good)));
  const bad = { "is-task": "foo", publish: "foo", expose: "80/foo", name: "[", id: "(" };
  for (const [key, value] of Object.entries(bad))
    assert.throws(
      () => checkListFilters(new Map([[key, [value]]])),
      (error) =>
        hasCode(error, "invalid_argument") &&
        error.message.startsWith(`invalid filter '${key}=${value}': want `),
    );
});

test("checkListFilters() refuses a health that there is not", () => {
  checkListFilters(new Map([["health", ["none", "starting", "healthy", "unhealthy"]]]));
  assert.throws(() => checkListFilters(new Map([["health", ["bogus"]]])), {
    code: "invalid_argument",
    message:
      "invalid filter 'health=bogus': invalid value for health (bogus): must be one of none, starting, healthy, unhealthy",
  });
});
