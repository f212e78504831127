/** The API group of Flux's sources, such as `OCIRepository`, at the version that this project asks for. */
export const sourceApi = "source.toolkit.fluxcd.io/v1";

/** The API group of `Kustomization`. */
export const kustomizeApi = "kustomize.toolkit.fluxcd.io/v1";

/** The API group of `HelmRelease`. */
export const helmApi = "helm.toolkit.fluxcd.io/v2";

/** The API group of the Flux Operator: `FluxInstance` and its companions. */
export const operatorApi = "fluxcd.controlplane.io/v1";

/** The API group of `Receiver`. */
export const receiverApi = "notification.toolkit.fluxcd.io/v1";

/** The API group of `Alert` and `Provider`. */
export const alertApi = "notification.toolkit.fluxcd.io/v1beta3";

/** The label of each object that a Kustomization applied: the name of the Kustomization. */
export const kustomizationLabel = "kustomize.toolkit.fluxcd.io/name";
