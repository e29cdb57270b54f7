/**
 * Renews the node's certificate in time: at a random moment between half and four fifths of its life, so that a fleet that
 * joined together does not come back together; again and again with back-off while no manager answers, or while this
 * machine's clock and the certificate it got don't go together.
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
/** Timers count the time that the machine is awake; the clock is looked at this often. It may also be set. */
const SLEEP_MAX_MS = 60_000;

export interface CertificateRenewalDeps {
  readonly env: Pick<Env, "clock" | "timers" | "random">;
  readonly log: Logger;
  readonly identity: () => NodeIdentity;
  readonly managers: () => readonly string[];
  /** Asks one of the managers: renewCertificate(). */
  readonly renew: typeof renewCertificate;
  /** What this node's own manager makes, if it has one: for when the certificate is out of date and nobody renews it. */
  readonly renewOwn: () => Promise<NodeIdentity> | undefined;
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
    this.#sleep(this.#dueInMs(this.#deps.identity()));
  }

  #dueInMs({ certificate }: NodeIdentity): number {
    const { clock, random } = this.#deps.env;
    return renewAfterMs(certificateLife(certificate), { wallMs: clock.wallMs(), random });
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

  #sleep(delayMs: number): void {
    this.#sleepUntil(this.#deps.env.clock.wallMs() + delayMs);
  }

  async #renew(): Promise<void> {
    const { log, renewed } = this.#deps;
    this.#isRenewing = true;
    try {
      const next = await this.#next();
      if (this.#isStopped) return;
      log.info("certificate renewed", { role: next.role });
      renewed(next);
      const dueInMs = this.#dueInMs(next);
      if (dueInMs > 0) this.#backoff.reset();
      else log.warn("the new certificate is due already: is this machine's clock right?", this.#dates(next));
      this.#sleep(dueInMs || this.#backoff.nextMs());
    } catch (caught) {
      if (this.#isStopped) return;
      const delayMs = this.#backoff.nextMs();
      log.warn("certificate could not be renewed", { error: ClusterError.from(caught), delayMs });
      this.#sleep(delayMs);
    } finally {
      this.#isRenewing = false;
      if (this.#isWantedAgain) this.renewNow();
    }
  }

  async #next(): Promise<NodeIdentity> {
    const { log, identity, managers, renew, renewOwn, env } = this.#deps;
    try {
      return await renew({ identity: identity(), managers: managers() });
    } catch (caught) {
      const { fromMs, untilMs } = certificateLife(identity().certificate);
      const isValid = fromMs <= env.clock.wallMs() && env.clock.wallMs() < untilMs;
      const own = isValid ? undefined : renewOwn();
      if (own === undefined) throw caught;
      const error = ClusterError.from(caught);
      log.warn("certificate is out of date and no manager renews it: this one makes its own", { error });
      return own;
    }
  }

  #dates({ certificate }: NodeIdentity): Readonly<Record<"from" | "until", string>> {
    const { fromMs, untilMs } = certificateLife(certificate);
    return { from: new Date(fromMs).toISOString(), until: new Date(untilMs).toISOString() };
  }
}
