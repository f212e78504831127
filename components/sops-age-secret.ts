import { core } from "@pulumi/kubernetes";
import {
  ComponentResource,
  secret,
  type ComponentResourceOptions,
  type CustomResourceOptions,
  type Input,
} from "@pulumi/pulumi";

/** Arguments of `SopsAgeSecret`. */
export interface SopsAgeSecretArgs {
  /** Namespace of the Flux controllers. */
  readonly namespace: Input<string>;
  readonly annotations: Input<Readonly<Record<string, Input<string>>>>;
  /** Options of the Secret that it does not inherit from the component. @default none */
  readonly options?: CustomResourceOptions;
  /** Content of the age identity file. */
  readonly identity: Input<string>;
}

/** The Secret `sops-age`, with which Flux decrypts. Its key ends in `.agekey`, as kustomize-controller requires. */
export class SopsAgeSecret extends ComponentResource {
  constructor(name: string, args: SopsAgeSecretArgs, opts?: ComponentResourceOptions) {
    super("platform:sops:SopsAgeSecret", name, {}, opts);
    new core.v1.Secret(
      `${name}-secret`,
      {
        metadata: { name: "sops-age", namespace: args.namespace, annotations: args.annotations },
        stringData: { "age.agekey": secret(args.identity) },
      },
      { parent: this, ...args.options },
    );
    this.registerOutputs({});
  }
}
