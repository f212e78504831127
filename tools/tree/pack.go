package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Media types of a Flux artifact: https://fluxcd.io/flux/cheatsheets/oci-artifacts/
const (
	configType  = "application/vnd.cncf.flux.config.v1+json"
	contentType = "application/vnd.cncf.flux.content.v1.tar+gzip"
)

type packRequest struct {
	source
	// Content is the hash of the checked tree, without Files; pack refuses another tree.
	Content string `json:"content"`
	// Layout is the absolute path of a new directory for the OCI image layout.
	Layout   string `json:"layout"`
	Revision string `json:"revision"`
	Source   string `json:"source"`
	// Created is a time as RFC 3339 writes it.
	Created string `json:"created"`
}

type packResponse struct {
	// Digest is the digest of the manifest; it is empty when the tree is not the checked tree.
	Digest string `json:"digest"`
}

// pack writes an OCI image layout with one Flux layer. The same files give the same digest: names are sorted, times,
// owners and modes left out.
func pack(request packRequest) (*packResponse, error) {
	replaced := request.Files
	request.Files = nil
	files, err := readTree(request.source)
	if err != nil {
		return nil, err
	}
	if files.content() != request.Content {
		return &packResponse{}, nil
	}
	for name, text := range replaced {
		files.files[name] = []byte(text)
	}

	blobs := filepath.Join(request.Layout, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return nil, err
	}
	write := func(mediaType string, content []byte) (object, error) {
		hash := sha256.Sum256(content)
		name := hex.EncodeToString(hash[:])
		descriptor := object{"mediaType": mediaType, "digest": "sha256:" + name, "size": len(content)}
		return descriptor, os.WriteFile(filepath.Join(blobs, name), content, 0o644)
	}
	marshal := func(value any) []byte {
		content, _ := json.Marshal(value) // maps and texts always marshal
		return content
	}
	content, err := files.archive()
	if err != nil {
		return nil, err
	}
	layer, err := write(contentType, content)
	if err != nil {
		return nil, err
	}
	config, err := write(configType, marshal(object{"created": request.Created}))
	if err != nil {
		return nil, err
	}
	const manifestType = "application/vnd.oci.image.manifest.v1+json"
	manifest, err := write(manifestType, marshal(object{
		"schemaVersion": 2, "mediaType": manifestType, "config": config, "layers": []object{layer},
		"annotations": object{
			"org.opencontainers.image.created":  request.Created,
			"org.opencontainers.image.revision": request.Revision,
			"org.opencontainers.image.source":   request.Source,
		},
	}))
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]any{
		"oci-layout": object{"imageLayoutVersion": "1.0.0"},
		"index.json": object{
			"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []object{manifest},
		},
	} {
		if err := os.WriteFile(filepath.Join(request.Layout, name), marshal(value), 0o644); err != nil {
			return nil, err
		}
	}
	return &packResponse{fmt.Sprint(manifest["digest"])}, nil
}

func (t *tree) archive() ([]byte, error) {
	var content bytes.Buffer
	zipped := gzip.NewWriter(&content)
	writer := tar.NewWriter(zipped)
	for _, name := range sortedKeys(t.files) {
		header := &tar.Header{
			Typeflag: tar.TypeReg, Name: name, Size: int64(len(t.files[name])), Mode: 0o644, ModTime: time.Unix(0, 0),
		}
		if err := writer.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := writer.Write(t.files[name]); err != nil {
			return nil, err
		}
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	if err := zipped.Close(); err != nil {
		return nil, err
	}
	return content.Bytes(), nil
}
