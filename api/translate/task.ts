/** Tasks in Docker's JSON. Pure. */
import type { NetworkAttachment, Task, TaskStatus } from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";
import { taskStateName } from "../../model/task-state.ts";
import { metaJson } from "./meta.ts";
import { networkRefJson } from "./network.ts";
import { taskSpecJson } from "./service.ts";

function statusJson(status: TaskStatus): object {
  const { container, ports } = status;
  return {
    Timestamp: status.timestamp,
    State: taskStateName(status.state),
    ...(status.message === "" ? {} : { Message: status.message }),
    ...(status.err === "" ? {} : { Err: status.err }),
    ...(container === undefined
      ? {}
      : {
          ContainerStatus: {
            ContainerID: container.containerId,
            PID: container.pid,
            ExitCode: container.exitCode,
          },
        }),
    PortStatus: ports === undefined || ports.length === 0 ? {} : { Ports: ports },
  };
}

function attachmentJson(attachment: NetworkAttachment, view: StoreView): object {
  const network = view.get("network", attachment.networkId);
  return {
    Network: network === undefined ? { ID: attachment.networkId } : networkRefJson(network),
    Addresses: attachment.addresses,
  };
}

export function taskJson(task: Task, view: StoreView): object {
  return {
    ...metaJson(task),
    Labels: {},
    Spec: taskSpecJson(task.spec),
    ServiceID: task.serviceId,
    ...(task.slot === 0 ? {} : { Slot: task.slot }),
    ...(task.nodeId === "" ? {} : { NodeID: task.nodeId }),
    Status: statusJson(task.status),
    DesiredState: taskStateName(task.desiredState),
    ...(task.networks.length === 0
      ? {}
      : { NetworksAttachments: task.networks.map((attachment) => attachmentJson(attachment, view)) }),
    ...(task.assignedGenericResources === undefined
      ? {}
      : { GenericResources: task.assignedGenericResources }),
    ...(task.jobIteration === undefined ? {} : { JobIteration: { Index: task.jobIteration } }),
    Volumes: null,
  };
}
