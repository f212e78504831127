import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/**
 * What a node changes: systemd raises the limits of files (bump_file_max_and_nr_open in src/core/main.c), kubelet sets
 * the others (setupKernelTunables in pkg/kubelet/cm/container_manager_linux.go).
 */
const changed = [
  "fs/file-max",
  "fs/nr_open",
  "kernel/keys/root_maxbytes",
  "kernel/keys/root_maxkeys",
  "kernel/panic",
  "kernel/panic_on_oops",
  "vm/overcommit_memory",
  "vm/panic_on_oom",
];

/** Reads the settings of the host's kernel that a Kind node changes, and returns what puts them back. */
export function saveSysctls(): () => void {
  const read = (name: string) => readFileSync(join("/proc/sys", name), "utf8");
  const saved = changed.map((name): [string, string] => [name, read(name)]);
  return () => {
    for (const [name, value] of saved)
      if (read(name) !== value) writeFileSync(join("/proc/sys", name), value);
  };
}
