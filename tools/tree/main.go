// Command platform-tree reads a gitops tree as Flux does. It lists the files that source-controller keeps, builds the
// Flux Kustomizations of a cluster as kustomize-controller does, and packs the files as an artifact.
//
// The program takes a command as its first argument and one JSON value on standard input, and answers with one JSON
// value on standard output. An error is one line on standard error and exit code 1.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
)

func main() {
	// A run ends within seconds: memory is cheaper than garbage collection.
	debug.SetGCPercent(800)
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: platform-tree list|build|kustomize|pack|leaks, with JSON on standard input")
	}
	switch args[0] {
	case "list":
		return answer(in, out, list)
	case "build":
		return answer(in, out, build)
	case "kustomize":
		return answer(in, out, kustomize)
	case "pack":
		return answer(in, out, pack)
	case "leaks":
		return answer(in, out, leaks)
	}
	return fmt.Errorf("there is no command %q: choose list, build, kustomize, pack or leaks", args[0])
}

func answer[Request, Response any](in io.Reader, out io.Writer, do func(Request) (Response, error)) error {
	var request Request
	decoder := json.NewDecoder(in)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&request); err != nil {
		return fmt.Errorf("reading the request failed: %w", err)
	}
	response, err := do(request)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriter(out)
	encoder := json.NewEncoder(buffered)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(response); err != nil {
		return err
	}
	return buffered.Flush()
}
