import { deepEqual, equal, match, ok } from "node:assert/strict";
import { PassThrough } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { layerChart, simulatedTable, summary } from "../../rehearsal/result-text";
import { defaultTimeout } from "../../rehearsal/rehearsal";
import { View } from "../../rehearsal/view";
import { slowdown } from "../../system/load";
import { progressBar } from "../../system/progress-bar";
import { plainProgress, progressText, shortProgress, type ToolProgress } from "../../tools/progress";

const progress: ToolProgress = { step: "packages", done: 1200, total: 4473, secondsLeft: 170 };

describe("progress of the tools", () => {
  it("has a bar beside its text in 60 columns, and only its text in 30", () => {
    equal(
      progressBar(1200 / 4473, shortProgress(progress), 60 - 10),
      "███░░░░░░░░░░ 1,200/4,473 Go packages, 3 min left",
    );
    equal(progressBar(0.5, shortProgress(progress), 30), "1,200/4,473 Go packages, 3 mi");
  });

  it("never fills a line, and stays within the bar", () => {
    for (const share of [-1, 0, 0.5, 1, 2, undefined])
      for (const width of [1, 20, 60, 80, 200]) {
        const line = progressBar(share, "text", width);
        ok(line.length < width, `${width}: ${line}`);
      }
    equal(progressBar(1, "done", 200), `${"█".repeat(40)} done`);
    equal(progressBar(0, "none", 200), `${"░".repeat(40)} none`);
  });

  it("is a text that names the step, and the process that is not this one", () => {
    equal(progressText(progress), "building the tools: 1,200 of 4,473 Go packages, 3 min left");
    equal(
      progressText({ ...progress, pid: 7 }),
      "process 7 is building the tools: 1,200 of 4,473 Go packages, 3 min left",
    );
    equal(progressText({ step: "modules", done: 12 }), "downloading Go modules: 12");
    equal(progressText({ step: "programs", done: 81.3 }), "downloading the tools: 81 MB");
    equal(
      shortProgress({ ...progress, secondsLeft: 40, pid: 7 }),
      "1,200/4,473 Go packages, 40 s left (process 7)",
    );
  });

  it("is one line for each step in a log, not one for each package", () => {
    const lines: string[] = [];
    const plain = plainProgress((line) => lines.push(line));
    for (let done = 0; done < 50; done++) plain({ step: "modules", done });
    for (let done = 0; done < 50; done++) plain({ step: "packages", done, total: 50 });
    plain(undefined);
    deepEqual(lines, ["downloading Go modules: 0", "building the tools: 0 of 50 Go packages"]);
  });

  /** What a view writes to an output of 60 columns. */
  async function shown(isTTY: boolean): Promise<string> {
    const out = Object.assign(new PassThrough(), { isTTY, columns: 60 }) as unknown as NodeJS.WriteStream &
      PassThrough;
    const view = new View(out);
    view.progress(progress);
    await sleep(120);
    view.progress({ ...progress, done: 1300 });
    view.line("etcd ready");
    view.progress(undefined);
    view.line("the tools are ready");
    return String((out as PassThrough).read());
  }

  it("is redrawn below the steps on a terminal, and gone in the end", async () => {
    const text = await shown(true);
    // A terminal that follows the two sequences that the view uses: up a line, and erase what is below.
    const screen: string[] = [];
    for (const part of text.split(/(?<=\n)|(?=\x1b\[1A\x1b\[J)/)) {
      if (part.startsWith("\x1b[1A\x1b[J")) screen.pop();
      const line = part.replace("\x1b[1A\x1b[J", "");
      if (line !== "") screen.push(line);
    }
    match(text, /1,300\/4,473/);
    deepEqual(
      screen.map((line) => line.replace(/^ *[\d.]+ s {2}/, "")),
      ["etcd ready\n", "the tools are ready\n"],
    );
    // Colours would ignore NO_COLOR.
    ok(!/\x1b\[[\d;]*m/.test(text));
  });

  it("moves no cursor in a file", async () => {
    const text = await shown(false);
    ok(!text.includes("\x1b"));
    match(text, /^ +[\d.]+ s {2}building the tools: 1,200 of 4,473 Go packages, 3 min left\n/);
  });
});

describe("result of a rehearsal", () => {
  const layers = [
    { name: "flux-system", ready: true, seconds: 2, objects: 3 },
    { name: "apps", ready: true, seconds: 10, objects: 40 },
  ];

  it("is one line that counts what is simulated", () => {
    const revision = `local@sha256:${"0123456789ab".padEnd(64, "c")}`;
    const result = {
      ...{ stack: "local", revision, ready: true, seconds: 36.21, layers, objects: 43 },
      simulated: ["volumes", "HelmRelease a/x"],
    };
    equal(
      summary(result),
      "Ready: 2 layers, 43 objects at local@sha256:0123456789ab in 36.2 s; 2 simulated.",
    );
  });

  it("has a bar for each layer, from the end of the one before", () => {
    deepEqual(layerChart(layers, 35), [
      "  flux-system  ██            2.0 s",
      "  apps           ████████    8.0 s",
    ]);
    deepEqual(layerChart([{ name: "a", ready: true, seconds: 0, objects: 0 }], 20), [
      "  a  █             0.0 s",
    ]);
    for (const line of layerChart(layers, 60)) ok(line.length < 60, line);
  });

  it("names the simulated objects by kind, in columns of the terminal", () => {
    const simulated = [
      "HelmRelease a/cilium",
      "HelmRelease b/traefik",
      "HelmRelease b/loki",
      "network platform-local",
    ];
    deepEqual(simulatedTable(simulated, 33), [
      "  HelmRelease  cilium   traefik",
      "               loki",
      "  network platform-local",
    ]);
  });
});

describe("a busy machine", () => {
  it("takes as many times longer as processes want each core", () => {
    const loads = [
      [0, 2],
      [2, 2],
      [12, 2],
      [12, 8],
      [900, 2],
    ] as const;
    deepEqual(
      loads.map(([load, cores]) => slowdown(load, cores)),
      [1, 1, 6, 1.5, 10],
    );
  });

  it("has more time until every layer must be Ready", () => {
    deepEqual([1, 1.5, 6].map(defaultTimeout), [120, 180, 720]);
  });
});
