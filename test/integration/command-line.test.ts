import assert from "node:assert/strict";
import { execFile, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { test, type TestContext } from "node:test";
import { packageRoot } from "../../common/package-root.ts";

const PROGRAM = path.join(packageRoot(import.meta.dirname), "bin/shoal");

/** What the command says on its error output, where no daemon is. */
function complaint(...argv: readonly string[]): string {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-command-line-"));
  try {
    writeFileSync(path.join(folder, "odd.env"), "two words=1\n");
    const result = spawnSync(PROGRAM, ["--host", `unix://${folder}/none.sock`, ...argv], {
      cwd: folder,
      encoding: "utf8",
    });
    assert.notEqual(result.status, 0);
    return result.stderr;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

test("bin/shoal keeps flags to itself that Node.js has too", () => {
  assert.match(complaint("run", "--env-file", "missing.env", "x"), /Cannot read --env-file "missing.env"/);
  assert.match(complaint("run", "--env-file=missing.env", "x"), /Cannot read --env-file "missing.env"/);
  assert.match(complaint("run", "--env-file", "odd.env", "x"), /odd.env:1: expected NAME=value/);
  assert.match(
    complaint("run", "--env-file-if-exists=missing.env", "x"),
    /^unknown flag: --env-file-if-exists/,
  );
});

test("the command says what a mistyped command or flag may have been, and which flag lacks its value", () => {
  assert.match(
    complaint("servce", "ls"),
    /'servce' is not a shoal command\.\nDid you mean "shoal service"\?/,
  );
  assert.match(
    complaint("service", "creat"),
    /Did you mean "shoal service create"\?\nSee 'shoal service --help'/,
  );
  assert.match(
    complaint("service", "ls", "--frmat", "x"),
    /^unknown flag: --frmat\nDid you mean "--format"\?/,
  );
  assert.match(complaint("--contxt", "x", "ps"), /^unknown flag: --contxt\nDid you mean "--context"\?/);
  assert.match(complaint("--context"), /^flag needs an argument: --context\n/);
  assert.doesNotMatch(complaint("zzzzzz"), /Did you mean/);
});

test("names of images are data to bin/shoal, whatever they hold", async (context) => {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-command-line-"));
  const socket = path.join(folder, "api.sock");
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(`${request.method} ${request.url}`);
    response.writeHead(404, { "Content-Type": "application/json" }).end('{"message":"No such image"}');
  }).listen(socket);
  context.after(() => {
    server.close();
    rmSync(folder, { recursive: true, force: true });
  });
  await once(server, "listening");
  const shoal = (...argv: readonly string[]): Promise<void> =>
    new Promise((resolve) => {
      execFile(PROGRAM, ["--host", `unix://${socket}`, ...argv], () => resolve());
    });
  await shoal("rmi", "team/app?force=1#", "--no-prune");
  await shoal("image", "rm", "--cluster", "team/web:1?force=1");
  await shoal("image", "inspect", "caf\u00e9 \r\nX: 1");
  await shoal("tag", "%2e", "b:1");
  assert.deepEqual(asked, [
    "DELETE /images/team/app%3Fforce%3D1%23?force=0&noprune=1",
    "DELETE /shoal/v1/images/team/web%3A1%3Fforce%3D1?force=0",
    "GET /images/caf%C3%A9%20%0D%0AX%3A%201/json",
    "POST /images/%252e/tag?repo=b&tag=1",
  ]);
});

test("shoal context rm forgets the current context only when it is forced to", (context) => {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-command-line-"));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  const shoal = (...argv: readonly string[]): string => {
    const env = { PATH: process.env["PATH"], SHOAL_CONFIG: folder };
    const { stdout, stderr } = spawnSync(PROGRAM, ["context", ...argv], { env, encoding: "utf8" });
    return stdout + stderr;
  };
  shoal("create", "one", "--host", "unix:///one.sock");
  shoal("create", "two", "--host", "unix:///two.sock");
  shoal("use", "one");
  assert.match(shoal("rm", "one"), /context "one" is in use, set -f flag to force remove/);
  assert.equal(shoal("show"), "one\n");
  assert.equal(shoal("rm", "two"), "two\n");
  assert.equal(shoal("rm", "-f", "one"), "one\n");
  assert.equal(shoal("show"), "default\n");
});

