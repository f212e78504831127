package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	generator "github.com/fluxcd/pkg/kustomize"
	securefs "github.com/fluxcd/pkg/kustomize/filesys"
	"github.com/fluxcd/pkg/ssa/normalize"
	ssautil "github.com/fluxcd/pkg/ssa/utils"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	kustypes "sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/openapi"
)

// object is a Kubernetes object as JSON has it.
type object = map[string]any

type buildRequest struct {
	source
	// Namespace is the namespace of the root Kustomization and of its source; by default it is Flux's own.
	Namespace string `json:"namespace"`
	// Path is the directory that the root Kustomization builds, relative to the tree.
	Path string `json:"path"`
	// Given are ConfigMaps and Secrets that the cluster has in addition to the tree.
	Given []object `json:"given"`
	// Applied asks for objects as Flux sends them to the API server.
	Applied bool `json:"applied"`
	// Only names the Kustomizations whose objects are wanted; nil wants all.
	Only []string `json:"only"`
	// Texts asks for the contents of the files.
	Texts bool `json:"texts"`
}

type buildResponse struct {
	Files          []file           `json:"files"`
	Content        string           `json:"content"`
	LeftOut        []string         `json:"leftOut"`
	Root           *kustomization   `json:"root"`
	Kustomizations []*kustomization `json:"kustomizations"`
}

// kustomization is a Flux Kustomization and its objects.
type kustomization struct {
	Namespace string      `json:"namespace"`
	Name      string      `json:"name"`
	Path      string      `json:"path"`
	Source    reference   `json:"source"`
	DependsOn []reference `json:"dependsOn"`
	Parent    string      `json:"parent,omitempty"`
	Objects   []object    `json:"objects,omitzero"`
	// Secrets are the Secrets as the tree has them, without values for variables.
	Secrets  []object `json:"secrets"`
	Error    string   `json:"error,omitempty"`
	NotBuilt string   `json:"notBuilt,omitempty"`
	Unset    []unset  `json:"unset"`
	// Mistyped are fields that the API server refuses, or that Flux leaves out.
	Mistyped []mistyped `json:"mistyped"`
	Notes    []string   `json:"notes"`

	spec   unstructured.Unstructured
	built  resmap.ResMap
	done   bool
	remote bool
}

