package stage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthcloud/berth/internal/oci/mount"
)

// maxAccounts bounds what is read of /etc/passwd and /etc/group, in bytes: the
// image owns them.
const maxAccounts = 4 << 20

// resolveUser turns the name of a user into ids with the container's own accounts,
// and sets HOME where the environment lacks it.
func (p *Process) resolveUser(root mount.Root) error {
	if p.Username == "" && hasHome(p.Env) {
		return nil
	}
	passwd, err := readAccounts(root, "/etc/passwd")
	if err != nil && p.Username != "" {
		return fmt.Errorf("process.user: /etc/passwd: %w", err)
	}
	if p.Username != "" {
		group, err := readAccounts(root, "/etc/group")
		if err != nil {
			return fmt.Errorf("process.user: /etc/group: %w", err)
		}
		if err := p.resolve(passwd, group); err != nil {
			return fmt.Errorf("process.user: %q: %w", p.Username, err)
		}
	}
	if !hasHome(p.Env) {
		p.Env = append(slices.Clip(p.Env), "HOME="+homeOf(passwd, p.UID))
	}
	return nil
}

func hasHome(env []string) bool {
	for _, e := range env {
		if strings.HasPrefix(e, "HOME=") {
			return true
		}
	}
	return false
}

// readAccounts reads a regular file of the container; it returns nil for a missing
// one. Nothing else is opened, with the rights of the runtime: to open a device can have
// effects, and a procfs has files that are regular only by name.
func readAccounts(root mount.Root, path string) ([]byte, error) {
	found, err := root.Open(path, unix.O_PATH, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(found)
	var st unix.Stat_t
	if err := unix.Fstat(found, &st); err != nil {
		return nil, err
	}
	proc, err := mount.IsProc(found)
	if err != nil {
		return nil, err
	}
	if proc || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("not a regular file")
	}
	// Some files of other filesystems of the kernel's wait for something to tell.
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(found), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxAccounts+1))
	if err == nil && len(b) > maxAccounts {
		err = fmt.Errorf("more than %d bytes", maxAccounts)
	}
	return b, err
}

// account is one line of passwd(5) or group(5): name, password, id, the rest.
type account struct {
	name string
	id   uint32
	rest []string
}

// accounts calls f for each well-formed line until f returns true.
func accounts(file []byte, f func(account) bool) {
	for line := range bytes.SplitSeq(file, []byte{'\n'}) {
		fields := strings.Split(string(line), ":")
		if len(fields) < 3 {
			continue
		}
		id, err := parseID(fields[2])
		if err == nil && f(account{fields[0], id, fields[3:]}) {
			return
		}
	}
}

// parseID accepts ids below 2³¹: larger ones wrap in programs that hold them in an
// int, to 0 in the worst case (CVE-2024-40635), and 2³²-1 means "none".
func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%q is not an id below 2147483648", s)
	}
	return uint32(n), nil
}

func numeric(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// resolve sets UID, GID and groups from "user", "user:group", each a name or an id.
// Without a group, the user's own and those that list it apply.
func (p *Process) resolve(passwd, group []byte) error {
	user, groupName, hasGroup := strings.Cut(p.Username, ":")
	login := ""
	p.UID, p.GID = 0, 0
	if user == "" {
		user = "0"
	}
	found := false
	if numeric(user) {
		id, err := parseID(user)
		if err != nil {
			return err
		}
		p.UID = id
	}
	accounts(passwd, func(a account) bool {
		if a.name != user && (!numeric(user) || a.id != p.UID) {
			return false
		}
		found, login, p.UID = true, a.name, a.id
		if len(a.rest) > 0 {
			if gid, err := parseID(a.rest[0]); err == nil {
				p.GID = gid
			}
		}
		return true
	})
	if !found && !numeric(user) {
		return errors.New("no such user in the container's /etc/passwd")
	}
	if hasGroup {
		return p.resolveGroup(groupName, group)
	}
	if login != "" {
		accounts(group, func(a account) bool {
			if len(a.rest) > 0 && listed(a.rest[0], login) {
				p.Groups = append(p.Groups, a.id)
			}
			return false
		})
	}
	return nil
}

func (p *Process) resolveGroup(name string, group []byte) error {
	found := false
	accounts(group, func(a account) bool {
		if a.name == name {
			found, p.GID = true, a.id
		}
		return found
	})
	if found {
		return nil
	}
	if !numeric(name) {
		return fmt.Errorf("no such group %q in the container's /etc/group", name)
	}
	id, err := parseID(name)
	p.GID = id
	return err
}

func listed(members, login string) bool {
	return slices.Contains(strings.Split(members, ","), login)
}

// homeOf returns the home directory of a uid, "/" where none is known.
func homeOf(passwd []byte, uid uint32) string {
	home := "/"
	accounts(passwd, func(a account) bool {
		if a.id == uid && len(a.rest) >= 3 && strings.HasPrefix(a.rest[2], "/") && !strings.ContainsRune(a.rest[2], 0) {
			home = a.rest[2]
			return true
		}
		return false
	})
	return home
}
