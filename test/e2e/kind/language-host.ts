import { spawn, type ChildProcess } from "node:child_process";
import { Server, ServerCredentials, type handleUnaryCall } from "@grpc/grpc-js";
import { Empty } from "google-protobuf/google/protobuf/empty_pb";
import { LanguageRuntimeService } from "@pulumi/pulumi/proto/language_grpc_pb";
import * as proto from "@pulumi/pulumi/proto/language_pb";
import { PluginInfo } from "@pulumi/pulumi/proto/plugin_pb";

/*
 * Stands in for `pulumi-language-nodejs`, which no Go module has: the engine starts it, and it runs the stack's program
 * with the SDK's own entry point.
 *
 * Source: sdk/nodejs/cmd/pulumi-language-nodejs/main.go in pulumi/pulumi
 */

/** The SDK's own exit code of a program whose error it has told the engine. */
const told = 32;

const programs = new Set<ChildProcess>();

/** The engine's last argument is its own address. */
const engine = process.argv.at(-1) ?? "";

/** The arguments of the SDK's entry point. */
function argumentsOf(request: proto.RunRequest): string[] {
  const info = request.getInfo();
  const named = {
    monitor: request.getMonitorAddress(),
    engine,
    organization: request.getOrganization(),
    project: request.getProject(),
    "root-directory": info?.getRootDirectory() ?? "",
    stack: request.getStack(),
    pwd: info?.getProgramDirectory() ?? "",
    parallel: String(request.getParallel()),
  };
  return [
    ...Object.entries(named).flatMap(([key, value]) => (value === "" ? [] : [`--${key}`, value])),
    ...(request.getDryrun() ? ["--dry-run"] : []),
    info?.getEntryPoint() ?? ".",
  ];
}

const run: handleUnaryCall<proto.RunRequest, proto.RunResponse> = ({ request }, done) => {
  const directory = request.getInfo()?.getProgramDirectory() ?? ".";
  const entry = require.resolve("@pulumi/pulumi/cmd/run", { paths: [directory] });
  const config = Object.fromEntries(
    request
      .getConfigMap()
      .toObject()
      .map(([key, value]) => [key.replace(":", ":config:"), value]),
  );
  const program = spawn(process.execPath, [entry, ...argumentsOf(request)], {
    cwd: directory,
    env: {
      ...process.env,
      PULUMI_NODEJS_TYPESCRIPT: "true",
      PULUMI_CONFIG: JSON.stringify(config),
      PULUMI_CONFIG_SECRET_KEYS: JSON.stringify(request.getConfigsecretkeysList()),
    },
    // Standard output belongs to the host's port.
    stdio: ["ignore", process.stderr, process.stderr],
  });
  programs.add(program);
  program.once("exit", (code, signal) => {
    programs.delete(program);
    const response = new proto.RunResponse();
    if (code === told) response.setBail(true);
    else if (code !== 0) response.setError(`Program exited with ${signal ?? `exit code ${code ?? 0}`}`);
    done(null, response);
  });
};

/** A call that needs no answer but this one. */
function answer<Response>(response: Response): handleUnaryCall<unknown, Response> {
  return (_call, done) => {
    done(null, response);
  };
}

const server = new Server();
// The server refuses every other call as unimplemented; the engine makes none of them for a run.
server.addService(LanguageRuntimeService, {
  run,
  handshake: answer(new proto.LanguageHandshakeResponse()),
  getPluginInfo: answer(new PluginInfo()),
  // Nothing is required in advance: the engine looks for a plugin when a resource needs it.
  getRequiredPackages: answer(new proto.GetRequiredPackagesResponse()),
  getRequiredPlugins: answer(new proto.GetRequiredPluginsResponse()),
  cancel: (_call: unknown, done: (error: null, response: Empty) => void) => {
    for (const program of programs) program.kill();
    done(null, new Empty());
  },
});

server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) => {
  if (error !== null) throw error;
  console.log(port);
});

// The engine holds the other end of this pipe. When the engine is killed, nobody else ends the program.
process.stdin.resume().once("end", () => {
  for (const program of programs) program.kill("SIGKILL");
  process.exit();
});
