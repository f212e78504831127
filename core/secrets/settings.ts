import { readFile } from "node:fs/promises";
import { parseDocument } from "yaml";
import { writeWhole } from "../../system/write";

/** The settings below `platform:sops` that commands change; undefined removes a setting. */
export interface SopsSettings {
  readonly recipients?: readonly string[];
  readonly recoveryRecipient?: string | undefined;
  readonly valuesRevision?: number;
}

/**
 * Changes `platform:sops` in a stack's file, and leaves the rest of the file as it is, comments included. Nothing is
 * written when nothing changes.
 *
 * @param file absolute path of `Pulumi.<stack>.yaml`
 * @returns whether the file changed
 */
export async function changeSettings(file: string, settings: SopsSettings): Promise<boolean> {
  const before = await readFile(file, "utf8");
  const document = parseDocument(before);
  for (const [key, value] of Object.entries(settings)) {
    const path = ["config", "platform:sops", key];
    const current = document.toJS() as { config?: Record<string, Record<string, unknown> | undefined> };
    if (JSON.stringify(current.config?.["platform:sops"]?.[key]) === JSON.stringify(value)) continue;
    if (value === undefined) document.deleteIn(path);
    else document.setIn(path, document.createNode(value));
  }
  const after = document.toString({ lineWidth: 0 });
  if (JSON.stringify(parseDocument(before).toJS()) === JSON.stringify(document.toJS())) return false;
  await writeWhole(file, after);
  return true;
}
