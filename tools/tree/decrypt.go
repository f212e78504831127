package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/resource"
	kustypes "sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"
)

// Flux decrypts the files of secretGenerators and the patches of kustomization files before it builds, and values of
// Secrets after. This program has no identity. It finds the same files by the same rules, and builds with their
// readable parts: ciphers stand for values. Source: internal/decryptor of kustomize-controller v1.9.5, which is not a
// library.

// format is the form in which SOPS reads a file.
type format string

const (
	formatBinary format = "binary"
	formatDotenv format = "dotenv"
	formatIni    format = "INI"
	formatJSON   format = "JSON"
	formatYaml   format = "YAML"
)

// markers are the texts by which Flux knows that a file is encrypted.
var markers = map[format]string{
	formatBinary: `"mac": "ENC[`,
	formatDotenv: "sops_mac=ENC[",
	formatIni:    "[sops]",
	formatJSON:   `"mac": "ENC[`,
	formatYaml:   "mac: ENC[",
}

func formatOf(path string) format {
	switch {
	case strings.HasSuffix(path, ".yaml"), strings.HasSuffix(path, ".yml"):
		return formatYaml
	case strings.HasSuffix(path, ".json"), strings.HasSuffix(path, ".dockerconfigjson"):
		return formatJSON
	case strings.HasSuffix(path, ".env"):
		return formatDotenv
	case strings.HasSuffix(path, ".ini"):
		return formatIni
	}
	return formatBinary
}

// wholePatch is an encrypted patch that hides even the object that it changes.
type wholePatch struct{ path string }

func (e *wholePatch) Error() string {
	return fmt.Sprintf("its patch %s is encrypted with the name of the object that it changes, which only the cluster can read", e.path)
}

// opener puts files into an overlay in the form in which Flux finds them after Decryptor.DecryptSources.
type opener struct {
	root    string
	overlay overlay
	done    map[string]bool
	visited map[string]bool
}

// openSources opens the encrypted files that a directory's kustomization file names, and the files that its resources
// and components name.
func (b *builder) openSources(directory string, files overlay) error {
	each := opener{b.root, files, map[string]bool{}, map[string]bool{}}
	return each.directory(directory)
}

// notADirectory is a resource that is a file, a URL, or missing: kustomize reports it, as in Flux.
var notADirectory = errors.New("not a directory")

func (o opener) directory(path string) error {
	full, err := o.within(path)
	if err != nil || o.visited[full] {
		return err
	}
	o.visited[full] = true
	info, err := os.Lstat(full)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return notADirectory
	case err != nil:
		return err
	case !info.IsDir():
		return notADirectory
	}
	file, err := o.kustomization(full)
	if err != nil {
		return err
	}
	for _, generator := range file.SecretGenerator {
		for _, source := range generator.FileSources {
			key, name, found := strings.Cut(source, "=")
			if !found {
				name = key
			}
			if err := o.open(path, name, formatOf(key), value); err != nil {
				return err
			}
		}
		for _, name := range generator.EnvSources {
			as := formatOf(name)
			if as == formatBinary {
				as = formatDotenv
			}
			if err := o.open(path, name, as, variables); err != nil {
				return err
			}
		}
	}
	for _, patch := range file.Patches {
		if at, err := url.Parse(patch.Path); patch.Path == "" || err == nil && at.Scheme != "" && at.Host != "" {
			continue
		}
		as := patchOfAny
		if patch.Target == nil {
			as = patchOfOne
		}
		if err := o.open(path, patch.Path, formatOf(patch.Path), as); err != nil {
			return err
		}
	}
	for _, each := range append(file.Resources, file.Components...) {
		if !filepath.IsAbs(each) {
			each = filepath.Join(path, each)
		}
		if err := o.directory(each); err != nil && !errors.Is(err, notADirectory) {
			return err
		}
	}
	return nil
}

// within is a path below the root, for any name.
func (o opener) within(path string) (string, error) {
	if rest, found := strings.CutPrefix(path, o.root+string(filepath.Separator)); found || path == o.root {
		path = rest
		if !found {
			path = "."
		}
	}
	return securejoin.SecureJoin(o.root, path)
}

