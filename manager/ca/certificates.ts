/**
 * Making and reading X.509: the cluster's root, requests of nodes, and the certificates issued for them. Keys are P-256.
 * Called by the CA service on the leader and by nodes that join or renew. Keeps nothing and decides no policy.
 */
import "reflect-metadata";
import { createHash, createPrivateKey, createPublicKey, webcrypto, X509Certificate } from "node:crypto";
import * as x509 from "@peculiar/x509";
import type { TlsInfo } from "../../model/objects.ts";
import type { NodeRole } from "../../model/specs.ts";
import { ClusterError } from "../../common/errors.ts";
import { rfc3339 } from "../../common/time.ts";
import { MANAGER_UNIT, splitPem, WORKER_UNIT } from "../../proto/rpc-identity.ts";

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256" } as const;
const SIGNING = { name: "ECDSA", hash: "SHA-256" } as const;
const ROOT_LIFE_MS = 20 * 365 * 24 * 3_600_000;
/** Clocks of machines differ: a certificate is valid from this long before it was made. */
const BACKDATE_MS = 3_600_000;
const SERIAL_BYTES = 16;
const CSR_BYTES_MAX = 16 * 1024;

export interface KeyedCertificate {
  /** PEM. */
  readonly certificate: string;
  /** PEM, PKCS #8. */
  readonly key: string;
}

/** Randomness for serial numbers; keys come from the platform's own generator. */
export interface CertificateDeps {
  readonly random: { bytes(count: number): Uint8Array };
  readonly nowMs: number;
}

function serial(random: CertificateDeps["random"]): string {
  const bytes = Buffer.from(random.bytes(SERIAL_BYTES));
  // A positive integer without leading zeros, whatever the random bytes are.
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40;
  return bytes.toString("hex");
}

async function newKeys(): Promise<webcrypto.CryptoKeyPair> {
  return webcrypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
}

async function keyPem(key: webcrypto.CryptoKey): Promise<string> {
  return x509.PemConverter.encode(await webcrypto.subtle.exportKey("pkcs8", key), "PRIVATE KEY");
}

async function signingKey(pem: string): Promise<webcrypto.CryptoKey> {
  const der = createPrivateKey(pem).export({ format: "der", type: "pkcs8" });
  return webcrypto.subtle.importKey("pkcs8", der, ALGORITHM, false, ["sign"]);
}

