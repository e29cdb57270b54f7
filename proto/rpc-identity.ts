/**
 * Reading certificates: what a peer's certificate says, and an identity that can be replaced while connections made with
 * it live on. Used by both ends of the mTLS edge; knows nothing of calls.
 */
import { X509Certificate } from "node:crypto";
import type { PeerCertificate, TLSSocket } from "node:tls";
import type { experimental } from "@grpc/grpc-js";
import type { NodeIdentity, PeerIdentity } from "./rpc.ts";

/** How long after its end a certificate is good for one thing, a new one: machines are switched off for a while. */
const EXPIRED_RENEWAL_MS = 30 * 24 * 3_600_000;

export const MANAGER_UNIT = "swarm-manager";
export const WORKER_UNIT = "swarm-worker";

function single(value: string | readonly string[] | undefined): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}

/** Undefined when the certificate is not one of a node: repeated or missing CN, OU or O, or an unknown OU. */
export function peerIdentity(certificate: PeerCertificate | undefined): PeerIdentity | undefined {
  const subject = certificate?.subject;
  if (certificate === undefined || subject === undefined) return undefined;
  const nodeId = single(subject.CN);
  const unit = single(subject.OU);
  const clusterId = single(subject.O);
  if (nodeId === undefined || clusterId === undefined) return undefined;
  if (unit !== MANAGER_UNIT && unit !== WORKER_UNIT) return undefined;
  return {
    nodeId,
    clusterId,
    role: unit === MANAGER_UNIT ? "manager" : "worker",
    serial: certificate.serialNumber.toLowerCase(),
  };
}

/** The certificates of a bundle, one PEM text each. */
export function splitPem(bundle: string): readonly string[] {
  return bundle.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n?/g) ?? [];
}

/**
 * Who is at the other end where nothing but the date is wrong: one of our roots signed what it shows, and its time ended
 * less than EXPIRED_RENEWAL_MS ago. What OpenSSL calls expired may be forged as well, since it tells one error of several;
 * so the signature is checked here. That the peer holds the key is part of any handshake of TLS 1.3 (RFC 8446, 4.4.3).
 */
export function expiredPeer(socket: TLSSocket, identity: NodeIdentity): PeerIdentity | undefined {
  const certificate = socket.authorized ? undefined : socket.getPeerX509Certificate();
  if (certificate === undefined) return undefined;
  const sinceMs = Date.now() - certificate.validToDate.getTime();
  if (sinceMs < 0 || sinceMs > EXPIRED_RENEWAL_MS) return undefined;
  const isOurs = splitPem(identity.rootCa).some((pem) => {
    const root = new X509Certificate(pem);
    return certificate.checkIssued(root) && certificate.verify(root.publicKey);
  });
  const peer = isOurs ? peerIdentity(socket.getPeerCertificate()) : undefined;
  return peer?.clusterId === identity.clusterId ? { ...peer, hasExpired: true } : undefined;
}

/**
 * An identity that renewal replaces: channels dialled with it present the newest certificate at each new connection,
 * without being dialled again.
 */
export class LiveIdentity implements experimental.CertificateProvider {
  #current: NodeIdentity;
  readonly #caListeners = new Set<experimental.CaCertificateUpdateListener>();
  readonly #identityListeners = new Set<experimental.IdentityCertificateUpdateListener>();

  constructor(identity: NodeIdentity) {
    this.#current = identity;
  }

  get current(): NodeIdentity {
    return this.#current;
  }

  set(identity: NodeIdentity): void {
    this.#current = identity;
    for (const listener of this.#caListeners) listener(this.#ca());
    for (const listener of this.#identityListeners) listener(this.#own());
  }

  addCaCertificateListener(listener: experimental.CaCertificateUpdateListener): void {
    this.#caListeners.add(listener);
    queueMicrotask(() => this.#caListeners.has(listener) && listener(this.#ca()));
  }

  removeCaCertificateListener(listener: experimental.CaCertificateUpdateListener): void {
    this.#caListeners.delete(listener);
  }

  addIdentityCertificateListener(listener: experimental.IdentityCertificateUpdateListener): void {
    this.#identityListeners.add(listener);
    queueMicrotask(() => this.#identityListeners.has(listener) && listener(this.#own()));
  }

  removeIdentityCertificateListener(listener: experimental.IdentityCertificateUpdateListener): void {
    this.#identityListeners.delete(listener);
  }

  #ca(): experimental.CaCertificateUpdate {
    return { caCertificate: Buffer.from(this.#current.rootCa) };
  }

  #own(): experimental.IdentityCertificateUpdate {
    return {
      certificate: Buffer.from(this.#current.certificate),
      privateKey: Buffer.from(this.#current.key),
    };
  }
}
