/** Checks of the specs of networks, secrets, configs, nodes and the cluster. Pure. */
import { isInBlock } from "../../../common/addresses.ts";
import { type Cidr, holds, tryParseCidr } from "../../../common/cidr.ts";
import { ClusterError } from "../../../common/errors.ts";
import { canonicalForm, isDigest, parseReference } from "../../../model/image-reference.ts";
import type {
  ClusterSpec,
  ConfigSpec,
  ImageSpec,
  IPAMConfig,
  NetworkSpec,
  NodeSpec,
  SecretSpec,
} from "../../../model/specs.ts";
import {
  checkBlobName,
  checkLabels,
  checkNetworkName,
  checkNotNegative,
  checkLogDriver,
  checkWord,
  isSameJson,
  refuse,
} from "./rules.ts";
import { checkShape, type Shape, withoutNulls } from "./shape.ts";
import { BLOB_SHAPE, CLUSTER_SHAPE, IMAGE_SHAPE, NETWORK_SHAPE, NODE_SHAPE } from "./shapes.ts";

const SECRET_BYTES_MAX: number = 500 * 1024;
const CONFIG_BYTES_MAX: number = 1000 * 1024;
const BASE64 = /^[A-Za-z0-9+/_-]*={0,2}$/;
const PREDEFINED: ReadonlySet<string> = new Set(["bridge", "host", "none", "default", "container", "nat"]);
const CERT_EXPIRY_MIN_NS = 3_600e9;
const HEARTBEAT_MIN_NS = 1e9;
/** Of Go: 292 years. */
const DURATION_MAX_NS: number = 2 ** 63;

function shaped(given: unknown, shape: Shape): unknown {
  const plain = withoutNulls(given);
  checkShape(plain, { fields: {} }, "spec");
  checkShape(plain, shape, "spec");
  return plain;
}

export function checkSecretSpec(given: unknown): SecretSpec {
  const spec = shaped(given, BLOB_SHAPE) as SecretSpec;
  checkBlobName(spec.Name);
  checkLabels(spec.Labels);
  if ((spec.Driver?.Name ?? "") !== "") {
    if ((spec.Data ?? "") !== "") throw refuse("secret data must be empty when using an external driver");
    throw new ClusterError("unimplemented", `secret driver "${spec.Driver?.Name}" is not supported`);
  }
  checkTemplating(spec);
  const bytes = dataBytes(spec.Data, "secret");
  if (bytes < 1 || bytes > SECRET_BYTES_MAX) {
    throw refuse(`secret data must be larger than 0 and less than ${SECRET_BYTES_MAX} bytes`, "Data");
  }
  return spec;
}

export function checkConfigSpec(given: unknown): ConfigSpec {
  const spec = shaped(given, BLOB_SHAPE) as ConfigSpec;
  checkBlobName(spec.Name);
  checkLabels(spec.Labels);
  checkTemplating(spec);
  const bytes = dataBytes(spec.Data, "config");
  if (bytes < 1 || bytes > CONFIG_BYTES_MAX) {
    throw refuse(`config data must be larger than 0 and less than ${CONFIG_BYTES_MAX} bytes`, "Data");
  }
  return spec;
}

function checkTemplating(spec: ConfigSpec): void {
  checkWord(spec.Templating?.Name, ["golang"], "template driver");
}

function dataBytes(data: string | undefined, kind: string): number {
  const text = data ?? "";
  if (!BASE64.test(text)) throw refuse(`invalid ${kind}: Data must be base64`, "Data");
  return Buffer.byteLength(text, "base64");
}

/** The stored spec with new labels. Throws if anything else would change; absent data means the same data. */
export function labelUpdate<S extends SecretSpec>(stored: S, given: unknown): S {
  const spec = shaped(given, BLOB_SHAPE) as SecretSpec;
  checkLabels(spec.Labels);
  const sameData = (spec.Data ?? "") === "" || spec.Data === stored.Data;
  const sameRest =
    spec.Name === stored.Name &&
    isSameJson(spec.Driver ?? {}, stored.Driver ?? {}) &&
    isSameJson(spec.Templating ?? {}, stored.Templating ?? {});
  if (!sameData || !sameRest) throw refuse("only updates to Labels are allowed");
  return { ...stored, Labels: spec.Labels ?? {} };
}

export function checkNodeSpec(given: unknown): NodeSpec {
  const spec = shaped(given, NODE_SHAPE) as NodeSpec;
  checkLabels(spec.Labels);
  for (const [field, value, words] of [
    ["Role", spec.Role, ["worker", "manager"]],
    ["Availability", spec.Availability, ["active", "pause", "drain"]],
  ] as const) {
    if (!(words as readonly (string | undefined)[]).includes(value)) {
      throw refuse(`invalid ${field}: "${value ?? ""}"`, field);
    }
  }
  return spec;
}