func (o opener) kustomization(directory string) (*kustypes.Kustomization, error) {
	var content []byte
	loaded := ""
	for _, name := range konfig.RecognizedKustomizationFileNames() {
		path := filepath.Join(directory, name)
		if !o.overlay.Exists(path) {
			continue
		}
		if loaded != "" {
			return nil, errors.New("found multiple kustomization files")
		}
		var err error
		if content, err = o.overlay.ReadFile(path); err != nil {
			return nil, fmt.Errorf("failed to read kustomization file: %w", err)
		}
		loaded = path
	}
	if loaded == "" {
		return nil, errors.New("no kustomization file found")
	}
	file := &kustypes.Kustomization{}
	if err := yaml.Unmarshal(content, file); err != nil {
		return nil, fmt.Errorf("failed to unmarshal kustomization file from '%s': %w", loaded, err)
	}
	return file, nil
}

// use is the purpose of an encrypted file.
type use int

const (
	// value is the value of a Secret.
	value use = iota
	// variables are the keys and values of a Secret.
	variables
	// patchOfAny has its target in the kustomization file, patchOfOne in itself.
	patchOfAny
	patchOfOne
)

func (o opener) open(directory, name string, as format, to use) error {
	if !filepath.IsAbs(name) {
		name = filepath.Join(directory, name)
	}
	path, err := o.within(name)
	if err != nil || o.done[path] {
		return err
	}
	content, err := o.overlay.ReadFile(path)
	if err != nil {
		if info, missing := os.Lstat(path); missing != nil {
			return missing
		} else if !info.Mode().IsRegular() {
			return errors.New("cannot decrypt irregular file as it has file mode type bits set")
		}
		return err
	}
	if !bytes.Contains(content, []byte(markers[as])) {
		return nil
	}
	opened, err := opened(content, as)
	if err != nil {
		return err
	}
	if to == patchOfOne && opened.hidesName() {
		return &wholePatch{strings.TrimPrefix(path, o.root+string(filepath.Separator))}
	}
	o.overlay.files[path] = opened.text
	if seal := sealOf(content); to == value && seal != "" && !opened.plain {
		o.overlay.files[path] = []byte(seal)
	}
	o.done[path] = true
	return nil
}

// sealOf is the MAC of an encrypted file. It stands for the content of the file.
func sealOf(content []byte) string {
	if found := cipherText.FindAll(content, -1); len(found) > 0 {
		return string(found[len(found)-1])
	}
	return ""
}

var cipherText = regexp.MustCompile(`ENC\[AES256_GCM,data:[\w+/=]*,iv:[\w+/=]+,tag:[\w+/=]+,type:\w+\]`)

// openedFile is an encrypted file without the fields that SOPS added.
type openedFile struct {
	text []byte
	// documents are the documents of a JSON or YAML file.
	documents []object
	// plain is set if the file has a plain value that SOPS would encrypt.
	plain bool
}

func opened(content []byte, as format) (openedFile, error) {
	failed := func(err error) (openedFile, error) {
		return openedFile{}, fmt.Errorf("failed to load encrypted %s data: %w", as, err)
	}
	switch as {
	case formatDotenv, formatIni:
		return openedLines(string(content), as), nil
	case formatBinary:
		parsed := object{}
		if err := json.Unmarshal(content, &parsed); err != nil {
			return failed(err)
		}
		text, found := parsed["data"].(string)
		if !found {
			return openedFile{}, errors.New("failed to emit encrypted binary file as decrypted binary: error emitting binary store: no binary data found in tree")
		}
		return openedFile{text: []byte(text), plain: !isCipher(text)}, nil
	}
	result := openedFile{}
	texts := [][]byte{}
	for _, part := range bytes.Split(append([]byte("\n"), content...), []byte("\n---")) {
		parsed := object{}
		if err := yaml.Unmarshal(part, &parsed); err != nil {
			return failed(err)
		}
		if len(parsed) == 0 {
			continue
		}
		metadata, _ := parsed["sops"].(map[string]any)
		delete(parsed, "sops")
		result.plain = result.plain || rules{metadata}.leavesPlain(parsed, nil)
		result.documents = append(result.documents, parsed)
		text, err := yaml.Marshal(parsed)
		if as == formatJSON {
			text, err = json.Marshal(parsed)
		}
		if err != nil {
			return failed(err)
		}
		texts = append(texts, text)
	}
	result.text = bytes.Join(texts, []byte("---\n"))
	return result, nil
}

