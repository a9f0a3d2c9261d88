package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config"
	bkclient "github.com/moby/buildkit/client"
	parse "github.com/moby/buildkit/cmd/buildctl/build"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/moby/buildkit/util/entitlements"

	"github.com/berthcloud/berth/client"
)

// options says what to build in BuildKit's words. cleanup is to be called in any case,
// after the build.
func options(b *client.Build) (opt bkclient.SolveOpt, cleanup func(), err error) {
	opt = bkclient.SolveOpt{Frontend: "dockerfile.v0"}
	if opt.FrontendAttrs, err = attributes(b, os.Getenv); err != nil {
		return opt, func() {}, err
	}
	cleanup, err = addContexts(&opt, b)
	if err != nil {
		return opt, cleanup, err
	}
	if opt.Exports, err = exports(b); err != nil {
		return opt, cleanup, err
	}
	if opt.CacheImports, err = parse.ParseImportCache(cacheEntries(b.CacheFrom)); err != nil {
		return opt, cleanup, fmt.Errorf("--cache-from: %w", err)
	}
	if opt.CacheExports, err = parse.ParseExportCache(cacheEntries(b.CacheTo)); err != nil {
		return opt, cleanup, fmt.Errorf("--cache-to: %w", err)
	}
	if b.Network == "host" {
		opt.AllowedEntitlements = []string{entitlements.EntitlementNetworkHost.String()}
	}
	shown, err := attachables(b)
	opt.Session = append(opt.Session, shown...)
	return opt, cleanup, err
}

// attachables are what the daemon may ask for during the build.
func attachables(b *client.Build) ([]session.Attachable, error) {
	credentials := authprovider.LoadAuthConfig(config.LoadDefaultConfigFile(os.Stderr))
	list := []session.Attachable{authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{AuthConfigProvider: credentials})}
	if len(b.Secrets) > 0 {
		secrets, err := parse.ParseSecret(b.Secrets)
		if err != nil {
			return nil, fmt.Errorf("--secret: %w", err)
		}
		list = append(list, secrets)
	}
	if len(b.SSH) > 0 {
		agents, err := parse.ParseSSH(b.SSH)
		if err != nil {
			return nil, fmt.Errorf("--ssh: %w", err)
		}
		forward, err := sshprovider.NewSSHAgentProvider(agents)
		if err != nil {
			return nil, fmt.Errorf("--ssh: %w", err)
		}
		list = append(list, forward)
	}
	return list, nil
}

// fromEnvironment are the arguments that a build takes from the environment of whoever
// calls it.
var fromEnvironment = []string{"SOURCE_DATE_EPOCH"}

// attributes are what the Dockerfile frontend is told.
func attributes(b *client.Build, env func(string) string) (map[string]string, error) {
	a := map[string]string{"image-resolve-mode": "local"}
	if b.Pull {
		a["image-resolve-mode"] = "pull"
	}
	for _, name := range fromEnvironment {
		if value := env(name); value != "" {
			a["build-arg:"+name] = value
		}
	}
	for name, value := range b.Args {
		a["build-arg:"+name] = value
	}
	for name, value := range b.Labels {
		a["label:"+name] = value
	}
	set := func(name, value string) {
		if value != "" {
			a[name] = value
		}
	}
	set("target", b.Target)
	set("platform", strings.Join(b.Platform, ","))
	set("no-cache", strings.Join(b.NoCacheFilter, ","))
	set("ulimit", strings.Join(b.Ulimits, ","))
	if b.NoCache {
		a["no-cache"] = ""
	}
	if b.ShmSize > 0 {
		a["shm-size"] = strconv.FormatInt(b.ShmSize, 10)
	}
	switch b.Network {
	case "", "default":
	case "host":
		if b.VM {
			return nil, errors.New("--network host: a step in a VM cannot share the host's network; use default or none, or leave --vm out")
		}
		a["force-network-mode"] = b.Network
	case "none":
		a["force-network-mode"] = b.Network
	default:
		return nil, fmt.Errorf("--network %s: use default, none or host", b.Network)
	}
	var hosts []string
	for _, h := range b.AddHost {
		name, addr, ok := strings.Cut(h, ":")
		if !ok {
			return nil, fmt.Errorf("--add-host %s: write it as NAME:ADDRESS", h)
		}
		hosts = append(hosts, name+"="+addr)
	}
	set("add-hosts", strings.Join(hosts, ","))
	for _, attest := range b.Attest {
		kind, rest, _ := strings.Cut(attest, ",")
		kind = strings.TrimPrefix(kind, "type=")
		if kind != "provenance" && kind != "sbom" {
			return nil, fmt.Errorf("--attest %s: use type=provenance or type=sbom", attest)
		}
		a["attest:"+kind] = rest
	}
	return a, nil
}

// cacheEntries names registries as docker's users do, by an image alone.
func cacheEntries(list []string) []string {
	list = slices.Clone(list)
	for i, entry := range list {
		switch {
		case entry == "inline":
			list[i] = "type=inline"
		case !strings.Contains(entry, "="):
			list[i] = "type=registry,ref=" + entry
		}
	}
	return list
}

// exports are where results go: into the daemon's store, by default.
func exports(b *client.Build) ([]bkclient.ExportEntry, error) {
	names, err := fullNames(b.Tags)
	if err != nil {
		return nil, err
	}
	if b.Outputs == nil {
		attrs := map[string]string{}
		if names != "" {
			attrs["name"] = names
		}
		return []bkclient.ExportEntry{{Type: bkclient.ExporterImage, Attrs: attrs}}, nil
	}
	entries, err := parse.ParseOutput(outputs(b.Outputs))
	if err != nil {
		return nil, fmt.Errorf("--output: %w", err)
	}
	for i := range entries {
		switch entries[i].Type {
		case bkclient.ExporterImage, bkclient.ExporterOCI, bkclient.ExporterDocker:
			if entries[i].Attrs["name"] == "" && names != "" {
				entries[i].Attrs["name"] = names
			}
		case "registry":
			return nil, errors.New("--output type=registry: build an image with -t, then berth push it")
		}
	}
	return entries, nil
}

// fullNames returns the names as BuildKit takes them: with registry and tag, and commas
// between them.
func fullNames(tags []string) (string, error) {
	var names []string
	for _, tag := range tags {
		ref, err := reference.ParseNormalizedNamed(tag)
		if err != nil {
			return "", fmt.Errorf("--tag %s: %w", tag, err)
		}
		names = append(names, reference.TagNameOnly(ref).String())
	}
	return strings.Join(names, ","), nil
}

// outputs writes docker's short forms out: a directory, or "-" for a tar stream.
func outputs(list []string) []string {
	list = slices.Clone(list)
	for i, o := range list {
		switch {
		case o == "-":
			list[i] = "type=tar,dest=-"
		case !strings.Contains(o, "="):
			list[i] = "type=local,dest=" + o
		}
	}
	return list
}

// sortedKeys returns the keys of a map in a lasting order.
func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
