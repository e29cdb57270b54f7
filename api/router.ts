/**
 * Finds the handler for a method and path. Patterns are Docker's: `{id}` takes one segment, `{name*}` takes as many as
 * there are (image names have slashes). The first pattern in the table that fits wins. Pure, knows no HTTP objects.
 */
export interface RouteMatch<H> {
  readonly handler: H;
  readonly pattern: string;
  readonly params: ReadonlyMap<string, string>;
}

interface CompiledRoute<H> {
  readonly pattern: string;
  readonly expression: RegExp;
  readonly names: readonly string[];
  readonly handler: H;
}

const PLACEHOLDER = /\{(\w+)(\*?)\}/g;

function escapeText(text: string): string {
  return text.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

function compile<H>(pattern: string, handler: H): CompiledRoute<H> {
  const names: string[] = [];
  let source = "";
  let last = 0;
  for (const match of pattern.matchAll(PLACEHOLDER)) {
    source += escapeText(pattern.slice(last, match.index));
    source += match[2] === "*" ? "(.+)" : "([^/]+)";
    names.push(match[1] ?? "");
    last = match.index + match[0].length;
  }
  source += escapeText(pattern.slice(last));
  return { pattern, expression: new RegExp(`^${source}$`), names, handler };
}

function decode(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

/** First segment of a path or pattern: routes are kept in buckets by it, so that few expressions are tried. */
function bucketOf(method: string, path: string): string {
  const end = path.indexOf("/", 1);
  return `${method} ${end < 0 ? path : path.slice(0, end)}`;
}

export class Router<H> {
  readonly #buckets = new Map<string, CompiledRoute<H>[]>();

  add(method: string, pattern: string, handler: H): void {
    const bucket = bucketOf(method, pattern);
    const routes = this.#buckets.get(bucket) ?? [];
    routes.push(compile(pattern, handler));
    this.#buckets.set(bucket, routes);
  }

  /** `path` without query and version prefix, still percent-encoded. */
  find(method: string, path: string): RouteMatch<H> | undefined {
    for (const route of this.#buckets.get(bucketOf(method, path)) ?? []) {
      const match = route.expression.exec(path);
      if (match === null) continue;
      const params = new Map<string, string>();
      for (const [index, name] of route.names.entries()) {
        const value = decode(match[index + 1] ?? "");
        if (value === undefined) return undefined;
        params.set(name, value);
      }
      return { handler: route.handler, pattern: route.pattern, params };
    }
    return undefined;
  }
}
