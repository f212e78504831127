// Pulumi's own Kubernetes plugin. The module of the plugin lacks the generated files that its main embeds: a schema,
// which only programs in other languages ask for. The SDK that the module imports is too large to be a module; sdk-stub
// has the few types that the module uses.
package main

import "github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/provider"

// version is the release that the pinned commit belongs to.
const version = "4.25.0"

func main() {
	provider.Serve("kubernetes", version, []byte(`{"name":"kubernetes"}`), []byte("{}"))
}
