/**
 * A request's query as Docker reads it: forgiving booleans, integers that must be integers, unix times with nanoseconds.
 * Unknown parameters are nobody's business. Used by every route; holds no state of its own.
 */
import { badParameter } from "./error-body.ts";

const FALSE_WORDS = new Set(["", "0", "no", "false", "none"]);
const INTEGER = /^-?\d{1,15}$/;
const UNIX_TIME = /^-?\d{1,12}(?:\.\d{1,9})?$/;

export class Query {
  readonly #params: URLSearchParams;

  constructor(params: URLSearchParams) {
    this.#params = params;
  }

  get params(): URLSearchParams {
    return this.#params;
  }

  has(name: string): boolean {
    return this.#params.has(name);
  }

  /** First value; "" if there is none. */
  text(name: string): string {
    return this.#params.get(name) ?? "";
  }

  /** First value, or undefined if absent or empty. */
  optional(name: string): string | undefined {
    return this.#params.get(name) || undefined;
  }

  all(name: string): readonly string[] {
    return this.#params.getAll(name);
  }

  /** True for anything but "", 0, no, false and none; `fallback` if the parameter is missing. */
  flag(name: string, fallback = false): boolean {
    const value = this.#params.get(name);
    return value === null ? fallback : !FALSE_WORDS.has(value.trim().toLowerCase());
  }

  /** undefined if absent or empty; a 400 if it is no integer. */
  integer(name: string): number | undefined {
    const value = this.#params.get(name);
    if (value === null || value === "") return undefined;
    if (!INTEGER.test(value)) {
      throw badParameter(`invalid value for "${name}": wanted an integer, got ${JSON.stringify(value)}`);
    }
    return Number(value);
  }

  /** Unix milliseconds, or undefined if absent, empty or 0 (docker-py sends since=0 for "from the start"). */
  unixTimeMs(name: string): number | undefined {
    const value = this.#params.get(name);
    if (value === null || value === "" || value === "0") return undefined;
    if (UNIX_TIME.test(value)) return Number(value) * 1000;
    const parsed = Date.parse(value);
    if (Number.isNaN(parsed)) {
      throw badParameter(
        `invalid value for "${name}": wanted unix seconds or RFC 3339, got ${JSON.stringify(value)}`,
      );
    }
    return parsed;
  }

  /** `version` of update requests. `what` names the object for the error. */
  objectVersion(what: string): number {
    const value = this.text("version");
    if (!/^\d{1,15}$/.test(value)) {
      throw badParameter(
        `invalid ${what} version '${value}': wanted the object's Version.Index as an integer`,
      );
    }
    return Number(value);
  }
}
