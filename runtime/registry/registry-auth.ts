/**
 * Proving to a registry who asks: Basic credentials, or a token that its authority gives for them. Tokens are kept until
 * shortly before they end. Credentials are never logged, and never sent to another host than the one they are for.
 */
import { ClusterError } from "../../common/errors.ts";

/** Docker's AuthConfig. */
export interface RegistryCredentials {
  readonly username: string;
  readonly password: string;
  readonly identityToken: string;
  readonly registryToken: string;
}

export const ANONYMOUS: RegistryCredentials = {
  username: "",
  password: "",
  identityToken: "",
  registryToken: "",
};

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

export function toCredentials(value: Readonly<Record<string, unknown>>): RegistryCredentials {
  // "auth" is the old form: both in one.
  const [fromAuth = "", ...rest] = Buffer.from(text(value["auth"]), "base64").toString("utf8").split(":");
  return {
    username: text(value["username"]) || fromAuth,
    password: text(value["password"]) || rest.join(":"),
    identityToken: text(value["identitytoken"]),
    registryToken: text(value["registrytoken"]),
  };
}

/** X-Registry-Auth: base64url of a JSON AuthConfig; absent or "e30=" is nobody. */
export function parseRegistryAuth(header: string | undefined): RegistryCredentials {
  if (header === undefined || header === "") return ANONYMOUS;
  try {
    const value: unknown = JSON.parse(Buffer.from(header, "base64url").toString("utf8"));
    if (typeof value === "object" && value !== null) return toCredentials(value as Record<string, unknown>);
  } catch {
    // Falls through to the error below: the text itself may be a secret.
  }
  throw new ClusterError("invalid_argument", "Cannot read X-Registry-Auth: want base64url of a JSON object");
}

export interface Challenge {
  /** Lower case. */
  readonly scheme: string;
  readonly realm: string;
  readonly service: string;
  readonly scope: string;
  /** RFC 6750's: "insufficient_scope" and the like. */
  readonly error: string;
}

/** The first challenge of a WWW-Authenticate header that we can answer. */
export function parseChallenge(header: string): Challenge | undefined {
  const match = /\b(bearer|basic)\b\s*(.*)$/i.exec(header);
  if (match === null) return undefined;
  const [, scheme = "", rest = ""] = match;
  const fields = new Map<string, string>();
  for (const [, key = "", quoted, plain] of rest.matchAll(/([a-z_]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))/gi)) {
    // A second challenge may follow; the first one's fields are meant.
    if (fields.has(key.toLowerCase())) break;
    fields.set(key.toLowerCase(), (quoted ?? plain ?? "").replace(/\\(.)/g, "$1"));
  }
  const realm = fields.get("realm") ?? "";
  // Nobody to ask for a token.
  if (scheme.toLowerCase() === "bearer" && !URL.canParse(realm)) return undefined;
  return {
    scheme: scheme.toLowerCase(),
    realm,
    service: fields.get("service") ?? "",
    scope: fields.get("scope") ?? "",
    error: fields.get("error") ?? "",
  };
}

export function basicHeader(credentials: RegistryCredentials): string {
  return `Basic ${Buffer.from(`${credentials.username}:${credentials.password}`).toString("base64")}`;
}

const CLIENT_ID = "shoal";

export interface TokenRequest {
  readonly method: "GET" | "POST";
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** For a login: the authority is asked for something lasting to be kept in place of the password. */
export interface TokenOptions {
  readonly wantsRefreshToken: boolean;
}

/** How to ask for a token: with a refresh token by POST, with a name or without by GET. */
export function tokenRequest(
  challenge: Challenge,
  scope: string,
  credentials: RegistryCredentials,
  { wantsRefreshToken }: TokenOptions = { wantsRefreshToken: false },
): TokenRequest {
  if (credentials.identityToken !== "") {
    const body = new URLSearchParams({
      grant_type: "refresh_token",
      service: challenge.service,
      scope,
      client_id: CLIENT_ID,
      refresh_token: credentials.identityToken,
    });
    const headers = { "Content-Type": "application/x-www-form-urlencoded" };
    return { method: "POST", url: challenge.realm, headers, body: body.toString() };
  }
  const url = new URL(challenge.realm);
  if (challenge.service !== "") url.searchParams.set("service", challenge.service);
  for (const each of scope.split(" ").filter((part) => part !== "")) url.searchParams.append("scope", each);
  if (wantsRefreshToken) {
    url.searchParams.set("offline_token", "true");
    url.searchParams.set("client_id", CLIENT_ID);
  }
  if (credentials.username === "") return { method: "GET", url: url.href, headers: {}, body: "" };
  url.searchParams.set("account", credentials.username);
  return { method: "GET", url: url.href, headers: { Authorization: basicHeader(credentials) }, body: "" };
}

const LIFE_DEFAULT_SECONDS = 60;
/** Not used in its last moments: the request takes time too. */
const LIFE_MARGIN_SECONDS = 5;

export interface GivenToken {
  readonly token: string;
  /** How long it may be used. */
  readonly lifeMs: number;
  /** "" unless it was asked for and the authority gives such. */
  readonly refreshToken: string;
}

/** The token of an authority's answer. */
export function parseToken(body: string): GivenToken {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    value = undefined;
  }
  const fields = typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  const token = text(fields["token"]) || text(fields["access_token"]);
  if (token === "") {
    throw new ClusterError("unauthenticated", "authorization server did not include a token in the response");
  }
  const seconds = typeof fields["expires_in"] === "number" ? fields["expires_in"] : LIFE_DEFAULT_SECONDS;
  const lifeMs = Math.max(1, seconds - LIFE_MARGIN_SECONDS) * 1000;
  return { token, lifeMs, refreshToken: text(fields["refresh_token"]) };
}
