const { Spec } = require("mocha").reporters;

/** Mocha's own "spec", and the counts in one plain last line; a skipped test says why in its title. */
module.exports = class Reporter extends Spec {
  constructor(runner, options) {
    super(runner, options);
    runner.once("end", () => {
      const { passes, failures, pending } = this.stats;
      process.once("exit", () => {
        process.stdout.write(`${passes} passed, ${failures} failed, ${pending} skipped\n`);
      });
    });
  }
};