// reference names an object; Kind is empty if it is known.
type reference struct {
	Kind string `json:"kind,omitempty"`
	// Namespace is the namespace of the root Kustomization and of its source; by default it is Flux's own.
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// fluxGroup is the API group of Flux Kustomizations.
const fluxGroup = "kustomize.toolkit.fluxcd.io"

// builder builds all Kustomizations of one cluster.
type builder struct {
	root string
	// files are the files of the tree, most of them in memory.
	files filesys.FileSystem
	// release is the source whose Kustomizations are built.
	release reference
	// alone is set if a kustomization file brings an OpenAPI schema, which kustomize keeps for the whole process.
	alone   bool
	known   *configs
	applied bool
}

func build(request buildRequest) (*buildResponse, error) {
	if request.Namespace == "" {
		request.Namespace = "flux-system"
	}
	// The Flux Operator gives this name to the source that it makes of a FluxInstance's sync.
	release := reference{"OCIRepository", request.Namespace, "flux-system"}
	files, err := readTree(request.source)
	if err != nil {
		return nil, err
	}
	directory, err := os.MkdirTemp("", "platform-tree-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(directory)
	if directory, err = filepath.EvalSymlinks(directory); err != nil {
		return nil, err
	}
	if err := files.unpack(directory); err != nil {
		return nil, err
	}
	disk, err := securefs.MakeFsOnDiskSecureBuild(directory)
	if err != nil {
		return nil, err
	}
	known, err := newConfigs(request.Given)
	if err != nil {
		return nil, err
	}
	b := &builder{
		root: directory, files: overlay{disk, files.below(directory)}, known: known, applied: request.Applied, release: release,
		alone: files.bringsSchema(),
	}

	root := b.kustomization(object{
		"apiVersion": fluxGroup + "/v1", "kind": "Kustomization",
		"metadata": object{"namespace": release.Namespace, "name": release.Name},
		"spec": object{
			"path":      request.Path,
			"sourceRef": object{"kind": release.Kind, "name": release.Name},
		},
	}, nil)
	response := &buildResponse{Content: files.content(), LeftOut: files.leftOut, Root: root, Files: []file{}}
	var group errgroup.Group
	if request.Texts {
		group.Go(func() (err error) {
			response.Files, err = files.texts()
			return err
		})
	}
	all := b.buildAll(root)
	response.Kustomizations = all
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if request.Only != nil {
		for _, each := range all {
			if !slices.Contains(request.Only, each.Name) {
				each.Objects = nil
			}
		}
	}
	return response, nil
}

// kustomization reads a Flux Kustomization that another one brings; the root has no parent.
func (b *builder) kustomization(from object, parent *kustomization) *kustomization {
	spec := unstructured.Unstructured{Object: from}
	text := func(fields ...string) string {
		value, _, _ := unstructured.NestedString(from, fields...)
		return value
	}
	k := &kustomization{
		Namespace: spec.GetNamespace(), Name: spec.GetName(), Path: text("spec", "path"), spec: spec,
		DependsOn: []reference{}, Secrets: []object{}, Unset: []unset{}, Mistyped: []mistyped{}, Notes: []string{},
	}
	if k.Namespace == "" {
		k.Namespace = "default"
		spec.SetNamespace(k.Namespace)
	}
	k.Source = reference{text("spec", "sourceRef", "kind"), text("spec", "sourceRef", "namespace"), text("spec", "sourceRef", "name")}
	if k.Source.Namespace == "" {
		k.Source.Namespace = k.Namespace
	}
	dependencies, _, _ := unstructured.NestedSlice(from, "spec", "dependsOn")
	for _, each := range dependencies {
		dependency, _ := each.(map[string]any)
		name, _ := dependency["name"].(string)
		namespace, _ := dependency["namespace"].(string)
		if namespace == "" {
			namespace = k.Namespace
		}
		k.DependsOn = append(k.DependsOn, reference{Namespace: namespace, Name: name})
	}
	if parent != nil && parent.key() != b.release.Namespace+"/"+b.release.Name {
		k.Parent = parent.key()
	}
	_, k.remote, _ = unstructured.NestedMap(from, "spec", "kubeConfig")
	suspended, _, _ := unstructured.NestedBool(from, "spec", "suspend")
	switch {
	case k.Source.Kind == "" || k.Source.Name == "":
		k.Error = "spec.sourceRef: Required value"
	case k.Source != b.release:
		k.NotBuilt = fmt.Sprintf("its source %s %s/%s is not the release", k.Source.Kind, k.Source.Namespace, k.Source.Name)
	case suspended:
		k.NotBuilt = "it is suspended, and Flux applies nothing of it"
	}
	k.done = k.Error != "" || k.NotBuilt != ""
	return k
}

func (k *kustomization) key() string { return k.Namespace + "/" + k.Name }

// buildAll builds the root and, in turn, the Kustomizations among the objects of each. A Kustomization waits for the
// Kustomizations whose ConfigMaps and Secrets it substitutes.
func (b *builder) buildAll(root *kustomization) []*kustomization {
	found := map[string]*kustomization{root.key(): root}
	all := []*kustomization{}
	fresh, waiting := []*kustomization{root}, []*kustomization{}
	for len(fresh)+len(waiting) > 0 {
		inParallel(fresh, b.build)
		for _, each := range fresh {
			if !each.done {
				waiting = append(waiting, each)
			}
		}
		fresh = nil
		var ready []*kustomization
		ready, waiting = b.ready(waiting)
		inParallel(ready, b.finish)
		for _, each := range ready {
			if each.Error != "" {
				continue
			}
			b.known.add(each)
			if each.remote {
				each.Notes = append(each.Notes, "its objects go to another cluster")
				continue
			}
			for _, child := range each.Objects {
				if !isFluxKustomization(child) {
					continue
				}
				next := b.kustomization(child, each)
				if other := found[next.key()]; other != nil {
					if other != root {
						other.Notes = append(other.Notes, fmt.Sprintf("Kustomization %s brings it, too", each.key()))
					}
					continue
				}
				found[next.key()] = next
				all = append(all, next)
				if !next.done {
					fresh = append(fresh, next)
				}
			}
		}
	}
	return all
}

// ready separates the Kustomizations whose variables are known from the rest. If all Kustomizations wait, the missing
// variables stay missing.
func (b *builder) ready(waiting []*kustomization) (ready, rest []*kustomization) {
	split := func(is func(*kustomization) bool) bool {
		ready, rest = nil, nil
		for _, each := range waiting {
			if is(each) {
				ready = append(ready, each)
			} else {
				rest = append(rest, each)
			}
		}
		return len(ready) > 0
	}
	missing := func(k *kustomization, counts func(substituteFrom) bool) bool {
		return slices.ContainsFunc(substitutesOf(k.spec), func(each substituteFrom) bool {
			return counts(each) && !b.known.has(each.Kind, k.Namespace, each.Name)
		})
	}
	for _, counts := range []func(substituteFrom) bool{
		func(substituteFrom) bool { return true },
		func(each substituteFrom) bool { return !each.Optional },
		func(substituteFrom) bool { return false },
	} {
		if split(func(k *kustomization) bool { return !missing(k, counts) }) {
			return ready, rest
		}
	}
	return nil, nil
}

// build generates kustomization.yaml as Flux does, and builds it. The file is written to memory: other Kustomizations
// may build the same directory.
func (b *builder) build(k *kustomization) {
	fail := func(format string, values ...any) {
		k.Error, k.done = b.plain(fmt.Sprintf(format, values...)), true
	}
	directory, err := securejoin.SecureJoin(b.root, k.Path)
	if err != nil {
		fail("%s", err)
		return
	}
	if _, err := os.Stat(directory); err != nil {
		fail("kustomization path not found: %s", err)
		return
	}
	manifest, name, _, err := generator.NewGenerator(b.root, k.spec).GenerateManifest(directory)
	if err != nil {
		fail("%s", err)
		return
	}
	files := overlay{b.files, map[string][]byte{name: manifest}}
	if decrypts(k.spec) {
		var whole *wholePatch
		if err := b.openSources(directory, files); errors.As(err, &whole) {
			k.NotBuilt, k.done = whole.Error(), true
			return
		} else if err != nil {
			fail("error decrypting sources: %s", err)
			return
		}
	}
	if k.built, err = b.kustomize(files, directory); err != nil {
		fail("kustomize build failed: %s", err)
		return
	}
	for _, each := range k.built.Resources() {
		if each.GetName() == "" || each.GetKind() == "" || each.GetApiVersion() == "" {
			fail("failed to decode Kubernetes apiVersion, kind and name from: %v", each.String())
			return
		}
		if each.GetKind() != "Secret" {
			continue
		}
		if decrypts(k.spec) && !keepsEncrypted(each.GetAnnotations()) {
			hideValues(each)
		}
		secret, err := each.Map()
		if err != nil {
			fail("%s", err)
			return
		}
		k.Secrets = append(k.Secrets, secret)
	}
}

// overlay is a file system with some files in place of others. Flux's own one in memory refuses names with "@" or with
// characters beyond ASCII.
type overlay struct {
	filesys.FileSystem
	files map[string][]byte
}

func (o overlay) Exists(path string) bool {
	_, found := o.files[filepath.Clean(path)]
	return found || o.FileSystem.Exists(path)
}

func (o overlay) IsDir(path string) bool {
	_, found := o.files[filepath.Clean(path)]
	return !found && o.FileSystem.IsDir(path)
}

func (o overlay) CleanedAbs(path string) (filesys.ConfirmedDir, string, error) {
	if path = filepath.Clean(path); o.files[path] != nil {
		return filesys.ConfirmedDir(filepath.Dir(path)), filepath.Base(path), nil
	}
	return o.FileSystem.CleanedAbs(path)
}

func (o overlay) ReadFile(path string) ([]byte, error) {
	if content, found := o.files[filepath.Clean(path)]; found {
		return content, nil
	}
	return o.FileSystem.ReadFile(path)
}

// kustomize is generator.Build without its lock, which exists for schemas that differ between builds
// (https://github.com/kubernetes-sigs/kustomize/issues/3659).
func (b *builder) kustomize(fs filesys.FileSystem, directory string) (result resmap.ResMap, err error) {
	if b.alone {
		return generator.Build(fs, directory)
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("recovered from kustomize build panic: %v", r)
		}
	}()
	options := &krusty.Options{
		LoadRestrictions: kustypes.LoadRestrictionsNone,
		PluginConfig:     kustypes.DisabledPluginConfig(),
	}
	return krusty.MakeKustomizer(options).Run(fs, directory)
}

// finish substitutes and makes objects of the result, as kustomize-controller does before it applies them.
func (b *builder) finish(k *kustomization) {
	k.done = true
	if err := b.objects(k); err != nil {
		k.Error, k.Objects = b.plain(err.Error()), nil
	}
}

func (b *builder) objects(k *kustomization) error {
	if err := b.substitute(context.Background(), k); err != nil {
		return err
	}
	objects := []*unstructured.Unstructured{}
	for _, each := range k.built.Resources() {
		// JSON is YAML, too: ReadObjects reads the same from it as from the text that Flux has here.
		text, err := each.MarshalJSON()
		if err != nil {
			// Flux reports this for the whole text.
			if _, whole := k.built.AsYaml(); whole != nil {
				err = whole
			}
			return fmt.Errorf("kustomize build failed: %w", err)
		}
		read, err := ssautil.ReadObjects(bytes.NewReader(text))
		if err != nil {
			return err
		}
		objects = append(objects, read...)
	}
	k.built = nil
	var refused error
	for _, each := range objects {
		if err := k.checkTypes(each); err != nil && refused == nil {
			refused = err
		}
	}
	if refused != nil {
		return refused
	}
	labels, _, _ := unstructured.NestedStringMap(k.spec.Object, "spec", "commonMetadata", "labels")
	annotations, _, _ := unstructured.NestedStringMap(k.spec.Object, "spec", "commonMetadata", "annotations")
	ssautil.SetCommonMetadata(objects, labels, annotations)
	k.Objects = make([]object, 0, len(objects))
	for _, each := range objects {
		if isEncrypted(each) {
			if !decrypts(k.spec) && !keepsEncrypted(each.GetAnnotations()) {
				return fmt.Errorf("%s is SOPS encrypted, configuring decryption is required for this secret to be reconciled",
					ssautil.FmtUnstructured(each))
			}
		} else if b.applied {
			if err := normalize.UnstructuredList([]*unstructured.Unstructured{each}); err != nil {
				return err
			}
		}
		if isGeneratedEncrypted(each) {
			k.Notes = append(k.Notes, fmt.Sprintf(
				"%s comes from an encrypted file: its values, and the hash in its name, are not known here", ssautil.FmtUnstructured(each)))
		}
		k.Objects = append(k.Objects, each.Object)
	}
	return nil
}

// plain removes the file's path from a message.
func (b *builder) plain(message string) string {
	return strings.ReplaceAll(strings.ReplaceAll(message, b.root+string(filepath.Separator), ""), b.root, ".")
}

// bringsSchema reports whether a kustomization file has the field "openapi".
func (t *tree) bringsSchema() bool {
	for name, content := range t.files {
		if isKustomization(name) && bytes.Contains(content, []byte("openapi")) {
			return true
		}
	}
	// Read once here, because several builds read it at the same time.
	openapi.Schema()
	return false
}

func isFluxKustomization(from object) bool {
	version, _ := from["apiVersion"].(string)
	return from["kind"] == "Kustomization" && strings.HasPrefix(version, fluxGroup+"/")
}

func inParallel(all []*kustomization, do func(*kustomization)) {
	var group errgroup.Group
	group.SetLimit(runtime.NumCPU())
	for _, each := range all {
		group.Go(func() error {
			do(each)
			return nil
		})
	}
	_ = group.Wait()
}
