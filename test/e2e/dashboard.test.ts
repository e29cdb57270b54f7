/**
 * The dashboard in a headless Chromium against a real daemon (a manager in a network namespace of its own): what it shows,
 * scaling from the page, keys, and what the page and other origins may not do. Skipped where there is no Chromium.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { type IncomingMessage, request as httpRequest } from "node:http";
import { type AddressInfo, connect, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import { packageRoot } from "../../common/package-root.ts";
import { until, WAIT_MS } from "./support/wait.ts";

const CHROMIUM = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(
  existsSync,
);
/** No sandbox: tests run as root. The rest keeps the browser from calling home. */
const CHROMIUM_FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

interface ServiceBody {
  readonly ID: string;
  readonly Spec: { readonly Mode: { readonly Replicated: { readonly Replicas: number } } };
}

/** A daemon that manages a cluster of its own, and a TCP port of this host that leads to its socket. */
class DashboardLab {
  readonly #folder: string;
  readonly #daemon: ChildProcess;
  readonly #door: Server;

  private constructor(folder: string, daemon: ChildProcess, door: Server) {
    this.#folder = folder;
    this.#daemon = daemon;
    this.#door = door;
  }

  static async start(): Promise<DashboardLab> {
    const folder = await mkdtemp(path.join(tmpdir(), "shoal-dashboard-"));
    const socket = path.join(folder, "api.sock");
    const shoal = path.join(packageRoot(import.meta.dirname), "bin", "shoal");
    const daemon = spawn(
      "unshare",
      [
        "--net",
        "sh",
        "-c",
        'ip link set lo up && exec "$@"',
        "sh",
        shoal,
        "daemon",
        "--data-root",
        path.join(folder, "data"),
        "--exec-root",
        path.join(folder, "run"),
        "--host",
        `unix://${socket}`,
      ],
      { stdio: "ignore" },
    );
    const door = createServer((client) => {
      const upstream = connect(socket);
      client.on("error", () => upstream.destroy());
      upstream.on("error", () => client.destroy());
      client.pipe(upstream).pipe(client);
    });
    door.listen(0, "127.0.0.1");
    await once(door, "listening");
    const lab = new DashboardLab(folder, daemon, door);
    try {
      await until(
        "the daemon answers",
        WAIT_MS,
        async () => (await lab.call("GET", "/_ping")).status === 200,
      );
      const address = "127.0.0.1:2377";
      await lab.call("POST", "/swarm/init", { ListenAddr: address, AdvertiseAddr: address });
    } catch (caught) {
      await lab.stop();
      throw caught;
    }
    return lab;
  }

  get origin(): string {
    return `http://127.0.0.1:${(this.#door.address() as AddressInfo).port}`;
  }

