/** What people do to a cluster, at random: create, scale, update, remove services, drain nodes, rotate secrets. */
import { newObjectId } from "../../common/ids.ts";
import type { SeededRandom } from "../../common/testing/seeded-random.ts";
import type { MemoryStore } from "../../manager/store/memory-store.ts";
import type { Transaction } from "../../manager/store/store.ts";
import type { Service } from "../../model/objects.ts";
import type { ServiceSpec } from "../../model/specs.ts";
import type { World } from "./world.ts";

const SERVICE_COUNT_MAX = 8;
const REPLICA_COUNT_MAX = 12;

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

  #act(): void {
    const store = this.#options.store();
    if (store === undefined) return;
    const dice = this.#random.float();
    // Refusals and lost leaders are part of an operator's day.
    store.update((tx) => this.#change(tx, dice)).catch(() => undefined);
  }

  #change(tx: Transaction, dice: number): void {
    const services = tx.list("service");
    const service = services[this.#random.below(Math.max(1, services.length))];
    if (service === undefined || (dice < 0.2 && services.length < SERVICE_COUNT_MAX)) this.#create(tx);
    else if (dice < 0.5) this.#scale(tx, service);
    else if (dice < 0.75) this.#update(tx, service);
    else if (dice < 0.8) tx.remove("service", service.id);
    else this.#drain(tx);
  }

  #create(tx: Transaction): void {
    this.#count += 1;
    const name = `s${this.#count}`;
    const networkId = tx.list("network")[0]?.id;
    const secretId = newObjectId(this.#random);
    const withSecret = this.#random.float() < 0.5;
    if (withSecret)
      tx.create("secret", { id: secretId, spec: { Name: `secret-${name}`, Labels: {}, Data: "eA==" } });
    const isGlobal = this.#random.float() < 0.2;
    const spec: ServiceSpec = {
      Name: name,
      Labels: {},
      TaskTemplate: {
        ContainerSpec: {
          Image: "model:1",
          ...(withSecret ? { Secrets: [{ SecretID: secretId, SecretName: `secret-${name}` }] } : {}),
        },
        RestartPolicy: { Condition: "any", Delay: 200_000_000 },
        ...(this.#random.float() < 0.4 ? { Placement: { Constraints: ["node.labels.zone==a"] } } : {}),
        ...(networkId !== undefined && this.#random.float() < 0.6
          ? { Networks: [{ Target: networkId }] }
          : {}),
      },
      Mode: isGlobal
        ? { Global: {} }
        : { Replicated: { Replicas: 1 + this.#random.below(REPLICA_COUNT_MAX) } },
      UpdateConfig: {
        Parallelism: 1 + this.#random.below(3),
        Order: this.#random.float() < 0.5 ? "start-first" : "stop-first",
        Monitor: 500_000_000,
        FailureAction: "continue",
      },
      ...(this.#random.float() < 0.3
        ? {
            EndpointSpec: {
              Mode: "vip",
              Ports: [{ Protocol: "tcp", TargetPort: 80, PublishMode: "ingress" }],
            },
          }
        : {}),
    };
    tx.create("service", { id: newObjectId(this.#random), spec, specVersion: 1 });
  }

  #scale(tx: Transaction, service: Service): void {
    if (service.spec.Mode?.Replicated === undefined) return;
    const Replicas = this.#random.below(REPLICA_COUNT_MAX);
    this.#replace(tx, service, { ...service.spec, Mode: { Replicated: { Replicas } } });
  }

  #update(tx: Transaction, service: Service): void {
    const { TaskTemplate } = service.spec;
    const Image = `model:${1 + this.#random.below(50)}`;
    const ContainerSpec = { ...TaskTemplate.ContainerSpec, Image };
    this.#replace(tx, service, { ...service.spec, TaskTemplate: { ...TaskTemplate, ContainerSpec } });
  }

  /** As the control API does it. */
  #replace(tx: Transaction, service: Service, spec: ServiceSpec): void {
    const { updateStatus: _status, ...rest } = service;
    tx.update("service", {
      ...rest,
      spec,
      previousSpec: service.spec,
      specVersion: Math.max(service.specVersion, service.previousSpecVersion ?? 0) + 1,
      previousSpecVersion: service.specVersion,
    });
  }

  #drain(tx: Transaction): void {
    const workers = tx.list("node").filter((node) => node.spec.Role === "worker");
    const drained = workers.filter((node) => node.spec.Availability === "drain");
    const node = drained[0] ?? workers[this.#random.below(Math.max(1, workers.length))];
    if (node === undefined) return;
    const Availability = node.spec.Availability === "drain" ? "active" : "drain";
    tx.update("node", { ...node, spec: { ...node.spec, Availability } });
  }
}