export function checkNetworkSpec(given: unknown): NetworkSpec {
  const spec = shaped(given, NETWORK_SHAPE) as NetworkSpec;
  checkNetworkName(spec.Name);
  checkLabels(spec.Labels);
  if (PREDEFINED.has(spec.Name)) {
    throw new ClusterError(
      "permission_denied",
      `operation is not permitted on predefined ${spec.Name} network`,
    );
  }
  const driver = spec.Driver || "overlay";
  if (driver !== "overlay" && spec.ConfigOnly !== true) {
    throw refuse(`driver "${driver}" cannot be used for a network of the swarm, want overlay`, "Driver");
  }
  if (spec.Ingress === true && spec.Attachable === true)
    throw refuse("the ingress network cannot be attachable");
  if (spec.Ingress === true && spec.Internal === true) throw refuse("the ingress network cannot be internal");
  checkWord(spec.IPAM?.Driver, ["default"], "IPAM driver");
  for (const config of spec.IPAM?.Config ?? []) checkIpam(config);
  return spec;
}

function checkIpam(config: IPAMConfig): void {
  const subnet = config.Subnet ?? "";
  if (subnet === "") {
    if ((config.Gateway ?? "") !== "" || (config.IPRange ?? "") !== "") {
      throw refuse("invalid IPAM config: a gateway or range needs a subnet", "IPAM");
    }
    return;
  }
  const block = ipv4Block(subnet);
  if (block === undefined)
    throw refuse(`invalid subnet ${subnet}: want an IPv4 block such as 10.1.0.0/24`, "IPAM");
  if (config.Gateway !== undefined && config.Gateway !== "" && !isInBlock(config.Gateway, subnet)) {
    throw refuse(`invalid gateway ${config.Gateway}: it is not in subnet ${subnet}`, "IPAM");
  }
  if ((config.IPRange ?? "") !== "") {
    const range = ipv4Block(config.IPRange ?? "");
    if (range === undefined || !holds(block, range)) {
      throw refuse(`invalid IP range ${config.IPRange}: it is not in subnet ${subnet}`, "IPAM");
    }
  }
}

/** An IPv4 block, or undefined if the text is none: overlay networks have no others. */
export function ipv4Block(text: string): Cidr | undefined {
  const block = tryParseCidr(text);
  return block?.family === 4 ? block : undefined;
}

export function checkImageSpec(given: unknown): ImageSpec {
  const spec = shaped(given, IMAGE_SHAPE) as ImageSpec;
  checkLabels(spec.Labels);
  const { Name = "", Digest = "", ImageID = "" } = spec as Partial<ImageSpec>;
  const parsed = parseReference(Name);
  if (parsed.tag === undefined || canonicalForm(parsed) !== Name || parsed.digest !== undefined) {
    throw refuse(`invalid image: Name must be a full name with a tag and no digest, got "${Name}"`, "Name");
  }
  for (const [field, value] of [
    ["Digest", Digest],
    ["ImageID", ImageID],
  ] as const) {
    if (!isDigest(value)) throw refuse(`invalid image: ${field} must be a digest, got "${value}"`, field);
  }
  checkNotNegative(spec.ManifestBytes, "invalid image: ManifestBytes must not be negative");
  checkNotNegative(spec.SizeBytes, "invalid image: SizeBytes must not be negative");
  return spec;
}

/** The spec of a cluster that is to be made. All have the same name, as Swarm's. */
export function checkNewClusterSpec(given: ClusterSpec | undefined): ClusterSpec {
  const Name = "default";
  return checkClusterSpec({ ...given, Name: given?.Name || Name }, { Name, Labels: {} });
}

/** A cluster spec, with what is absent taken from the one in force. */
export function checkClusterSpec(given: unknown, stored: ClusterSpec): ClusterSpec {
  const spec = { ...stored, ...(shaped(given, CLUSTER_SHAPE) as Partial<ClusterSpec>) };
  if (spec.Name !== stored.Name) throw refuse('swarm spec must be named "default"', "Name");
  checkLabels(spec.Labels);
  const expiry = spec.CAConfig?.NodeCertExpiry ?? 0;
  if (expiry !== 0 && expiry < CERT_EXPIRY_MIN_NS) {
    throw refuse("minimum certificate expiry time must be 1h0m0s", "NodeCertExpiry");
  }
  if (expiry > DURATION_MAX_NS) throw refuse("certificate expiry time must be a duration", "NodeCertExpiry");
  const heartbeat = spec.Dispatcher?.HeartbeatPeriod ?? 0;
  if (heartbeat !== 0 && heartbeat < HEARTBEAT_MIN_NS) {
    throw refuse("heartbeat period must be at least 1s", "HeartbeatPeriod");
  }
  checkLogDriver(spec.TaskDefaults?.LogDriver, "TaskDefaults.LogDriver");
  if ((spec.CAConfig?.ExternalCAs ?? []).length > 0) {
    throw new ClusterError("unimplemented", "external CAs are not supported");
  }
  return spec;
}
