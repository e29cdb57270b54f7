import assert from "node:assert/strict";
import { lstat } from "node:fs/promises";
import { Readable } from "node:stream";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ClusterError } from "../../common/errors.ts";
import { call, RawClient, startApi, WAIT } from "./api-harness.ts";

test("every answer carries the version headers; /_ping tells the swarm's state", async (context) => {
  const api = await startApi(context);
  const ping = await call(api, "HEAD /_ping");
  assert.equal(ping.status, 200);
  assert.equal(ping.headers["content-length"], "0");
  assert.equal(ping.headers["api-version"], "1.50");
  assert.equal(ping.headers["ostype"], "linux");
  assert.equal(ping.headers["swarm"], "inactive");
  await api.swarm.init();
  const active = await call(api, "GET /v1.41/_ping");
  assert.equal(active.text, "OK");
  assert.equal(active.headers["swarm"], "active/manager");
  const missing = await call(api, "GET /v1.41/containers/x/json");
  assert.equal(missing.headers["api-version"], "1.50");
});

test("errors are exactly application/json with a message", async (context) => {
  const api = await startApi(context);
  const cases: readonly (readonly [string, number, RegExp])[] = [
    ["GET /v1.41/no/such/route", 404, /^page not found$/],
    ["PUT /v1.41/containers/json", 404, /^page not found$/],
    ["GET /v9.99/info", 400, /^client version 9\.99 is too new\. Maximum/],
    ["GET /v1.41/containers/x/json", 404, /^No such container: x$/],
    ["GET /v1.41/containers/json?filters=%7B%22nosuch%22%3A%5B%5D%7D", 400, /^invalid filter 'nosuch'$/],
    ["GET /v1.41/containers/json?filters=%7B", 400, /^invalid filter/],
    ["GET /services", 503, /^This node is not a swarm manager\. Use "docker swarm init"/],
    ["POST /swarm/leave", 503, /^This node is not part of a swarm$/],
  ];
  for (const [line, status, message] of cases) {
    const answer = await call(api, line);
    assert.equal(answer.status, status, line);
    assert.equal(answer.headers["content-type"], "application/json", line);
    assert.match((JSON.parse(answer.text) as { message: string }).message, message, line);
  }
});

test("bad bodies are 400 and name the field; nothing is changed", async (context) => {
  const api = await startApi(context);
  const create = "POST /containers/create";
  assert.match((await call(api, create)).text, /got EOF while reading request body/);
  assert.match((await call(api, create, { body: "{" })).text, /invalid JSON/);
  assert.match((await call(api, create, { body: "[]" })).text, /must be an object, got a list/);
  assert.match((await call(api, create, { body: { Env: 3 } })).text, /Env must be a list of strings, got 3/);
  const plain = await call(api, create, { body: "{}", headers: { "Content-Type": "text/plain" } });
  assert.equal(plain.status, 400);
  const huge = await call(api, create, { body: `"${"x".repeat(9 * 1024 * 1024)}"` }).catch(() => undefined);
  assert.ok(huge === undefined || huge.status === 400);
  assert.equal(api.engine.containerMap.size, 0);
  assert.equal((await call(api, "GET /_ping")).text, "OK");
});

test("what is not HTTP, or cut off, harms no one else", async (context) => {
  const api = await startApi(context);
  const garbage = new RawClient(api.socketPath);
  garbage.send("\u0000\u0001 garbage");
  assert.match(await garbage.ended(), /^HTTP\/1\.1 400 /);
  const cut = new RawClient(api.socketPath);
  cut.send(
    "POST /containers/create HTTP/1.1",
    "Host: d",
    "Content-Type: application/json",
    "Content-Length: 100",
  );
  cut.socket.write("{");
  cut.socket.destroy();
  assert.equal((await call(api, "GET /_ping")).text, "OK");
});

