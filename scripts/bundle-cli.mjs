/**
 * Bundles the CLI into dist/cli.cjs and one file per command beside it, so that a command costs one small file to read
 * and parse. The commands' files are self-contained; dist/cli.cjs only chooses. The daemon stays outside: it is ESM
 * with native parts and is loaded from dist/daemon/main.js by `shoal daemon` alone.
 */
import { readdirSync } from "node:fs";
import path from "node:path";
import { build } from "esbuild";

const root = path.dirname(import.meta.dirname);
const outputFolder = "cli-commands";
const commands = path.join(root, "cli", "commands");
const source = readdirSync(commands);

const common = {
  bundle: true,
  platform: "node",
  format: "cjs",
  target: "node20",
  minify: true,
  legalComments: "none",
  logLevel: "warning",
  define: { "import.meta.filename": "__filename", "import.meta.dirname": "__dirname", SHOAL_BUNDLE: "true" },
};

/** Makes `import("./commands/x.ts")` a require of the command's own bundle. */
function separateCommands(prefix) {
  return {
    name: "separate-commands",
    setup(builder) {
      builder.onResolve({ filter: /^\.\/commands\/[a-z-]+\.ts$/ }, (args) =>
        args.kind === "dynamic-import"
          ? { path: `${prefix}${path.basename(args.path, ".ts")}.cjs`, external: true }
          : undefined,
      );
    },
  };
}

await build({
  ...common,
  entryPoints: [path.join(root, "cli", "main.ts")],
  outfile: path.join(root, "dist", "cli.cjs"),
  plugins: [separateCommands(`./${outputFolder}/`)],
  supported: { "dynamic-import": false },
});
await build({
  ...common,
  entryPoints: source.filter((name) => /^[a-z-]+\.ts$/.test(name)).map((name) => path.join(commands, name)),
  outdir: path.join(root, "dist", outputFolder),
  outExtension: { ".js": ".cjs" },
  plugins: [separateCommands("./")],
});
