package parse

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/berthcloud/berth/api"
)

// Size reads a number of bytes: 1048576, 512m, 1g, 1.5GiB. Units are powers of
// 1024, as docker reads memory and disk sizes.
func Size(s string) (int64, error) {
	n, err := units.RAMInBytes(s)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a size; write it as in 512m or 1g", s)
	}
	return n, nil
}

// SizeOrUnlimited is Size, and reads -1 as no limit.
func SizeOrUnlimited(s string) (int64, error) {
	if s == "-1" {
		return -1, nil
	}
	return Size(s)
}

// Count reads a number without a unit.
func Count(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a number; write it as in 500", s)
	}
	return n, nil
}

// Rate returns a reader of LIMIT[:BURST], each read by number; -1 is no limit.
func Rate(number func(string) (int64, error)) func(string) (api.Rate, error) {
	return func(s string) (api.Rate, error) {
		if s == "-1" {
			return api.Rate{Limit: -1}, nil
		}
		var r api.Rate
		var errLimit, errBurst error
		limit, burst, bursts := strings.Cut(s, ":")
		r.Limit, errLimit = number(limit)
		if bursts {
			r.Burst, errBurst = number(burst)
		}
		if errLimit != nil || errBurst != nil || r.Limit == 0 || bursts && r.Burst < r.Limit {
			return api.Rate{}, fmt.Errorf("%q is not a rate; write LIMIT or LIMIT:BURST, as in 500:1000, or -1 for none", s)
		}
		return r, nil
	}
}

// CPUs reads a number of processors: 0.5, 2.
func CPUs(s string) (float64, error) {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n > 0) || math.IsInf(n, 0) { // the negation catches NaN
		return 0, fmt.Errorf("%q is not a number of processors; write it as in 0.5 or 2", s)
	}
	return n, nil
}

// Weight turns docker's CPU shares (2 to 262144, default 1024) into a cgroup
// v2 weight (1 to 10000, default 100) by the curve through both ends and both
// defaults that opencontainers/cgroups uses, so that a workload moved from
// docker keeps its share.
func Weight(shares uint64) (uint64, error) {
	switch {
	case shares == 0:
		return 0, nil
	case shares > 262144:
		return 0, fmt.Errorf("%d CPU shares are too many; the most is 262144", shares)
	case shares == 262144:
		return 10000, nil
	case shares <= 2:
		return 1, nil
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34))), nil
}

// Forever stands for a grace without a bound, as one that is longer than
// anybody's patience and can be added to any time.
const Forever = 100 * 365 * 24 * time.Hour

// Seconds reads a grace: a number of seconds, or a duration as in 1m30s. -1
// is Forever.
func Seconds(s string) (time.Duration, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 {
			return Forever, nil
		}
		if int64(n) > int64(math.MaxInt64/time.Second) {
			return 0, fmt.Errorf("%q is too long; write seconds or a duration as in 1m30s", s)
		}
		return time.Duration(n) * time.Second, nil
	}
	return Duration(s)
}

// Duration reads a duration as in 30s or 1m30s; it is not negative.
func Duration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a duration; write it as in 30s or 1m30s", s)
	}
	return d, nil
}

// timeLayouts are the ways to write a time; without a zone it is local.
var timeLayouts = [...]string{
	time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02Z07:00", time.DateOnly,
}