test("the connection of an upgrade that was refused is given up, whatever its client goes on to send", async (context) => {
  const api = await startApi(context);
  const client = new RawClient(api.socketPath);
  context.after(() => client.socket.destroy());
  const isCut = new Promise<void>((resolve) => void client.socket.once("error", () => resolve()));
  client.send("POST /containers/nosuch/attach HTTP/1.1", "Host: d", "Upgrade: tcp", "Connection: Upgrade");
  assert.match(await client.ended(), /^HTTP\/1\.1 404 /);
  // Who writes to a connection that is gone hears of it.
  const writing = setInterval(() => client.socket.write("x"), WAIT.pollMs);
  await Promise.race([isCut, sleep(WAIT.timeoutMs, undefined, { ref: false })]);
  clearInterval(writing);
  assert.equal(client.socket.destroyed, true);
});

test("two requests share a connection, and an unread body is skipped", async (context) => {
  const api = await startApi(context);
  const client = new RawClient(api.socketPath);
  client.send("POST /nothing HTTP/1.1", "Host: d", "Content-Length: 5");
  client.socket.write("12345");
  await client.until("page not found");
  client.send("GET /_ping HTTP/1.1", "Host: d", "Connection: close");
  assert.match(await client.ended(), /404 Not Found[\s\S]*200 OK[\s\S]*OK$/);
});

test("a client that half-closes after a plain request still gets the answer", async (context) => {
  const api = await startApi(context);
  const client = new RawClient(api.socketPath);
  client.socket.end("GET /info HTTP/1.1\r\nHost: d\r\n\r\n");
  assert.match(await client.ended(), /200 OK[\s\S]*"fake-host"/);
});

test("requests from other web origins are refused", async (context) => {
  const api = await startApi(context);
  const answer = await call(api, "POST /containers/prune", {
    headers: { Origin: "https://evil.example", Host: "d" },
  });
  assert.equal(answer.status, 403);
  assert.equal((await call(api, "GET /_ping", { headers: { Origin: "http://d", Host: "d" } })).status, 200);
});

test("a second server leaves a live socket alone, takes a dead one's place, and stop() removes it", async (context) => {
  const api = await startApi(context);
  await assert.rejects(api.server.listen({ unix: api.socketPath }), { code: "conflict" });
  assert.equal((await lstat(api.socketPath)).mode & 0o777, 0o600);
  await api.server.stop();
  await assert.rejects(lstat(api.socketPath), { code: "ENOENT" });
});

test("a read-only listener serves reads and refuses changes", async (context) => {
  const api = await startApi(context);
  const socketPath = `${api.folder}/ro.sock`;
  await api.server.listen({ unix: socketPath, isReadOnly: true });
  const readOnly = { ...api, socketPath };
  assert.equal((await call(readOnly, "GET /info")).status, 200);
  assert.equal((await call(readOnly, "POST /containers/prune")).status, 403);
});

test("pull and build tell failures before the first line by status, later ones in the stream", async (context) => {
  const api = await startApi(context);
  api.engine.progress = [new ClusterError("not_found", "manifest for x:1 not found: manifest unknown")];
  assert.equal((await call(api, "POST /images/create?fromImage=x&tag=1")).status, 404);
  const failure = new ClusterError(
    "internal",
    "The command '/bin/sh -c exit 3' returned a non-zero code: 3",
    {
      details: { exitCode: 3 },
    },
  );
  api.engine.progress = [{ stream: "Step 1/1 : FROM x\n" }, failure];
  const build = await call(api, "POST /build?version=1");
  assert.equal(build.status, 200);
  assert.equal(build.headers["content-type"], "application/json");
  const lines = build.text.split("\r\n").filter((line) => line !== "");
  assert.deepEqual(JSON.parse(lines[1] ?? ""), {
    errorDetail: { code: 3, message: failure.message },
    error: failure.message,
  });
});

