package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"

	generator "github.com/fluxcd/pkg/kustomize"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// unset is a variable without a default that nothing sets.
type unset struct {
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Variable string `json:"variable"`
}

// substituteFrom is an entry of spec.postBuild.substituteFrom.
type substituteFrom struct {
	Kind, Name string
	Optional   bool
}

func substitutesOf(spec unstructured.Unstructured) []substituteFrom {
	entries, _, _ := unstructured.NestedSlice(spec.Object, "spec", "postBuild", "substituteFrom")
	references := make([]substituteFrom, 0, len(entries))
	for _, each := range entries {
		entry, _ := each.(map[string]any)
		kind, _ := entry["kind"].(string)
		name, _ := entry["name"].(string)
		optional, _ := entry["optional"].(bool)
		references = append(references, substituteFrom{kind, name, optional})
	}
	return references
}

// placeholder stands for a value that only the cluster knows.
const placeholder = "unknown"

// configs are the ConfigMaps and Secrets that the cluster will have. It answers in the form of the API server.
type configs struct {
	client.Client
	maps    map[string]*corev1.ConfigMap
	secrets map[string]*corev1.Secret
	// hidden are the Secrets with values that are not known here.
	hidden map[string]bool
}

func newConfigs(given []object) (*configs, error) {
	known := &configs{maps: map[string]*corev1.ConfigMap{}, secrets: map[string]*corev1.Secret{}, hidden: map[string]bool{}}
	for _, each := range given {
		if err := known.put(each); err != nil {
			return nil, err
		}
	}
	return known, nil
}

// add takes the objects of a Kustomization, without objects that the API server would refuse.
func (known *configs) add(k *kustomization) {
	if k.remote {
		return
	}
	for _, each := range k.Objects {
		_ = known.put(each)
	}
}

func (known *configs) put(from object) error {
	each := unstructured.Unstructured{Object: from}
	if each.GetAPIVersion() != "v1" {
		return nil
	}
	namespace := each.GetNamespace()
	if namespace == "" {
		namespace = "default"
	}
	key := namespace + "/" + each.GetName()
	switch each.GetKind() {
	case "ConfigMap":
		config := &corev1.ConfigMap{}
		if err := k8sruntime.DefaultUnstructuredConverter.FromUnstructured(from, config); err != nil {
			return err
		}
		known.maps[key] = config
	case "Secret":
		secret := &corev1.Secret{Data: map[string][]byte{}}
		for _, field := range []string{"data", "stringData"} {
			values, _, _ := unstructured.NestedMap(from, field)
			for name, value := range values {
				text, _ := value.(string)
				if field == "data" {
					if decoded, err := base64.StdEncoding.DecodeString(text); err == nil {
						text = string(decoded)
					}
				}
				// A run generates a value for an empty one.
				if text == "" || isCipher(text) {
					text = placeholder
					known.hidden[key] = true
				}
				secret.Data[name] = []byte(text)
			}
		}
		known.secrets[key] = secret
	}
	return nil
}

func (known *configs) has(kind, namespace, name string) bool {
	key := namespace + "/" + name
	switch kind {
	case "ConfigMap":
		return known.maps[key] != nil
	case "Secret":
		return known.secrets[key] != nil
	}
	return true
}

// Get implements client.Reader for generator.LoadVariables.
func (known *configs) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	name := key.Namespace + "/" + key.Name
	switch into := into.(type) {
	case *corev1.ConfigMap:
		if found := known.maps[name]; found != nil {
			*into = *found
			return nil
		}
		return apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, key.Name)
	case *corev1.Secret:
		if found := known.secrets[name]; found != nil {
			*into = *found
			return nil
		}
		return apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, key.Name)
	}
	return fmt.Errorf("%T is not known here", into)
}