test("shoal context update changes what is given and inspect shows it in docker's shape", (context) => {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-command-line-"));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  const shoal = (...argv: readonly string[]): string => {
    const env = { PATH: process.env["PATH"], SHOAL_CONFIG: folder };
    const { stdout, stderr } = spawnSync(PROGRAM, ["context", ...argv], { env, encoding: "utf8" });
    return stdout + stderr;
  };
  assert.match(shoal("use", "constructor"), /Context "constructor" not found/);
  shoal("create", "one", "--host", "unix:///one.sock", "--description", "first");
  assert.equal(shoal("update", "one", "--host", "tcp://two:2375"), "one\n");
  assert.deepEqual(JSON.parse(shoal("inspect", "one", "default")), [
    {
      Name: "one",
      Metadata: { Description: "first" },
      Endpoints: { docker: { Host: "tcp://two:2375", SkipTLSVerify: false } },
      TLSMaterial: {},
    },
    {
      Name: "default",
      Metadata: {},
      Endpoints: { docker: { Host: "unix:///run/shoal/shoal.sock", SkipTLSVerify: false } },
      TLSMaterial: {},
    },
  ]);
  assert.equal(shoal("inspect", "-f", "{{.Name}}"), "default\n");
  assert.match(shoal("update", "none", "--description", "x"), /Context "none" not found/);
  assert.match(shoal("update", "one", "--host", "ftp://x"), /"ftp:\/\/x"/);
  assert.match(shoal("inspect", "one"), /tcp:\/\/two:2375/);
});

/** What a command says when the daemon answers as `answers` has it, by "METHOD /path"; 404 for what it hasn't. */
async function spoken(
  context: TestContext,
  answers: Readonly<Record<string, object>>,
  command: {
    readonly argv: readonly string[];
    readonly input?: string;
    readonly env?: Record<string, string>;
  },
): Promise<{ readonly said: string; readonly asked: readonly string[] }> {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-command-line-"));
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(`${request.method} ${request.url}`);
    const answer = answers[asked.at(-1) ?? ""];
    response.writeHead(answer === undefined ? 404 : 200, { "Content-Type": "application/json" });
    response.end(JSON.stringify(answer ?? { message: "not found" }));
  }).listen(path.join(folder, "api.sock"));
  context.after(() => {
    server.close();
    rmSync(folder, { recursive: true, force: true });
  });
  await once(server, "listening");
  const said = await new Promise<string>((resolve) => {
    const argv = ["--host", `unix://${folder}/api.sock`, ...command.argv];
    const env = { PATH: process.env["PATH"], ...command.env };
    const child = execFile(PROGRAM, argv, { env }, (_error, stdout, stderr) => resolve(stdout + stderr));
    child.stdin?.end(command.input ?? "");
  });
  return { said, asked };
}

test("shoal login keeps what the registry took, where docker looks for it; logout forgets it", async (context) => {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-command-line-"));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  const env = { DOCKER_CONFIG: folder };
  const file = path.join(folder, "config.json");
  const login = ["login", "-u", "me", "--password-stdin", "https://lab:5000/v2/"];
  const refused = await spoken(context, {}, { argv: login, input: "secret\n", env });
  assert.match(refused.said, /not found/);
  assert.equal(existsSync(file), false);
  const answers = { "POST /auth": { Status: "Login Succeeded" } };
  const { said } = await spoken(context, answers, { argv: login, input: "secret\n", env });
  assert.match(said, /^Login Succeeded\nWARNING! Your credentials are stored unencrypted in /);
  const { auths } = JSON.parse(readFileSync(file, "utf8")) as { auths: Record<string, { auth: string }> };
  assert.equal(Buffer.from(auths["lab:5000"]?.auth ?? "", "base64").toString(), "me:secret");
  const gone = await spoken(context, {}, { argv: ["logout", "lab:5000"], env });
  assert.equal(gone.said, "Removing login credentials for lab:5000\n");
  assert.doesNotMatch(readFileSync(file, "utf8"), /lab:5000/);
  const mute = await spoken(context, {}, { argv: ["login", "lab:5000"], env });
  assert.match(mute.said, /stdin is no terminal; give --username and --password-stdin/);
});

