package main

import (
	"cmp"
	_ "embed"
	"encoding/base64"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/viper"
	"github.com/zricethezav/gitleaks/v8/config"
	"github.com/zricethezav/gitleaks/v8/detect"
	"github.com/zricethezav/gitleaks/v8/report"
	"golang.org/x/sync/errgroup"
)

//go:embed leaks.toml
var ownRules string

// leak is a text that only its owner may know.
type leak struct {
	// Kind is the id of the rule that finds it.
	Kind string `json:"kind"`
	// Line is the number of its first line, from 1.
	Line int `json:"line"`
	// Key says that the leak is a private key, which no comment excuses.
	Key bool `json:"key"`
}

type leaksRequest struct {
	Texts []string `json:"texts"`
}

type leaksResponse struct {
	// Leaks has one list for each text.
	Leaks [][]leak `json:"leaks"`
}

func leaks(request leaksRequest) (*leaksResponse, error) {
	found, err := searchLeaks(request.Texts)
	if err != nil {
		return nil, err
	}
	return &leaksResponse{found}, nil
}

// searchLeaks finds the leaks in each text, the first of each kind and in each line.
func searchLeaks(texts []string) ([][]leak, error) {
	detector, err := newDetector()
	if err != nil {
		return nil, err
	}
	found := make([][]leak, len(texts))
	var group errgroup.Group
	group.SetLimit(runtime.NumCPU())
	for i, text := range texts {
		group.Go(func() error {
			found[i] = leaksIn(detector, text)
			return nil
		})
	}
	return found, group.Wait()
}

// newDetector compiles the rules of leaks.toml, which extend those of gitleaks.
func newDetector() (*detect.Detector, error) {
	viper.SetConfigType("toml")
	if err := viper.ReadConfig(strings.NewReader(ownRules)); err != nil {
		return nil, err
	}
	var rules config.ViperConfig
	if err := viper.Unmarshal(&rules); err != nil {
		return nil, err
	}
	compiled, err := rules.Translate()
	if err != nil {
		return nil, err
	}
	detector := detect.NewDetector(compiled)
	detector.IgnoreGitleaksAllow = true
	return detector, nil
}

// partLength and overlap are numbers of lines. A rule searches only a part that has one of its keywords, and a match may
// continue in the next part.
const partLength, overlap = 20, 4

func leaksIn(detector *detect.Detector, text string) []leak {
	lines := strings.SplitAfter(text+"\n", "\n")
	var findings []report.Finding
	for start := 0; start < len(lines); start += partLength {
		part := strings.Join(lines[start:min(start+partLength+overlap, len(lines))], "")
		// Without a path, no name of a file excuses its content.
		findings = append(findings, detector.Detect(detect.Fragment{Raw: part, StartLine: start + 1})...)
	}
	slices.SortFunc(findings, func(a, b report.Finding) int {
		return cmp.Or(a.StartLine-b.StartLine, strings.Compare(a.RuleID, b.RuleID))
	})
	found := []leak{}
	for _, finding := range findings {
		rule := detector.Config.Rules[finding.RuleID]
		each := leak{rule.RuleID, finding.StartLine, slices.Contains(rule.Tags, "key")}
		isFound := slices.ContainsFunc(found, func(other leak) bool {
			return other.Kind == each.Kind || other.Line == each.Line && !each.Key
		})
		isNone := slices.Contains(rule.Tags, "login") && !isLogin(finding.Secret)
		if !isFound && !isNone && (each.Key || !isExcused(finding.Line)) {
			found = append(found, each)
		}
	}
	return found
}

// isExcused reports whether the lines of a finding have a comment that excuses it.
func isExcused(lines string) bool {
	return strings.Contains(lines, "platform:not-a-secret") || strings.Contains(lines, "gitleaks:allow")
}

// login is a user and a password.
var login = regexp.MustCompile(`^([!-9;-~]+):([!-~]+)$`)

// isLogin tells a user and a password, plain or in Base64, from other texts. A password that is the user's name is an
// example.
func isLogin(text string) bool {
	if decoded, err := base64.StdEncoding.DecodeString(text); err == nil {
		text = string(decoded)
	}
	parts := login.FindStringSubmatch(text)
	return parts != nil && parts[1] != parts[2]
}
