// Command berthd is Berth's daemon: it owns the instances, images, networks and
// volumes of a host and serves the API on a unix socket.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/docker/go-units"

	"github.com/berthcloud/berth/api"
	"github.com/berthcloud/berth/internal/daemon"
	"github.com/berthcloud/berth/internal/registry"
	"github.com/berthcloud/berth/internal/rootless"
)

// Set by the linker.
var (
	version = "dev"
	commit  = ""
	built   = ""
)

// defaultTemplates are as many kinds of machines as one host is likely to run often.
// Each takes about 100 MiB of the disk.
const defaultTemplates = 4

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	c := daemon.Config{Version: api.VersionInfo{Version: version, Commit: commit, Built: built, Go: runtime.Version(), API: api.Version}}
	defaultRoot, defaultRun, defaultHosts := daemon.DefaultRoot, daemon.DefaultRun, daemon.DefaultHosts
	if len(args) > 0 && args[0] == rootless.EnteredArg {
		rootless.Inside()
		c.Rootless, args = true, args[1:]
	}
	ordinary := os.Geteuid() != 0
	if ordinary {
		defaultRoot, defaultRun, defaultHosts = userPlaces()
	}
	flags := flag.NewFlagSet("berthd", flag.ContinueOnError)
	flags.StringVar(&c.Root, "root", defaultRoot, "`directory` of what survives a reboot: images, volumes, writable layers, records")
	flags.StringVar(&c.Run, "run", defaultRun, "`directory` of what does not: sockets, mounts, pids")
	flags.StringVar(&c.Socket, "socket", "", "`path` of the API's unix socket (default RUN/berthd.sock)")
	flags.StringVar(&c.Bin, "bin", "", "`directory` of berth-oci, berth-keeper, berth-qemu and berth-agent (default: berthd's own)")
	flags.StringVar(&c.Cgroup, "cgroup", "", "`path`, below the root of the hierarchies, of the cgroup that an ordinary user's berthd may divide (default: its own, or one that his systemd makes)")
	flags.StringVar(&c.Policy, "policy", policyFile(ordinary), "`file` that says which images have to be signed, and by whom, in the format of containers-policy.json(5); none where it is missing")
	flags.IntVar(&c.Templates, "vm-templates", defaultTemplates, "how many saved machines to keep at most, of which VMs begin as copies; 0 boots every VM")
	flags.StringVar(&c.Hosts, "hosts", defaultHosts, "`directory` of files HOST/hosts.toml, as containerd reads them: mirrors, certificates and plain http of registries")
	registryFlags(flags, &c.Registry)
	level := flags.String("log-level", "info", "debug, info, warn or error")
	format := flags.String("log-format", "text", "text or json")
	show := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *show {
		fmt.Println("berthd", version, commit)
		return 0
	}
	if flags.NArg() > 0 {
		return fail(fmt.Errorf("unknown argument %q; see berthd --help", flags.Arg(0)))
	}
	var err error
	if c.Log, err = logger(*level, *format); err != nil {
		return fail(err)
	}
	if ordinary && c.Registry != (registry.Config{}) {
		return fail(errors.New("--registry: an ordinary user's berthd has a network of its own, where nobody would find it; serve it from root's"))
	}
	if ordinary {
		return launch(c, *level, *format)
	}
	if c.Cgroup != "" && !c.Rootless {
		return fail(errors.New("--cgroup is for an ordinary user's berthd; root's makes /berth"))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err = daemon.Run(ctx, c, func() { c.Log.Info("ready", "root", c.Root, "run", c.Run, "version", version) })
	if err != nil {
		return fail(err)
	}
	return 0
}

// registryFlags are the flags of the registry that berthd is beside.
func registryFlags(flags *flag.FlagSet, c *registry.Config) {
	flags.StringVar(&c.Listen, "registry", "", "`address` to serve the images at, to docker and others, as in 127.0.0.1:5000 (default: none)")
	flags.StringVar(&c.Name, "registry-name", "", "`name` of the registry in names of images here (default localhost: its team/app:1 is localhost/team/app:1)")
	flags.StringVar(&c.Cert, "registry-cert", "", "`file` of the registry's certificate; without one it listens on this host alone")
	flags.StringVar(&c.Key, "registry-key", "", "`file` of the certificate's key")
	flags.StringVar(&c.Users, "registry-users", "", "`file` of the registry's users, as htpasswd -B writes it")
	flags.StringVar(&c.Rights, "registry-rights", "", "`file` of what they may do, with lines as 'ci localhost/team/* pull,push' (default: all, with the registry's own images)")
	flags.Func("registry-quota", "`size` that each of its repositories may have, as in 20g (default: any)", func(text string) (err error) {
		if c.Quota, err = units.RAMInBytes(text); err == nil && c.Quota <= 0 {
			err = errors.New("a repository has room for something, or no limit")
		}
		return err
	})
}

func logger(level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %s: use debug, info, warn or error", level)
	}
	o := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, o)), nil
	}
	return nil, fmt.Errorf("--log-format %s: use text or json", format)
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "berthd:", err)
	return 1
}
