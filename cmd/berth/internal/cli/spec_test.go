package cli

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/berthcloud/berth/api"
)

var update = flag.Bool("update", false, "rewrite golden files")

// specOf reads the arguments of 'berth create'.
func specOf(t *testing.T, args []string) (api.Spec, error) {
	t.Helper()
	var o specOptions
	var spec api.Spec
	g := &global{Std: Std{Env: func(name string) (string, bool) { return "from-client", name == "PASSED" }}}
	cmd := &cobra.Command{Use: "create", SilenceErrors: true, SilenceUsage: true, RunE: func(_ *cobra.Command, args []string) (err error) {
		spec, err = o.spec(g, args)
		return err
	}}
	o.addFlags(cmd)
	cmd.SetArgs(args)
	return spec, cmd.Execute()
}

// TestSpecs reads command lines, one per file, and compares the specification
// with the golden beside it.
func TestSpecs(t *testing.T) {
	t.Chdir("testdata/spec") // flags with relative paths
	files, err := filepath.Glob("*.args")
	if err != nil || len(files) == 0 {
		t.Fatal("no command lines", err)
	}
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(file, ".args"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			spec, err := specOf(t, strings.Split(strings.TrimRight(string(text), "\n"), "\n"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(spec, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(bytes.ReplaceAll(got, []byte(cwd), []byte("CWD")), '\n')
			golden := strings.TrimSuffix(file, ".args") + ".golden"
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s: got\n%swant\n%s", file, got, want)
			}
		})
	}
}

func TestBadSpecs(t *testing.T) {
	for args, says := range map[string]string{
		"--cpus zero base":                      `--cpus: "zero"`,
		"--memory-swap x base":                  "--memory-swap: ",
		"--disk x --vm base":                    "--disk: ",
		"--cpu-shares 999999 base":              "--cpu-shares: 999999",
		"--ulimit x base":                       "--ulimit: ",
		"-v a:b:c:d base":                       "-v: ",
		"--mount x base":                        "--mount: ",
		"--tmpfs x base":                        "--tmpfs: ",
		"--add-host web base":                   "--add-host: ",
		"--network name=,ip=10.0.0.1 base":      "--network: \"name=,ip=10.0.0.1\": it names no network",
		"--network a,b=1 base":                  "--network: \"a,b=1\": unknown key \"a\"",
		"--network name=a,ip=1 --ip 2 base":     "--network name=a,ip=1: --ip and --mac-address say it, too",
		"--network none -p 80 base":             "-p: there is nothing to publish",
		"--userns keep base":                    "--userns: ",
		"--security-opt apparmor=x base":        "--security-opt: ",
		"--no-healthcheck --health-cmd x base":  "--no-healthcheck contradicts",
		"--health-interval soon base":           "--health-interval: ",
		"--health-retries -1 base":              "--health-retries: ",
		"--vm --virt magic base":                "--virt: ",
		"--kernel k base":                       "--kernel is about a VM",
		"--pull often base":                     "--pull: ",
		"--env-file /no/such/file base":         "--env-file: open /no/such/file",
		"--label =x base":                       "--label: ",
		"--stop-timeout soon base":              "--stop-timeout: ",
		"--restart often base":                  "--restart: ",
		"--platform linux/s390x base":           "--platform: platform \"linux/s390x\" is not known",
		"--vm --machine isapc base":             `--machine: "isapc"`,
		"--vm --disk-bus nvme base":             `--disk-bus: "nvme"`,
		"--vm --nic-model ne2k base":            `--nic-model: "ne2k"`,
		"--vm --firmware coreboot base":         `--firmware: "coreboot"`,
		"--cpu-model max base":                  "--cpu-model is about a VM",
		"--cap-add NET_ADMIN --privileged base": "--privileged: Berth has no such mode",
	} {
		_, err := specOf(t, strings.Fields(args))
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v; want %q", args, err, says)
		}
	}
}
