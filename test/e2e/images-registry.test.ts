/** Pull and push against Debian's docker-registry on loopback, plain and over TLS. Needs root, for unpacking layers. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import { createServer, get } from "node:http";
import { type AddressInfo, connect } from "node:net";
import type { Duplex } from "node:stream";
import { networkInterfaces, tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import { freePort } from "../../common/testing/free-port.ts";
import { createImageEngine, type ImageEngineParts } from "../../runtime/images/image-engine.ts";
import {
  buildImage,
  dockerArchive,
  streamOf,
  type TestImage,
} from "../../runtime/images/testing/archives.ts";
import { DEFAULT_REGISTRY_CONFIG, type RegistryConfig } from "../../runtime/registry/registry-config.ts";
import { linesOf } from "./support/image-lab.ts";
import { selfSigned } from "./support/self-signed.ts";
import { WAIT_MS } from "./support/wait.ts";

const REGISTRY = "/usr/bin/docker-registry";
const missing =
  process.getuid?.() !== 0
    ? "needs root"
    : fs.existsSync(REGISTRY)
      ? false
      : "docker-registry is not installed";

/** An address of this machine that is not loopback: there certificates count. */
const OUTER_ADDRESS = Object.values(networkInterfaces())
  .flat()
  .find((each) => each?.family === "IPv4" && !each.internal)?.address;

const USER = { username: "somebody", password: "s3cret" };
/** The same for docker-registry, which knows bcrypt only. */
const HTPASSWD = "somebody:$2b$04$SKLUTRqj6FxTFj8ntA1l6O94JMyjm/CmEqCcM34NBf1uo92o6K8Fa\n";

function header(auth: Readonly<Record<string, string>>): string {
  return Buffer.from(JSON.stringify(auth)).toString("base64url");
}

const IMAGE: TestImage = {
  tags: ["app:1"],
  layers: [[{ name: "big", content: Buffer.alloc(300_000, "abcdefg") }], [{ name: "small", content: "s" }]],
};

function answers(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    get({ host, port, path: "/" }, (response) => {
      response.resume();
      resolve(true);
    }).on("error", (error: NodeJS.ErrnoException) => resolve(error.code !== "ECONNREFUSED"));
  });
}

