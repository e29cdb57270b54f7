/** Services on a cluster of one, where Swarm's users would notice a difference: what becomes of a spec, told in its words. */
import assert from "node:assert/strict";
import * as fs from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, it } from "node:test";
import { busyboxTar } from "../../bench/test-image.ts";
import { SoakDaemon } from "../soak/soak-daemon.ts";
import { pluginTar } from "./support/plugin-lab.ts";
import { until } from "./support/wait.ts";

const WAIT_MS = 30_000;
const ADDRESS = "10.91.0.1";

interface TaskAnswer {
  readonly Status: { readonly State: string; readonly Err?: string; readonly Message?: string };
}

describe("services, as Swarm's users know them", () => {
  let root: string;
  let daemon: SoakDaemon;

  const ask = async (method: string, target: string, body?: Uint8Array | object): Promise<unknown> => {
    const answer = await daemon.call(method, target, body);
    const text = answer.body.toString();
    if (answer.status >= 300) throw new Error(`${answer.status} ${text}`);
    return /^[[{"]/.test(text) ? JSON.parse(text.split("\n")[0] ?? "") : undefined;
  };
  const create = (name: string, container: object): Promise<unknown> =>
    ask("POST", "/services/create", {
      Name: name,
      TaskTemplate: {
        ContainerSpec: { Image: "box:1", Command: ["sleep", "600"], StopGracePeriod: 1e8, ...container },
      },
    });
  const tasks = async (name: string): Promise<readonly TaskAnswer[]> =>
    (await ask("GET", `/tasks?filters={"service":["${name}"]}`)) as readonly TaskAnswer[];
  const shows = (name: string, states: readonly string[], text: string): Promise<unknown> =>
    until(`${name} shows: ${text}`, WAIT_MS, async () =>
      (await tasks(name)).some(
        ({ Status }) => states.includes(Status.State) && (Status.Err ?? "").includes(text),
      ),
    );

  before(async () => {
    root = await fs.mkdtemp(path.join(tmpdir(), "shoal-like-swarm-"));
    daemon = await SoakDaemon.open(root);
    daemon.inside("ip", "address", "add", `${ADDRESS}/32`, "dev", "lo");
    daemon.start();
    await ask("POST", "/images/create?fromSrc=-&repo=box&tag=1", busyboxTar());
    await ask("POST", "/swarm/init", { ListenAddr: `${ADDRESS}:2377`, AdvertiseAddr: ADDRESS });
  });

  after(async () => {
    // Whichever test failed: refused where it has left.
    await daemon.call("POST", "/swarm/leave?force=1");
    await daemon.stop();
    daemon.close();
    await fs.rm(root, { recursive: true, force: true });
  });

  it("a credential spec and an isolation, which are for Windows, are taken and their tasks refused", async () => {
    await create("credential", { Privileges: { CredentialSpec: { File: "spec.json" } } });
    await create("isolated", { Isolation: "hyperv" });
    await create("plain", { Isolation: "default" });
    await shows("credential", ["rejected"], 'invalid --security-opt 1: "credentialspec=file://spec.json"');
    await shows("isolated", ["rejected"], "invalid isolation (hyperv): linux only supports 'default'");
    await shows("plain", ["running"], "");
    for (const name of ["credential", "isolated", "plain"]) await ask("DELETE", `/services/${name}`);
  });

  it("a task with a volume of a plugin waits for a node that has it", async () => {
    const Mounts = [
      {
        Type: "volume",
        Source: "data",
        Target: "/data",
        VolumeOptions: { DriverConfig: { Name: "folders" } },
      },
    ];
    await create("stored", { Mounts });
    await shows("stored", ["pending"], "no suitable node (missing plugin on 1 node)");
    const tar: Buffer[] = [];
    for await (const chunk of await pluginTar(path.join(root, "plugin"))) tar.push(chunk as Buffer);
    await ask("POST", "/plugins/create?name=folders", Buffer.concat(tar));
    await ask("POST", "/plugins/folders/enable?timeout=20");
    await shows("stored", ["running"], "");
    await ask("DELETE", "/services/stored");
    await until("its container is gone", WAIT_MS, async () => {
      const list = (await ask("GET", "/containers/json?all=1")) as readonly unknown[];
      return list.length === 0;
    });
    await ask("DELETE", "/volumes/data");
    await ask("DELETE", "/plugins/folders?force=1");
  });

  it("a task whose registry does not answer says so in Docker's words, and in its message what was heard", async () => {
    await create("unreachable", { Image: "127.0.0.1:1/box:1" });
    await shows("unreachable", ["rejected"], "No such image: 127.0.0.1:1/box:1");
    const task = (await tasks("unreachable")).find(({ Status }) => Status.State === "rejected");
    assert.deepEqual(
      [task?.Status.Err, task?.Status.Message],
      [
        "No such image: 127.0.0.1:1/box:1",
        'preparing: Get "http://127.0.0.1:1/v2/box/manifests/1": dial tcp 127.0.0.1:1: connect: connection refused',
      ],
    );
    await ask("DELETE", "/services/unreachable");
  });

  it("a node that has tasks on a network shows its peers there; a log takes no tail that is no number", async () => {
    const { Id } = (await ask("POST", "/networks/create", { Name: "back", Driver: "overlay" })) as {
      readonly Id: string;
    };
    const inspect = async (): Promise<{ readonly Peers?: readonly { readonly IP: string }[] }> =>
      (await ask("GET", "/networks/back")) as { readonly Peers?: readonly { readonly IP: string }[] };
    assert.equal((await inspect()).Peers, undefined);
    await ask("POST", "/services/create", {
      Name: "attached",
      TaskTemplate: {
        ContainerSpec: { Image: "box:1", Command: ["sleep", "600"], StopGracePeriod: 1e8 },
        Networks: [{ Target: Id }],
      },
    });
    await shows("attached", ["running"], "");
    assert.deepEqual(
      (await inspect()).Peers?.map(({ IP }) => IP),
      [ADDRESS],
    );
    for (const tail of ["x", "-1", "1.5"])
      await assert.rejects(
        ask("GET", `/services/attached/logs?stdout=1&tail=${tail}`),
        new RegExp(`400 .*tail value must be a positive integer or .*all.*, got .*${tail}`),
      );
    await ask("GET", "/services/attached/logs?stdout=1&tail=all");
    await ask("DELETE", "/services/attached");
    await until("the network is free", WAIT_MS, async () => {
      const { status } = await daemon.call("DELETE", "/networks/back");
      return status < 300;
    });
  });

  it("a locked manager says what to do, and forced to leave takes its tasks with it", async () => {
    await create("kept", {});
    await shows("kept", ["running"], "");
    const { Version, Spec } = (await ask("GET", "/swarm")) as { Version: { Index: number }; Spec: object };
    const locking = { ...Spec, EncryptionConfig: { AutoLockManagers: true } };
    await ask("POST", `/swarm/update?version=${Version.Index}`, locking);
    await daemon.stop();
    daemon.start();
    const swarm = async (): Promise<{ readonly LocalNodeState: string; readonly Error: string }> =>
      ((await ask("GET", "/info")) as { Swarm: { LocalNodeState: string; Error: string } }).Swarm;
    await until("it is locked", WAIT_MS, async () => (await swarm()).LocalNodeState === "locked");
    assert.match((await swarm()).Error, /^Swarm is encrypted and needs to be unlocked/);
    await assert.rejects(
      ask("POST", "/swarm/leave"),
      /503 .*encrypted and locked. Please unlock it first or use `--force`/,
    );
    const containers = async (): Promise<readonly unknown[]> =>
      (await ask("GET", "/containers/json?all=1")) as readonly unknown[];
    const running = (await containers()) as readonly { readonly Names: readonly string[] }[];
    assert.ok(
      running.some(({ Names }) => Names[0]?.startsWith("/kept.")),
      "it runs on while nobody unlocks",
    );
    await ask("POST", "/swarm/leave?force=1");
    assert.deepEqual(await containers(), []);
    assert.doesNotMatch(daemon.inside("ip", "link"), /smx-/, "nor is anything left of the mesh");
    assert.equal((await swarm()).LocalNodeState, "inactive");
  });
});
