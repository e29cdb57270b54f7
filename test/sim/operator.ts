/**
 * What people do to services, networks, secrets and nodes, at random: create, scale, update (also to something that does
 * not start), remove, rotate secrets, drain and relabel nodes. Writes what the control API would write. What is done to
 * the managers themselves is in manager-operator.ts.
 */
import { newObjectId } from "../../common/ids.ts";
import type { SeededRandom } from "../../common/testing/seeded-random.ts";
import type { MemoryStore } from "../../manager/store/memory-store.ts";
import type { Transaction } from "../../manager/store/store.ts";
import type { Secret, Service } from "../../model/objects.ts";
import type { ServiceSpec, UpdateConfig } from "../../model/specs.ts";
import { isWanted } from "./store-mirror.ts";
import type { World } from "./world.ts";

const SERVICE_COUNT_MAX = 8;
const REPLICA_COUNT_MAX = 12;
const NETWORK_COUNT_MAX = 4;
/** Published by number, so that services want the same ones. */
const PORT_FIRST = 8000;
const PORT_COUNT = 4;
/** Containers of this image end before they run. */
export const BAD_IMAGE = "model:bad";

export interface OperatorOptions {
  readonly world: World;
  /** Of the leader; undefined while nobody leads. */
  readonly store: () => MemoryStore | undefined;
  readonly everyMs: number;
}

export class Operator {
  readonly #options: OperatorOptions;
  readonly #random: SeededRandom;
  #count = 0;
  #isOver = false;

  constructor(options: OperatorOptions) {
    this.#options = options;
    this.#random = options.world.random.fork();
  }

  start(): void {
    const waitMs = -Math.log(1 - this.#random.float()) * this.#options.everyMs;
    this.#options.world.after(waitMs, () => {
      if (this.#isOver) return;
      this.#act();
      this.start();
    });
  }

  stop(): void {
    this.#isOver = true;
  }

  /** Gives services that have no way back something that runs. */
  mend(): void {
    const store = this.#options.store();
    const repair = (tx: Transaction): void => {
      for (const service of tx.list("service")) {
        const { previousSpec, spec } = service;
        if (!isBad(spec) || (previousSpec !== undefined && !isBad(previousSpec))) continue;
        const { TaskTemplate } = spec;
        const ContainerSpec = { ...TaskTemplate.ContainerSpec, Image: "model:mended" };
        this.#replace(tx, service, { ...spec, TaskTemplate: { ...TaskTemplate, ContainerSpec } });
      }
    };
    store?.update(repair).catch(() => undefined);
  }

  #act(): void {
    const store = this.#options.store();
    if (store === undefined) return;
    const dice = this.#random.float();
    // Refusals and lost leaders are part of an operator's day.
    store.update((tx) => this.#change(tx, dice)).catch(() => undefined);
  }