test("the dashboard is served with a strict policy, and nothing beside it", async (context) => {
  const api = await startApi(context);
  const page = await call(api, "GET /dashboard/");
  assert.equal(page.headers["content-type"], "text/html; charset=utf-8");
  assert.match(String(page.headers["content-security-policy"]), /default-src 'none'/);
  for (const [, file = ""] of page.text.matchAll(/(?:src|href)="([a-z]+\.[a-z]+)"/g)) {
    assert.equal((await call(api, `GET /dashboard/${file}`)).status, 200, file);
  }
  assert.equal((await call(api, "GET /dashboard")).headers["location"], "/dashboard/");
  for (const hostile of ["..%2f..%2fpackage.json", "constructor", "nosuch.js"]) {
    assert.equal((await call(api, `GET /dashboard/${hostile}`)).status, 404, hostile);
  }
});

test("/shoal/v1/cluster sums up health, /shoal/v1/metrics is Prometheus text", async (context) => {
  const api = await startApi(context);
  assert.equal((await call(api, "GET /shoal/v1/cluster")).status, 503);
  await api.swarm.init();
  const cluster = JSON.parse((await call(api, "GET /shoal/v1/cluster")).text) as Record<string, unknown>;
  assert.equal(cluster["healthy"], true);
  assert.deepEqual(cluster["quorum"], { has: true, reachable: 1, members: 1 });
  const metrics = await call(api, "GET /shoal/v1/metrics");
  assert.match(
    metrics.text,
    /shoal_api_requests_total\{route="\/shoal\/v1\/cluster",method="GET",status="200"\} 1/,
  );
});

test("/shoal/v1/watch goes on after a version, marks the ends of transactions, tells no contents", async (context) => {
  const api = await startApi(context);
  assert.equal((await call(api, "GET /shoal/v1/watch")).status, 503);
  await api.swarm.init();
  const { store } = api.swarm;
  const start = store.version;
  const spec = { Name: "key", Data: "bmV2ZXI=" };
  const { id } = store.put("secret", { id: store.newId(), spec });
  store.put("config", { id: store.newId(), spec: { Name: "other", Data: "" } });
  const client = new RawClient(api.socketPath);
  client.send(`GET /shoal/v1/watch?after=${start}&table=secret HTTP/1.1`, "Host: d");
  const change = `{"table":"secret","action":"create","id":"${id}","name":"key","version":${start + 1}}`;
  const text = await client.until(`${change}\n{"version":${start + 1}}\n`);
  assert.ok(text.includes(`{"version":${start}}\n`));
  store.remove("secret", id);
  assert.doesNotMatch(await client.until('"action":"remove"'), /bmV2ZXI=|other/);
  client.socket.destroy();
  store.forgottenVersion = start + 2;
  const gone = await call(api, `GET /shoal/v1/watch?after=${start}`);
  assert.equal(gone.status, 410);
  assert.match(gone.text, /not kept any more/);
  // As a client asks whose cluster was restored from a backup.
  const ahead = await call(api, `GET /shoal/v1/watch?after=${store.version + 1}`);
  assert.equal(ahead.status, 410);
  assert.match(ahead.text, /never came to version/);
  for (const query of ["after=x", "after=-1", "table=nosuch"])
    assert.equal((await call(api, `GET /shoal/v1/watch?${query}`)).status, 400, query);
});

test("a list of thousands comes whole, in pieces", async (context) => {
  const api = await startApi(context);
  await api.swarm.init();
  const spec = { Name: "web", TaskTemplate: { ContainerSpec: { Image: "x" } } };
  const service = api.swarm.store.put("service", { id: api.swarm.store.newId(), spec, specVersion: 1 });
  for (let slot = 1; slot <= 1001; slot += 1) api.swarm.putTask(service, { slot });
  const answer = await call(api, "GET /tasks");
  assert.equal(answer.headers["content-type"], "application/json");
  const slots = (JSON.parse(answer.text) as readonly { Slot: number }[]).map((task) => task.Slot);
  assert.deepEqual(
    slots,
    Array.from({ length: 1001 }, (_unused, index) => index + 1),
  );
});