  async call(
    method: string,
    target: string,
    body?: unknown,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<{ readonly status: number; readonly body: unknown; readonly csp: string }> {
    const content = body === undefined ? undefined : JSON.stringify(body);
    const request = httpRequest(`${this.origin}${target}`, {
      method,
      agent: false,
      headers: { ...(content === undefined ? {} : { "Content-Type": "application/json" }), ...headers },
    });
    request.end(content);
    const [response] = (await once(request, "response")) as [IncomingMessage];
    const chunks: Buffer[] = [];
    for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString();
    const isJson = response.headers["content-type"] === "application/json" && text !== "";
    return {
      status: response.statusCode ?? 0,
      body: isJson ? (JSON.parse(text) as unknown) : text,
      csp: response.headers["content-security-policy"]?.toString() ?? "",
    };
  }

  async stop(): Promise<void> {
    const ended = once(this.#daemon, "exit");
    this.#daemon.kill("SIGTERM");
    await ended;
    this.#door.close();
    await rm(this.#folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  }
}

const skip = CHROMIUM === undefined ? "no Chromium on this machine (Debian: chromium)" : false;

describe("the dashboard in a browser", { skip }, () => {
  let lab: DashboardLab;
  let browser: Browser;
  let page: Page;
  const complaints: string[] = [];

  before(async () => {
    const { chromium } = await import("playwright-core");
    lab = await DashboardLab.start();
    // No node has the label, so its tasks stay pending and the page has to say why.
    await lab.call("POST", "/services/create", {
      Name: "shop_api",
      Labels: { "com.docker.stack.namespace": "shop" },
      TaskTemplate: {
        ContainerSpec: { Image: "api:1" },
        Placement: { Constraints: ["node.labels.zone==b"] },
      },
      Mode: { Replicated: { Replicas: 2 } },
    });
    const options = { executablePath: CHROMIUM ?? "", args: CHROMIUM_FLAGS, timeout: WAIT_MS };
    browser = await chromium.launch(options);
    page = await browser.newPage();
    page.setDefaultTimeout(WAIT_MS);
    page.on("console", (message) => void (message.type() === "error" && complaints.push(message.text())));
    page.on("pageerror", (error) => void complaints.push(error.message));
    page.on("request", (request) => {
      if (!request.url().startsWith(lab.origin)) complaints.push(`asks ${request.url()}`);
    });
    await page.goto(`${lab.origin}/dashboard/`);
  });

  after(async () => {
    await browser?.close();
    await lab?.stop();
  });

  test("services show how many run, and why the others don't", async () => {
    const row = page.locator("tbody tr", { hasText: "shop_api" });
    await row.getByText("0/2").waitFor({ timeout: WAIT_MS });
    await row.getByText(/no suitable node.*\(2 tasks\)/).waitFor({ timeout: WAIT_MS });
    await until("the line above says so too", WAIT_MS, async () =>
      /1\/1 nodes ready, 1\/1 managers, 0\/2 tasks running/.test(await page.locator("#health").innerText()),
    );
  });

  test("Scale asks, refuses nonsense, and changes the service", async () => {
    await page.getByRole("button", { name: "Scale shop_api" }).click();
    const input = page.locator("#ask-input");
    await input.fill("many");
    await page.locator("#ask-ok").click();
    assert.match(await page.locator("#ask-error").innerText(), /whole number/);
    await input.fill("3");
    await page.locator("#ask-ok").click();
    await until("the service is scaled", WAIT_MS, async () => {
      const { body } = await lab.call("GET", "/services/shop_api");
      return (body as ServiceBody).Spec.Mode.Replicated.Replicas === 3;
    });
    await page.locator("tbody tr", { hasText: "shop_api" }).getByText("0/3").waitFor({ timeout: WAIT_MS });
  });

  test("keys switch views and search; every view renders; events come in while they happen", async () => {
    for (const [key, title] of [
      ["2", "Stacks"],
      ["3", "Tasks"],
      ["4", "Nodes"],
      ["5", "Secrets, configs, networks"],
      ["6", "This machine"],
      ["7", "Events"],
    ] as const) {
      await page.keyboard.press(key);
      await until(title, WAIT_MS, async () => (await page.title()) === `${title} · Shoal`);
    }
    await lab.call("POST", "/volumes/create", { Name: "seen-by-the-page" });
    await page.locator("tbody tr", { hasText: "seen-by-the-page" }).waitFor({ timeout: WAIT_MS });
    await page.keyboard.press("1");
    await until("Services", WAIT_MS, async () => (await page.title()) === "Services · Shoal");
    await page.keyboard.press("/");
    await page.locator("#search:focus").waitFor({ timeout: WAIT_MS });
    await page.keyboard.type("nothing has this name");
    await until(
      "the row is hidden",
      WAIT_MS,
      async () => !(await page.locator("tbody tr").first().isVisible()),
    );
    await page.locator("#search").fill("shop");
    await page.locator("tbody tr", { hasText: "shop_api" }).waitFor({ timeout: WAIT_MS });
  });

  test("secrets and configs are shown with those who use them; what they hold is not", async () => {
    const { body } = await lab.call("POST", "/secrets/create", {
      Name: "tls-key",
      Data: Buffer.from("never-on-a-page").toString("base64"),
    });
    await lab.call("POST", "/services/create", {
      Name: "gate",
      TaskTemplate: {
        ContainerSpec: {
          Image: "api:1",
          Secrets: [
            {
              SecretID: (body as { readonly ID: string }).ID,
              SecretName: "tls-key",
              File: { Name: "key", UID: "0", GID: "0", Mode: 0o400 },
            },
          ],
        },
        Placement: { Constraints: ["node.labels.zone==b"] },
      },
      Mode: { Replicated: { Replicas: 1 } },
    });
    await page.locator("#search").fill("");
    await page.locator("#search").blur();
    await page.keyboard.press("5");
    const row = page.locator("tbody tr", { hasText: "tls-key" });
    await row.getByText("gate").waitFor({ timeout: WAIT_MS });
    assert.doesNotMatch(await page.locator("#main").innerText(), /never-on-a-page/);
  });

  test("a node is drained and activated again", async () => {
    await page.keyboard.press("4");
    for (const availability of ["drain", "active"]) {
      await page.getByRole("button", { name: new RegExp(`^${availability} `) }).click();
      await page.locator("#ask-ok").click();
      await until(availability, WAIT_MS, async () => {
        const { body } = await lab.call("GET", "/nodes");
        return (
          (body as readonly { readonly Spec: { readonly Availability: string } }[])[0]?.Spec.Availability ===
          availability
        );
      });
      await page
        .locator("tbody td", { hasText: new RegExp(`^${availability}$`) })
        .waitFor({ timeout: WAIT_MS });
    }
    await page.keyboard.press("1");
  });

  test("read-only takes the buttons away; the theme switches and is remembered", async () => {
    await page.getByLabel("Read-only").check();
    assert.equal(await page.getByRole("button", { name: "Scale shop_api" }).count(), 0);
    const before_ = await page.evaluate("getComputedStyle(document.body).backgroundColor");
    await page.locator("#theme").click();
    assert.notEqual(await page.evaluate("getComputedStyle(document.body).backgroundColor"), before_);
    const themed = await page.evaluate("document.documentElement.dataset.theme");
    await page.reload();
    assert.equal(await page.evaluate("document.documentElement.dataset.theme"), themed);
  });

  test("the page asks no other host, breaks no rule of its own policy, and logs no error", () => {
    assert.deepEqual(complaints, []);
  });

  test("other origins change nothing", async () => {
    const { csp } = await lab.call("GET", "/dashboard/");
    assert.match(csp, /default-src 'none'.*frame-ancestors 'none'/);
    const foreign = { Origin: "http://evil.example" };
    assert.equal((await lab.call("POST", "/volumes/create", { Name: "evil" }, foreign)).status, 403);
    assert.equal((await lab.call("GET", "/volumes/evil")).status, 404);
  });
});