describe("images against docker-registry", { skip: missing }, () => {
  const folder = fs.mkdtempSync(path.join(tmpdir(), "shoal-images-registry-"));
  const children: ChildProcess[] = [];
  const engines: ImageEngineParts[] = [];
  let plain = "";
  let secure = "";

  /** `address`: where it listens, with a certificate for it. `more`: further lines of its configuration. */
  async function startRegistry(
    name: string,
    tls: string,
    { address = "127.0.0.1", more = "" }: { readonly address?: string; readonly more?: string } = {},
  ): Promise<string> {
    const port = await freePort();
    const file = path.join(folder, `${name}.yml`);
    fs.writeFileSync(
      file,
      `version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: ${folder}/${name}}, delete: {enabled: true}}\n` +
        `http: {addr: "${address}:${port}"${tls}}\n${more}`,
    );
    const child = spawn(REGISTRY, ["serve", file], {
      stdio: "ignore",
      env: { OTEL_TRACES_EXPORTER: "none" },
    });
    children.push(child);
    while (!(await answers(address, port))) assert.equal(child.exitCode, null);
    return `${address}:${port}`;
  }

  async function open(config: RegistryConfig = DEFAULT_REGISTRY_CONFIG): Promise<ImageEngineParts> {
    const dataRoot = fs.mkdtempSync(path.join(folder, "data-"));
    const engine = await createImageEngine({
      env: realEnv,
      log: silentLogger,
      dataRoot,
      events: { emit: () => {} },
      containers: () => undefined,
      registry: config,
    });
    engines.push(engine);
    return engine;
  }

  before(async () => {
    const outer = OUTER_ADDRESS ?? "127.0.0.2";
    const { certificate, key } = selfSigned(folder, `DNS:registry.test,IP:127.0.0.1,IP:${outer}`);
    plain = await startRegistry("plain", "");
    secure = await startRegistry("secure", `, tls: {certificate: ${certificate}, key: ${key}}`);
  });

  after(async () => {
    for (const engine of engines) await engine.stop();
    for (const child of children) {
      child.kill();
      await new Promise((resolve) => child.once("exit", resolve));
    }
    fs.rmSync(folder, { recursive: true, force: true });
  });

  async function roundTrip(host: string, compression: "none" | "gzip" | "zstd"): Promise<void> {
    const first = await open();
    await linesOf(first.images.load(streamOf(dockerArchive([{ ...IMAGE, compression }])), { quiet: true }));
    const name = `${host}/team/${compression}:1`;
    await first.images.tag("app:1", `${host}/team/${compression}`, "1");
    const signal = AbortSignal.timeout(WAIT_MS);
    const lines = await linesOf(
      first.images.push({ reference: `${host}/team/${compression}`, tag: "1" }, signal),
    );
    assert.deepEqual(lines[0], { status: `The push refers to repository [${host}/team/${compression}]` });
    assert.match(String(JSON.stringify(lines.at(-2))), /1: digest: sha256:[0-9a-f]{64} size: \d+/);
    const again = await linesOf(first.images.push({ reference: name }, signal));
    assert.equal(again.filter((line) => line["status"] === "Layer already exists").length, 2);
    const second = await open();
    await linesOf(second.images.pull({ reference: name }, signal));
    assert.equal(second.images.resolve(name), buildImage(IMAGE).id);
    const layers = await second.rootfs.prepare("c", second.images.resolve(name) ?? "");
    assert.equal(fs.readFileSync(path.join(layers.lower[2] ?? "", "big")).length, 300_000);
    const distribution = await second.images.distribution(name);
    const { digest } = distribution["Descriptor"] as { readonly digest: string };
    const third = await open();
    await linesOf(third.images.pull({ reference: `${host}/team/${compression}@${digest}` }, signal));
    assert.equal(third.images.resolve(`${host}/team/${compression}@${digest}`), buildImage(IMAGE).id);
  }

  for (const compression of ["none", "gzip", "zstd"] as const) {
    test(`an image with ${compression} layers goes there and back over plain HTTP`, () =>
      roundTrip(plain, compression));
  }

  test("an image goes there and back over TLS", () => roundTrip(secure, "gzip"));

  test("a certificate that nobody vouches for is refused where the registry is not loopback", async () => {
    const strict = {
      insecure: [],
      mirrors: { "docker.io": [`https://localhost:${secure.split(":")[1]}`] },
      certificateFolders: [],
    };
    const engine = await open(strict);
    // Loopback is trusted without a check, so this reaches the registry, which has no such image.
    await assert.rejects(linesOf(engine.images.pull({ reference: "nosuch:1" }, AbortSignal.timeout(20_000))));
    const remote = await open({
      ...strict,
      mirrors: { "docker.io": [`https://registry.test:${secure.split(":")[1]}`] },
    });
    await assert.rejects(linesOf(remote.images.pull({ reference: "nosuch:1" }, AbortSignal.timeout(20_000))));
  });

  for (const compression of ["none", "gzip"] as const)
    test(`${compression} layers are mounted from another repository of the registry`, () =>
      mounted(compression));

  async function mounted(compression: "none" | "gzip"): Promise<void> {
    const engine = await open();
    await linesOf(engine.images.load(streamOf(dockerArchive([{ ...IMAGE, compression }])), { quiet: true }));
    const signal = AbortSignal.timeout(WAIT_MS);
    for (const repository of [`mount/one-${compression}`, `mount/two-${compression}`]) {
      await engine.images.tag("app:1", `${plain}/${repository}`, "1");
    }
    await linesOf(engine.images.push({ reference: `${plain}/mount/one-${compression}:1` }, signal));
    const lines = await linesOf(
      engine.images.push({ reference: `${plain}/mount/two-${compression}:1` }, signal),
    );
    const status = `Mounted from mount/one-${compression}`;
    assert.equal(lines.filter((line) => line["status"] === status).length, 2);
  }

  async function guarded(name: string, tls: string): Promise<string> {
    const file = path.join(folder, "htpasswd");
    fs.writeFileSync(file, HTPASSWD);
    return startRegistry(name, tls, { more: `auth: {htpasswd: {realm: registry, path: ${file}}}\n` });
  }

  for (const [kind, tlsOf] of [
    ["plain HTTP", (): string => ""],
    ["TLS", (): string => `, tls: {certificate: ${folder}/tls.crt, key: ${folder}/tls.key}`],
  ] as const) {
    test(`a registry over ${kind} that wants a password gets it, and says what is wrong with others`, async () => {
      const host = await guarded(`guarded-${kind.replace(" ", "-")}`, tlsOf());
      const engine = await open();
      await linesOf(engine.images.load(streamOf(dockerArchive([IMAGE])), { quiet: true }));
      const name = `${host}/team/app:1`;
      await engine.images.tag("app:1", `${host}/team/app`, "1");
      const signal = AbortSignal.timeout(WAIT_MS);
      const right = header(USER);
      const wrong = header({ ...USER, password: "other" });
      assert.deepEqual(await engine.images.login({ ...USER, serveraddress: host }), {
        Status: "Login Succeeded",
        IdentityToken: "",
      });
      await assert.rejects(engine.images.login({ ...USER, password: "other", serveraddress: host }), {
        code: "unauthenticated",
        message: `login attempt to ${kind === "TLS" ? "https" : "http"}://${host}/v2/ failed with status: 401 Unauthorized: unauthorized: authentication required`,
      });
      for (const registryAuth of [undefined, wrong]) {
        const auth = registryAuth === undefined ? {} : { registryAuth };
        const message =
          registryAuth === undefined
            ? /^[A-Z][a-z]+ "https?:\/\/.*\/v2\/team\/app\/.*": no basic auth credentials$/
            : /^unauthorized: authentication required$/;
        const refusal = { code: "unauthenticated", message };
        await assert.rejects(linesOf(engine.images.push({ reference: name, ...auth }, signal)), refusal);
        await assert.rejects(linesOf(engine.images.pull({ reference: name, ...auth }, signal)), refusal);
      }
      await linesOf(engine.images.push({ reference: name, registryAuth: right }, signal));
      const other = await open();
      await linesOf(other.images.pull({ reference: name, registryAuth: right }, signal));
      assert.equal(other.images.resolve(name), buildImage(IMAGE).id);
      await assert.rejects(other.images.distribution(name, wrong), /unauthorized: authentication required/);
      const { Descriptor } = await other.images.distribution(name, right);
      assert.match(JSON.stringify(Descriptor), /sha256:/);
    });
  }

  test(
    "certificates in a folder for the host: its authority, and ours where it asks who we are",
    { skip: OUTER_ADDRESS === undefined ? "this machine has no address beside loopback" : false },
    async () => {
      const tls = `, tls: {certificate: ${folder}/tls.crt, key: ${folder}/tls.key, clientcas: [${folder}/tls.crt]}`;
      const host = await startRegistry("client-certs", tls, { address: OUTER_ADDRESS ?? "" });
      const certificates = path.join(folder, "certs.d");
      const own = path.join(certificates, host);
      fs.mkdirSync(own, { recursive: true });
      const strict = { insecure: [], mirrors: {}, certificateFolders: [certificates] };
      const signal = AbortSignal.timeout(WAIT_MS);
      const pullError = async (): Promise<string> => {
        const engine = await open(strict);
        const lines = linesOf(engine.images.pull({ reference: `${host}/no:1` }, signal));
        return lines.then(
          () => "",
          (caught: Error) => caught.message,
        );
      };
      assert.match(await pullError(), /self-signed certificate/);
      fs.copyFileSync(path.join(folder, "tls.crt"), path.join(own, "ca.crt"));
      assert.match(await pullError(), /alert|reset/);
      fs.copyFileSync(path.join(folder, "tls.crt"), path.join(own, "me.cert"));
      assert.match(
        await pullError(),
        new RegExp(
          `missing key me\\.key for client certificate me\\.cert of ${host}\\. CA certificates must use`,
        ),
      );
      fs.copyFileSync(path.join(folder, "tls.key"), path.join(own, "me.key"));
      assert.match(await pullError(), /^manifest for .* not found: manifest unknown/);
    },
  );

  test(
    "registries that are not of this machine are reached through the daemon's proxy",
    { skip: OUTER_ADDRESS === undefined ? "this machine has no address beside loopback" : false },
    async (context) => {
      const tunnels: string[] = [];
      const proxy = createServer((request, response) => {
        tunnels.push(`${request.method} ${request.url}`);
        const target = new URL(request.url ?? "");
        get({ host: target.hostname, port: target.port, path: target.pathname }, (answer) => {
          response.writeHead(answer.statusCode ?? 0, answer.headers);
          answer.pipe(response);
        });
      });
      proxy.on("connect", (request, client: Duplex) => {
        tunnels.push(`CONNECT ${request.url}`);
        const { hostname, port } = new URL(`http://${request.url}`);
        const server = connect(Number(port), hostname, () => {
          client.write("HTTP/1.1 200 OK\r\n\r\n");
          server.pipe(client).pipe(server);
        });
        for (const each of [server, client]) each.on("error", () => server.destroy());
      });
      await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
      const url = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
      context.after(() => {
        delete process.env["HTTPS_PROXY"];
        delete process.env["HTTP_PROXY"];
        proxy.close();
        proxy.closeAllConnections();
      });
      const tls = `, tls: {certificate: ${folder}/tls.crt, key: ${folder}/tls.key}`;
      const secureHost = await startRegistry("proxied-tls", tls, { address: OUTER_ADDRESS ?? "" });
      const plainHost = await startRegistry("proxied", "", { address: OUTER_ADDRESS ?? "" });
      process.env["HTTPS_PROXY"] = url;
      process.env["HTTP_PROXY"] = url;
      const engine = await open({ insecure: [OUTER_ADDRESS ?? ""], mirrors: {}, certificateFolders: [] });
      const signal = AbortSignal.timeout(WAIT_MS);
      for (const host of [secureHost, plainHost, plain]) {
        await assert.rejects(linesOf(engine.images.pull({ reference: `${host}/no:1` }, signal)), {
          message: /manifest unknown/,
        });
      }
      assert.equal(tunnels.includes(`CONNECT ${secureHost}`), true, tunnels.join("\n"));
      assert.equal(tunnels.includes(`GET http://${plainHost}/v2/no/manifests/1`), true, tunnels.join("\n"));
      assert.equal(
        tunnels.some((tunnel) => tunnel.includes(plain)),
        false,
        "this machine was asked by a proxy",
      );
    },
  );

  test("a push of what is not here and a pull of what is not there are told apart", async () => {
    const engine = await open();
    const signal = AbortSignal.timeout(WAIT_MS);
    await assert.rejects(
      linesOf(engine.images.push({ reference: `${plain}/no:1` }, signal)),
      /An image does not exist locally/,
    );
    await assert.rejects(linesOf(engine.images.pull({ reference: `${plain}/no:1` }, signal)), {
      code: "not_found",
      message: /^manifest for .* not found: manifest unknown/,
    });
  });
});
