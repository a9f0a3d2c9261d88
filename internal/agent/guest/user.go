package guest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// account is what a process runs as.
type account struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// lookup resolves "user", "uid", "user:group" or "uid:gid" as docker does: by
// the texts of /etc/passwd and /etc/group, with numbers allowed that neither
// file knows.
func lookup(spec string, passwd, group string) (account, error) {
	user, grp, hasGroup := strings.Cut(spec, ":")
	if user == "" {
		user = "0"
	}
	a := account{home: "/"}
	entry, known := entryOf(passwd, user, 2)
	name := ""
	switch {
	case known:
		uid, err1 := id(entry[2])
		gid, err2 := id(entry[3])
		if err := errors.Join(err1, err2); err != nil {
			return a, fmt.Errorf("user %s in /etc/passwd: %w", user, err)
		}
		a.uid, a.gid, name = uid, gid, entry[0]
		if len(entry) > 5 && entry[5] != "" {
			a.home = entry[5]
		}
	default:
		uid, err := id(user)
		if err != nil {
			return a, fmt.Errorf("user %s: not in the image's /etc/passwd", user)
		}
		a.uid = uid
	}
	if hasGroup && grp != "" {
		entry, known := entryOf(group, grp, 2)
		if known {
			grp = entry[2]
		}
		gid, err := id(grp)
		if err != nil {
			return a, fmt.Errorf("group %s: not in the image's /etc/group", grp)
		}
		a.gid = gid
		return a, nil
	}
	a.groups = groupsOf(group, name)
	return a, nil
}

// entryOf finds the line whose first field is name or, for a number, whose
// field at index number is the same number. Names win over numbers.
func entryOf(file, name string, number int) ([]string, bool) {
	_, err := id(name)
	for _, at := range []int{0, number} {
		if at == number && err != nil {
			break
		}
		for line := range strings.Lines(file) {
			fields := strings.Split(strings.TrimRight(line, "\n"), ":")
			if len(fields) > 3 && fields[at] == name {
				return fields, true
			}
		}
	}
	return nil, false
}

// groupsOf returns the groups that list the user as a member.
func groupsOf(group, user string) []uint32 {
	var gids []uint32
	for line := range strings.Lines(group) {
		fields := strings.Split(strings.TrimRight(line, "\n"), ":")
		if user == "" || len(fields) < 4 || !slices.Contains(strings.Split(fields[3], ","), user) {
			continue
		}
		if gid, err := id(fields[2]); err == nil {
			gids = append(gids, gid)
		}
	}
	return gids
}

// id reads a user or group id: a number that setuid(2) takes. 2^32-1 means
// "unchanged" there and is no id (CVE-2024-40635 was an overflow here).
func id(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == 1<<32-1 {
		err = strconv.ErrRange
	}
	return uint32(n), err
}

// credential makes what the kernel wants of an account. The primary group is
// a supplementary one too: without it a program could leave the group and with
// it a denial that the group's permissions mean (CVE-2022-36109).
func (a account) credential() *syscall.Credential {
	groups := []uint32{a.gid}
	for _, gid := range a.groups {
		if gid != a.gid {
			groups = append(groups, gid)
		}
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid, Groups: groups}
}

// accountFor looks a user up in the machine's own files.
func accountFor(spec string) (account, error) {
	passwd, err := readAccounts("/etc/passwd")
	if err != nil {
		return account{}, err
	}
	group, err := readAccounts("/etc/group")
	if err != nil {
		return account{}, err
	}
	return lookup(spec, passwd, group)
}

// readAccounts reads a small file; one that is absent counts as empty.
func readAccounts(path string) (string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Size() > 16<<20 {
		return "", fmt.Errorf("%s is no plain file of sane size", path)
	}
	data, err := os.ReadFile(path)
	return string(data), err
}
