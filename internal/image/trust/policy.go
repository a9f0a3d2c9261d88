// Package trust decides whether an image may come from its registry: by a policy that
// says per repository what signatures are required.
//
// # Words
//
// A policy is a file in the format that podman and skopeo read
// (containers-policy.json(5)): requirements by scope, which is a registry, a path of
// it, or a repository. A requirement is met by a signature of Sigstore's, as cosign
// makes them: of a key, of a certificate of an own authority, or of a short-lived
// certificate for an identity, with its entry in a log.
//
// Every requirement of the closest scope has to be met. What the file says and this
// package does not know is an error: a requirement that is not understood must not
// pass for one that is met.
//
// Reading and deciding are here; package image fetches the signatures, and berth-verify
// (package verify) verifies them.
package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/berthcloud/berth/api"
)

// maxPolicy bounds a policy file, in bytes.
const maxPolicy = 1 << 20

// Policy says what is required of images. The zero value requires nothing.
type Policy struct {
	path   string
	rules  map[string][]requirement // by scope
	others []requirement            // of all that no scope has
}

// requirement is one that a signature, or nothing, can meet.
type requirement struct {
	Type string `json:"type"`

	Keys     []string `json:"keyPaths"`
	Key      string   `json:"keyPath"`
	KeyData  []byte   `json:"keyData"`
	Fulcio   *fulcio  `json:"fulcio"`
	RekorKey string   `json:"rekorPublicKeyPath"`
	PKI      *pki     `json:"pki"`
	Identity Identity `json:"signedIdentity"`
}

// fulcio is an authority of short-lived certificates, and who signs by one.
type fulcio struct {
	CA      string `json:"caPath"`
	Issuer  string `json:"oidcIssuer"`
	Subject string `json:"subjectEmail"`
}

// pki is an authority of certificates that last, and who signs by one.
type pki struct {
	Roots         string `json:"caRootsPath"`
	Intermediates string `json:"caIntermediatesPath"`
	Email         string `json:"subjectEmail"`
	Host          string `json:"subjectHostname"`
}

// Identity says how the name that was signed has to be like the name that is pulled.
type Identity struct {
	Type       string `json:"type"`
	Repository string `json:"dockerRepository,omitempty"`
}

// Types of requirements.
const (
	acceptAnything = "insecureAcceptAnything"
	reject         = "reject"
	signed         = "sigstoreSigned"
)

// Types of identities.
const (
	MatchExact         = "matchExact"
	MatchDigestOrExact = "matchRepoDigestOrExact" // the default
	MatchRepository    = "matchRepository"
	ExactRepository    = "exactRepository"
)

// registries is the transport that images of registries come by.
const registries = "docker"

// Load reads a policy. Where there is no such file, nothing is required.
//
// Errors: Invalid, naming the file and what is wrong with it.
func Load(path string) (*Policy, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &Policy{}, nil
	}
	if err == nil && len(content) > maxPolicy {
		err = fmt.Errorf("%d bytes are more than the %d allowed", len(content), maxPolicy)
	}
	var p *Policy
	if err == nil {
		p, err = parse(content)
	}
	if err != nil {
		return nil, api.E("read policy", api.Invalid, path, err)
	}
	p.path = path
	return p, nil
}

// parse reads a policy's JSON.
func parse(content []byte) (*Policy, error) {
	var doc struct {
		Default    []requirement                       `json:"default"`
		Transports map[string]map[string][]requirement `json:"transports"`
	}
	d := json.NewDecoder(bytes.NewReader(content))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, errors.New("something follows the policy")
	}
	if len(doc.Default) == 0 {
		return nil, errors.New(`"default" is missing: say what is required of all other images, as [{"type": "insecureAcceptAnything"}]`)
	}
	p := &Policy{rules: doc.Transports[registries], others: doc.Default}
	if everything, ok := p.rules[""]; ok { // of this transport
		p.others = everything
	}
	for scope, list := range p.rules {
		if err := check(list); err != nil {
			return nil, fmt.Errorf("%s: %w", scope, err)
		}
	}
	return p, check(p.others)
}

// check refuses requirements that contradict themselves.
func check(list []requirement) error {
	if len(list) == 0 {
		return errors.New("an empty list of requirements")
	}
	for _, r := range list {
		switch r.Type {
		case acceptAnything, reject:
			continue
		case signed:
		default:
			return fmt.Errorf("requirement %q is unknown: use %s, %s or %s", r.Type, signed, acceptAnything, reject)
		}
		ways := len(r.keys())
		if r.KeyData != nil {
			ways++
		}
		switch {
		case ways == 0 && r.Fulcio == nil && r.PKI == nil:
			return errors.New("sigstoreSigned names nobody: give keyPath, keyData, pki or fulcio")
		case ways > 0 && (r.Fulcio != nil || r.PKI != nil), r.Fulcio != nil && r.PKI != nil:
			return errors.New("sigstoreSigned names several ways: leave one of keys, pki and fulcio")
		case r.Fulcio != nil && (r.Fulcio.CA == "" || r.Fulcio.Issuer == "" || r.Fulcio.Subject == "" || r.RekorKey == ""):
			return errors.New("fulcio needs caPath, oidcIssuer, subjectEmail, and rekorPublicKeyPath beside it")
		case r.Fulcio == nil && r.RekorKey != "":
			return errors.New("rekorPublicKeyPath belongs to fulcio")
		case r.PKI != nil && (r.PKI.Roots == "" || r.PKI.Email == "" && r.PKI.Host == ""):
			return errors.New("pki needs caRootsPath, and subjectEmail or subjectHostname")
		}
		switch r.Identity.Type {
		case "", MatchExact, MatchDigestOrExact, MatchRepository:
		case ExactRepository:
			if r.Identity.Repository == "" {
				return errors.New("exactRepository needs dockerRepository")
			}
		default:
			return fmt.Errorf("signedIdentity %q is unknown", r.Identity.Type)
		}
	}
	return nil
}

func (r *requirement) keys() []string {
	if r.Key == "" {
		return r.Keys
	}
	return append([]string{r.Key}, r.Keys...)
}

// requirements are those of the closest scope of a repository, as in
// docker.io/library/debian: itself, what its path is below, its registry, a wildcard of
// its registry's domain, all others.
func (p *Policy) requirements(repository string) []requirement {
	for scope := repository; ; {
		if list, ok := p.rules[scope]; ok {
			return list
		}
		at := strings.LastIndexByte(scope, '/')
		if at < 0 {
			break
		}
		scope = scope[:at]
	}
	host, _, _ := strings.Cut(repository, "/")
	for _, domain, more := strings.Cut(host, "."); more; _, domain, more = strings.Cut(domain, ".") {
		if list, ok := p.rules["*."+domain]; ok {
			return list
		}
	}
	return p.others
}
