// Charts and CRDs that the rehearsal reads; nothing here is compiled.
module platform/tools/upstream

go 1.26.0

require (
	github.com/cert-manager/cert-manager v1.21.2
	github.com/cilium/cilium v1.20.2
	github.com/controlplaneio-fluxcd/flux-operator v0.59.0
	github.com/kyverno/kyverno v1.19.1
	github.com/prometheus-operator/prometheus-operator v0.93.1
	github.com/traefik/traefik/v3 v3.7.13
	sigs.k8s.io/gateway-api v1.6.3
	sigs.k8s.io/metrics-server v0.9.0
)