test("shoal network rm asks before it takes away the network of published ports", async (context) => {
  const answers = {
    "GET /networks/ingress": { Name: "ingress", Ingress: true },
    "DELETE /networks/ingress": {},
  };
  const argv = ["network", "rm", "ingress"];
  const { said, asked } = await spoken(context, answers, { argv });
  assert.match(said, /^This removes network "ingress": no port .* Go on\? \[y\/N\]/);
  assert.deepEqual(asked, ["GET /networks/ingress"]);
  const forced = await spoken(context, answers, { argv: [...argv, "-f"] });
  assert.deepEqual([forced.said, forced.asked], ["ingress\n", ["DELETE /networks/ingress"]]);
});

test("shoal service logs names what it did not find", async (context) => {
  const { said } = await spoken(context, {}, { argv: ["service", "logs", "nothing"] });
  assert.equal(said, "shoal: No such task or service: nothing\n");
});

test("shoal plugin install asks before it grants what the plugin wants, and sets and starts it then", async (context) => {
  const answers = {
    "GET /plugins/privileges?remote=lab%3A5000%2Fteam%2Fvol%3A1": [
      { Name: "mount", Description: "", Value: ["/data", "/etc"] },
    ],
    "POST /plugins/pull?remote=lab%3A5000%2Fteam%2Fvol%3A1&name=vol": { status: "Pulled" },
    "POST /plugins/vol/set": {},
    "POST /plugins/vol/enable?timeout=0": {},
  };
  const argv = ["plugin", "install", "--alias", "vol", "lab:5000/team/vol:1", "DEBUG=1"];
  const asked = Object.keys(answers);
  const refused = await spoken(context, answers, { argv });
  assert.match(
    refused.said,
    /^Plugin "lab:5000\/team\/vol:1" is requesting the following privileges:\n - mount: \[\/data \/etc\]\nDo you grant .*\[y\/N\] \npermission denied while installing plugin/,
  );
  assert.deepEqual(refused.asked, asked.slice(0, 1));
  const granted = await spoken(context, answers, {
    argv: [...argv.slice(0, 2), "--grant-all-permissions", ...argv.slice(2)],
  });
  assert.equal(granted.said, "Pulled\nInstalled plugin lab:5000/team/vol:1\n");
  assert.deepEqual(granted.asked, asked);
});

test("shoal plugin upgrade takes another version of a plugin that is disabled, and asks before another plugin", async (context) => {
  const remote = "lab:5000/team/vol:1";
  const answersOf = (isEnabled: boolean): Readonly<Record<string, object>> => ({
    "GET /plugins/vol/json": {
      Id: "1".repeat(64),
      Name: "vol:latest",
      Enabled: isEnabled,
      PluginReference: remote,
    },
    "GET /plugins/privileges?remote=lab%3A5000%2Fteam%2Fvol%3A2": [],
    "POST /plugins/vol/upgrade?remote=lab%3A5000%2Fteam%2Fvol%3A2": { status: "Pulled" },
  });
  const enabled = await spoken(context, answersOf(true), { argv: ["plugin", "upgrade", "vol"] });
  assert.equal(enabled.said, 'shoal: Plugin "vol" must be disabled before it is upgraded\n');
  const other = await spoken(context, answersOf(false), {
    argv: ["plugin", "upgrade", "vol", "elsewhere/vol:2"],
  });
  assert.match(other.said, /The plugin is another one .*\[y\/N\] \nplugin vol was not upgraded\n$/);
  assert.deepEqual(other.asked, ["GET /plugins/vol/json"]);
  const newer = await spoken(context, answersOf(false), {
    argv: ["plugin", "upgrade", "vol", "lab:5000/team/vol:2"],
  });
  assert.match(
    newer.said,
    /^Upgrading plugin vol:latest from lab:5000\/team\/vol:1 to lab:5000\/team\/vol:2\nPulled\nUpgraded plugin/,
  );
});

