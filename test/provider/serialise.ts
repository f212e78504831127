import { record } from "../unit/recorder";

/*
 * Prints every dynamic provider as Pulumi stores it in state, as JSON: type, such as `seed:Seed` → source text.
 *
 * A program of its own: Pulumi takes what is a global here for one in the provider's host, and mocha's are not.
 */
async function serialiseProviders(): Promise<Record<string, string>> {
  const resources = await record(async () => {
    const { AgeIdentity } = await import("../../components/dynamic/age-identity");
    const { GeneratedSecrets } = await import("../../components/dynamic/generated-secrets");
    const { Artifact } = await import("../../components/dynamic/artifact");
    const { Network } = await import("../../components/dynamic/network");
    const { Container } = await import("../../components/dynamic/container");
    const { Garbage } = await import("../../components/dynamic/garbage");
    const { Kind } = await import("../../components/dynamic/kind");
    const { FluxNamespace } = await import("../../components/dynamic/flux-namespace");
    const { Seed } = await import("../../components/dynamic/seed");
    const { Gate } = await import("../../components/dynamic/gate");
    // The provider does not depend on the arguments; the addresses of a container depend on its port.
    const resources = [
      ...[
        AgeIdentity,
        GeneratedSecrets,
        Artifact,
        Network,
        Container,
        Garbage,
        Kind,
        FluxNamespace,
        Seed,
        Gate,
      ],
    ];
    for (const Resource of resources) {
      new (Resource as unknown as new (name: string, args: object) => unknown)(Resource.name, {
        port: { container: 0, host: 0 },
      });
    }
  });
  return Object.fromEntries(
    resources.map(({ type, inputs }) => [
      type.replace("pulumi-nodejs:dynamic/", ""),
      String(inputs.__provider),
    ]),
  );
}

serialiseProviders().then(
  (providers) => {
    process.stdout.write(JSON.stringify(providers));
  },
  (error: unknown) => {
    console.error(error);
    process.exitCode = 1;
  },
);