test("a container can't be put on a swarm network that is not attachable", async (context) => {
  const api = await startApi(context);
  await api.swarm.init();
  await call(api, "POST /networks/create", { body: { Name: "closed", Driver: "overlay" } });
  await call(api, "POST /networks/create", { body: { Name: "open", Driver: "overlay", Attachable: true } });
  const create = (network: string): Promise<{ readonly status: number; readonly text: string }> =>
    call(api, "POST /containers/create", { body: { Image: "x", HostConfig: { NetworkMode: network } } });
  const refused = await create("closed");
  assert.equal(refused.status, 403);
  assert.match(refused.text, /Could not attach to network closed.*not manually attachable/);
  assert.equal((await create("open")).status, 201);
  assert.equal((await create("nosuch")).status, 201);
  const connect = (network: string) =>
    call(api, `POST /networks/${network}/connect`, { body: { Container: "box" } });
  assert.equal((await connect("closed")).status, 403);
  assert.equal((await connect("open")).status, 200);
});

test("a worker shows the networks of the cluster that are set up on it, by name, id and the beginning of the id", async (context) => {
  const network = {
    networkId: "net1abcdefghijklmnopqrstu",
    name: "back",
    vni: 4099,
    subnets: [{ subnet: "10.0.3.0/24", gateway: "10.0.3.1" }],
    isInternal: false,
    isAttachable: true,
    options: {},
    endpoints: [],
    services: [],
  };
  const api = await startApi(context, { networksHere: () => [network] });
  const listed = JSON.parse((await call(api, "GET /networks")).text) as readonly { readonly Name: string }[];
  assert.ok(listed.some(({ Name }) => Name === "back"));
  for (const reference of ["back", network.networkId, "net1a"]) {
    const answer = await call(api, `GET /networks/${reference}`);
    assert.equal(answer.status, 200);
    const shown = JSON.parse(answer.text) as Record<string, unknown>;
    assert.deepEqual(
      [shown["Id"], shown["Scope"], shown["Attachable"], shown["IPAM"]],
      [
        network.networkId,
        "swarm",
        true,
        { Driver: "default", Options: null, Config: [{ Subnet: "10.0.3.0/24", Gateway: "10.0.3.1" }] },
      ],
    );
  }
  assert.equal((await call(api, "DELETE /networks/back")).status, 503);
  assert.equal((await call(api, "GET /networks/nosuch")).status, 404);
  const filtered = await call(api, `GET /networks?filters=${encodeURIComponent('{"driver":["bridge"]}')}`);
  assert.ok(!filtered.text.includes("back"));
});

test("swarm init refuses a tunnel port and pools that can't be", async (context) => {
  const api = await startApi(context);
  const refused = async (body: object): Promise<string> => {
    const answer = await call(api, "POST /swarm/init", { body });
    assert.equal(answer.status, 400);
    return answer.text;
  };
  assert.match(await refused({ DataPathPort: 80 }), /Datapath port number is not in valid range/);
  assert.match(await refused({ SubnetSize: 31 }), /subnet size is out of range: 31/);
  assert.match(await refused({ DefaultAddrPool: ["10.1.0.0/16"], SubnetSize: 8 }), /too small for pool: 8/);
  assert.match(await refused({ AdvertiseAddr: "0.0.0.0" }), /advertise address must be a non-zero/);
});

test("an upload that is refused early still gets its error, and the connection goes on", async (context) => {
  const api = await startApi(context);
  const client = new RawClient(api.socketPath);
  client.send("PUT /containers/nosuch/archive?path=/ HTTP/1.1", "Host: d", "Transfer-Encoding: chunked");
  await client.until("not part of the fake engine");
  const chunk = `10000\r\n${"x".repeat(0x10000)}\r\n`;
  for (let count = 0; count < 20; count += 1) client.socket.write(chunk);
  client.socket.write("0\r\n\r\n");
  client.send("GET /_ping HTTP/1.1", "Host: d", "Connection: close");
  assert.match(await client.ended(), /501 Not Implemented[\s\S]*200 OK/);
});

