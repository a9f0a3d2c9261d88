package attack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/berthcloud/berth/internal/testenv"
)

// fileAttacks wait for the host to look at what belongs to a container.
func fileAttacks() []engineAttack {
	return []engineAttack{
		{"copying out of swapped paths", "CVE-2018-15664, CVE-2019-14271", copyOutSwapped},
		{"copying into swapped paths", "CVE-2018-15664, CVE-2019-10152", copyInSwapped},
		{"names of processes on the terminal", "CVE-2022-1227", processNames},
	}
}

// copies is how often a path is copied while it is swapped.
const copies = 40

// swapper leads /d to the victim's directory and back, for ever.
func (e *engine) swapper() (remove func()) {
	return e.attacker(`while :; do mkdir /d; echo inside >/d/secret; rm -r /d; ln -s ` + e.victim + ` /d; rm /d; ln -s /proc/1/root/` +
		strings.Repeat("../", 20) + e.victim + ` /d; rm /d; done 2>/dev/null`)
}

func copyOutSwapped(e *engine) verdict {
	defer e.swapper()()
	into := testenv.Dir(e.t)
	var tries []verdict
	for i := range copies {
		to := filepath.Join(into, fmt.Sprint(i))
		r := e.Try(e.t.Context(), "cp", "attacker:/d/secret", to)
		text, err := os.ReadFile(to)
		switch {
		case strings.Contains(string(text), secret):
			return fall("it copied the host's file")
		case err != nil:
			tries = append(tries, e.judgeRun(r))
		default:
			tries = append(tries, held())
		}
	}
	return worst(tries)
}

func copyInSwapped(e *engine) verdict {
	defer e.swapper()()
	from := filepath.Join(testenv.Dir(e.t), "secret")
	e.must(os.WriteFile(from, []byte("evil"), 0o600))
	var tries []verdict
	for range copies { // what arrives at the victim, the comparison finds
		tries = append(tries, e.judgeRun(e.Try(e.t.Context(), "cp", from, "attacker:/d/")))
	}
	return worst(tries)
}

// processNames shows what processes call themselves.
func processNames(e *engine) verdict {
	e.Berth(e.t, "run", "-d", "--name", "attacker", "--network", "none", "base", "sh", "-c", "sleep 600; true", "\x1b]0;owned\x07\u009b2J\n")
	defer e.Berth(e.t, "rm", "-f", "attacker")
	for _, args := range [][]string{{"top", "attacker"}, {"ps"}, {"ps", "--no-trunc"}, {"inspect", "attacker"}} {
		if r := e.Try(e.t.Context(), args...); strings.ContainsFunc(r.Stdout+r.Stderr, isControl) {
			return fall("berth %s writes control characters: %q", args[0], r.Stdout)
		}
	}
	return held()
}
