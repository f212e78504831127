package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/sourceignore"
	"github.com/fluxcd/pkg/sourceignore/gitignore"
	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/kustomize/api/konfig"
)

// source is the origin of the files of a tree.
type source struct {
	// Tree is the absolute path of the directory.
	Tree string `json:"tree"`
	// Names are the wanted files, relative to Tree, as Git lists them; nil takes every file.
	Names []string `json:"names"`
	// Archive is the path of a tar file that replaces the directory: a commit, as "git archive" writes it.
	Archive string `json:"archive"`
	// Files replace files of the tree, or are added: path relative to Tree → content.
	Files map[string]string `json:"files"`
}

// tree is the part of a directory that Flux gets.
type tree struct {
	// files holds contents by path with slashes.
	files map[string][]byte
	// leftOut are the paths that source-controller does not keep.
	leftOut []string
}

// file is a file of the tree as text.
type file struct {
	Path string `json:"path"`
	// Text has U+FFFD in place of bytes that are not UTF-8.
	Text string `json:"text"`
	// Leaks are the texts in it that only their owner may know.
	Leaks []leak `json:"leaks"`
}

type listResponse struct {
	Files   []file   `json:"files"`
	Content string   `json:"content"`
	LeftOut []string `json:"leftOut"`
}

// list reads the files of a tree without building anything.
func list(request source) (*listResponse, error) {
	files, err := readTree(request)
	if err != nil {
		return nil, err
	}
	texts, err := files.texts()
	return &listResponse{texts, files.content(), files.leftOut}, err
}

// entry is a file before it is read.
type entry struct {
	path    string
	regular bool
	read    func() ([]byte, error)
}