// Time reads a point in time: RFC 3339 or a part of it, seconds since 1970
// with an optional fraction, or a duration before now. "" is the zero time.
func Time(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && s != "0" {
		return now.Add(-d), nil
	}
	for _, layout := range timeLayouts {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	whole, fraction, _ := strings.Cut(s, ".")
	if sec, err := strconv.ParseUint(whole, 10, 40); err == nil && len(fraction) <= 9 {
		nsec, err := strconv.ParseUint((fraction + "000000000")[:9], 10, 32)
		if err == nil {
			return time.Unix(int64(sec), int64(nsec)), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time; write it as in 2026-11-23T15:04:05Z, 1700000000 or 10m (ago)", s)
}

// Init reads what process 1 of an instance is to be. docker's flag is a switch:
// true and false are taken too.
func Init(s string) (api.InitMode, error) {
	switch m := api.InitMode(s); m {
	case api.InitNone, api.InitReap, api.InitSystem:
		return m, nil
	case "true":
		return api.InitReap, nil
	case "false":
		return api.InitNone, nil
	}
	return "", fmt.Errorf("%q is not known; write none, reap or system", s)
}

// Restart reads a restart policy: no, always, unless-stopped, on-failure[:N].
func Restart(s string) (api.RestartPolicy, error) {
	name, bound, bounded := strings.Cut(s, ":")
	p := api.RestartPolicy{Mode: api.RestartMode(name)}
	switch p.Mode {
	case api.RestartOnFailure:
		if !bounded {
			return p, nil
		}
		n, err := strconv.Atoi(bound)
		if err == nil && n >= 0 {
			p.MaxRetries = n
			return p, nil
		}
	case api.RestartNo, api.RestartAlways, api.RestartUnlessStopped:
		if !bounded {
			return p, nil
		}
	}
	return api.RestartPolicy{}, fmt.Errorf("%q is not a restart policy; write no, always, unless-stopped or on-failure[:N]", s)
}

// Ulimit reads NAME=SOFT[:HARD]; -1 is unlimited.
func Ulimit(s string) (api.Ulimit, error) {
	bad := fmt.Errorf("%q is not a ulimit; write NAME=SOFT[:HARD] as in nofile=1024:4096", s)
	name, values, ok := strings.Cut(s, "=")
	if !ok || name == "" {
		return api.Ulimit{}, bad
	}
	soft, hard, both := strings.Cut(values, ":")
	if !both {
		hard = soft
	}
	u := api.Ulimit{Name: strings.ToLower(name)}
	var err1, err2 error
	u.Soft, err1 = strconv.ParseInt(soft, 10, 64)
	u.Hard, err2 = strconv.ParseInt(hard, 10, 64)
	if err1 != nil || err2 != nil || u.Soft < -1 || u.Hard < -1 {
		return api.Ulimit{}, bad
	}
	if u.Hard != -1 && (u.Soft == -1 || u.Soft > u.Hard) {
		return api.Ulimit{}, fmt.Errorf("%q: the soft limit is above the hard limit", s)
	}
	return u, nil
}

// Capability reads a capability in any spelling: net_admin, CAP_NET_ADMIN.
func Capability(s string) string {
	return strings.TrimPrefix(strings.ToUpper(strings.TrimSpace(s)), "CAP_")
}

// Keys reads a sequence of keys, as in ctrl-p,ctrl-q or a,ctrl-@, into the
// bytes a terminal sends for it.
func Keys(s string) ([]byte, error) {
	var keys []byte
	if s == "" {
		return nil, nil
	}
	for word := range strings.SplitSeq(s, ",") {
		switch c, ctrl := strings.CutPrefix(strings.ToLower(word), "ctrl-"); {
		case len(word) == 1:
			keys = append(keys, word[0])
		case ctrl && len(c) == 1 && (c[0] >= 'a' && c[0] <= 'z'):
			keys = append(keys, c[0]-'a'+1)
		case ctrl && len(c) == 1 && strings.Contains("@[\\]^_", c):
			keys = append(keys, c[0]-'@')
		default:
			return nil, fmt.Errorf("%q is not a sequence of keys; write it as in ctrl-p,ctrl-q", s)
		}
	}
	return keys, nil
}

// Platform reads a platform, linux/ARCHITECTURE[/VARIANT] or an architecture alone,
// into its long form.
func Platform(s string) (string, error) {
	parts := strings.Split(s, "/")
	if len(parts) > 1 && parts[0] == "linux" {
		parts = parts[1:]
	}
	arch := parts[0]
	if name, other := map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[arch]; other {
		arch = name
	}
	variant := strings.Join(parts[1:], "/")
	if (arch != "amd64" && arch != "arm64") || len(parts) > 2 || len(parts) == 2 && !validVariant(variant) {
		return "", fmt.Errorf("platform %q is not known; write linux/amd64 or linux/arm64", s)
	}
	return strings.TrimSuffix("linux/"+arch+"/"+variant, "/"), nil
}

// validVariant reports whether a variant is v and a number.
func validVariant(s string) bool {
	number, ok := strings.CutPrefix(s, "v")
	return ok && number != "" && strings.Trim(number, "0123456789") == ""
}
