import { Machine, missing } from "./machine";

/**
 * A suite on a machine of its own, from which it starts with nothing but the images of the offline world. Where
 * something is missing for it, one line says what.
 */
export function suiteOnKind(title: string, define: (machine: () => Machine) => void): void {
  describe(title, function () {
    this.timeout(90 * 60_000);
    let machine: Machine | undefined;

    before(async function () {
      const reason = await missing();
      if (reason !== undefined) {
        console.log(`    skipped: every test of "${title}", because ${reason}`);
        this.skip();
      }
      machine = await Machine.prepare((line) => {
        console.log(`    ${line}`);
      });
      if (machine.standIns.length > 0) {
        console.log(`    stand-ins of plugins: ${machine.standIns.join(", ")}`);
      }
      await machine.wipe();
      await machine.fillRegistry();
    });

    after(async () => {
      await machine?.wipe();
      machine?.dispose();
    });

    define(() => {
      if (machine === undefined) throw new Error("The machine is not prepared.");
      return machine;
    });
  });
}
