/** Image events as Docker words them. */
import { canonicalName, familiarForm, familiarName, tryParseReference } from "../../model/image-reference.ts";
import type { ImageStorage } from "./image-storage.ts";

/** `name`: what the client called it; a reference in full form is shown in the familiar one. */
export function imageEvent(storage: ImageStorage, action: string, imageId: string, name: string): void {
  const reference = tryParseReference(name);
  const isName =
    reference !== undefined && canonicalName(reference).length > 0 && !name.startsWith("sha256:");
  const shown = isName ? familiarForm(reference) : name;
  // Of what is gone there is nothing to tell but that.
  const labels = action === "delete" ? {} : labelsOf(storage, imageId);
  // Pulls are told by name, with the repository beside it; all else by id.
  const id = action === "pull" || action === "push" ? shown : imageId;
  const attributes =
    isName && (action === "pull" || action === "push")
      ? { ...labels, name: familiarName(reference) }
      : { ...labels, name: shown };
  storage.events.emit({
    Type: "image",
    Action: action,
    Actor: { ID: id, Attributes: attributes },
    status: action,
    id,
  });
}

function labelsOf(storage: ImageStorage, imageId: string): Readonly<Record<string, string>> {
  const record = storage.records.image(imageId);
  return record === undefined ? {} : (storage.document(record).config.Labels ?? {});
}
