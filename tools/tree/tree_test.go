package main

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// write makes a tree of files: path → content.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	directory := t.TempDir()
	for name, content := range files {
		path := filepath.Join(directory, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return directory
}

func paths(t *testing.T, from source) []string {
	t.Helper()
	read, err := readTree(from)
	if err != nil {
		t.Fatal(err)
	}
	return sortedKeys(read.files)
}

func configMap(name, key, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: web}\ndata: {%s: %q}\n", name, key, value)
}

// layer is a Flux Kustomization of the release in namespace flux-system.
func layer(name, path, fields string) string {
	return "---\napiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: " + name +
		", namespace: flux-system}\nspec:\n  path: " + path + "\n  sourceRef: {kind: OCIRepository, name: flux-system}\n" + fields
}

// cluster builds a tree whose root is clusters/x, and answers by name.
func cluster(t *testing.T, files map[string]string, change ...func(*buildRequest)) map[string]*kustomization {
	t.Helper()
	request := buildRequest{source: source{Tree: write(t, files)}, Path: "./clusters/x"}
	for _, each := range change {
		each(&request)
	}
	response, err := build(request)
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]*kustomization{"root": response.Root}
	for _, each := range response.Kustomizations {
		byName[each.Name] = each
	}
	return byName
}

// one builds the layer "app" of directory app with one ConfigMap, and answers its value or its error.
func one(t *testing.T, value, fields string, given ...string) (string, string) {
	t.Helper()
	built := cluster(t, map[string]string{
		"clusters/x/app.yaml": layer("app", "./app", fields),
		"app/c.yaml":          "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: web}\ndata:\n  key: |-\n    " + value + "\n",
	}, func(request *buildRequest) {
		for _, each := range given {
			var parsed object
			if err := yaml.Unmarshal([]byte(each), &parsed); err != nil {
				t.Fatal(err)
			}
			request.Given = append(request.Given, parsed)
		}
	})["app"]
	if built.Error != "" {
		return "", built.Error
	}
	return fmt.Sprint(built.Objects[0]["data"].(map[string]any)["key"]), ""
}

