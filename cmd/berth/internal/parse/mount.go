package parse

import (
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/berthcloud/berth/api"
)

// Volume reads the value of -v: [SOURCE:]TARGET[:OPTIONS]. A source that is a
// path (it begins with / or .) is a directory or file of the host, relative to
// cwd; any other is the name of a volume; none is a volume without a name.
func Volume(s, cwd string) (api.Mount, error) {
	bad := func(why string) (api.Mount, error) {
		return api.Mount{}, fmt.Errorf("%q: %s; write [SOURCE:]TARGET[:ro] as in /srv/www:/var/www:ro", s, why)
	}
	m := api.Mount{Type: api.MountVolume}
	parts := strings.Split(s, ":")
	options := ""
	switch len(parts) {
	case 1:
		m.Target = parts[0]
	case 2:
		m.Source, m.Target = parts[0], parts[1]
	case 3:
		m.Source, m.Target, options = parts[0], parts[1], parts[2]
	default:
		return bad("too many colons")
	}
	if len(parts) > 1 && m.Source == "" {
		return bad("the source is empty")
	}
	if strings.HasPrefix(m.Source, "/") || strings.HasPrefix(m.Source, ".") {
		m.Type, m.Source = api.MountBind, absolute(m.Source, cwd)
	} else if strings.Contains(m.Source, "/") {
		return bad("a volume's name has no slash, and a path begins with / or .")
	}
	if options != "" {
		for o := range strings.SplitSeq(options, ",") {
			switch o {
			case "rw", "z", "Z": // z, Z: relabelling is the daemon's business
			case "ro":
				m.ReadOnly = true
			case "nocopy":
				m.NoCopy = true
			default:
				return bad("unknown option " + strconv.Quote(o))
			}
		}
	}
	if err := target(m.Target); err != nil {
		return bad(err.Error())
	}
	m.Target = path.Clean(m.Target)
	return m, nil
}

// absolute makes a path of the host absolute.
func absolute(p, cwd string) string {
	if !filepath.IsAbs(p) {
		p = filepath.Join(cwd, p)
	}
	return filepath.Clean(p)
}

// target checks the place of a mount in the instance.
func target(t string) error {
	if !strings.HasPrefix(t, "/") || path.Clean(t) == "/" {
		return fmt.Errorf("the target %q is not an absolute path below /", t)
	}
	return nil
}

// Mount reads the value of --mount: comma-separated KEY=VALUE.
func Mount(s, cwd string) (api.Mount, error) {
	bad := func(why string) (api.Mount, error) {
		return api.Mount{}, fmt.Errorf("%q: %s; write type=bind|volume|tmpfs|disk,source=SOURCE,target=TARGET[,readonly]", s, why)
	}
	m := api.Mount{Type: api.MountVolume}
	for field := range strings.SplitSeq(s, ",") {
		key, value, valued := strings.Cut(field, "=")
		var err error
		switch strings.ToLower(key) {
		case "type":
			m.Type = api.MountType(value)
		case "source", "src":
			m.Source = value
		case "target", "dst", "destination":
			m.Target = value
		case "readonly", "ro":
			m.ReadOnly, err = enabled(value, valued)
		case "volume-nocopy":
			m.NoCopy, err = enabled(value, valued)
		case "tmpfs-size", "size":
			m.Size, err = Size(value)
		case "tmpfs-mode":
			m.Mode, err = mode(value)
		default:
			return bad("unknown key " + strconv.Quote(key))
		}
		if err != nil {
			return bad(err.Error())
		}
	}
	if m.Type != api.MountDisk || m.Target != "" {
		if err := target(m.Target); err != nil {
			return bad(err.Error())
		}
		m.Target = path.Clean(m.Target)
	}
	switch {
	case m.Type == api.MountBind && m.Source == "":
		return bad("a bind mount needs a source")
	case m.Type == api.MountBind:
		m.Source = absolute(m.Source, cwd)
	case m.Type == api.MountTmpfs && m.Source != "":
		return bad("a tmpfs has no source")
	case (m.Type == api.MountVolume || m.Type == api.MountDisk) && strings.Contains(m.Source, "/"):
		return bad("a volume's name has no slash; for a path say type=bind")
	case m.Type != api.MountVolume && m.Type != api.MountTmpfs && m.Type != api.MountDisk:
		return bad("unknown type " + strconv.Quote(string(m.Type)))
	case m.Size != 0 && m.Type != api.MountTmpfs && m.Type != api.MountDisk, m.Mode != 0 && m.Type != api.MountTmpfs:
		return bad("size belongs to type=disk and type=tmpfs, tmpfs-mode to type=tmpfs")
	}
	return m, nil
}

// enabled reads the value of a key that may stand alone.
func enabled(value string, valued bool) (bool, error) {
	if !valued {
		return true, nil
	}
	on, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("%q is neither true nor false", value)
	}
	return on, nil
}

// Tmpfs reads the value of --tmpfs: TARGET[:size=SIZE,mode=MODE,ro]. What
// every tmpfs of Berth is anyway (nosuid, nodev) is accepted.
func Tmpfs(s string) (api.Mount, error) {
	bad := func(why string) (api.Mount, error) {
		return api.Mount{}, fmt.Errorf("%q: %s; write TARGET[:size=SIZE,mode=MODE,ro] as in /run:size=64m", s, why)
	}
	m := api.Mount{Type: api.MountTmpfs}
	at, options, _ := strings.Cut(s, ":")
	if err := target(at); err != nil {
		return bad(err.Error())
	}
	m.Target = path.Clean(at)
	if options == "" {
		return m, nil
	}
	for o := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(o, "=")
		var err error
		switch key {
		case "size":
			m.Size, err = Size(value)
		case "mode":
			m.Mode, err = mode(value)
		case "ro":
			m.ReadOnly = true
		case "rw", "nosuid", "nodev":
		default:
			return bad("unknown option " + strconv.Quote(o))
		}
		if err != nil {
			return bad(err.Error())
		}
	}
	return m, nil
}

// mode reads permission bits in octal.
func mode(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 8, 12)
	if err != nil {
		return 0, fmt.Errorf("%q is not a mode; write it as in 1777", s)
	}
	return uint32(n), nil
}
