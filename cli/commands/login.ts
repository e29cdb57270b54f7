/**
 * `shoal login` and `logout`: the daemon asks the registry whether the credentials hold; they are kept where docker keeps them.
 */
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline/promises";
import { ClusterError } from "../../common/errors.ts";
import { eraseCredentials, registryKey, storeCredentials } from "../client/registry-login.ts";
import type { CommandContext, CommandDefinition } from "../command.ts";
import { bool, text } from "../command.ts";

export { runProgram } from "../program.ts";

const STDIN = 0;

/** One line from the terminal; what is typed is not shown if it is secret. */
async function ask(context: CommandContext, question: string, isSecret: boolean): Promise<string> {
  context.err.write(question);
  const { Writable } = await import("node:stream");
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() });
  const reader = createInterface({
    input: process.stdin,
    output: isSecret ? silent : process.stderr,
    terminal: true,
  });
  try {
    return await reader.question("", { signal: context.signal });
  } finally {
    reader.close();
    if (isSecret) context.err.write("\n");
  }
}

async function credentialsOf(context: CommandContext): Promise<{ username: string; password: string }> {
  const { flags } = context;
  const isPiped = flags.bool("password-stdin");
  const given = flags.string("username");
  const refuse = (why: string): ClusterError => new ClusterError("invalid_argument", `Cannot log in: ${why}`);
  if (isPiped && flags.has("password")) throw refuse("--password and --password-stdin exclude each other");
  if (isPiped && given === undefined) throw refuse("--password-stdin needs --username");
  if (flags.has("password"))
    context.err.write("WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n");
  const isTerminal = process.stdin.isTTY === true;
  const said = isPiped ? readFileSync(STDIN, "utf8").replace(/\r?\n$/, "") : flags.string("password");
  if (!isTerminal && (given === undefined || said === undefined))
    throw refuse("stdin is no terminal; give --username and --password-stdin");
  const username = given ?? (await ask(context, "Username: ", false)).trim();
  const password = said ?? (await ask(context, "Password: ", true));
  if (username === "" || password === "") throw refuse("a user name and a password are needed");
  return { username, password };
}

async function runLogin(context: CommandContext): Promise<void> {
  const registry = registryKey(context.args[0] ?? "");
  const { username, password } = await credentialsOf(context);
  const answer = await context.client.post<{ Status?: string; IdentityToken?: string }>("/auth", {
    body: { username, password, serveraddress: registry },
  });
  const identityToken = answer.IdentityToken ?? "";
  const file = storeCredentials(context.env, registry, { username, password, identityToken });
  if (file !== undefined)
    context.err.write(`WARNING! Your credentials are stored unencrypted in '${file}'.\n`);
  context.out.write(`${answer.Status ?? "Login Succeeded"}\n`);
}

function runLogout(context: CommandContext): Promise<void> {
  const registry = registryKey(context.args[0] ?? "");
  const isGone = eraseCredentials(context.env, registry);
  context.out.write(
    isGone ? `Removing login credentials for ${registry}\n` : `Not logged in to ${registry}\n`,
  );
  return Promise.resolve();
}

export const definitions: readonly CommandDefinition[] = [
  {
    name: "login",
    usage: "[OPTIONS] [SERVER]",
    summary: "Log in to a registry (default: Docker Hub)",
    argsMin: 0,
    argsMax: 1,
    flags: [
      text("password", "password", "Password or token; others see it in the list of processes", "p"),
      bool("password-stdin", "Read the password from stdin"),
      text("username", "name", "User name", "u"),
    ],
    run: runLogin,
  },
  {
    name: "logout",
    usage: "[SERVER]",
    summary: "Forget the credentials of a registry (default: Docker Hub)",
    argsMin: 0,
    argsMax: 1,
    flags: [],
    run: runLogout,
  },
];