func TestFilesThatSourceControllerKeeps(t *testing.T) {
	directory := write(t, map[string]string{
		"a.yaml": "", "b/logo.png": "", "c.zip": "", ".sops.yaml": "", ".gitignore": "", ".github/w.yaml": "", "@x.yaml": "", "größe.yaml": "", ".git/config": "",
	})
	if err := os.Symlink("a.yaml", filepath.Join(directory, "link.yaml")); err != nil {
		t.Fatal(err)
	}
	if got, want := paths(t, source{Tree: directory}), []string{"@x.yaml", "a.yaml", "größe.yaml"}; !slices.Equal(got, want) {
		t.Errorf("kept %q, want %q", got, want)
	}
	// Files of one's own replace Flux's list, except for what belongs to Git.
	if err := os.WriteFile(filepath.Join(directory, "b", ".sourceignore"), []byte("# nothing here\n/d.yaml\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(directory, "b", "d.yaml"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	want := []string{".github/w.yaml", ".sops.yaml", "@x.yaml", "a.yaml", "b/.sourceignore", "b/logo.png", "c.zip", "größe.yaml"}
	if got := paths(t, source{Tree: directory}); !slices.Equal(got, want) {
		t.Errorf("kept %q, want %q", got, want)
	}
}

func TestNamesOfGitAreTaken(t *testing.T) {
	directory := write(t, map[string]string{"a.yaml": "", "ignored": "", "sub/x": ""})
	if got, want := paths(t, source{Tree: directory, Names: []string{"a.yaml", "deleted", "sub/"}}), []string{"a.yaml"}; !slices.Equal(got, want) {
		t.Errorf("kept %q, want %q", got, want)
	}
}

func TestArchiveIsTakenInsteadOfDirectory(t *testing.T) {
	var content bytes.Buffer
	writer := tar.NewWriter(&content)
	for _, header := range []tar.Header{
		{Name: "a.yaml", Typeflag: tar.TypeReg, Size: 1, Mode: 0o644},
		{Name: "d/", Typeflag: tar.TypeDir},
		{Name: "d/l", Typeflag: tar.TypeSymlink, Linkname: "../a.yaml"},
	} {
		if err := writer.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if header.Size > 0 {
			_, _ = writer.Write([]byte("x"))
		}
	}
	_ = writer.Close()
	archive := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(archive, content.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	read, err := readTree(source{Tree: "/nowhere", Archive: archive})
	if err != nil || string(read.files["a.yaml"]) != "x" || !slices.Equal(read.leftOut, []string{"d/l"}) {
		t.Errorf("read %v, left out %v, %v", read.files, read.leftOut, err)
	}
}

func TestContentIsOfBytes(t *testing.T) {
	hash := func(content string) string {
		read, err := readTree(source{Tree: write(t, map[string]string{"a.bin": content})})
		if err != nil {
			t.Fatal(err)
		}
		return read.content()
	}
	if hash("\xff\xfe") == hash("\xfd\xfc") {
		t.Error("two binary files have one hash")
	}
	if hash("a") != hash("a") {
		t.Error("one file has two hashes")
	}
}

func TestSubstitution(t *testing.T) {
	from := "  postBuild:\n    substitute: {x: \"1\", dotted: a.b.c, empty: \"\", y: why}\n"
	for _, each := range []struct{ value, want string }{
		{"is ${x}", "is 1"},
		{"${dotted//./-}", "a-b-c"},
		{"is ${#dotted}", "is 5"},
		{"${none:=${y}}", "why"},
		{"${none:-${y}-${x}}", "why-1"},
		{"$${x} $x $HOME", "${x} $x $HOME"},
		{"${y^^}", "WHY"},
		{"[${empty}]", "[]"},
		{"${empty:=full}", "full"},
	} {
		if got, failed := one(t, each.value, from); got != each.want {
			t.Errorf("%s became %q %s, want %q", each.value, got, failed, each.want)
		}
	}
	for value, words := range map[string]string{
		"${none}":     `post build failed for 'ConfigMap.v1.[noGrp]/c': envsubst error: variable substitution failed: variable not set (strict mode): "none"`,
		"${1}":        `variable not set (strict mode): "1"`,
		"${files[@]}": "missing closing brace",
		"${a-b-c}":    "",
	} {
		if _, failed := one(t, value, from); words != "" && !strings.Contains(failed, words) {
			t.Errorf("%s fails with %q, want %q", value, failed, words)
		}
	}
}

func TestWithoutVariablesFluxSubstitutesNothing(t *testing.T) {
	for _, fields := range []string{"", "  postBuild: {}\n", "  postBuild: {substitute: {}}\n"} {
		if got, failed := one(t, "${x} $${y}", fields); got != "${x} $${y}" {
			t.Errorf("%q gave %q %s", fields, got, failed)
		}
	}
	if _, failed := one(t, "${x}", "  postBuild: {substituteStrategy: Always}\n"); !strings.Contains(failed, "variable not set") {
		t.Errorf("strategy Always gave %q", failed)
	}
}

func TestSubstituteFrom(t *testing.T) {
	from := func(entries string) string { return "  postBuild:\n    substituteFrom: [" + entries + "]\n" }
	given := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: g, namespace: flux-system}\ndata: {x: \"a\\nb\"}\n"
	encrypted := "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: flux-system}\nstringData: {x: \"ENC[AES256_GCM,data:a]\"}\nsops: {mac: m}\n"
	for _, each := range []struct{ value, entries, want, failed string }{
		{"${x}", "{kind: ConfigMap, name: g}", "ab", ""}, // lines are joined
		{"${x}", "{kind: ConfigMap, name: none, optional: true}, {kind: ConfigMap, name: g}", "ab", ""},
		{"${x}", "{kind: ConfigMap, name: none}", "", `substitute from 'ConfigMap/none' error: configmaps "none" not found`},
		{"${x}", "{kind: Secret, name: s}", placeholder, ""},
		{"${y}", "{kind: Secret, name: s}", "", `variable not set (strict mode): "y"`},
		{"${y}", "{kind: Secret, name: made-by-a-store}", placeholder, ""},
	} {
		got, failed := one(t, each.value, from(each.entries), given, encrypted)
		if got != each.want || !strings.Contains(failed, each.failed) || (failed == "") != (each.failed == "") {
			t.Errorf("%s from %s gave %q, %q", each.value, each.entries, got, failed)
		}
	}
}

func TestKustomizationWaitsForVariablesOfAnother(t *testing.T) {
	uses := "  postBuild: {substituteFrom: [{kind: ConfigMap, name: facts}]}\n"
	built := cluster(t, map[string]string{
		"clusters/x/layers.yaml": layer("a", "./a", uses) + layer("b", "./b", "  postBuild: {substitute: {n: \"2\"}}\n"),
		"a/c.yaml":               configMap("c", "key", "${value}"),
		"b/facts.yaml":           "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: facts, namespace: flux-system}\ndata: {value: \"v-${n}\"}\n",
	})
	if got := built["a"].Objects[0]["data"].(map[string]any)["key"]; got != "v-2" {
		t.Errorf("got %v, %s", got, built["a"].Error)
	}
}

func TestFieldsOfAKustomization(t *testing.T) {
	fields := `  targetNamespace: there
  namePrefix: a-
  nameSuffix: -z
  commonMetadata: {labels: {l: "1"}, annotations: {note: "2"}}
  images: [{name: nginx, newName: mirror/nginx, newTag: "2"}]
  components: [../component, ../missing]
  ignoreMissingComponents: true
  patches:
    - patch: |
        - {op: add, path: /spec/replicas, value: 3}
      target: {kind: Deployment}
`
	built := cluster(t, map[string]string{
		"clusters/x/app.yaml":          layer("app", "./app", fields),
		"app/d.yaml":                   "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {template: {spec: {containers: [{name: c, image: \"nginx:1\"}]}}}\n",
		"component/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\npatches: [{patch: '[{\"op\": \"add\", \"path\": \"/spec/paused\", \"value\": true}]', target: {kind: Deployment}}]\n",
	})["app"]
	if built.Error != "" {
		t.Fatal(built.Error)
	}
	text, _ := yaml.Marshal(built.Objects[0])
	for _, want := range []string{"name: a-d-z", "namespace: there", `l: "1"`, `note: "2"`, "image: mirror/nginx:2", "paused: true", "replicas: 3"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is missing in\n%s", want, text)
		}
	}
}

func TestNestedOtherAndBrokenKustomizations(t *testing.T) {
	built := cluster(t, map[string]string{
		"clusters/x/a.yaml": layer("a", "./a", ""),
		"a/b.yaml":          layer("b", "./b", ""),
		"a/other.yaml":      strings.Replace(layer("other", "./b", ""), "OCIRepository", "Bucket", 1),
		"a/outside.yaml":    layer("outside", "./outside", ""),
		"a/none.yaml":       layer("none", "./none", ""),
		"b/c.yaml":          configMap("c", "key", "0755"),
		// Flux allows files of other directories, and none outside of the tree.
		"outside/kustomization.yaml": "resources: [../b/c.yaml, ../../x.yaml]\n",
	})
	if b := built["b"]; b.Parent != "flux-system/a" || len(b.Objects) != 1 {
		t.Errorf("b is of %q with %d objects, %s", b.Parent, len(b.Objects), b.Error)
	}
	if got, want := built["other"].NotBuilt, "its source Bucket flux-system/flux-system is not the release"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := built["outside"].Error; !strings.HasPrefix(got, "kustomize build failed: ") {
		t.Errorf("a file outside of the tree gave %q", got)
	}
	if got, want := built["none"].Error, "kustomization path not found: stat none: no such file or directory"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSuspendedKustomizationAppliesNothing(t *testing.T) {
	built := cluster(t, map[string]string{
		"clusters/x/a.yaml": layer("a", "./a", "  suspend: true\n") + layer("b", "./b", "  suspend: false\n"),
		// Not even what is wrong with it matters.
		"a/kustomization.yaml": "resources: [missing.yaml]\n",
		"b/c.yaml":             configMap("c", "key", "value"),
	})
	a := built["a"]
	if want := "it is suspended, and Flux applies nothing of it"; a.NotBuilt != want || a.Objects != nil || a.Error != "" {
		t.Errorf("got %q, %v, %s", a.NotBuilt, a.Objects, a.Error)
	}
	if len(built["b"].Objects) != 1 {
		t.Errorf("b has %v, %s", built["b"].Objects, built["b"].NotBuilt)
	}
}

func TestKustomizationOfAnotherCluster(t *testing.T) {
	built := cluster(t, map[string]string{
		"clusters/x/layers.yaml": layer("a", "./a", "  kubeConfig: {secretRef: {name: other}}\n") +
			layer("b", "./b", "  postBuild: {substituteFrom: [{kind: ConfigMap, name: facts}]}\n"),
		"a/facts.yaml": strings.ReplaceAll(configMap("facts", "x", "value"), "namespace: web", "namespace: flux-system"),
		"a/c.yaml":     layer("c", "./b", ""),
		"b/c.yaml":     configMap("c", "key", "${x}"),
	})
	if a := built["a"]; len(a.Objects) != 2 || !slices.Equal(a.Notes, []string{"its objects go to another cluster"}) {
		t.Errorf("got %v, %q, %s", a.Objects, a.Notes, a.Error)
	}
	// What is there is not here: no Kustomization to build, no variables.
	if built["c"] != nil || !strings.Contains(built["b"].Error, `configmaps "facts" not found`) {
		t.Errorf("got %v, %q", built["c"], built["b"].Error)
	}
}

func TestValuesOfYaml11(t *testing.T) {
	built := cluster(t, map[string]string{
		"clusters/x/app.yaml": layer("app", "./app", "  postBuild: {substitute: {mode: \"0755\", flag: \"on\"}}\n"),
		"app/c.yaml":          "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: t}\nspec: {mode: \"${mode}\", flag: \"${flag}\", bare: on}\n",
	})["app"]
	spec := built.Objects[0]["spec"].(map[string]any)
	// What Flux's substitution makes of them, as text of a YAML 1.1 reader.
	if got := fmt.Sprintf("%v %v", spec["mode"], spec["flag"]); got != "493 true" {
		t.Errorf("got %s, %s", got, built.Error)
	}
}

// Quotes around a variable do not survive: Flux substitutes in the text that kustomize wrote, which has none.
func TestFieldsOfTheWrongType(t *testing.T) {
	variables := "  postBuild: {substitute: {port: \"8080\", on: \"true\", quote: '\"'}}\n"
	of := func(fields, object string) *kustomization {
		return cluster(t, map[string]string{"clusters/x/app.yaml": layer("app", "./app", fields), "app/o.yaml": object})["app"]
	}
	config := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: web}\n"
	thing := "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: t, namespace: web, "
	pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: web}\nspec: {containers: [{name: c, image: i, "
	for _, each := range []struct{ object, want string }{
		{config + "data: {port: \"${port}\", text: \"a ${port}\"}\n", "ConfigMap web/c data.port text number"},
		{config + "data: {flag: \"${on}\"}\n", "ConfigMap web/c data.flag text boolean"},
		{config + "data: {port: \"${quote}${port}${quote}\"}\n", ""},
		{config + "data: {port: 8080}\n", "ConfigMap web/c data.port text number"},
		{"apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: web}\nstringData: {pin: \"${port}\"}\n", "Secret web/s stringData.pin text number"},
		{thing + "labels: {id: \"${port}\"}}\n", "Thing web/t metadata.labels.id text number"},
		{thing + "annotations: {id: \"${on}\"}}\n", "Thing web/t metadata.annotations.id text boolean"},
		{pod + "env: [{name: PORT, value: \"${port}\"}], ports: [{containerPort: \"${port}\"}]}]}\n", `Pod web/p spec.containers[name="c"].env[name="PORT"].value text number`},
		{pod + "args: [\"${port}\"], resources: {limits: {cpu: \"${port}\"}}}]}\n", `Pod web/p spec.containers[name="c"].args[0] text number`},
		{"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: web}\nspec: {replicas: two}\n", "Deployment web/d spec.replicas number text"},
	} {
		built := of(variables, each.object)
		var got []string
		for _, one := range built.Mistyped {
			got = append(got, strings.Join([]string{one.Kind, one.Namespace + "/" + one.Name, one.Field, one.Expected, one.Got}, " "))
		}
		if strings.Join(got, "; ") != each.want {
			t.Errorf("%s gave %q, want %q; %s", each.object, got, each.want, built.Error)
		}
	}
	// What only the cluster knows may be anything.
	stored := "  postBuild: {substituteFrom: [{kind: Secret, name: made-by-a-store}]}\n"
	if built := of(stored, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {replicas: \"${n}\"}\n"); len(built.Mistyped) > 0 {
		t.Errorf("got %v", built.Mistyped)
	}
}

func TestEncryptedSecrets(t *testing.T) {
	cipher := "ENC[AES256_GCM,data:Zm9v,iv:YmFy,tag:YmF6,type:str]"
	files := map[string]string{
		"clusters/x/app.yaml":    layer("app", "./app", "  decryption: {provider: sops}\n") + layer("bare", "./bare", ""),
		"app/kustomization.yaml": "secretGenerator: [{name: g, envs: [v.env]}]\n",
		"app/v.env":              "A=" + cipher + "\nsops_mac=ENC[AES256_GCM,data:x]\nsops_version=3\n",
		"bare/s.yaml":            "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: web}\nstringData: {A: \"" + cipher + "\"}\nsops: {mac: m}\n",
	}
	built := cluster(t, files)
	data := built["app"].Objects[0]["data"].(map[string]any)
	if len(data) != 1 || data["A"] != base64.StdEncoding.EncodeToString([]byte(cipher)) || len(built["app"].Notes) != 1 {
		t.Errorf("generated %v, noted %q", data, built["app"].Notes)
	}
	if got, want := built["bare"].Error, "Secret/web/s is SOPS encrypted, configuring decryption is required for this secret to be reconciled"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The files that Flux decrypts before it builds, and how: by the extension of the key, not of the file.
func TestEncryptedSources(t *testing.T) {
	cipher := "ENC[AES256_GCM,data:Zm9v,iv:YmFy,tag:YmF6,type:str]"
	mac := "ENC[AES256_GCM,data:bWFj,iv:YmFy,tag:YmF6,type:str]"
	yamlFile := "a: " + cipher + "\nlist:\n    - " + cipher + "\nempty: \"\"\nsops:\n    mac: " + mac + "\n"
	jsonFile := `{"a": "` + cipher + `", "sops": {"mac": "` + mac + `"}}`
	binary := `{"data": "` + cipher + `", "sops": {"mac": "` + mac + `"}}`
	dotenv := "A=" + cipher + "\nsops_mac=" + mac + "\n"
	ini := "[main]\na = " + cipher + "\n[sops]\nmac = " + mac + "\n"
	config := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: b}\n"
	app := func(manifest string, files map[string]string) *kustomization {
		all := map[string]string{
			"clusters/x/app.yaml":    layer("app", "./app", "  decryption: {provider: sops}\n"),
			"app/kustomization.yaml": manifest,
		}
		for name, content := range files {
			all["app/"+name] = content
		}
		return cluster(t, all)["app"]
	}
	encoded := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	for _, each := range []struct{ source, content, want string }{
		{"f.yaml", yamlFile, mac},
		{"f.yaml", strings.Replace(yamlFile, "a: "+cipher, "a: plain", 1), "a: plain\nempty: \"\"\nlist:\n- " + cipher + "\n"},
		{"f.yaml", "a_unencrypted: plain\nb: " + cipher + "\nsops:\n    unencrypted_suffix: _unencrypted\n    mac: " + mac + "\n", mac},
		{"f.yaml", "host: plain\nb: " + cipher + "\nsops:\n    encrypted_regex: ^b$\n    mac: " + mac + "\n", mac},
		{"f.json", jsonFile, mac},
		{"f.txt", binary, mac},
		{"f.env", dotenv, mac},
		{"f.ini", ini, mac},
		{"f.yaml", "a: plain\n", "a: plain\n"},
		// Flux does not decrypt the file for this key, and decrypts the value of the Secret later.
		{"k.env=f.yaml", yamlFile, mac},
	} {
		key, name, found := strings.Cut(each.source, "=")
		if !found {
			name = key
		}
		built := app("secretGenerator: [{name: g, files: ["+each.source+"]}]\n", map[string]string{name: each.content})
		if built.Error != "" || len(built.Objects) != 1 {
			t.Errorf("%s of %s failed: %s", each.source, each.content, built.Error)
			continue
		}
		// kustomize breaks long values into lines.
		got := strings.ReplaceAll(fmt.Sprint(built.Objects[0]["data"].(map[string]any)[key]), "\n", "")
		if got != encoded(each.want) {
			t.Errorf("%s of %s gave %s, want %s", each.source, each.content, got, encoded(each.want))
		}
		if hidden := each.want == mac; hidden != (len(built.Notes) == 1) {
			t.Errorf("%s noted %q", each.source, built.Notes)
		}
	}

	// ConfigMaps are not decrypted.
	built := app("configMapGenerator: [{name: g, files: [f.yaml]}]\n", map[string]string{"f.yaml": yamlFile})
	if got := built.Objects[0]["data"].(map[string]any)["f.yaml"]; got != yamlFile {
		t.Errorf("a ConfigMap holds %v", got)
	}
	// Files of what the kustomization file names are.
	built = app("resources: [below]\n", map[string]string{
		"below/kustomization.yaml": "secretGenerator: [{name: g, files: [f.yaml]}]\n", "below/f.yaml": yamlFile,
	})
	if len(built.Objects) != 1 || built.Objects[0]["data"].(map[string]any)["f.yaml"] != encoded(mac) {
		t.Errorf("got %v, %s", built.Objects, built.Error)
	}
	for manifest, words := range map[string]string{
		"secretGenerator: [{name: g, files: [k=f.json]}]\n": "error decrypting sources: failed to emit encrypted binary file as decrypted binary: error emitting binary store: no binary data found in tree",
		"secretGenerator: [{name: g, envs: [none.env]}]\n":  "error decrypting sources: lstat app/none.env: no such file or directory",
		"resources: [empty]\n":                              "error decrypting sources: no kustomization file found",
	} {
		if got := app(manifest, map[string]string{"f.json": jsonFile, "empty/x.yaml": config}).Error; got != words {
			t.Errorf("%s gave %q, want %q", manifest, got, words)
		}
	}

	patch := "data:\n  a: " + cipher + "\nsops:\n    mac: " + mac + "\n"
	named := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"
	sealed := "apiVersion: " + cipher + "\nkind: " + cipher + "\nmetadata:\n  name: " + cipher + "\n"
	for _, each := range []struct{ entry, patch, want, notBuilt string }{
		{"{path: p.yaml}", named + patch, cipher, ""},
		{"{path: p.yaml, target: {kind: ConfigMap}}", sealed + patch, cipher, ""},
		{"{path: p.yaml}", sealed + patch, "", "its patch app/p.yaml is encrypted with the name of the object that it changes, which only the cluster can read"},
	} {
		built := app("resources: [c.yaml]\npatches: ["+each.entry+"]\n", map[string]string{"c.yaml": config, "p.yaml": each.patch})
		got := ""
		if len(built.Objects) == 1 {
			got, _ = built.Objects[0]["data"].(map[string]any)["a"].(string)
		}
		if got != each.want || built.NotBuilt != each.notBuilt || built.Error != "" {
			t.Errorf("%s gave %q, %q, %q", each.entry, got, built.NotBuilt, built.Error)
		}
	}
}

func TestPackIsReproducible(t *testing.T) {
	files := map[string]string{"b/@a.yaml": "a", "a.bin": "\xff\x00", "c.png": ""}
	digest := func(directory string, content string) string {
		response, err := pack(packRequest{source: source{Tree: directory}, Content: content, Layout: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		return response.Digest
	}
	first, second := write(t, files), write(t, files)
	if err := os.Chmod(filepath.Join(second, "a.bin"), 0o600); err != nil {
		t.Fatal(err)
	}
	read, err := readTree(source{Tree: first})
	if err != nil {
		t.Fatal(err)
	}
	if digest(first, read.content()) != digest(second, read.content()) || digest(first, read.content()) == "" {
		t.Error("the same files have two digests")
	}
	if digest(first, "another") != "" {
		t.Error("a tree that was not checked was packed")
	}
}
