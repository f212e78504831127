const flux = "kustomize.toolkit.fluxcd.io/v1";

/** The smallest gitops tree that may be released: path → content. Its cluster is "x", its layer "controllers". */
export const smallTree = {
  "clusters/x/kustomization.yaml": "resources: [variables.yaml, controllers.yaml]\n",
  "clusters/x/variables.yaml": `apiVersion: v1
kind: ConfigMap
metadata: {name: platform-variables, namespace: flux-system}
data: {cluster: x, replicas: "2", host: localhost}
`,
  "clusters/x/controllers.yaml": `apiVersion: ${flux}
kind: Kustomization
metadata: {name: controllers, namespace: flux-system}
spec:
  path: ./clusters/x/controllers
  sourceRef: {kind: OCIRepository, name: flux-system}
  decryption: {provider: sops}
  postBuild:
    substituteFrom: [{kind: ConfigMap, name: platform-variables}, {kind: ConfigMap, name: platform-runtime}]
`,
  "clusters/x/controllers/kustomization.yaml":
    "resources: [release.yaml, source.yaml, secret.enc.yaml, plain.yaml]\n",
  "clusters/x/controllers/release.yaml": `apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: web, namespace: web}
spec:
  chartRef: {kind: OCIRepository, name: web}
  values: {replicas: "\${replicas}", text: "is \${host}", channel: "\${channel}"}
`,
  "clusters/x/controllers/source.yaml": `apiVersion: source.toolkit.fluxcd.io/v1
kind: OCIRepository
metadata: {name: web, namespace: web}
spec: {url: oci://ghcr.io/example/charts/web, ref: {tag: 1.2.3}}
`,
  "clusters/x/controllers/secret.enc.yaml": `apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {A: ""}
`,
  "clusters/x/controllers/plain.yaml": `apiVersion: fluxcd.controlplane.io/v1
kind: FluxInstance
metadata: {name: flux, namespace: flux-system}
spec: {ref: "\${channel}"}
`,
} as const;
