/** /dashboard/: the static page. Its files are read once and served from memory; no path of a request reaches the disk. */
import { readFileSync } from "node:fs";
import path from "node:path";
import { packageRoot } from "../../common/package-root.ts";
import { pageNotFound } from "../error-body.ts";
import type { Exchange } from "../exchange.ts";
import { get, type Route } from "./table.ts";

const TYPES: Readonly<Record<string, string>> = {
  "index.html": "text/html; charset=utf-8",
  "style.css": "text/css; charset=utf-8",
  "app.js": "text/javascript; charset=utf-8",
  "client.js": "text/javascript; charset=utf-8",
  "data.js": "text/javascript; charset=utf-8",
  "machine.js": "text/javascript; charset=utf-8",
  "view.js": "text/javascript; charset=utf-8",
  "icon.svg": "image/svg+xml",
};
const HEADERS = {
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "Cache-Control": "no-cache",
};

const texts = new Map<string, string>();

function textOf(name: string): string {
  let text = texts.get(name);
  if (text === undefined) {
    text = readFileSync(path.join(packageRoot(import.meta.dirname), "api", "dashboard", name), "utf8");
    texts.set(name, text);
  }
  return text;
}

function serve(exchange: Exchange): void {
  const name = exchange.param("file") || "index.html";
  const type = Object.hasOwn(TYPES, name) ? TYPES[name] : undefined;
  if (type === undefined) throw pageNotFound();
  exchange.text(200, type, textOf(name), HEADERS);
}

function redirect(exchange: Exchange): void {
  exchange.empty(301, { Location: "/dashboard/" });
}

export const DASHBOARD_ROUTES: readonly Route[] = [
  get("/dashboard", redirect),
  get("/dashboard/", serve),
  get("/dashboard/{file}", serve),
];