/** A new self-signed root. */
export async function createRoot(deps: CertificateDeps): Promise<KeyedCertificate> {
  const keys = await newKeys();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned(
    {
      serialNumber: serial(deps.random),
      name: [{ CN: ["swarm-ca"] }],
      notBefore: new Date(deps.nowMs - BACKDATE_MS),
      notAfter: new Date(deps.nowMs + ROOT_LIFE_MS),
      signingAlgorithm: SIGNING,
      keys,
      extensions: [
        new x509.BasicConstraintsExtension(true, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
        await x509.SubjectKeyIdentifierExtension.create(keys.publicKey, false, webcrypto),
      ],
    },
    webcrypto,
  );
  return { certificate: pemLine(certificate.toString("pem")), key: await keyPem(keys.privateKey) };
}

/** The new root's key certified by the former root. With it in the chain, whoever trusts the former one trusts the new. */
export async function crossSign(
  roots: { readonly next: string; readonly former: KeyedCertificate },
  deps: CertificateDeps,
): Promise<string> {
  const next = new x509.X509Certificate(roots.next);
  const former = new x509.X509Certificate(roots.former.certificate);
  const certificate = await x509.X509CertificateGenerator.create(
    {
      serialNumber: serial(deps.random),
      subject: next.subjectName.toJSON(),
      issuer: former.subjectName.toJSON(),
      notBefore: new Date(deps.nowMs - BACKDATE_MS),
      notAfter: former.notAfter,
      signingAlgorithm: SIGNING,
      publicKey: next.publicKey,
      signingKey: await signingKey(roots.former.key),
      extensions: [
        new x509.BasicConstraintsExtension(true, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
        await x509.SubjectKeyIdentifierExtension.create(next.publicKey, false, webcrypto),
        await x509.AuthorityKeyIdentifierExtension.create(former.publicKey, false, webcrypto),
      ],
    },
    webcrypto,
  );
  return pemLine(certificate.toString("pem"));
}

/**
 * A root that a user brings. Throws invalid_argument unless it is a CA's P-256 certificate that `key` belongs to, signed by
 * itself and valid now: TLS takes no other for a root, so that no node would trust another once the former one is dropped.
 */
export function checkRoot(root: KeyedCertificate, nowMs: number): KeyedCertificate {
  try {
    const certificate = new X509Certificate(root.certificate);
    if (!certificate.ca) throw refuseRoot("it is not one of a CA");
    if (!certificate.checkPrivateKey(createPrivateKey(root.key))) throw refuseRoot("the key is another's");
    if (certificate.publicKey.asymmetricKeyDetails?.namedCurve !== "prime256v1")
      throw refuseRoot("its key is not P-256");
    if (!certificate.checkIssued(certificate) || !certificate.verify(certificate.publicKey))
      throw refuseRoot("it is signed by another");
    const { fromMs, untilMs } = certificateLife(root.certificate);
    if (nowMs < fromMs || nowMs >= untilMs)
      throw refuseRoot(`it is valid from ${rfc3339(fromMs)} until ${rfc3339(untilMs)}`);
    return { certificate: pemLine(root.certificate), key: pemLine(root.key) };
  } catch (error) {
    throw error instanceof ClusterError ? error : refuseRoot("it cannot be read", error);
  }
}

function refuseRoot(got: string, cause?: unknown): ClusterError {
  const options = cause === undefined ? {} : { cause };
  return new ClusterError(
    "invalid_argument",
    `Signing CA must be a P-256 root with its key, ${got}`,
    options,
  );
}

function pemLine(pem: string): string {
  return pem.endsWith("\n") ? pem : `${pem}\n`;
}

/** A key and a request for it. The subject is empty: the issuer decides what the certificate says. */
export async function createRequest(): Promise<{ readonly csr: Uint8Array; readonly key: string }> {
  const keys = await newKeys();
  const request = await x509.Pkcs10CertificateRequestGenerator.create(
    { keys, signingAlgorithm: SIGNING },
    webcrypto,
  );
  return { csr: new Uint8Array(request.rawData), key: await keyPem(keys.privateKey) };
}

/** What a node's certificate shall say. */
export interface NodeSubject {
  readonly nodeId: string;
  readonly role: NodeRole;
  readonly clusterId: string;
}

/** A root, read and ready to sign: reading it costs as much as all else about a certificate. */
export interface Issuer {
  readonly name: x509.JsonName;
  readonly signingKey: webcrypto.CryptoKey;
  /** What all certificates of nodes say, before and after their names. */
  readonly usages: readonly x509.Extension[];
  readonly keyIdentifier: x509.Extension;
}

export interface IssueOptions extends CertificateDeps {
  readonly issuer: Issuer;
  readonly csr: Uint8Array;
  readonly subject: NodeSubject;
  readonly lifeMs: number;
}

/** Throws when the root's certificate or key can't be read. */
export async function openIssuer(root: KeyedCertificate): Promise<Issuer> {
  const certificate = new x509.X509Certificate(root.certificate);
  return {
    name: certificate.subjectName.toJSON(),
    signingKey: await signingKey(root.key),
    usages: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([
        x509.ExtendedKeyUsage.serverAuth,
        x509.ExtendedKeyUsage.clientAuth,
      ]),
    ],
    keyIdentifier: await x509.AuthorityKeyIdentifierExtension.create(certificate.publicKey, false, webcrypto),
  };
}

/** Issues a node's certificate. Throws invalid_argument for a request that is no P-256 CSR signed by its own key. */
export async function issueCertificate(
  options: IssueOptions,
): Promise<{ readonly certificate: string; readonly serial: string; readonly untilMs: number }> {
  const publicKey = await requestedKey(options.csr);
  const { issuer, subject } = options;
  const unit = subject.role === "manager" ? MANAGER_UNIT : WORKER_UNIT;
  const serialNumber = serial(options.random);
  const untilMs = options.nowMs + options.lifeMs;
  const certificate = await x509.X509CertificateGenerator.create(
    {
      serialNumber,
      subject: [{ O: [subject.clusterId] }, { OU: [unit] }, { CN: [subject.nodeId] }],
      issuer: issuer.name,
      notBefore: new Date(options.nowMs - BACKDATE_MS),
      notAfter: new Date(untilMs),
      signingAlgorithm: SIGNING,
      publicKey,
      signingKey: issuer.signingKey,
      extensions: [
        ...issuer.usages,
        new x509.SubjectAlternativeNameExtension([
          { type: "dns", value: subject.nodeId },
          { type: "dns", value: unit },
        ]),
        issuer.keyIdentifier,
      ],
    },
    webcrypto,
  );
  return { certificate: pemLine(certificate.toString("pem")), serial: serialNumber, untilMs };
}

async function requestedKey(csr: Uint8Array): Promise<x509.PublicKey> {
  const refuse = (got: string, cause?: unknown): ClusterError =>
    new ClusterError(
      "invalid_argument",
      `Certificate request must be a PKCS #10 of a P-256 key signed by it, ${got}`,
      cause === undefined ? {} : { cause },
    );
  if (csr.length === 0 || csr.length > CSR_BYTES_MAX) throw refuse(`got ${csr.length} bytes`);
  let request: x509.Pkcs10CertificateRequest;
  try {
    request = new x509.Pkcs10CertificateRequest(Buffer.from(csr));
    if (!(await request.verify(webcrypto))) throw refuse("its signature does not match");
  } catch (error) {
    if (error instanceof ClusterError) throw error;
    throw refuse("it cannot be read", error);
  }
  const algorithm = request.publicKey.algorithm;
  if (!("namedCurve" in algorithm) || algorithm.namedCurve !== "P-256") throw refuse("its key is another");
  return request.publicKey;
}

/** SHA-256 of the certificate's DER, hex. */
export function certificateDigest(pem: string): string {
  return createHash("sha256").update(new X509Certificate(pem).raw).digest("hex");
}

/** When the certificate's life begins and ends, Unix ms. */
export function certificateLife(pem: string): { readonly fromMs: number; readonly untilMs: number } {
  const certificate = new X509Certificate(pem);
  return { fromMs: Date.parse(certificate.validFrom), untilMs: Date.parse(certificate.validTo) };
}

/** What Docker's API tells of a root, so that clients can compare nodes with the cluster. */
export function tlsInfoOf(rootPem: string): TlsInfo {
  const root = new x509.X509Certificate(firstPem(rootPem));
  return {
    TrustRoot: rootPem,
    CertIssuerSubject: Buffer.from(root.subjectName.toArrayBuffer()).toString("base64"),
    CertIssuerPublicKey: Buffer.from(
      createPublicKey(
        new X509Certificate(firstPem(rootPem)).publicKey.export({ format: "pem", type: "spki" }),
      ).export({ format: "der", type: "spki" }),
    ).toString("base64"),
  };
}

function firstPem(bundle: string): string {
  const first = splitPem(bundle)[0];
  if (first === undefined) throw new ClusterError("invalid_argument", "Certificate must be PEM, got none");
  return first;
}
