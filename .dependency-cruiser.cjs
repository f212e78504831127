// The floors of the house, highest first; docs/architecture.md tells what each one holds.
const floors = [
  "^commands/",
  "^rehearsal/",
  "^index[.]ts$",
  "^components/",
  "^core/",
  "^clients/",
  "^tools/",
  "^system/",
];

/** @type {import("dependency-cruiser").IConfiguration} */
module.exports = {
  forbidden: [
    ...floors.slice(1).map((floor, above) => ({
      name: `nothing above ${floor.replace(/[^\w.]/g, "")}`,
      comment: "A floor imports from itself and from the floors below it.",
      severity: "error",
      from: { path: floor },
      to: { path: floors.slice(0, above + 1) },
    })),
    {
      name: "no Pulumi below components",
      comment: "Rules, clients and tools run without Pulumi: in tests, commands and other programs.",
      severity: "error",
      from: { path: ["^core/", "^clients/", "^tools/", "^system/"] },
      to: { path: "(^|/)@pulumi/" },
    },
    {
      name: "no tests in the product",
      comment: "The product knows nothing of its tests and benchmarks.",
      severity: "error",
      from: { path: floors },
      to: { path: ["^test/", "^bench/"] },
    },
    {
      name: "no circle of folders",
      comment: "Two folders that import each other are one folder, or a piece of one belongs below both.",
      severity: "error",
      scope: "folder",
      from: {},
      to: { circular: true },
    },
    {
      name: "no circle of files",
      severity: "error",
      from: { path: floors },
      to: { circular: true },
    },
    {
      name: "no import of a missing file",
      severity: "error",
      from: { path: floors },
      to: { couldNotResolve: true },
    },
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    // Type imports count: they are arrows too.
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.json" },
    combinedDependencies: false,
  },
};