test("a registry that wants a password is no 401: at that the CLI would ask for one on the terminal", async (context) => {
  const api = await startApi(context);
  const refuse = async (): Promise<never> => {
    throw new ClusterError("unauthenticated", 'Get "http://r/v2/": no basic auth credentials');
  };
  Object.assign(api.engine.images, { pull: () => ({ [Symbol.asyncIterator]: () => ({ next: refuse }) }) });
  Object.assign(api.engine.images, { distribution: refuse, login: refuse });
  Object.assign(api.engine.plugins, { privileges: refuse });
  const pull = "POST /images/create?fromImage=r/x&tag=1";
  for (const line of [pull, "GET /distribution/r/x/json", "GET /plugins/privileges?remote=r/x"]) {
    const answer = await call(api, line);
    assert.deepEqual(
      [answer.status, JSON.parse(answer.text)],
      [500, { message: 'Get "http://r/v2/": no basic auth credentials' }],
    );
  }
  assert.equal((await call(api, "POST /auth", { body: {} })).status, 401);
});

test("a platform that an image does not have is not answered with the one that it has", async (context) => {
  const api = await startApi(context);
  const inspect = async (): Promise<object> => ({ Os: "linux", Architecture: "arm64", Variant: "v8" });
  Object.assign(api.engine.images, { inspect, save: async () => Readable.from(["tar"]) });
  const paths = [
    "GET /images/x/json?",
    "GET /images/x/history?",
    "GET /images/x/get?",
    "GET /images/get?names=x&",
  ];
  for (const line of [...paths, "POST /images/x/push?tag=1&"]) {
    const ask = async (platform: string): Promise<number> =>
      (await call(api, `${line}platform=${encodeURIComponent(platform)}`)).status;
    assert.equal(await ask('{"os":"linux","architecture":"amd64"}'), 404, line);
    assert.equal(await ask('{"os":"linux","architecture":"arm64","variant":"v7"}'), 404, line);
    assert.notEqual(await ask('{"os":"linux","architecture":"arm64"}'), 404, line);
    assert.equal(await ask("linux/arm64"), 400, line);
    assert.equal(await ask('{"os":"linux"}'), 400, line);
  }
  const { text } = await call(api, 'GET /images/x/get?platform={"os":"linux","architecture":"amd64"}');
  assert.match(
    text,
    /its platform \(linux\/arm64\/v8\) does not match the specified platform \(linux\/amd64\)/,
  );
});

test("a platform is the image's whatever it is called, and a load is told of it", async (context) => {
  const api = await startApi(context);
  const image = { Os: "linux", Architecture: "arm64" };
  const options: object[] = [];
  Object.assign(api.engine.images, {
    inspect: async () => image,
    load: async function* (_tar: unknown, given: object) {
      options.push(given);
      yield { stream: "Loaded image: x:1\n" };
    },
  });
  const ask = async (line: string, platform: string): Promise<number> =>
    (await call(api, `${line}?platform=${encodeURIComponent(platform)}`)).status;
  for (const own of [image, { ...image, Variant: "v8" }, { ...image, Architecture: "aarch64" }]) {
    api.engine.images.inspect = async () => own;
    for (const variant of ["", "v8", "8"]) {
      const wanted = JSON.stringify({ os: "linux", architecture: "arm64", variant });
      assert.equal(await ask("GET /images/x/json", wanted), 200, `${own.Architecture} for ${wanted}`);
    }
  }
  assert.equal(await ask("POST /images/load", '{"os":"linux","architecture":"arm64","variant":"v8"}'), 200);
  assert.equal(await ask("POST /images/load", "linux/arm64"), 400);
  const twice = 'platform={"os":"linux","architecture":"arm64"}';
  assert.equal((await call(api, `POST /images/load?${twice}&${twice}`)).status, 400);
  assert.deepEqual(options, [{ quiet: false, platform: "linux/arm64/v8" }]);
});