test("shoal plugin ls, set, disable and rm speak to the daemon in docker's words", async (context) => {
  const answers = {
    "GET /plugins?filters=%7B%22enabled%22%3A%7B%22true%22%3Atrue%7D%7D": [
      { Id: "f".repeat(64), Name: "team/vol:1", Enabled: true, Config: { Description: "Volumes" } },
    ],
    "POST /plugins/team/vol%3A1/set": {},
    "POST /plugins/team/vol%3A1/disable?force=1": {},
    "DELETE /plugins/team/vol%3A1?force=0": {},
  };
  const shoal = (...argv: readonly string[]): ReturnType<typeof spoken> =>
    spoken(context, answers, { argv: ["plugin", ...argv] });
  assert.equal(
    (await shoal("ls", "--filter", "enabled=true")).said,
    "ID             NAME         DESCRIPTION   ENABLED\nffffffffffff   team/vol:1   Volumes       true\n",
  );
  assert.equal((await shoal("set", "team/vol:1", "DEBUG=1")).said, "");
  assert.equal((await shoal("disable", "-f", "team/vol:1")).said, "team/vol:1\n");
  assert.equal((await shoal("rm", "team/vol:1")).said, "team/vol:1\n");
  assert.match(
    complaint("plugin", "create", "x", "."),
    /Cannot make plugin "x": want "config.json" and "rootfs" in ".", got no "config.json"/,
  );
});

test("shoal builder prune keeps as much of the cache as it is told to", async (context) => {
  const answers = {
    "POST /build/prune?all=0&keep-storage=1048576&filters=%7B%22until%22%3A%7B%2224h%22%3Atrue%7D%7D": {
      CachesDeleted: ["one", "two"],
      SpaceReclaimed: 2_000_000,
    },
  };
  const argv = ["builder", "prune", "--keep-storage", "1m", "--filter", "until=24h"];
  assert.deepEqual((await spoken(context, answers, { argv })).asked, []);
  const { said } = await spoken(context, answers, { argv: [...argv, "-f"] });
  assert.equal(said, "Deleted build cache objects:\none\ntwo\n\nTotal reclaimed space: 2MB\n");
});

test("shoal search shows what a registry found, and what the daemon says where it asks none", async (context) => {
  const answers = {
    "GET /images/search?term=nginx&limit=1": [
      { name: "nginx", description: "Web\nserver", star_count: 9, is_official: true },
    ],
  };
  const { said } = await spoken(context, answers, { argv: ["search", "--limit", "1", "nginx"] });
  assert.equal(said, "NAME      DESCRIPTION   STARS     OFFICIAL\nnginx     Web server    9         [OK]\n");
  assert.match((await spoken(context, {}, { argv: ["search", "x"] })).said, /not found/);
});

test("shoal network create gives each subnet the auxiliary addresses that it holds, and refuses the others", () => {
  const argv = ["network", "create", "-d", "bridge", "--subnet", "10.1.0.0/24", "net"];
  assert.match(
    complaint(...argv, "--aux-address", "router=10.2.0.1"),
    /Invalid value for --aux-address: expected an address of a --subnet, got "router=10.2.0.1"/,
  );
  assert.match(
    complaint(...argv, "--aux-address", "router"),
    /Invalid value for --aux-address: expected key=value, got "router"/,
  );
});