// readTree reads the files that remain after source-controller has unpacked an artifact and packed it again:
// symbolic links are dropped (fluxcd/pkg/tar with WithSkipSymlinks), then the files that .sourceignore lists or, if
// there is none, Flux's own list (fluxcd/pkg/artifact/storage, SourceIgnoreFilter).
func readTree(from source) (*tree, error) {
	entries, err := from.entries()
	if err != nil {
		return nil, err
	}
	for name, text := range from.Files {
		entries[name] = entry{name, true, func() ([]byte, error) { return []byte(text), nil }}
	}
	names := sortedKeys(entries)
	ignored, err := ignorePatterns(names, entries)
	if err != nil {
		return nil, err
	}

	result := &tree{files: map[string][]byte{}, leftOut: []string{}}
	var kept []entry
	for _, name := range names {
		found := entries[name]
		if !found.regular || ignored.Match(strings.Split(name, "/"), false) {
			result.leftOut = append(result.leftOut, name)
			continue
		}
		// validRelPath of fluxcd/pkg/tar has the same rule; it refuses the whole artifact.
		if strings.Contains(name, `\`) || strings.Contains(name, "../") {
			return nil, fmt.Errorf("Flux refuses the name of file %q: rename it", name)
		}
		kept = append(kept, found)
	}
	contents := make([][]byte, len(kept))
	var group errgroup.Group
	group.SetLimit(2 * runtime.NumCPU())
	for i, each := range kept {
		group.Go(func() (err error) {
			contents[i], err = each.read()
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i, each := range kept {
		result.files[each.path] = contents[i]
	}
	return result, nil
}

func (from source) entries() (map[string]entry, error) {
	if from.Archive != "" {
		return archived(from.Archive)
	}
	entries := map[string]entry{}
	add := func(name string, mode fs.FileMode) {
		full := filepath.Join(from.Tree, filepath.FromSlash(name))
		entries[name] = entry{name, mode.IsRegular(), func() ([]byte, error) { return os.ReadFile(full) }}
	}
	if from.Names == nil {
		err := filepath.WalkDir(from.Tree, func(full string, found fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if found.IsDir() {
				if found.Name() == ".git" {
					return filepath.SkipDir
				}
				return nil
			}
			name, err := filepath.Rel(from.Tree, full)
			add(filepath.ToSlash(name), found.Type())
			return err
		})
		return entries, err
	}
	for _, name := range from.Names {
		// For a repository inside this repository, Git lists only the directory.
		info, err := os.Lstat(filepath.Join(from.Tree, filepath.FromSlash(name)))
		switch {
		case errors.Is(err, fs.ErrNotExist): // deleted, and Git does not know yet
		case err != nil:
			return nil, err
		default:
			add(name, info.Mode())
		}
	}
	return entries, nil
}

func archived(archive string) (map[string]entry, error) {
	opened, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	entries := map[string]entry{}
	for reader := tar.NewReader(opened); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the archive of the commit failed: %w", err)
		}
		if header.Typeflag == tar.TypeDir || header.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			return nil, err
		}
		regular := header.Typeflag == tar.TypeReg
		entries[header.Name] = entry{header.Name, regular, func() ([]byte, error) { return content, nil }}
	}
}

// ignorePatterns lists the files that source-controller leaves out, in the order of sourceignore.LoadIgnorePatterns.
func ignorePatterns(names []string, entries map[string]entry) (gitignore.Matcher, error) {
	var folders []string
	for _, name := range names {
		if path.Base(name) == sourceignore.IgnoreFile && entries[name].regular {
			folders = append(folders, path.Dir(name))
		}
	}
	slices.SortFunc(folders, func(a, b string) int { return slices.Compare(domainOf(a), domainOf(b)) })
	var patterns []gitignore.Pattern
	for _, folder := range folders {
		content, err := entries[path.Join(folder, sourceignore.IgnoreFile)].read()
		if err != nil {
			return nil, err
		}
		patterns = append(patterns, sourceignore.ReadPatterns(strings.NewReader(string(content)), domainOf(folder))...)
	}
	if len(patterns) == 0 {
		return sourceignore.NewDefaultMatcher(nil, nil), nil
	}
	return sourceignore.NewMatcher(append(sourceignore.VCSPatterns(nil), patterns...)), nil
}

func domainOf(folder string) []string {
	if folder == "." {
		return nil
	}
	return strings.Split(folder, "/")
}

// content is the SHA-256 of the names and bytes of all files.
func (t *tree) content() string {
	hash := sha256.New()
	for _, name := range sortedKeys(t.files) {
		header, _ := json.Marshal([]any{name, len(t.files[name])})
		hash.Write(header)
		hash.Write(t.files[name])
	}
	return hex.EncodeToString(hash.Sum(nil))
}

func (t *tree) texts() ([]file, error) {
	names := sortedKeys(t.files)
	contents := make([]string, len(names))
	for i, name := range names {
		contents[i] = string(t.files[name])
	}
	found, err := searchLeaks(contents)
	if err != nil {
		return nil, err
	}
	texts := make([]file, len(names))
	for i, name := range names {
		texts[i] = file{name, contents[i], found[i]}
	}
	return texts, nil
}

// unpack makes the directories of the tree below a new one, and the files that Flux's generator reads there: the
// kustomization files, and every file of a directory that has none. Thousands of files take longer to write than to
// build.
func (t *tree) unpack(directory string) error {
	made := map[string]bool{}
	described := map[string]bool{}
	for name := range t.files {
		folder := path.Dir(name)
		described[folder] = described[folder] || isKustomization(name)
		if !made[folder] {
			made[folder] = true
			if err := os.MkdirAll(filepath.Join(directory, folder), 0o700); err != nil {
				return err
			}
		}
	}
	for name, content := range t.files {
		if described[path.Dir(name)] && !isKustomization(name) {
			continue
		}
		if err := os.WriteFile(filepath.Join(directory, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// below returns the contents by absolute path, as if they were unpacked there.
func (t *tree) below(directory string) map[string][]byte {
	files := make(map[string][]byte, len(t.files))
	for name, content := range t.files {
		files[filepath.Join(directory, name)] = content
	}
	return files
}

func isKustomization(name string) bool {
	return slices.Contains(konfig.RecognizedKustomizationFileNames(), path.Base(name))
}

func sortedKeys[Value any](values map[string]Value) []string {
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