  #change(tx: Transaction, dice: number): void {
    const services = tx.list("service");
    const service = this.#pick(services);
    if (service === undefined || (dice < 0.2 && services.length < SERVICE_COUNT_MAX)) this.#create(tx);
    else if (dice < 0.42) this.#scale(tx, service);
    else if (dice < 0.65) this.#update(tx, service);
    else if (dice < 0.7) tx.remove("service", service.id);
    else if (dice < 0.78) this.#rotateSecret(tx, service);
    else if (dice < 0.86) this.#changeNetworks(tx);
    else if (dice < 0.92) this.#relabel(tx);
    else this.#drain(tx);
  }

  #pick<T>(values: readonly T[]): T | undefined {
    return values[this.#random.below(Math.max(1, values.length))];
  }

  #chance(rate: number): boolean {
    return this.#random.float() < rate;
  }

  #create(tx: Transaction): void {
    this.#count += 1;
    const name = `s${this.#count}`;
    const isGlobal = this.#chance(0.2);
    const isConstrained = this.#chance(0.4);
    const isLimited = !isGlobal && this.#chance(0.25);
    const spec: ServiceSpec = {
      Name: name,
      Labels: {},
      TaskTemplate: {
        ContainerSpec: { Image: "model:1", ...this.#secretsOf(tx, name) },
        RestartPolicy: {
          Condition: "any",
          Delay: this.#chance(0.5) ? 200_000_000 : 1_000_000_000,
          ...(this.#chance(0.2) ? { MaxAttempts: 1 + this.#random.below(2) } : {}),
        },
        ...(isConstrained || isLimited
          ? {
              Placement: {
                ...(isConstrained ? { Constraints: ["node.labels.zone==a"] } : {}),
                ...(isLimited ? { MaxReplicas: 1 + this.#random.below(3) } : {}),
              },
            }
          : {}),
        ...this.#networksOf(tx),
      },
      Mode: isGlobal
        ? { Global: {} }
        : { Replicated: { Replicas: 1 + this.#random.below(REPLICA_COUNT_MAX) } },
      UpdateConfig: this.#updateConfig(),
      ...(this.#chance(0.5) ? { RollbackConfig: { Parallelism: 0, Order: "stop-first" } } : {}),
      ...this.#portsOf(),
    };
    tx.create("service", { id: newObjectId(this.#random), spec, specVersion: 1 });
  }

  #updateConfig(): UpdateConfig {
    return {
      Parallelism: this.#random.below(4),
      Order: this.#chance(0.5) ? "start-first" : "stop-first",
      Monitor: 500_000_000,
      FailureAction: this.#chance(0.4) ? "rollback" : "continue",
      // Workers fail on purpose: one dead task shall not end each update.
      MaxFailureRatio: 0.3,
    };
  }

  #secretsOf(tx: Transaction, name: string): Pick<ServiceSpec["TaskTemplate"]["ContainerSpec"], "Secrets"> {
    if (this.#chance(0.4)) return {};
    const known = this.#chance(0.4) ? this.#pick(tx.list("secret")) : undefined;
    const secret = known?.id ?? this.#createSecret(tx, name);
    return { Secrets: [{ SecretID: secret, SecretName: known?.spec.Name ?? `secret-${name}` }] };
  }

  #createSecret(tx: Transaction, name: string): string {
    const id = newObjectId(this.#random);
    tx.create("secret", { id, spec: { Name: `secret-${name}`, Labels: {}, Data: "eA==" } });
    return id;
  }

  #networksOf(tx: Transaction): Pick<ServiceSpec["TaskTemplate"], "Networks"> {
    const chosen = tx.list("network").filter(() => this.#chance(0.4));
    return chosen.length === 0 ? {} : { Networks: chosen.map(({ id }) => ({ Target: id })) };
  }

  #portsOf(): Pick<ServiceSpec, "EndpointSpec"> {
    if (this.#chance(0.6)) return {};
    const number = this.#chance(0.5) ? { PublishedPort: PORT_FIRST + this.#random.below(PORT_COUNT) } : {};
    const port = { Protocol: "tcp", TargetPort: 80, PublishMode: "ingress", ...number } as const;
    return { EndpointSpec: { Mode: "vip", Ports: [port] } };
  }

  #scale(tx: Transaction, service: Service): void {
    if (service.spec.Mode?.Replicated === undefined) return;
    const Replicas = this.#random.below(REPLICA_COUNT_MAX);
    this.#replace(tx, service, { ...service.spec, Mode: { Replicated: { Replicas } } });
  }

  /** Only where a rollback follows may it be to what does not start; without tasks to replace there is no update. */
  #update(tx: Transaction, service: Service): void {
    const { TaskTemplate, UpdateConfig } = service.spec;
    const hasTasks = tx.list("task", { kind: "service", serviceId: service.id }).some(isWanted);
    const isBad = UpdateConfig?.FailureAction === "rollback" && this.#chance(0.3) && hasTasks;
    const Image = isBad ? BAD_IMAGE : `model:${1 + this.#random.below(50)}`;
    const ContainerSpec = { ...TaskTemplate.ContainerSpec, Image };
    this.#replace(tx, service, { ...service.spec, TaskTemplate: { ...TaskTemplate, ContainerSpec } });
  }

  /** A new secret in place of the old one, which goes when nobody uses it. */
  #rotateSecret(tx: Transaction, service: Service): void {
    const { TaskTemplate } = service.spec;
    const unused = tx.list("secret").find((secret) => !isUsed(tx, secret));
    if (unused !== undefined) tx.remove("secret", unused.id);
    if (TaskTemplate.ContainerSpec.Secrets === undefined) return;
    this.#count += 1;
    const name = `r${this.#count}`;
    const Secrets = [{ SecretID: this.#createSecret(tx, name), SecretName: `secret-${name}` }];
    const ContainerSpec = { ...TaskTemplate.ContainerSpec, Secrets };
    this.#replace(tx, service, { ...service.spec, TaskTemplate: { ...TaskTemplate, ContainerSpec } });
  }

  #changeNetworks(tx: Transaction): void {
    const networks = tx.list("network");
    const unused = networks.find(
      ({ id }) =>
        !tx.list("service").some((each) => usesNetwork(each, id)) &&
        !tx.list("task").some((each) => each.networks.some((attachment) => attachment.networkId === id)),
    );
    if (unused !== undefined && this.#chance(0.5)) {
      tx.remove("network", unused.id);
      return;
    }
    if (networks.length >= NETWORK_COUNT_MAX) return;
    this.#count += 1;
    const spec = { Name: `net${this.#count}`, Labels: {}, Driver: "overlay", Scope: "swarm" };
    tx.create("network", { id: newObjectId(this.#random), spec });
  }

  /** As the control API does it. */
  #replace(tx: Transaction, service: Service, spec: ServiceSpec): void {
    const { updateStatus: _status, ...rest } = service;
    tx.update("service", {
      ...rest,
      spec,
      previousSpec: service.spec,
      // Never one that was used before, also of a spec that was rolled back.
      specVersion: Math.max(service.version, service.specVersion + 1, (service.previousSpecVersion ?? 0) + 1),
      previousSpecVersion: service.specVersion,
    });
  }

  #relabel(tx: Transaction): void {
    const node = this.#pick(tx.list("node").filter((each) => each.spec.Role === "worker"));
    if (node === undefined) return;
    const zone = node.spec.Labels?.["zone"] === "a" ? "b" : "a";
    tx.update("node", { ...node, spec: { ...node.spec, Labels: { zone } } });
  }

  #drain(tx: Transaction): void {
    const workers = tx.list("node").filter((node) => node.spec.Role === "worker");
    const drained = workers.filter((node) => node.spec.Availability === "drain");
    const node = drained[0] ?? this.#pick(workers);
    if (node === undefined) return;
    const Availability = node.spec.Availability === "drain" ? "active" : "drain";
    tx.update("node", { ...node, spec: { ...node.spec, Availability } });
  }
}

function isBad(spec: ServiceSpec): boolean {
  return spec.TaskTemplate.ContainerSpec.Image === BAD_IMAGE;
}

function isUsed(tx: Transaction, secret: Secret): boolean {
  const uses = (spec: ServiceSpec | undefined): boolean =>
    spec?.TaskTemplate.ContainerSpec.Secrets?.some((each) => each.SecretID === secret.id) === true;
  return (
    tx.list("service").some((each) => uses(each.spec) || uses(each.previousSpec)) ||
    tx.list("task").some((each) => each.spec.ContainerSpec.Secrets?.some((one) => one.SecretID === secret.id))
  );
}

function usesNetwork(service: Service, id: string): boolean {
  return [service.spec, service.previousSpec].some((spec) =>
    spec?.TaskTemplate.Networks?.some((each) => each.Target === id),
  );
}
