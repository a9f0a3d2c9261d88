package attack

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/berthcloud/berth/internal/testenv"
)

// attack is one way to break out of a container.
type attack struct {
	name     string // of the subtest, and in the table
	cves     string
	slow     bool // repeats for seconds
	carryOut func(a *testbed) verdict
}

// class groups attacks on one weakness.
type class struct {
	name    string
	attacks []attack
}

// classes are all attacks on a runtime.
func classes() []class {
	return []class{
		{"The runtime's binary is overwritten through /proc/self/exe", binaryAttacks},
		{"Descriptors and working directories of the host leak", descriptorAttacks},
		{"/dev and what masked paths rely on are swapped", deviceAttacks},
		{"Writes to /proc go elsewhere", procAttacks},
		{"Mounts and directories are made outside of the root", targetAttacks},
		{"Processes have more rights than asked for", privilegeAttacks},
	}
}

// verdict is how an attack ended.
type verdict struct {
	outcome outcome
	why     string
}

type outcome string

const (
	withstood     outcome = "withstood" // it was carried out and reached nothing
	refused       outcome = "refused"   // the runtime gave an error instead
	fell          outcome = "FELL"
	notApplicable outcome = "not applicable"
)

func held() verdict                           { return verdict{withstood, ""} }
func refusal(text string) verdict             { return verdict{refused, message(text)} }
func fall(format string, args ...any) verdict { return verdict{fell, fmt.Sprintf(format, args...)} }

func (v verdict) String() string { return strings.TrimSuffix(string(v.outcome)+": "+v.why, ": ") }

// worst is the verdict over several tries: one fall is a fall, and what was
// carried out at least once was not merely refused.
func worst(tries []verdict) verdict {
	for _, o := range []outcome{fell, withstood, refused} {
		if i := slices.IndexFunc(tries, func(v verdict) bool { return v.outcome == o }); i >= 0 {
			return tries[i]
		}
	}
	return verdict{notApplicable, "nothing was tried"}
}

// lastLine is where programs put the error that ended them.
func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// message is the error that ended a runtime, without what is logged around it.
func message(text string) string {
	text = lastLine(text)
	if _, quoted, ok := strings.Cut(text, " msg="); ok {
		if msg, err := strconv.Unquote(quoted); err == nil {
			return msg
		}
	}
	return text
}

// against carries an attack out against a runtime and compares the host.
func (k attack) against(t testing.TB, rt subject) verdict {
	a := newTestbed(t, rt)
	before := a.host()
	v := k.carryOut(a)
	a.end()
	after := a.host()
	a.restore(before)
	for name, was := range before {
		if now := after[name]; now != was {
			return fall("on the host %s was %q and is %q", name, was, now)
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			return fall("the host has %s now", name)
		}
	}
	return v
}

// TestRuntime attacks berth-oci.
func TestRuntime(t *testing.T) {
	berth := berthOCI(t)
	for _, c := range classes() {
		for _, k := range c.attacks {
			t.Run(strings.ReplaceAll(k.name, "/", "_"), func(t *testing.T) {
				if k.slow && testing.Short() {
					t.Skip("repeats an attack for seconds")
				}
				testenv.Check(t)
				switch v := k.against(t, berth); {
				case v.outcome == fell:
					t.Errorf("%s: %s", c.name, v)
				case v.outcome == refused && v.why == "":
					t.Error("refused without a word")
				default:
					t.Log(v)
				}
			})
		}
	}
}