// substitute is spec.postBuild. Without that field Flux leaves every "${x}" as it is.
func (b *builder) substitute(ctx context.Context, k *kustomization) error {
	if _, found, _ := unstructured.NestedMap(k.spec.Object, "spec", "postBuild"); !found {
		return nil
	}
	// A Secret of another maker, such as a secret store, may set any variable.
	anything := false
	kept := []any{}
	entries, _, _ := unstructured.NestedSlice(k.spec.Object, "spec", "postBuild", "substituteFrom")
	for i, each := range substitutesOf(k.spec) {
		key := k.Namespace + "/" + each.Name
		if each.Kind == "Secret" && b.known.secrets[key] == nil && !each.Optional {
			anything = true
			k.Notes = append(k.Notes, fmt.Sprintf(
				"Secret %s is not in the tree: a variable that nothing else sets is taken for one of its keys, with the value %q", key, placeholder))
			continue
		}
		if each.Kind == "Secret" && b.known.hidden[key] {
			k.Notes = append(k.Notes, fmt.Sprintf(
				"the values of Secret %s are not known here: %q stands for each", key, placeholder))
		}
		kept = append(kept, entries[i])
	}

	// SubstituteVariables loads the variables again for each resource; this code loads them once.
	spec := *k.spec.DeepCopy()
	if err := unstructured.SetNestedSlice(spec.Object, kept, "spec", "postBuild", "substituteFrom"); err != nil {
		return err
	}
	variables := map[string]string{}
	resources := k.built.Resources()
	if slices.ContainsFunc(resources, isSubstituted) {
		loaded, err := generator.LoadVariables(ctx, b.known, spec)
		if err != nil {
			return fmt.Errorf("post build failed for '%s/%s': %w", resources[0].GetGvk(), resources[0].GetName(), err)
		}
		variables = loaded
	}
	inline, _, err := unstructured.NestedStringMap(spec.Object, "spec", "postBuild", "substitute")
	if err != nil {
		return err
	}
	for name, value := range inline {
		variables[name] = value
	}
	strategy, _, _ := unstructured.NestedString(spec.Object, "spec", "postBuild", "substituteStrategy")
	always := strategy == "Always" || anything

	var failure error
	validated := false
	for _, each := range resources {
		// Most objects have no variable: envsubst leaves them as they are. It checks names of variables with the first.
		if validated && !mentions(each.YNode(), "$") {
			continue
		}
		validated = true
		for {
			values := make(map[string]any, len(variables))
			for name, value := range variables {
				values[name] = value
			}
			spec.Object["spec"] = map[string]any{"postBuild": map[string]any{"substitute": values}}
			result, err := generator.SubstituteVariables(ctx, nil, spec, each,
				generator.SubstituteWithDryRun(true), generator.SubstituteWithStrict(true), generator.SubstituteWithAlways(always))
			if err != nil {
				err = fmt.Errorf("post build failed for '%s/%s': %w", each.GetGvk(), each.GetName(), err)
				name := notSet(err)
				if name == "" || !isVariable.MatchString(name) {
					return err
				}
				variables[name] = placeholder
				if !anything {
					k.Unset = append(k.Unset, unset{each.GetKind(), each.GetName(), name})
					if failure == nil {
						failure = err
					}
				}
				continue
			}
			if result != nil {
				if _, err := k.built.Replace(each); err != nil {
					return err
				}
			}
			break
		}
		// Each object that lacks a variable is named.
		if !anything {
			for _, lacking := range k.Unset {
				delete(variables, lacking.Variable)
			}
		}
	}
	return failure
}

// mentions reports whether a key or value of a node holds a text.
func mentions(node *yaml.Node, text string) bool {
	return strings.Contains(node.Value, text) ||
		slices.ContainsFunc(node.Content, func(each *yaml.Node) bool { return mentions(each, text) })
}

// isVariable is the regular expression of names in generator.SubstituteVariables.
var isVariable = regexp.MustCompile(`^[_[:alpha:]][_[:alpha:][:digit:]]*$`)

// notSet is the variable that envsubst misses in strict mode.
func notSet(err error) string {
	found := regexp.MustCompile(`variable not set \(strict mode\): "([^"]+)"`).FindStringSubmatch(err.Error())
	if found == nil {
		return ""
	}
	return found[1]
}

func isSubstituted(each *resource.Resource) bool {
	key := fluxGroup + "/substitute"
	return each.GetLabels()[key] != "disabled" && each.GetAnnotations()[key] != "disabled"
}

func decrypts(spec unstructured.Unstructured) bool {
	_, found, _ := unstructured.NestedMap(spec.Object, "spec", "decryption")
	return found
}

// keepsEncrypted is decryptor.IsDecryptionDisabled of kustomize-controller.
func keepsEncrypted(annotations map[string]string) bool {
	return strings.EqualFold(annotations[fluxGroup+"/decrypt"], "disabled")
}

// isEncrypted is decryptor.IsEncryptedSecret of kustomize-controller.
func isEncrypted(each *unstructured.Unstructured) bool {
	_, found := each.Object["sops"]
	return found && each.GetKind() == "Secret" && each.GetAPIVersion() == "v1"
}

func isCipher(text string) bool { return strings.HasPrefix(text, "ENC[AES256_GCM,data:") }

func isGeneratedEncrypted(each *unstructured.Unstructured) bool {
	if each.GetKind() != "Secret" || isEncrypted(each) {
		return false
	}
	texts, _, _ := unstructured.NestedMap(each.Object, "stringData")
	for _, value := range texts {
		if text, _ := value.(string); isCipher(text) {
			return true
		}
	}
	values, _, _ := unstructured.NestedMap(each.Object, "data")
	for _, value := range values {
		text, _ := value.(string)
		if decoded, err := base64.StdEncoding.DecodeString(text); err == nil && isCipher(string(decoded)) {
			return true
		}
	}
	return false
}
