/**
 * Entry of the bundled CLI (installed as dist/cli.cjs): runs a bundle of dist/cli-commands together with the machine code
 * cache that the build made beside it, and hands out Node's own modules only when they are first used. Both are for the
 * start alone; without a fitting cache (another Node) a bundle is simply compiled.
 * SHOAL_WRITE_CODE_CACHE=1 writes the caches after the run, with all functions that it used.
 */
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");

const folder = path.join(__dirname, "cli-commands");
/** Cheap ones that every command uses are not worth a detour. */
const EAGER = new Set(["node:fs", "node:path"]);
const loaded = new Map();
const scripts = [];

/** Stands for a module of Node until a property of it is asked for. */
function lazyBuiltin(name) {
  let real;
  const get = () => (real ??= require(name));
  return new Proxy(Object.create(null), {
    get: (_, key) => get()[key],
    has: (_, key) => key in get(),
    ownKeys: () => Reflect.ownKeys(get()),
    getOwnPropertyDescriptor: (_, key) => {
      const found = Reflect.getOwnPropertyDescriptor(get(), key);
      return found === undefined ? undefined : { ...found, configurable: true };
    },
  });
}

function requireFrom(name) {
  return name.startsWith("node:") && !EAGER.has(name) ? lazyBuiltin(name) : require(name);
}

async function importFile(specifier) {
  return await import(specifier);
}

function readCache(file) {
  try {
    return fs.readFileSync(file);
  } catch {
    return undefined;
  }
}

/** What a bundle calls for another one: "service.cjs". */
async function loadBundle(name) {
  return load(name);
}

function load(name) {
  const known = loaded.get(name);
  if (known !== undefined) return known.exports;
  const filename = path.join(folder, name);
  const cachedData = readCache(`${filename}.cache`);
  const source = `(function (exports, require, module, __filename, __dirname, loadBundle, importFile) {${fs.readFileSync(filename, "utf8")}\n})`;
  const script = new vm.Script(source, {
    filename,
    ...(cachedData === undefined ? {} : { cachedData }),
  });
  const module = { exports: {} };
  loaded.set(name, module);
  if (process.env.SHOAL_WRITE_CODE_CACHE === "1") scripts.push({ filename, script });
  script.runInThisContext()(module.exports, requireFrom, module, filename, folder, loadBundle, importFile);
  return module.exports;
}

if (process.env.SHOAL_WRITE_CODE_CACHE === "1") {
  process.on("exit", () => {
    for (const { filename, script } of scripts)
      fs.writeFileSync(`${filename}.cache`, script.createCachedData());
  });
}
load("main.cjs");
