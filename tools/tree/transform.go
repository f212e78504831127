package main

import (
	"path/filepath"

	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

type kustomizeRequest struct {
	// Objects are the objects to change.
	Objects []object `json:"objects"`
	// Changes are fields of a kustomization file, such as "patches".
	Changes object `json:"changes"`
}

type kustomizeResponse struct {
	Objects []object `json:"objects"`
}

// kustomize changes objects that are not files: post-renderers of a HelmRelease, patches of a FluxInstance.
func kustomize(request kustomizeRequest) (*kustomizeResponse, error) {
	fs := filesys.MakeFsInMemory()
	var resources []byte
	for _, each := range request.Objects {
		text, err := yaml.Marshal(each)
		if err != nil {
			return nil, err
		}
		resources = append(append(resources, "---\n"...), text...)
	}
	changes := request.Changes
	changes["resources"] = []string{"objects.yaml"}
	manifest, err := yaml.Marshal(changes)
	if err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{"objects.yaml": resources, "kustomization.yaml": manifest} {
		if err := fs.WriteFile(filepath.Join("/", name), content); err != nil {
			return nil, err
		}
	}
	built, err := (&builder{}).kustomize(fs, "/")
	if err != nil {
		return nil, err
	}
	response := &kustomizeResponse{Objects: []object{}}
	for _, each := range built.Resources() {
		changed, err := each.Map()
		if err != nil {
			return nil, err
		}
		response.Objects = append(response.Objects, changed)
	}
	return response, nil
}
