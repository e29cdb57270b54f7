/** Container events with Docker's attributes. */
import type { EngineEvent } from "../../model/engine.ts";
import type { EventSink } from "../ports.ts";
import type { ContainerRecord } from "./container-record.ts";

export type ContainerEvents = (
  record: Pick<ContainerRecord, "id" | "name" | "image" | "config">,
  action: string,
  attributes?: Readonly<Record<string, string>>,
) => void;

/** `Actor.Attributes` are the labels, the image and the name, and what the action adds. */
export function containerEvents(sink: EventSink): ContainerEvents {
  return (record, action, attributes = {}) => {
    const event: Omit<EngineEvent, "time" | "timeNano" | "scope"> = {
      status: action,
      id: record.id,
      from: record.image,
      Type: "container",
      Action: action,
      Actor: {
        ID: record.id,
        Attributes: { ...record.config.Labels, ...attributes, image: record.image, name: record.name },
      },
    };
    sink.emit(event);
  };
}
