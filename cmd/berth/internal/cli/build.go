package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/client"
)

// buildOptions are the flags of build that are not yet what they mean.
type buildOptions struct {
	client.Build
	args, labels, contexts []string
	provenance, sbom       string
	shm                    string
	quiet                  bool
}

func newBuildCommand(g *global) *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:   "build [OPTIONS] CONTEXT",
		Short: "Make an image of a Dockerfile",
		Long: exits(`Make an image as a Dockerfile says, with what is in the context: a directory, a
URL of git or http, or "-" for a Dockerfile or a tar archive on standard input.
Each step runs as a container of its own, or with --vm as a VM; what a step made
before, from the same input, is not made again.

The image is in its place when the build ends: nothing is exported or copied.
Without -t the result is only in the cache.

Secrets, ssh agents and registry credentials stay with this command, which the
daemon asks for them when a step needs them.`,
			"0    success", "1    the build failed", "125  the command line is wrong", "130  interrupted"),
		Example: `  berth build -t web . && berth run --rm web
  berth build -t web --secret id=token,src=token.txt --target release -f deploy/Dockerfile .
  berth build -o dist --target artifacts .`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Context = args[0]
			if err := o.complete(g); err != nil {
				return usage(api.E("build", api.Invalid, "", err))
			}
			return runBuild(cmd.Context(), g, &o.Build)
		},
	}
	o.flags(cmd)
	return cmd
}

func (o *buildOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVarP(&o.Tags, "tag", "t", nil, "name of the image, as in web:1.0; more than once for more names")
	f.StringVarP(&o.File, "file", "f", "", "Dockerfile (default: Dockerfile in the context; - for standard input)")
	f.StringArrayVar(&o.args, "build-arg", nil, "set an ARG, as NAME=VALUE, or NAME to take it from the environment")
	f.StringArrayVar(&o.contexts, "build-context", nil, "a further context, as NAME=DIRECTORY, NAME=URL or NAME=docker-image://IMAGE")
	f.StringVar(&o.Target, "target", "", "stage to build (default: the last)")
	f.StringSliceVar(&o.Platform, "platform", nil, "platform, as in linux/arm64 (default: the host's)")
	f.StringArrayVar(&o.labels, "label", nil, "set a label of the image, as NAME=VALUE")
	f.StringArrayVarP(&o.Outputs, "output", "o", nil, "where the result goes: a directory, - for a tar stream, or type=image|oci|docker|local|tar,dest=PATH")
	f.BoolVar(&o.Check, "check", false, "look for mistakes in the Dockerfile and build nothing; a warning is a failure")
	f.BoolVar(&o.NoCache, "no-cache", false, "make every step again")
	f.StringSliceVar(&o.NoCacheFilter, "no-cache-filter", nil, "make the steps of these stages again")
	f.BoolVar(&o.Pull, "pull", false, "ask the registries for newer images, though they are here")
	f.StringArrayVar(&o.CacheFrom, "cache-from", nil, "take results of steps from an image, or type=registry|local,…")
	f.StringArrayVar(&o.CacheTo, "cache-to", nil, "put results of steps to type=inline|registry|local,…")
	f.BoolVar(&o.VM, "vm", false, "do not trust the build: run each step in a VM, with a cache apart")
	f.StringVar(&o.Network, "network", "", "network of the steps: default, none or host")
	f.StringArrayVar(&o.AddHost, "add-host", nil, "line of /etc/hosts of the steps, as NAME:ADDRESS")
	f.StringArrayVar(&o.Secrets, "secret", nil, "secret for RUN --mount=type=secret, as id=NAME,src=FILE or id=NAME,env=VARIABLE")
	f.StringArrayVar(&o.SSH, "ssh", nil, "ssh agent or keys for RUN --mount=type=ssh, as default or NAME=SOCKET|KEY")
	f.StringArrayVar(&o.Ulimits, "ulimit", nil, "limit of the steps' processes, as NAME=SOFT:HARD")
	f.StringVar(&o.shm, "shm-size", "", "size of the steps' /dev/shm")
	f.StringArrayVar(&o.Attest, "attest", nil, "attestation to add, as type=provenance or type=sbom")
	f.StringVar(&o.provenance, "provenance", "", "add an attestation of how the image was made, as true or mode=max")
	f.StringVar(&o.sbom, "sbom", "", "add an attestation of what the image holds, as true or generator=IMAGE")
	f.StringVar(&o.Progress, "progress", "auto", "how to show progress: auto, plain, tty, quiet or rawjson")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print the digest of the image and nothing else")
	f.StringVar(&o.IDFile, "iidfile", "", "write the digest of the image to this file")
	f.Lookup("provenance").NoOptDefVal, f.Lookup("sbom").NoOptDefVal = "true", "true"
}

// complete makes of flags what they mean.
func (o *buildOptions) complete(g *global) (err error) {
	if o.Args, err = o.variables(g); err != nil {
		return err
	}
	if o.Labels, err = pairs("--label", o.labels); err != nil {
		return err
	}
	if o.Contexts, err = pairs("--build-context", o.contexts); err != nil {
		return err
	}
	for name, value := range map[string]string{"provenance": o.provenance, "sbom": o.sbom} {
		switch value {
		case "", "false":
		case "true":
			o.Attest = append(o.Attest, "type="+name)
		default:
			o.Attest = append(o.Attest, "type="+name+","+value)
		}
	}
	slices.Sort(o.Attest)
	if o.shm != "" {
		if o.ShmSize, err = units.RAMInBytes(o.shm); err != nil {
			return fmt.Errorf("--shm-size %s: write it as in 128m", o.shm)
		}
	}
	if !slices.Contains([]string{"auto", "plain", "tty", "quiet", "rawjson"}, o.Progress) {
		return fmt.Errorf("--progress %s: use auto, plain, tty, quiet or rawjson", o.Progress)
	}
	if o.quiet {
		o.Progress = "quiet"
	}
	o.Host = g.host
	if o.Host == "" {
		o.Host, _ = g.Env("BERTH_HOST")
	}
	return nil
}

// variables are the values of ARGs; what has none here is left to the Dockerfile.
func (o *buildOptions) variables(g *global) (map[string]string, error) {
	var set []string
	for _, arg := range o.args {
		if !strings.Contains(arg, "=") {
			value, ok := g.Env(arg)
			if !ok {
				continue
			}
			arg += "=" + value
		}
		set = append(set, arg)
	}
	return pairs("--build-arg", set)
}

// pairs splits NAME=VALUE.
func pairs(flag string, list []string) (map[string]string, error) {
	m := map[string]string{}
	for _, pair := range list {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%s %s: write it as NAME=VALUE", flag, pair)
		}
		m[name] = value
	}
	return m, nil
}

// runBuild becomes the program that speaks to builders: terminal, standard input and
// signals are its own then.
func runBuild(_ context.Context, _ *global, b *client.Build) error {
	program, err := buildProgram()
	if err != nil {
		return err
	}
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	err = unix.Exec(program, []string{program, string(text)}, os.Environ())
	return api.E("build", "", program, err)
}

// buildProgram finds berth-build: beside this program, else in the path.
func buildProgram() (string, error) {
	const name = "berth-build"
	if exe, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(exe), name)
		if unix.Access(beside, unix.X_OK) == nil {
			return beside, nil
		}
	}
	found, err := exec.LookPath(name)
	if err != nil {
		return "", api.E("build", api.NotFound, name, errors.New("there is no such program beside berth or in PATH; install all of Berth's programs"))
	}
	return found, nil
}
