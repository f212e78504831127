package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/fluxcd/pkg/ssa/normalize"
	ssautil "github.com/fluxcd/pkg/ssa/utils"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// mistyped is a field with a value of the wrong type, without the value, which may be secret.
type mistyped struct {
	Kind string `json:"kind"`
	// Namespace is empty if the object names none.
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Field is the path in the form of the API server: data.port, spec.containers[name="c"].args[0].
	Field string `json:"field"`
	// Expected and Got are text, number, boolean, list, map or nothing.
	Expected string `json:"expected"`
	Got      string `json:"got"`
}

// types reads objects of built-in kinds as the API server reads applied objects. Its schema takes long to load, and
// only a tree with a wrong value needs it.
var types = sync.OnceValue(func() managedfields.TypeConverter {
	return applyconfigurations.NewTypeConverter(scheme.Scheme)
})

// wrongType is the message of structured-merge-diff, and so of the API server, for a value of the wrong type.
var wrongType = regexp.MustCompile(`(?s)^expected (string|numeric|boolean|list|map)[^,]*, got (.*)$`)

// checkTypes finds the fields of an object whose values have the wrong type: labels and annotations, and, for built-in
// kinds, every field. It returns the message of the API server, or nil if the API server refuses nothing.
//
// checkTypes expects an object before SetCommonMetadata. Flux sets labels of its own on every object. If one of the
// other labels is not text, Flux ignores them all: it applies the object without them.
func (k *kustomization) checkTypes(each *unstructured.Unstructured) error {
	found := func(field, expected, got string) {
		k.Mistyped = append(k.Mistyped, mistyped{each.GetKind(), each.GetNamespace(), each.GetName(), field, expected, got})
	}
	labels, _, _ := unstructured.NestedMap(each.Object, "metadata", "labels")
	for _, name := range sortedKeys(labels) {
		if _, is := labels[name].(string); !is {
			found("metadata.labels."+name, "text", typeOf(labels[name]))
			unstructured.RemoveNestedField(each.Object, "metadata", "labels")
		}
	}
	checked := each
	if _, err := normalize.FromUnstructured(each); err == nil {
		return nil
	} else if !scheme.Scheme.Recognizes(each.GroupVersionKind()) {
		// Metadata has the same type everywhere.
		checked = &unstructured.Unstructured{Object: object{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": each.Object["metadata"],
		}}
		if _, err := normalize.FromUnstructured(checked); err == nil {
			return nil
		}
	}
	_, err := types().ObjectToTyped(checked)
	var all typed.ValidationErrors
	if !errors.As(err, &all) {
		return nil
	}
	// A text that stands for an unknown value may stand for a number.
	content, err := checked.MarshalJSON()
	if err != nil {
		return err
	}
	hides := strings.Contains(string(content), placeholder) || strings.Contains(string(content), "ENC[AES256_GCM,")
	all = slices.DeleteFunc(slices.Clone(all), func(one typed.ValidationError) bool {
		parts := wrongType.FindStringSubmatch(one.ErrorMessage)
		return parts == nil || hides && typeOfWord(parts[2]) == "text"
	})
	if len(all) == 0 {
		return nil
	}
	for _, one := range all {
		parts := wrongType.FindStringSubmatch(one.ErrorMessage)
		expected := map[string]string{"string": "text", "numeric": "number"}[parts[1]]
		if expected == "" {
			expected = parts[1]
		}
		found(strings.TrimPrefix(one.Path, "."), expected, typeOfWord(parts[2]))
	}
	if each.GetKind() == "Secret" {
		return fmt.Errorf("%s dry-run failed: a value has the wrong type", ssautil.FmtUnstructured(each))
	}
	return fmt.Errorf("%s dry-run failed: failed to create typed patch object (%s/%s; %s): %w", ssautil.FmtUnstructured(each),
		each.GetNamespace(), each.GetName(), each.GroupVersionKind(), all)
}

func typeOf(value any) string {
	switch value.(type) {
	case nil:
		return "nothing"
	case string:
		return "text"
	case bool:
		return "boolean"
	case []any:
		return "list"
	case map[string]any:
		return "map"
	}
	return "number"
}

// typeOfWord is the type of a value in a message of structured-merge-diff: a Go type where a number is expected,
// &value.valueUnstructured{Value:8080} elsewhere.
func typeOfWord(told string) string {
	_, value, found := strings.Cut(told, "Value:")
	if !found {
		value = told
	}
	value = strings.TrimSuffix(value, "}")
	switch {
	case value == "true" || value == "false" || value == "bool":
		return "boolean"
	case strings.HasPrefix(value, "map["):
		return "map"
	case strings.HasPrefix(value, "["):
		return "list"
	case isNumber.MatchString(value):
		return "number"
	}
	return "text"
}

var isNumber = regexp.MustCompile(`^[-+]?[0-9.]+(e[-+]?[0-9]+)?$`)
