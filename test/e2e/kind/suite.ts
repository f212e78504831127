import { Machine, missing } from "./machine";

let told = false;

/**
 * A suite on a machine of its own, from which it starts with nothing but the images of the offline world. Where
 * something is missing for it, one line says what; it is the same for every suite.
 */
export function suiteOnKind(title: string, define: (machine: () => Machine) => void): void {
  describe(title, function () {
    this.timeout(90 * 60_000);
    let machine: Machine | undefined;

    before(async function () {
      const reason = await missing();
      if (reason !== undefined) {
        if (!told) console.log(`    skipped: every test of pulumi up on Kind, because ${reason}`);
        told = true;
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