func openedLines(content string, as format) openedFile {
	metadata, kept := object{}, []string{}
	values := object{}
	section := ""
	for _, line := range strings.Split(content, "\n") {
		key, text, _ := strings.Cut(line, "=")
		key, text = strings.TrimSpace(key), strings.TrimSpace(text)
		switch {
		case as == formatIni && strings.HasPrefix(key, "["):
			section = strings.Trim(key, "[]")
			if section == "sops" {
				continue
			}
		case as == formatIni && section == "sops":
			metadata[key] = text
			continue
		case strings.HasPrefix(key, "#") || strings.HasPrefix(key, ";"):
			continue
		case as == formatDotenv && strings.HasPrefix(key, "sops_"):
			metadata[strings.TrimPrefix(key, "sops_")] = text
			continue
		case key != "":
			values[key] = text
		}
		kept = append(kept, line)
	}
	return openedFile{text: []byte(strings.Join(kept, "\n")), plain: rules{metadata}.leavesPlain(values, nil)}
}

// hidesName reports whether ciphers hide the name of the object that a patch changes.
func (o openedFile) hidesName() bool {
	for _, each := range o.documents {
		kind, _ := each["kind"].(string)
		version, _ := each["apiVersion"].(string)
		name, _, _ := unstructured.NestedString(each, "metadata", "name")
		if isCipher(kind) || isCipher(version) || isCipher(name) {
			return true
		}
	}
	return false
}

// rules say which parts of a file SOPS encrypts, from its metadata. Source: shouldBeEncrypted in getsops/sops, sops.go.
type rules struct{ metadata object }

func (r rules) encrypts(path []string) bool {
	any := func(rule string, is func(key, rule string) bool) (found, set bool) {
		text, _ := r.metadata[rule].(string)
		for _, key := range path {
			found = found || text != "" && is(key, text)
		}
		return found, text != ""
	}
	matches := func(key, rule string) bool {
		is, _ := regexp.MatchString(rule, key)
		return is
	}
	encrypted := true
	if found, _ := any("unencrypted_suffix", strings.HasSuffix); found {
		encrypted = false
	}
	if found, set := any("encrypted_suffix", strings.HasSuffix); set {
		encrypted = found
	}
	if found, _ := any("unencrypted_regex", matches); found {
		encrypted = false
	}
	if found, set := any("encrypted_regex", matches); set {
		encrypted = found
	}
	return encrypted
}

// leavesPlain reports whether a plain value should have been encrypted by SOPS. SOPS leaves empty values alone.
func (r rules) leavesPlain(from any, path []string) bool {
	switch from := from.(type) {
	case map[string]any:
		for key, each := range from {
			if r.leavesPlain(each, append(path[:len(path):len(path)], key)) {
				return true
			}
		}
		return false
	case []any:
		for _, each := range from {
			if r.leavesPlain(each, path) {
				return true
			}
		}
		return false
	case string:
		return from != "" && cipherText.FindString(from) != from && r.encrypts(path)
	}
	return from != nil && r.encrypts(path)
}

// hideValues replaces the values of a Secret by ciphers, as Flux decrypts this Secret only after it built it.
func hideValues(each *resource.Resource) {
	values := each.GetDataMap()
	changed := false
	for key, encoded := range values {
		decoded, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			continue
		}
		for as, marker := range markers {
			if !bytes.Contains(decoded, []byte(marker)) {
				continue
			}
			if file, err := opened(decoded, as); err == nil && !file.plain && sealOf(decoded) != "" {
				values[key] = base64.StdEncoding.EncodeToString([]byte(sealOf(decoded)))
				changed = true
			}
		}
	}
	if changed {
		each.SetDataMap(values)
	}
}
