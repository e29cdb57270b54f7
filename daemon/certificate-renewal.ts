/**
 * Renews the node's certificate in time: at a random moment between half and four fifths of its life, so that a fleet that
 * joined together does not come back together; again and again with back-off while no manager answers.
 */
import { Backoff } from "../common/backoff.ts";
import type { Cancel, Component, Env } from "../common/env.ts";
import { ClusterError } from "../common/errors.ts";
import type { Logger } from "../common/log.ts";
import type { renewCertificate } from "../manager/ca/ca-client.ts";
import { renewAfterMs } from "../manager/ca/certificate-life.ts";
import { certificateLife } from "../manager/ca/certificates.ts";
import type { NodeIdentity } from "../proto/rpc.ts";

const RETRY = { firstMs: 10_000, maxMs: 600_000 } as const;
/** setTimeout takes 31 bits of milliseconds; a certificate lives longer than that. */
const SLEEP_MAX_MS = 24 * 3_600_000;

export interface CertificateRenewalDeps {
  readonly env: Pick<Env, "clock" | "timers" | "random">;
  readonly log: Logger;
  readonly identity: () => NodeIdentity;
  readonly managers: () => readonly string[];
  /** Asks one of the managers: renewCertificate(). */
  readonly renew: typeof renewCertificate;
  /** Takes the new certificate up. */
  readonly renewed: (identity: NodeIdentity) => void;
}

export class CertificateRenewal implements Component {
  readonly #deps: CertificateRenewalDeps;
  readonly #backoff: Backoff;
  #cancel: Cancel | undefined;
  #isStopped = false;
  #isRenewing = false;
  /** Asked for while one was under way, which may be of the root before. */
  #isWantedAgain = false;

  constructor(deps: CertificateRenewalDeps) {
    this.#deps = deps;
    this.#backoff = new Backoff(deps.env.random, RETRY);
  }

  /** Also to be called after the certificate was replaced by others. */
  start(): void {
    this.#cancel?.();
    if (this.#isStopped) return;
    const { clock, random } = this.#deps.env;
    const life = certificateLife(this.#deps.identity().certificate);
    this.#sleepUntil(clock.wallMs() + renewAfterMs(life, { wallMs: clock.wallMs(), random }));
  }

  /** The cluster changes its root: not later. Said while one is under way, once more after it, however often it is said. */
  renewNow(): void {
    if (this.#isStopped) return;
    this.#isWantedAgain = this.#isRenewing;
    if (this.#isRenewing) return;
    this.#cancel?.();
    void this.#renew();
  }

  stop(): void {
    this.#isStopped = true;
    this.#cancel?.();
  }

  #sleepUntil(dueWallMs: number): void {
    const { clock, timers } = this.#deps.env;
    const delayMs = Math.min(SLEEP_MAX_MS, Math.max(0, dueWallMs - clock.wallMs()));
    this.#cancel = timers.after(delayMs, () => {
      if (clock.wallMs() < dueWallMs) this.#sleepUntil(dueWallMs);
      else void this.#renew();
    });
  }

  async #renew(): Promise<void> {
    const { log, identity, managers, renew, renewed, env } = this.#deps;
    this.#isRenewing = true;
    try {
      const next = await renew({ identity: identity(), managers: managers() });
      if (this.#isStopped) return;
      this.#backoff.reset();
      log.info("certificate renewed", { role: next.role });
      renewed(next);
      this.start();
    } catch (caught) {
      if (this.#isStopped) return;
      const delayMs = this.#backoff.nextMs();
      log.warn("certificate could not be renewed", { error: ClusterError.from(caught), delayMs });
      this.#sleepUntil(env.clock.wallMs() + delayMs);
    } finally {
      this.#isRenewing = false;
      if (this.#isWantedAgain) this.renewNow();
    }
  }
}
